"""The parent's end of a worker process: start it, ask it, and end it, whatever happens to it."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress

from ... import config, errors
from .wire import FrameReader, Header, opening

_CHUNK = 1 << 20
_GRACE_S = 5.0


class ChildDied(Exception):
    """The worker crashed or was killed for taking too long; the text says which, in words for the user."""


def _environment() -> dict[str, str]:
    """That of this process, less its token, which no model file needs to know, and with one thread per library."""
    kept = {name: value for name, value in os.environ.items() if name != config.TOKEN_VARIABLE}
    return {**kept, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _rebuild(problem: dict[str, str]) -> errors.MilliseekError:
    """The error that the worker raised; subclasses may have constructors of their own, so those are not called."""
    cls: type[errors.MilliseekError] = getattr(errors, problem["class"], errors.MilliseekError)
    error = cls.__new__(cls)
    errors.MilliseekError.__init__(error, problem["message"], problem["remedy"])
    return error


class Child:
    """One worker process. Not thread-safe; after ChildDied it is ended and must be replaced."""

    def __init__(self, module: str) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        # A session of its own: ctrl-C at the terminal reaches the parent alone, which then ends the worker.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            start_new_session=True,
            env=_environment(),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with suppress(PermissionError):  # over the user's quota of pipe buffers: slower, that is all
                fcntl.fcntl(self._stdin, fcntl.F_SETPIPE_SZ, _CHUNK)
        self._frames = FrameReader()

    @property
    def pid(self) -> int:
        """Process number of the worker."""
        return self._process.pid

    def ask(self, header: Header, payload: bytes, time_limit_s: float) -> tuple[Header, bytes]:
        """Send one request and wait for its answer.

        Raises ChildDied, the MilliseekError that the worker reports, or RuntimeError with its traceback. An
        exception of this process while waiting (ctrl-C) ends the worker, as an answer would be left over.
        """
        try:
            request = [memoryview(part) for part in (opening(header, len(payload)), payload) if part]
            answer, data = self._exchange(request, time.monotonic() + time_limit_s, time_limit_s)
        except BaseException:
            self.close(at_once=True)
            raise
        if problem := answer.get("error"):
            raise _rebuild(problem)
        if bug := answer.get("bug"):
            raise RuntimeError(f"the worker failed:\n{bug}")
        return answer, data

    def kill(self) -> None:
        """End the worker from another thread than the one that asks it, which is then told of its death."""
        self._process.kill()

    def close(self, *, at_once: bool = False) -> None:
        """End the worker: by the end of its input, or by a signal when it does not heed that."""
        if self._process.stdin is None or self._process.stdin.closed:
            return
        self._process.stdin.close()
        if at_once:
            self._process.kill()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._stderr.close()

    def _exchange(self, unsent: list[memoryview], deadline: float, time_limit_s: float) -> tuple[Header, bytes]:
        poll = select.poll()
        poll.register(self._stdin, select.POLLOUT)
        poll.register(self._stdout, select.POLLIN)
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise ChildDied(f"It took longer than {time_limit_s:g} s and was stopped.")
            for descriptor, _ in poll.poll(left_s * 1000):
                if descriptor == self._stdin:
                    unsent = self._send(unsent)
                    if not unsent:
                        poll.unregister(self._stdin)
                        break
                elif data := os.read(self._stdout, _CHUNK):
                    self._frames.feed(data)
                    if (frame := self._frames.take()) is not None:
                        return frame
                else:
                    raise ChildDied(self._cause_of_death())

    def _send(self, unsent: list[memoryview]) -> list[memoryview]:
        with suppress(BlockingIOError, BrokenPipeError):  # a broken pipe shows as the end of its output too
            left = unsent[0][os.write(self._stdin, unsent[0]) :]
            return [left, *unsent[1:]] if left else unsent[1:]
        return unsent

    def _cause_of_death(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        lines = [line for line in lines if not line.startswith("INFO:")]  # LiteRT greets; that killed nobody
        by = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"The runtime's process ended with {by}{': ' + lines[-1][:300] if lines else ''}."
