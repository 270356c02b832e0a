"""The child's end of `devices.child`: answer the frames on stdin with frames on stdout, until stdin ends."""

from __future__ import annotations

import gc
import os
import threading
import traceback
from collections.abc import Callable
from queue import SimpleQueue

from ...errors import MilliseekError
from .wire import FrameReader, Header, encode

_CHUNK = 1 << 20

Answer = Callable[[Header, bytes], tuple[Header, bytes]]


def limit_memory(wanted_bytes: int) -> None:
    """Keep what this process works on from taking memory from others: beyond `wanted_bytes` it gets none."""
    try:
        import resource
    except ModuleNotFoundError:  # not on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted_bytes if hard < 0 else min(wanted_bytes, hard), hard))


def answer_requests(start: Callable[[Header], Answer]) -> None:
    """Serve until the input ends, which ends the process even in the middle of a request.

    The first request goes to `start`, all others to what it returned. An answer's header holds `error` (a
    MilliseekError) or `bug` (a traceback) when the request failed.
    """
    source, destination = os.dup(0), os.dup(1)
    # Native code prints where it likes; the pipe is for frames only.
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a descriptor is all that is wanted
        os.dup2(nothing.fileno(), 0)
    requests: SimpleQueue[tuple[Header, bytes]] = SimpleQueue()
    threading.Thread(target=_read_requests, args=(source, requests), daemon=True).start()
    answer: Answer | None = None
    gc.freeze()
    while True:
        header, payload = requests.get()
        result: tuple[Header, bytes] = {}, b""
        try:
            if answer is None:
                answer = start(header)
            else:
                result = answer(header, payload)
        except MilliseekError as error:
            problem = {"class": type(error).__name__, "message": error.message, "remedy": error.remedy}
            result = {"error": problem}, b""
        except Exception:  # noqa: BLE001 - reported to the parent, which raises it there
            result = {"bug": traceback.format_exc()}, b""
        del payload  # a model may be large, and the next one too
        _write(destination, encode(*result))


def _read_requests(source: int, requests: SimpleQueue[tuple[Header, bytes]]) -> None:
    """Queue what arrives; when the parent is gone, end at once, whatever is being worked on."""
    code = 1
    try:
        frames = FrameReader()
        while data := os.read(source, _CHUNK):
            frames.feed(data)
            while (frame := frames.take()) is not None:
                requests.put(frame)
        code = 0
    except MemoryError:
        os.write(2, b"out of memory\n")
    finally:
        os._exit(code)  # else the parent would wait for an answer


def _write(destination: int, frame: bytes) -> None:
    view = memoryview(frame)
    while view:
        view = view[os.write(destination, view) :]
