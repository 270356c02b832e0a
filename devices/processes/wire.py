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
    """Collects bytes as they arrive and gives back whole frames; what belongs to a frame is joined once, at its end."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._have, self._need = 0, PREFIX.size

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._parts.append(data)
        self._have += len(data)

    def take(self) -> tuple[Header, bytes] | None:
        """The first complete frame, or None when more bytes are needed."""
        if self._have < self._need:
            return None
        start = b"".join(self._parts)
        self._parts = [start]
        header_size, payload_size = PREFIX.unpack_from(start)
        middle, end = PREFIX.size + header_size, PREFIX.size + header_size + payload_size
        if self._have < end:
            self._need = end
            return None
        self._parts, self._have, self._need = [start[end:]], self._have - end, PREFIX.size
        return json.loads(start[PREFIX.size : middle]), start[middle:end]
