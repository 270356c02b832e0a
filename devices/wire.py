"""Frames between a process and its worker: a JSON header and raw bytes, over pipes."""

from __future__ import annotations

import json
import struct
from typing import Any

PREFIX = struct.Struct("<IQ")
"""Lengths of the header (uint32) and of the payload (uint64), little-endian."""

Header = dict[str, Any]


def encode(header: Header, payload: bytes = b"") -> bytes:
    """One frame: the two lengths, the header as UTF-8 JSON, the payload."""
    return opening(header, len(payload)) + payload


def opening(header: Header, payload_bytes: int) -> bytes:
    """What comes before the payload, so that a large one need not be copied."""
    text = json.dumps(header).encode()
    return PREFIX.pack(len(text), payload_bytes) + text


class FrameReader:
    """Collects bytes as they arrive and gives back whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._buffer += data

    def take(self) -> tuple[Header, bytes] | None:
        """The first complete frame, or None when more bytes are needed."""
        if len(self._buffer) < PREFIX.size:
            return None
        header_size, payload_size = PREFIX.unpack_from(self._buffer)
        middle, end = PREFIX.size + header_size, PREFIX.size + header_size + payload_size
        if len(self._buffer) < end:
            return None
        header = json.loads(self._buffer[PREFIX.size : middle])
        with memoryview(self._buffer) as view:
            payload = bytes(view[middle:end])
        del self._buffer[:end]
        return header, payload
