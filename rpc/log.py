"""What the service writes to stderr: a line of text or of JSON for every call, refusal and failure."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

LogFormat = Literal["text", "json"]
REQUEST_ID_KEY = "x-request-id"
REQUEST_ID: ContextVar[str] = ContextVar("milliseek_request_id", default="")
"""Names the call that is being answered, in all of its log lines and in its trailing metadata."""

_TOGETHER_S = 0.1
_MOST_LINES = 100_000
_SANE = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_encode = json.JSONEncoder(ensure_ascii=False).encode
_RECORD = vars(logging.LogRecord("", 0, __file__, 0, "", None, None))
_FIELDS = ("request_id", "method", "caller", "peer", "code", "ms")


def request_id(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The caller's id of the call if it is fit for a log, else a new one."""
    for key, value in metadata:
        if key == REQUEST_ID_KEY and isinstance(value, str) and _SANE.fullmatch(value):
            return value
    return secrets.token_hex(8)


def log_call(logger: logging.Logger, level: int, message: str, **fields: Any) -> None:
    """Log what became of a call; a good deal faster than `logger.log`, which looks for the line that called it."""
    if logger.isEnabledFor(level):
        now = time.time()
        fields |= {"name": logger.name, "levelno": level, "levelname": logging.getLevelName(level), "msg": message}
        fields |= {"created": now, "msecs": 1000 * (now % 1)}
        record = logging.LogRecord.__new__(logging.LogRecord)
        record.__dict__.update(_RECORD, **fields)
        logger.handle(record)


def log_to_stderr(form: LogFormat, level: int = logging.INFO) -> None:
    """Send the log of milliseek to stderr, from `level` up."""
    handler = _Stderr()
    handler.addFilter(_add_request_id)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logger = logging.getLogger("milliseek")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False


class _Stderr(logging.Handler):
    """Writes what is logged within a tenth of a second together, in a thread of its own; a warning at once.

    A line costs tens of microseconds on a busy event loop, where every call has one; many after another far less.
    """

    def __init__(self) -> None:
        super().__init__()
        self._records: deque[logging.LogRecord] = deque(maxlen=_MOST_LINES)  # should nobody read stderr
        self._writing = threading.Lock()
        self._waiting = threading.Event()
        threading.Thread(target=self._write_soon, name="milliseek-log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record for a moment."""
        try:
            record.msg, record.args = record.getMessage(), None  # what it is made of may change
        except Exception:  # noqa: BLE001 - as in all handlers, a bad line fails nothing but itself
            self.handleError(record)
            return
        self._records.append(record)
        if record.levelno >= logging.WARNING:
            self.flush()
        elif not self._waiting.is_set():
            self._waiting.set()

    def flush(self) -> None:
        """Write what there is; Python does so too when it ends."""
        with self._writing:
            lines = []
            while self._records:
                lines.append(self.format(self._records.popleft()))
            if lines:
                with suppress(OSError, ValueError):  # stderr is gone: nobody is there to be told
                    sys.stderr.write("\n".join(lines) + "\n")
                    sys.stderr.flush()

    def _write_soon(self) -> None:
        while self._waiting.wait():
            time.sleep(_TOGETHER_S)
            self._waiting.clear()
            self.flush()


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and what is known of the call."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(_call(record))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _encode(line)


class TextLines(logging.Formatter):
    """Time (UTC), level, message, and what is known of the call as `name=value`; control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback below it."""
        fields = "".join(f" {name}={value}" for name, value in _call(record).items())
        line = f"{_time(record)} {record.levelname.lower():7} {_printable(record.getMessage() + fields)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _add_request_id(record: logging.LogRecord) -> bool:
    if known := REQUEST_ID.get():
        record.request_id = known
    return True


def _call(record: logging.LogRecord) -> dict[str, Any]:
    known = record.__dict__
    return {name: value for name in _FIELDS if (value := known.get(name, "")) != ""}


def _time(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03}Z"


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _printable(text: str) -> str:
    """One line whatever a caller sends: a forged line would begin with a line break."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
