"""Conversions: torch modules and ONNX files to TFLite, torch modules to ONNX, and TFLite files to INT8 for timing.

litert-torch and ai-edge-quantizer work in a child process of their own, `python -m milliseek.kernels.convert`: they
are slow to import, write to the screen, and a crash or a leak of theirs must not take the caller with it.
"""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ..errors import InvalidInput, MilliseekError, MissingExtra

if TYPE_CHECKING:
    import torch

_ONNX_OPSET = 17
"""The first with LayerNormalization, and the last of torch's exporter that needs no further package."""

_TIME_LIMIT_S = 900.0
_MEMORY_LIMIT_BYTES = 16 << 30
_REMEDY = "Convert it yourself and give the TFLite file."


def torch_to_onnx(module: torch.nn.Module, example_inputs: tuple[torch.Tensor, ...]) -> bytes:
    """An ONNX file of the module in inference mode, traced with these inputs, whose shapes become the file's.

    Raises InvalidInput when torch cannot trace or write it.
    """
    import torch

    names = [f"input_{index}" if index else "input" for index in range(len(example_inputs))]
    with tempfile.TemporaryDirectory(prefix="milliseek-") as folder, _exporting(module, "ONNX"):
        file = Path(folder) / "model.onnx"
        torch.onnx.export(module, example_inputs, file, dynamo=False, opset_version=_ONNX_OPSET, input_names=names)
        return file.read_bytes()


def torch_to_tflite(module: torch.nn.Module, example_inputs: tuple[torch.Tensor, ...]) -> bytes:
    """A float32 TFLite file of the module in inference mode, with the shapes of these inputs (NCHW stays NCHW).

    Raises InvalidInput when it cannot be converted, MissingExtra without litert-torch.
    """
    import torch

    _require("litert_torch")
    file = io.BytesIO()
    with _exporting(module, "TFLite"):
        torch.export.save(torch.export.export(module, example_inputs), file)
    return _in_child("torch", file.getvalue(), "The module cannot be converted to TFLite")


def onnx_to_tflite(model: bytes) -> bytes:
    """A float32 TFLite file of a float32 ONNX file with fixed shapes; 64-bit inputs become 32-bit ones.

    Raises InvalidInput when it cannot be converted, MissingExtra without litert-torch.
    """
    _require("litert_torch")
    return _in_child("onnx", model, "The model cannot be converted to TFLite")


def quantise_tflite_for_timing(model: bytes, seed: int = 0) -> bytes:
    """INT8 form of a float32 TFLite file: int8 activations, int8 weights with a scale per output channel.

    The calibration data are random, so this is for timing, not for accuracy. Inputs and outputs stay float32, with
    QUANTIZE and DEQUANTIZE behind and before them. Raises InvalidInput when the quantiser cannot take the model,
    MissingExtra without ai-edge-quantizer.
    """
    _require("ai_edge_quantizer")
    return _in_child("quantise", model, "The model cannot be quantised", seed)


def _require(module: str) -> None:
    if find_spec(module) is None:
        raise MissingExtra(module.replace("_", "-"), "tflite")


@contextmanager
def _exporting(module: torch.nn.Module, to: str) -> Iterator[None]:
    """Inference mode for the while, quiet, and failures of torch as InvalidInput."""
    import torch

    training = [part for part in module.modules() if part.training]
    fused_attention = torch.backends.mha.get_fastpath_enabled()
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # one operator that no converter knows
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), _closed_stdout(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        raise InvalidInput(
            f"The module cannot be converted to {to}: {_reason(error)}", "Export it yourself and give the file."
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fused_attention)
        for part in training:
            part.training = True


@contextmanager
def _closed_stdout() -> Iterator[None]:
    """Without the file descriptor of stdout, to which the native half of torch's exporter writes whole graphs."""
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _in_child(job: str, data: bytes, failure: str, seed: int = 0) -> bytes:
    """What the child makes of `data`; it ends with this call, whether by its result, the limits or ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="milliseek-") as folder:
        source, result = Path(folder) / "source", Path(folder) / "result"
        source.write_bytes(data)
        command = [sys.executable, "-P", "-m", __name__, job, str(source), str(result), str(seed)]
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
        ) as child:
            try:
                _, written = child.communicate(timeout=_TIME_LIMIT_S)
            except subprocess.TimeoutExpired:
                raise InvalidInput(f"{failure}: it takes longer than {_TIME_LIMIT_S:g} s.", _REMEDY) from None
            finally:  # ctrl-C included; nothing happens to a child that has ended
                child.kill()
                child.wait()
        if child.returncode < 0:
            raise InvalidInput(f"{failure}: the converter died of {signal.Signals(-child.returncode).name}.", _REMEDY)
        if child.returncode:
            lines = written.decode(errors="replace").strip().splitlines() or ["for no stated reason"]
            raise InvalidInput(f"{failure}: {lines[-1]}", _REMEDY)
        return result.read_bytes()


def _reason(error: BaseException) -> str:
    if isinstance(error, MilliseekError):
        return error.message
    if isinstance(error, MemoryError):
        return "there is not enough memory."
    return " ".join(str(error).split())[:300] or type(error).__name__


def _from_torch(data: bytes, _: int) -> bytes:
    import torch

    program = torch.export.load(io.BytesIO(data))
    inputs, _keywords = program.example_inputs or ((), {})
    return _to_tflite(program.module(), inputs)


def _from_onnx(data: bytes, _: int) -> bytes:
    from .onnx.torch_module import OnnxModule

    module = OnnxModule(data)
    return _to_tflite(module.eval(), module.example_inputs())


def _to_tflite(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> bytes:
    import litert_torch

    with tempfile.TemporaryDirectory(prefix="milliseek-") as folder:
        file = Path(folder) / "model.tflite"
        litert_torch.convert(module, inputs).export(str(file))
        return file.read_bytes()


def _quantised(data: bytes, seed: int) -> bytes:
    from .tflite.quantise import quantise_statically

    return quantise_statically(data, seed)


_JOBS: dict[str, Callable[[bytes, int], bytes]] = {"torch": _from_torch, "onnx": _from_onnx, "quantise": _quantised}


def _main(job: str, source: str, result: str, seed: str) -> None:
    limit = min(_MEMORY_LIMIT_BYTES, psutil.virtual_memory().total)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        Path(result).write_bytes(_JOBS[job](Path(source).read_bytes(), int(seed)))
    except Exception as error:
        raise SystemExit(_reason(error)) from error


if __name__ == "__main__":
    _main(*sys.argv[1:])
