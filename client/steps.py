"""What a client does, as steps that wait for nothing: a call is yielded, and its answer comes back.

So every operation is written once, and `Client` and `AsyncClient` differ only in how they wait.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """A call to be made: the name of the method, and its request, or a stream of them.

    The answer is a message, or the list of all messages where the answers are `streamed`. `timeout_s` None stands for
    the client's, times `batches`.
    """

    method: str
    request: Message | Iterator[Message]
    streamed: bool = False
    batches: int = 1
    timeout_s: float | None = None
    wait_for_ready: bool | None = None


Steps = Generator[Call, Any, T]
"""Yields calls, is sent their answers (or has their errors thrown at it), and returns the result."""


class BrokenAnswer(Exception):
    """The service answered with something that makes no sense."""
