"""Which tokens hold at this moment: the table of tokens in memory, never much older than a second."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import cast

from ...db.engine import Database
from ...db.models import Token
from ...db.tokens import list_tokens
from ...errors import MilliseekError, Unauthenticated
from .auth import Caller, Scope

FRESH_S = 0.5
"""A table older than this is read again in the background."""
MAX_AGE_S = 1.5
"""A table older than this answers nobody: a revoked token ends within it, whatever the database does."""
_BETWEEN_S = 0.1
"""At least so long between two readings for secrets that are not in the table: guessing costs little."""
_PREFIX = "Bearer "
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Secret:
    """One of the two hashes under which a token may be known, and until when."""

    hash: str
    caller: Caller
    expires_at: datetime | None
    revoked: bool


class Refused(Unauthenticated):
    """`reason`, for the log only, says which of the ways not to hold it was; the caller learns just that it is one."""

    def __init__(self, reason: str, token: str = "") -> None:
        if reason == "missing":
            super().__init__(
                "This service wants a token, and none came along.",
                "Put one into MILLISEEK_TOKEN; 'milliseek tokens create' makes one.",
            )
        else:
            super().__init__(
                "The token is not one that holds.",
                "It is mistyped, expired or revoked; 'milliseek tokens create' makes a new one.",
            )
        self.reason = reason
        self.token = token


class LiveTokens:
    """Tells who holds a secret; used on one event loop.

    The whole table is read, so that wrong secrets cost no query. Secrets are compared as SHA-256 in constant time
    and kept nowhere.
    """

    def __init__(self, database: Database, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._now = now
        self._secrets: dict[str, list[_Secret]] = {}
        self._read_at = -float("inf")
        self._reading: asyncio.Task[None] | None = None

    async def caller(self, metadata: Iterable[tuple[str, str | bytes]]) -> tuple[Caller, str]:
        """Whose token comes with a call, and its hash, for `still_holds`.

        Raises `Unauthenticated` without one that holds, `StorageError` if the database cannot be read.
        """
        digest = hashlib.sha256(_bearer(metadata).encode()).hexdigest()
        return await self.still_holds(digest), digest

    async def still_holds(self, digest: str) -> Caller:
        """Whose token has this hash; raises as `caller` does."""
        asked_at = monotonic()
        age_s = asked_at - self._read_at
        if age_s > FRESH_S:
            reading = self._read()
            if age_s > MAX_AGE_S:
                await asyncio.shield(reading)
        secret = self._find(digest)
        while secret is None and self._read_at < asked_at:  # it may be new
            await asyncio.sleep(self._read_at + _BETWEEN_S - monotonic())
            await asyncio.shield(self._read())
            secret = self._find(digest)
        if secret is None:
            raise Refused("unknown")
        if secret.revoked:
            raise Refused("revoked", secret.caller.name)
        if secret.expires_at is not None and secret.expires_at <= self._now():
            raise Refused("expired", secret.caller.name)
        return secret.caller

    def _find(self, digest: str) -> _Secret | None:
        # Found by a few digits, compared in whole: time tells nothing about the rest.
        for secret in self._secrets.get(digest[:4], ()):
            if hmac.compare_digest(secret.hash, digest):
                return secret
        return None

    def _read(self) -> asyncio.Task[None]:
        """The reading that is under way, or a new one."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_table())
            self._reading.add_done_callback(_log_bug)
        return self._reading

    async def _read_table(self) -> None:
        began = monotonic()
        rows = await asyncio.get_running_loop().run_in_executor(None, self._rows)
        found: dict[str, list[_Secret]] = {}
        for row in rows:
            for secret in _secrets(row):
                found.setdefault(secret.hash[:4], []).append(secret)
        self._secrets, self._read_at = found, began

    def _rows(self) -> Sequence[Token]:
        with self._database.session(read_only=True) as session:
            return list_tokens(session)


def _secrets(row: Token) -> Iterable[_Secret]:
    caller = Caller(row.name, cast("Scope", row.scope), row.device)
    yield _Secret(row.hash, caller, row.expires_at, row.revoked_at is not None)
    if row.previous_hash is not None:
        ends = [moment for moment in (row.expires_at, row.previous_expires_at) if moment is not None]
        yield _Secret(row.previous_hash, caller, min(ends, default=None), row.revoked_at is not None)


def _bearer(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str) and value.startswith(_PREFIX):
            return value[len(_PREFIX) :]
    raise Refused("missing")


def _log_bug(reading: asyncio.Task[None]) -> None:
    """What the database cannot do is told to callers once it matters."""
    error = None if reading.cancelled() else reading.exception()
    if error is not None and not isinstance(error, MilliseekError):
        _LOG.error("the tokens cannot be read", exc_info=error)
