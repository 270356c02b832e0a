"""Files of other formats than the one that the user has."""

from __future__ import annotations

import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
import torch
from torch import nn

from milliseek.devices.runtimes.litert import delegated
from milliseek.errors import InvalidInput, MissingExtra
from milliseek.kernels import convert
from milliseek.kernels.convert import onnx_to_tflite, quantise_tflite_for_timing, torch_to_onnx, torch_to_tflite
from milliseek.kernels.tflite.file import check_tflite, read_tflite, tflite_precision
from milliseek.kernels.tflite.schema import members
from milliseek.kernels.tflite.writer import TFLiteWriter

Array = np.ndarray[Any, Any]


def run_onnx(model: bytes, *inputs: Array) -> list[Array]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {item.name: value for item, value in zip(session.get_inputs(), inputs, strict=True)})


def run_tflite(model: bytes, *inputs: Array) -> list[Array]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    for item, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(item["index"], value.astype(item["dtype"]))
    interpreter.invoke()
    return [interpreter.get_tensor(item["index"]) for item in interpreter.get_output_details()]


def example(model: bytes) -> Array:
    (value,) = onnx.ModelProto.FromString(model).graph.input
    shape = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
    rng = np.random.default_rng(1)
    floats = value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    return rng.standard_normal(shape).astype(np.float32) if floats else rng.integers(0, 50, shape)


def assert_close(found: list[Array], wanted: list[Array], relative: float) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= relative * np.abs(other).max()


class Block(nn.Module):
    """A convolution, normalisation with statistics, GELU, attention over the pixels, and a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.GELU())
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Sequential(nn.LayerNorm(16), nn.Dropout(0.5), nn.Linear(16, 5), nn.Hardswish())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0])


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    return Block()


IMAGE = np.random.default_rng(2).standard_normal((1, 3, 12, 12)).astype(np.float32)


def answer(block: Block) -> list[Array]:
    with torch.no_grad():
        return [block.eval()(torch.from_numpy(IMAGE)).numpy()]


def test_torch_to_onnx(block: Block, capfd: pytest.CaptureFixture[str]) -> None:
    block.stem.eval()
    model = torch_to_onnx(block, (torch.zeros(1, 3, 12, 12),))
    assert (block.training, block.stem.training, block.head[1].training) == (True, False, True)
    assert capfd.readouterr() == ("", "")
    assert_close(run_onnx(model, IMAGE), answer(block), 1e-5)


@pytest.mark.slow
def test_torch_to_tflite(block: Block, capfd: pytest.CaptureFixture[str]) -> None:
    model = check_tflite(torch_to_tflite(block, (torch.zeros(1, 3, 12, 12),)))
    assert block.training
    assert capfd.readouterr() == ("", "")
    assert_close(run_tflite(model, IMAGE), answer(block), 1e-4)
    assert all(delegated(model))


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mobile", "pooled", "attention"], indirect=True)
def test_onnx_to_tflite_and_int8(network: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    model = check_tflite(onnx_to_tflite(network))
    value = example(network)
    wanted = run_onnx(network, value)
    assert_close(run_tflite(model, value), wanted, 1e-4)

    quantised = check_tflite(quantise_tflite_for_timing(model))
    assert (tflite_precision(model), tflite_precision(quantised)) == ("fp32", "int8")
    (found,) = run_tflite(quantised, value)
    assert found.dtype == np.float32
    assert np.corrcoef(found.ravel(), wanted[0].ravel())[0, 1] > 0.9
    assert capfd.readouterr() == ("", "")


def convolution(channels: int) -> bytes:
    """A 3x3 convolution with a bias, as a file without signatures; its weights are too large to stay in the graph."""
    rng = np.random.default_rng(0)
    writer = TFLiteWriter()
    x, y = writer.tensor((1, 8, 8, channels), name="x"), writer.tensor((1, 8, 8, channels), name="y")
    weights = writer.tensor((channels, 3, 3, channels), data=rng.standard_normal((channels, 3, 3, channels)))
    bias = writer.tensor((channels,), data=rng.standard_normal(channels))
    writer.operator("CONV_2D", [x, weights, bias], [y], {"strideH": 1, "strideW": 1})
    return writer.finish([x], [y])


def test_int8_has_float_ends_weights_inside_and_runs_in_xnnpack(capfd: pytest.CaptureFixture[str]) -> None:
    model = convolution(192)
    quantised = quantise_tflite_for_timing(model, seed=3)
    assert capfd.readouterr() == ("", "")
    parsed = read_tflite(quantised)
    names = {number: name for name, number in members("BuiltinOperator").items()}
    operators = [
        names[parsed.operatorCodes[operator.opcodeIndex].builtinCode] for operator in parsed.subgraphs[0].operators
    ]
    assert operators == ["QUANTIZE", "CONV_2D", "DEQUANTIZE"]
    assert all(delegated(quantised))
    weights = next(tensor for tensor in parsed.subgraphs[0].tensors if tuple(tensor.shape) == (192, 3, 3, 192))
    assert len(weights.quantization.scale) == 192
    assert len(parsed.buffers[weights.buffer].data) == 192 * 192 * 9
    value = np.random.default_rng(1).standard_normal((1, 8, 8, 192)).astype(np.float32)
    assert_close(run_tflite(quantised, value), run_tflite(model, value), 0.05)
    assert quantise_tflite_for_timing(model, seed=3) == quantised


@pytest.mark.parametrize(
    ("network", "reason"),
    [("dynamic", "LSTM is not supported"), ("mobile_int8", "DequantizeLinear")],
    indirect=["network"],
)
def test_the_reason_reaches_the_user(network: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=rf"cannot be converted to TFLite: .*{reason}") as caught:
        onnx_to_tflite(network)
    assert caught.value.remedy


def test_a_graph_that_asks_for_a_terabyte_is_refused() -> None:
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]> g (float[1] x) => (float[n] y) {
        size = Constant <value_ints: ints = [1099511627776]> () huge = ConstantOfShape (size)
        folded = Exp (huge) y = Mul (x, folded) }""")
    with pytest.raises(InvalidInput, match=r"The operator Exp .* memory"):
        onnx_to_tflite(model.SerializeToString())


