"""Damage done to files and messages on purpose: other bytes, other fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

M = TypeVar("M", bound=Message)

_TEXTS = ("", "x", "input", "Conv", "If", "Loop", "Constant", "ai.onnx", "local/onnxruntime/fp32", "☃", "a" * 5000)
_INTEGERS = (0, 1, 2, 5, 99, 2**31 - 1, 2**32 - 1, 2**63 - 1, -1, -(2**31), -(2**63))
_WORDS = np.array([0, 1, 2, 4, 0x7F, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFC], np.uint32)


def other_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """One to eight changes: a bit, a byte, an aligned word, a piece cut out, repeated or moved; or the end cut off."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        at, size = int(rng.integers(len(changed) or 1)), int(rng.integers(1, 65))
        match rng.integers(8):
            case 0 | 1:
                changed[at : at + 1] = bytes([changed[at] ^ 1 << rng.integers(8)]) if changed else b""
            case 2:
                changed[at : at + 1] = bytes([int(rng.integers(256))])
            case 3 | 4:
                at &= ~3
                changed[at : at + 4] = _WORDS[rng.integers(len(_WORDS))].tobytes()
            case 5:
                del changed[at : at + size]
            case 6:
                changed[at:at] = changed[at : at + size]
            case _:
                if rng.random() < 0.1:
                    del changed[at:]
    return bytes(changed)


def other_field(kind: type[M]) -> Callable[[bytes, np.random.Generator], bytes]:
    """A mutation of serialised messages of one kind: a field is changed or emptied, or an element dropped, repeated."""

    def mutate(data: bytes, rng: np.random.Generator) -> bytes:
        message = kind()
        try:
            message.ParseFromString(data)
        except DecodeError:
            return data
        for _ in range(int(rng.integers(1, 4))):
            _change(message, rng)
        return message.SerializeToString()

    return mutate


def _change(message: Message, rng: np.random.Generator) -> None:
    if not (places := list(_fields_of(message))):
        return
    owner, field = places[rng.integers(len(places))]
    value = getattr(owner, field.name)
    if isinstance(value, str | bytes | int | float):
        try:
            setattr(owner, field.name, _other(value, rng))
        except (ValueError, TypeError):  # not a number of this field
            owner.ClearField(field.name)
    elif isinstance(value, Message):
        owner.ClearField(field.name) if rng.integers(2) else value.SetInParent()
    elif field.message_type is not None and field.message_type.GetOptions().map_entry:
        owner.ClearField(field.name)
    else:
        items = list(value)
        at = int(rng.integers(len(items) or 1))
        kept = (
            [*items, *items[at : at + 1] * int(rng.integers(1, 9))] if rng.integers(2) else items[:at] + items[at + 1 :]
        )
        owner.ClearField(field.name)
        getattr(owner, field.name).extend(kept)


def _other(value: str | bytes | float, rng: np.random.Generator) -> str | bytes | float:
    if isinstance(value, str):
        return _TEXTS[rng.integers(len(_TEXTS))]
    if isinstance(value, bytes):
        return value[: int(rng.integers(len(value) + 1))]
    if isinstance(value, int):
        return _INTEGERS[rng.integers(len(_INTEGERS))]
    return (float("nan"), float("inf"), -1.0, 1e300)[rng.integers(4)]


def _fields_of(message: Message, depth: int = 0) -> Iterator[tuple[Message, Any]]:
    """Every field of the message and of the messages in it, those that are not set too."""
    for field in message.DESCRIPTOR.fields:
        yield message, field
        if field.message_type is None or field.message_type.GetOptions().map_entry or depth > 8:
            continue
        value = getattr(message, field.name)
        if isinstance(value, Sequence):
            for item in value:
                yield from _fields_of(item, depth + 1)
        elif message.HasField(field.name):
            yield from _fields_of(value, depth + 1)
