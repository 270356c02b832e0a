"""LiteRT (TensorFlow Lite) on the CPU."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

from ...errors import MissingExtra, NotReady
from ..facts import installed_version
from ..target import Target
from .runtime import TensorInfo, refusal
from .tensors import integers, is_small_integer, made_up, static_shape

_ERRORS = (RuntimeError, ValueError, TypeError, OverflowError, MemoryError)
"""What the interpreter raises for a model that it cannot take; it has no class of its own."""


class LiteRTSession:
    """An interpreter whose inputs are set once: it never writes over them."""

    def __init__(self, interpreter: Any) -> None:
        self._invoke = interpreter.invoke
        self.run()

    def run(self) -> None:
        """One inference on the interpreter's buffers."""
        try:
            self._invoke()
        except _ERRORS as error:
            raise refusal("LiteRT", "run", error) from error


class LiteRTRuntime:
    """The interpreter of ai-edge-litert or tflite-runtime with its default delegate, XNNPACK, on `threads` threads.

    There is no setting for denormals: XNNPACK takes them as zero, the built-in kernels compute with them.
    """

    name = "litert"
    # One ABS on a float32 tensor (1,), which XNNPACK runs: written out, as boards have no flatbuffers package. Made by
    # packing a ModelT of the schema's object API; the tests do so again.
    probe_model = base64.b64decode(
        "GAAAAFRGTDMAAA4AFAAQAAwACAAAAAQADgAAABAAAAAcAAAA0AAAAAMAAAABAAAACAAAAAQABAAEAAAAAQAAABAAAAAMABQAEAAMAAgABAAMAAAA"
        "EAAAADwAAABAAAAARAAAAAEAAAAQAAAAAAAKAAwAAAAIAAQACgAAAAgAAAAMAAAAAQAAAAEAAAABAAAAAAAAAAEAAAABAAAAAQAAAAAAAAACAAAA"
        "MAAAAAQAAADk////CAAAAAwAAAABAAAAeQAAAAEAAAABAAAADAAMAAgAAAAAAAQADAAAAAgAAAAMAAAAAQAAAHgAAAABAAAAAQAAAAEAAAAQAAAA"
        "DAAMAAsAAAAAAAQADAAAAGUAAAAAAABl"
    )

    def version(self) -> str:
        """Name and version of the installed package."""
        if version := installed_version(self.name):
            return version
        raise MissingExtra("ai-edge-litert", "tflite")

    def optimise(self, model: bytes, target: Target, *, hollow: bool = False) -> bytes:  # noqa: ARG002
        """The file as it is, once the runtime knows its operators: the converter has already fused what it could."""
        _new_interpreter(model, target.threads)
        return model

    def tensor_shapes(
        self,
        model: bytes,
        target: Target,
        *,
        run: bool = True,  # noqa: ARG002
    ) -> dict[str, TensorInfo]:
        """Run once without XNNPACK; what each tensor of the main graph turned out to be, by its index in the file.

        Names would not do: they may be empty or shared. Inside XNNPACK tensors have no values.
        """
        interpreter = _new_interpreter(model, target.threads, inspect=True)
        in_file = len(interpreter.get_tensor_details())
        _allocate(interpreter)
        LiteRTSession(interpreter)
        with _refusals("run"):
            details = interpreter.get_tensor_details()
            return {str(item["index"]): _describe(interpreter, item) for item in details if item["index"] < in_file}

    def load(self, model: bytes, target: Target, *, optimise: bool) -> LiteRTSession:  # noqa: ARG002 - no difference
        """A session with made-up inputs, already run once."""
        interpreter = _new_interpreter(model, target.threads)
        _allocate(interpreter)
        return LiteRTSession(interpreter)


def delegated(model: bytes, threads: int = 1) -> tuple[bool, ...]:
    """For each operator of the main graph, in the file's order: whether XNNPACK runs it, else a built-in kernel does.

    Raises MeasurementError when the runtime refuses the model.
    """
    interpreter = _new_interpreter(model, threads)
    with _refusals("load"):
        in_file = len(interpreter._get_ops_details())
    _allocate(interpreter)
    with _refusals("load"):
        nodes = interpreter._get_ops_details()
    # Delegation keeps the nodes and appends one per partition, which reads what the partition gets from outside.
    # What it took over are the ancestors of its outputs up to there.
    producers = {int(tensor): index for index, node in enumerate(nodes[:in_file]) for tensor in node["outputs"]}
    taken: set[int] = set()
    for partition in nodes[in_file:]:
        if partition["op_name"] != "DELEGATE":
            continue
        given, waiting = set(partition["inputs"].tolist()), partition["outputs"].tolist()
        while waiting:
            tensor = waiting.pop()
            producer = producers.get(tensor)
            if tensor not in given and producer is not None and producer not in taken:
                taken.add(producer)
                waiting += nodes[producer]["inputs"].tolist()
    return tuple(index in taken for index in range(in_file))


def _new_interpreter(model: bytes, threads: int, *, inspect: bool = False) -> Any:
    """`inspect`: without XNNPACK, and every tensor keeps its value."""
    module = interpreter_module()
    options: dict[str, Any] = {}
    if inspect:
        resolver = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        options = {"experimental_op_resolver_type": resolver, "experimental_preserve_all_tensors": True}
    with _refusals("load"):
        return module.Interpreter(model_content=model, num_threads=threads, **options)


def _allocate(interpreter: Any) -> None:
    """Delegate, prepare and allocate; then set the inputs."""
    rng = np.random.default_rng(0)
    with _refusals("load"):
        inputs = interpreter.get_input_details()
        shapes = [static_shape(item["name"], item["shape_signature"].tolist()) for item in inputs]
        for item, shape in zip(inputs, shapes, strict=True):
            if shape != tuple(item["shape"].tolist()):
                interpreter.resize_tensor_input(item["index"], shape)
        interpreter.allocate_tensors()
        for item, shape in zip(inputs, shapes, strict=True):
            interpreter.set_tensor(item["index"], made_up(item["name"], shape, _dtype(item), rng))


def _describe(interpreter: Any, item: dict[str, Any]) -> TensorInfo:
    shape, dtype = tuple(item["shape"].tolist()), _dtype(item)
    if not is_small_integer(shape, dtype):
        return TensorInfo(shape, dtype)
    try:
        return TensorInfo(shape, dtype, integers(interpreter.get_tensor(item["index"])))
    except ValueError:  # no operator wrote it
        return TensorInfo(shape, dtype)


def _dtype(item: dict[str, Any]) -> str:
    dtype: np.dtype[Any] = np.dtype(item["dtype"])
    return {"S": "str", "O": "other"}.get(dtype.kind, dtype.name)


@contextmanager
def _refusals(verb: str) -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        raise refusal("LiteRT", verb, error) from error


def interpreter_module() -> Any:
    """The module of the installed package that holds `Interpreter`; raises MissingExtra or NotReady."""
    for package in ("ai_edge_litert", "tflite_runtime"):
        try:
            module = import_module(f"{package}.interpreter")
        except ModuleNotFoundError as error:
            if error.name != package:
                raise
            continue
        if package == "tflite_runtime" and not np.__version__.startswith("1."):
            raise NotReady(f"tflite-runtime does not work with numpy {np.__version__}.", "Run: pip install 'numpy<2'")
        return module
    raise MissingExtra("ai-edge-litert", "tflite")