def test_foreign_bytes_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"cannot be quantised: .* not a TFLite file"):
        quantise_tflite_for_timing(b"hello")


class Choosing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


def test_modules_that_torch_cannot_trace() -> None:
    with pytest.raises(InvalidInput, match=r"The module cannot be converted to TFLite: .*data-dependent"):
        torch_to_tflite(Choosing(), (torch.zeros(3),))
    with pytest.raises(InvalidInput, match="The module cannot be converted to ONNX"):
        torch_to_onnx(Choosing(), (torch.zeros(3, 4) > 0,))


@pytest.mark.parametrize(
    ("call", "package"),
    [
        (lambda: onnx_to_tflite(b""), "litert-torch"),
        (lambda: torch_to_tflite(nn.ReLU(), (torch.zeros(1),)), "litert-torch"),
        (lambda: quantise_tflite_for_timing(b""), "ai-edge-quantizer"),
    ],
)
def test_without_the_extra(call: Callable[[], bytes], package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=rf"'{package}'.*milliseek\[tflite\]"):
        call()


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a shell script in the place of the child's interpreter; it may write its process number to the path."""

    def replace(script: str) -> Path:
        file, note = tmp_path / "python", tmp_path / "pid"
        file.write_text(f"#!/bin/sh\necho $$ > {note}\n{script}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(convert.sys, "executable", str(file))
        return note

    return replace


def test_a_crash_ends_the_conversion_alone(converter: Callable[[str], Path]) -> None:
    converter("kill -SEGV $$")
    with pytest.raises(InvalidInput, match="cannot be converted to TFLite: the converter died of SIGSEGV"):
        onnx_to_tflite(b"")
    converter("echo some noise >&2; echo the reason >&2; exit 1")
    with pytest.raises(InvalidInput, match="to TFLite: the reason"):
        onnx_to_tflite(b"")


def test_the_time_limit_ends_the_child(converter: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    note = converter("exec sleep 600")
    monkeypatch.setattr(convert, "_TIME_LIMIT_S", 0.5)
    with pytest.raises(InvalidInput, match=r"takes longer than 0\.5 s"):
        onnx_to_tflite(b"")
    assert not psutil.pid_exists(int(note.read_text()))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as at a terminal: what runs in a shell's background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_the_child(converter: Callable[[str], Path]) -> None:
    # More than a pipe holds: the signal comes once the parent listens to its child.
    note = converter("head -c 200000 /dev/zero >&2; kill -INT $PPID; exec sleep 600")
    with pytest.raises(KeyboardInterrupt):
        onnx_to_tflite(b"")
    assert not psutil.pid_exists(int(note.read_text()))
