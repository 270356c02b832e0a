"""The block types of the hyperspaces: each says, once, which layers one block is made of (SpaceEvo, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from .layers import NetworkBuilder


def make_divisible(value: float, divisor: int = 8) -> int:
    """Nearest multiple of `divisor`, never losing more than 10 % of `value`."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class BlockChoice(NamedTuple):
    """What a subnet chooses for one block: output width, kernel size, expansion."""

    width: int
    kernel: int
    expand: float


Emit = Callable[[NetworkBuilder, str, str, BlockChoice, int], str]
"""(builder, name, input, choice, stride) -> name of the block's output."""


@dataclass(frozen=True)
class BlockType:
    """A block type: its kernel sizes, its expansions and its layers.

    `gated`: its output is the sum of the shortcut and a gated product, with no convolution in between.
    """

    name: str
    kernels: tuple[int, ...]
    expands: tuple[float, ...]
    emit: Emit
    gated: bool = False


def _shortcut(b: NetworkBuilder, name: str, x: str, cout: int, stride: int) -> str:
    """Identity where shapes allow, else a 1 x 1 convolution with batch norm."""
    if stride == 1 and b.shape(x)[0] == cout:
        return x
    return b.conv(f"{name}.shortcut", x, cout, 1, stride)


def _mbv1(b: NetworkBuilder, name: str, x: str, choice: BlockChoice, stride: int) -> str:
    y = b.conv(f"{name}.dw1", x, b.shape(x)[0], choice.kernel, stride, depthwise=True, act="relu")
    y = b.conv(f"{name}.pw1", y, choice.width, act="relu")
    y = b.conv(f"{name}.dw2", y, choice.width, choice.kernel, depthwise=True, act="relu")
    y = b.conv(f"{name}.pw2", y, choice.width)
    return b.add(f"{name}.add", y, _shortcut(b, name, x, choice.width, stride))


def _mbv2(b: NetworkBuilder, name: str, x: str, choice: BlockChoice, stride: int) -> str:
    hidden = make_divisible(b.shape(x)[0] * choice.expand)
    y = b.conv(f"{name}.expand", x, hidden, act="relu6")
    y = b.conv(f"{name}.dw", y, hidden, choice.kernel, stride, depthwise=True, act="relu6")
    y = b.conv(f"{name}.project", y, choice.width)
    return b.add(f"{name}.add", y, _shortcut(b, name, x, choice.width, stride))


def _mbv3(b: NetworkBuilder, name: str, x: str, choice: BlockChoice, stride: int) -> str:
    hidden = make_divisible(b.shape(x)[0] * choice.expand)
    y = b.conv(f"{name}.expand", x, hidden, act="hswish")
    y = b.conv(f"{name}.dw", y, hidden, choice.kernel, stride, depthwise=True, act="hswish")
    y = b.squeeze_excite(f"{name}.se", y, make_divisible(hidden / 4))
    y = b.conv(f"{name}.project", y, choice.width)
    return b.add(f"{name}.add", y, _shortcut(b, name, x, choice.width, stride))


def _resnet(squeeze: bool) -> Emit:
    def emit(b: NetworkBuilder, name: str, x: str, choice: BlockChoice, stride: int) -> str:
        hidden = make_divisible(choice.width * choice.expand)
        cin = b.shape(x)[0]
        y = b.conv(f"{name}.reduce", x, hidden, act="relu")
        y = b.conv(f"{name}.conv", y, hidden, choice.kernel, stride, act="relu")
        y = b.conv(f"{name}.restore", y, choice.width)
        if squeeze:
            y = b.squeeze_excite(f"{name}.se", y, make_divisible(cin / 4))
        return b.add(f"{name}.add", y, _shortcut(b, name, x, choice.width, stride), act="relu")

    return emit


def _fused(squeeze: bool) -> Emit:
    def emit(b: NetworkBuilder, name: str, x: str, choice: BlockChoice, stride: int) -> str:
        cin = b.shape(x)[0]
        y = b.conv(f"{name}.expand", x, make_divisible(cin * choice.expand), choice.kernel, stride, act="swish")
        if squeeze:
            y = b.squeeze_excite(f"{name}.se", y, make_divisible(cin / 4))
        y = b.conv(f"{name}.project", y, choice.width)
        return b.add(f"{name}.add", y, _shortcut(b, name, x, choice.width, stride))

    return emit


ONNXW_BLOCKS = (
    BlockType("mbv1", (3, 5), (1.0,), _mbv1),
    BlockType("mbv2", (3, 5), (4.0, 6.0, 8.0), _mbv2),
    BlockType("mbv3", (3, 5), (4.0, 6.0, 8.0), _mbv3),
    BlockType("resnet", (3, 5, 7), (0.5, 1.0, 1.5), _resnet(False)),
    BlockType("resnet_se", (3, 5, 7), (0.5, 1.0, 1.5), _resnet(True), gated=True),
    BlockType("fused", (3, 5, 7), (1.0, 2.0, 3.0, 4.0), _fused(False)),
)
"""Blocks of the hyperspaces `onnxw` and `small32`, by the digit of their encoding."""
