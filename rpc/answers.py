"""Answers to PredictModel that are known already: no thread, no database, no prediction."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from time import monotonic

from .backend import LatencyBackend
from .v1 import latency_pb2

FRESH_S = 0.5
"""After this a target's version is asked for again, in the background."""
MAX_AGE_S = 1.5
"""After this a version is not believed any more: a new predictor answers within it."""
LIMIT_BYTES = 64 * 1024 * 1024
_ENTRY_BYTES = 512  # beside the message and the bytes


@dataclass(frozen=True)
class Answer:
    """A response, and the same as bytes for the wire."""

    message: latency_pb2.PredictModelResponse
    serialised: bytes

    @property
    def size_bytes(self) -> int:
        """What keeping it takes, about."""
        return 2 * len(self.serialised) + _ENTRY_BYTES


class KnownAnswers:
    """The answers that were used last, by model and predictor version; used on one event loop."""

    def __init__(self, backend: LatencyBackend, limit_bytes: int = LIMIT_BYTES) -> None:
        self._backend = backend
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._answers: OrderedDict[tuple[str, str], Answer] = OrderedDict()
        self._versions: dict[str, tuple[str, float]] = {}  # by target: the version, and when it was asked for
        self._asking: dict[str, asyncio.Task[None]] = {}

    def get(self, sha256: str, target: str) -> Answer | None:
        """The answer of the target's newest predictor, as of a second ago; None if it has to be asked for."""
        if (known := self._versions.get(target)) is None:
            return None
        version, asked_at = known
        age_s = monotonic() - asked_at
        if age_s > FRESH_S and target not in self._asking:
            self._asking[target] = asyncio.create_task(self._ask(target))
        if age_s > MAX_AGE_S or (answer := self._answers.get((sha256, version))) is None:
            return None
        self._answers.move_to_end((sha256, version))
        return answer

    def put(self, sha256: str, target: str, answer: Answer, asked_at: float) -> Answer:
        """Remember the answer to a question that was asked at this time (monotonic); returns it."""
        key = sha256, answer.message.prediction.predictor
        self._learn(target, key[1], asked_at)
        if key not in self._answers:
            self._answers[key] = answer
            self._bytes += answer.size_bytes
        while self._bytes > self._limit_bytes:
            self._bytes -= self._answers.popitem(last=False)[1].size_bytes
        return answer

    def _learn(self, target: str, version: str, asked_at: float) -> None:
        if target not in self._versions or self._versions[target][1] < asked_at:
            self._versions[target] = version, asked_at

    async def _ask(self, target: str) -> None:
        asked_at = monotonic()
        try:
            # Not in the pool of the servicer: behind slow predictions, known answers would grow old.
            version = await asyncio.get_running_loop().run_in_executor(None, self._backend.predictor, target)
            self._learn(target, version, asked_at)
        except Exception:  # noqa: BLE001 - whoever asks next asks the backend itself, and is told
            self._versions.pop(target, None)
        finally:
            del self._asking[target]
