"""The process in which files from others are parsed: `python -m milliseek.predictors.networks.reader_worker`.

A file may be made to crash its parser or to take all time and memory; here it costs this process. The first request
tells the limit on memory; after it come `outline`, `prepare`, `precision` and `operators`, each with a model file or,
because 20 MB take their time through a pipe, with the path of one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ...devices.processes.answering import Answer, answer_requests, limit_memory
from ...devices.processes.wire import Header
from ...errors import InvalidInput
from .files import ModelForm, model_precision, outline, prepare
from .named import model_operators


def answer(request: Header, model: bytes) -> tuple[Header, bytes]:
    """Header and payload of the answer to one request."""
    try:
        if "path" in request:
            model = Path(request["path"]).read_bytes()
        return _read(request, model, request["name"])
    except MemoryError:
        raise InvalidInput(f"{request['name']} takes more memory than a model may.", "Give a smaller model.") from None


def _read(request: Header, model: bytes, name: str) -> tuple[Header, bytes]:
    match request["op"]:
        case "outline":
            outlined = outline(model, name)
            return ({}, b"") if outlined is None else ({"precision": outlined.precision}, outlined.data)
        case "prepare":
            prepared = prepare(Path(request["cache"]), model, ModelForm(**request["form"]), name)
            return {"notes": prepared.notes}, prepared.data
        case "precision":
            return {"precision": model_precision(model, name)}, b""
        case "operators":
            uses = model_operators(model, name)
            return {"operators": [(use.kernel.to_json(), use.name, use.inputs, use.outputs) for use in uses]}, b""
        case op:
            raise ValueError(f"unknown request {op}")


def main() -> None:
    """Serve requests until the input ends."""

    def start(request: Header) -> Answer:
        limit_memory(request["memory_bytes"])
        return answer

    answer_requests(start)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(0)
