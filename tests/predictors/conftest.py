"""Kernels by hand, and one real profile of a very small hyperspace on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from milliseek.db.engine import Database
from milliseek.kernels.kernel import Kernel, TensorSpec
from milliseek.predictors.profiles.profiling import Profile, profile
from milliseek.predictors.targets import DeviceTarget, device_target
from milliseek.spaces import hyperspace as hyperspaces
from milliseek.spaces.blocks import ONNXW_BLOCKS
from milliseek.spaces.hyperspace import Hyperspace, Stage

TARGET = "local/onnxruntime/int8"


def qconv(cin: int, cout: int, hw: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> Kernel:
    """An int8 convolution as ONNX Runtime's optimised graph has it: channels last, scales as constants."""
    out = (hw - 1) // stride + 1
    scale, zero = TensorSpec((), "float32", constant=True), TensorSpec((), "uint8", constant=True)
    inputs = (
        TensorSpec((1, hw, hw, cin), "uint8"),
        scale,
        zero,
        TensorSpec((cout, cin // groups, kernel, kernel), "int8", constant=True),
        TensorSpec((cout,), "float32", constant=True),
        TensorSpec((cout,), "int8", constant=True),
        scale,
        zero,
        TensorSpec((cout,), "int32", constant=True),
    )
    attributes = (
        ("channels_last", 1),
        ("group", groups),
        ("kernel_shape", (kernel, kernel)),
        ("pads", (kernel // 2,) * 4),
        ("strides", (stride, stride)),
    )
    return Kernel(
        "com.microsoft", "QLinearConv", attributes, inputs, (TensorSpec((1, out, out, cout), "uint8"),), opset=1
    )


def reshape(channels: int = 64) -> Kernel:
    shape = TensorSpec((2,), "int64", constant=True, value=(1, channels))
    source = TensorSpec((1, channels, 1, 1), "uint8")
    return Kernel("", "Reshape", (), (source, shape), (TensorSpec((1, channels), "uint8"),), opset=14)


def gemm(cin: int, cout: int) -> Kernel:
    inputs = (
        TensorSpec((1, cin), "float32"),
        TensorSpec((cout, cin), "float32", constant=True),
        TensorSpec((cout,), "float32", constant=True),
    )
    return Kernel("", "Gemm", (("transB", 1),), inputs, (TensorSpec((1, cout), "float32"),), opset=13)


def add(channels: int, hw: int) -> Kernel:
    source = TensorSpec((1, channels, hw, hw), "float32")
    return Kernel("", "Add", (), (source, source), (source,), opset=14)


class Make:
    """What the tests build kernels with."""

    qconv = staticmethod(qconv)
    reshape = staticmethod(reshape)
    gemm = staticmethod(gemm)
    add = staticmethod(add)


@pytest.fixture(scope="session")
def make() -> type[Make]:
    return Make


MINI = Hyperspace(
    name="mini32",
    resolutions=(24,),
    blocks=ONNXW_BLOCKS[:2],
    stem_widths=(8, 16),
    stem_stride=2,
    stages=(
        Stage((8, 16), (1,), 1),
        Stage((8, 16), (1, 2), 1, window=2),
        Stage((16, 24, 32), (1, 2), 2, window=2),
    ),
    head_width=64,
)


@dataclasses.dataclass(frozen=True)
class Profiled:
    """A database with a predictor of `target`, made from measurements of the hyperspace `mini32`."""

    database: Database
    target: DeviceTarget
    hyperspace: Hyperspace
    profile: Profile


@pytest.fixture(scope="session")
def mini() -> Iterator[Hyperspace]:
    """A hyperspace that is found by its name, `mini32`, as the built-in ones are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(hyperspaces.HYPERSPACES, MINI.name, MINI)
        yield MINI


@pytest.fixture(scope="session")
def profiled(tmp_path_factory: pytest.TempPathFactory, mini: Hyperspace) -> Iterator[Profiled]:
    """Half a minute at most, for all tests of the room together."""
    folder: Path = tmp_path_factory.mktemp("profiled")
    database = Database.open(f"sqlite:///{folder / 'milliseek.db'}")
    target = device_target(database, TARGET)
    made = profile(database, target, [mini], budget_s=12)
    yield Profiled(database, target, mini, made)
    database.close()
