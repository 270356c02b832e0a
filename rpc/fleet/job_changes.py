"""Tells those who watch jobs in this process that something happened to them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager


class JobChanges:
    """Events by job; belongs to the event loop. What other servers do to a job, nobody is told of here."""

    def __init__(self) -> None:
        self.closed = False
        self._watchers: dict[int, set[asyncio.Event]] = {}

    @contextmanager
    def watch(self, ids: Collection[int]) -> Iterator[asyncio.Event]:
        """An event that is set when one of these jobs may have changed, and when the server ends."""
        event = asyncio.Event()
        for id_ in ids:
            self._watchers.setdefault(id_, set()).add(event)
        try:
            yield event
        finally:
            for id_ in ids:
                watchers = self._watchers.get(id_, set())
                watchers.discard(event)
                if not watchers:
                    self._watchers.pop(id_, None)

    def notify(self, ids: Collection[int]) -> None:
        """These jobs may have changed."""
        for id_ in ids:
            for event in self._watchers.get(id_, ()):
                event.set()

    def close(self) -> None:
        """The server ends: every watcher is to look, and to leave."""
        self.closed = True
        self.notify(list(self._watchers))
