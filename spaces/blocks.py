"""The block types of the hyperspaces: each says, once, which layers one block is made of (SpaceEvo, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .layers import Activation, NetworkBuilder


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
    """A block type: the name of its layers in `LAYOUTS`, its kernel sizes and its expansions."""

    name: str
    kernels: tuple[int, ...]
    expands: tuple[float, ...] = (1.0,)

    def emit(self, b: NetworkBuilder, name: str, x: str, choice: BlockChoice, stride: int) -> str:
        """Append the layers of one block to `b`; returns the name of its output."""
        return LAYOUTS[self.name](b, name, x, choice, stride)


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


def _separable(b: NetworkBuilder, name: str, x: str, choice: BlockChoice, stride: int) -> str:
    """MobileNetV1's own block, without a shortcut."""
    y = b.conv(f"{name}.dw", x, b.shape(x)[0], choice.kernel, stride, depthwise=True, act="relu")
    return b.conv(f"{name}.pw", y, choice.width, act="relu")


def _inverted(act: Activation, *, squeeze: bool, stacked: bool = False) -> Emit:
    """MBv2 and MBv3; `stacked`: depthwise 5 x 5 and 7 x 7 as two and three 3 x 3, the first one with the stride."""

    def emit(b: NetworkBuilder, name: str, x: str, choice: BlockChoice, stride: int) -> str:
        hidden = make_divisible(b.shape(x)[0] * choice.expand)
        y = b.conv(f"{name}.expand", x, hidden, act=act)
        if stacked:
            for i in range(choice.kernel // 2):
                y = b.conv(f"{name}.dw{i}", y, hidden, 3, 1 if i else stride, depthwise=True, act=act)
        else:
            y = b.conv(f"{name}.dw", y, hidden, choice.kernel, stride, depthwise=True, act=act)
        if squeeze:
            y = b.squeeze_excite(f"{name}.se", y, make_divisible(hidden / 4))
        y = b.conv(f"{name}.project", y, choice.width)
        return b.add(f"{name}.add", y, _shortcut(b, name, x, choice.width, stride))

    return emit


def _resnet(squeeze: bool) -> Emit:
    def emit(b: NetworkBuilder, name: str, x: str, choice: BlockChoice, stride: int) -> str:
        hidden = make_divisible(choice.width * choice.expand)
        cin = b.shape(x)[0]
        y = b.conv(f"{name}.reduce", x, hidden, act="relu")
        y = b.conv(f"{name}.conv", y, hidden, choice.kernel, stride, act="relu")
        if squeeze:
            y = b.squeeze_excite(f"{name}.se", y, make_divisible(cin / 4))
        y = b.conv(f"{name}.restore", y, choice.width)
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


LAYOUTS: Mapping[str, Emit] = {
    "separable": _separable,
    "mbv1": _mbv1,
    "mbv2": _inverted("relu6", squeeze=False),
    "mbv2_stacked": _inverted("relu6", squeeze=False, stacked=True),
    "mbv3": _inverted("hswish", squeeze=True),
    "mbv3_swish": _inverted("swish", squeeze=True),
    "mbv3_swish_stacked": _inverted("swish", squeeze=True, stacked=True),
    "resnet": _resnet(False),
    "resnet_se": _resnet(True),
    "fused": _fused(False),
    "fused_se": _fused(True),
}
"""Layers of a block by the name of its type."""

ONNXW_BLOCKS = (
    BlockType("mbv1", (3, 5)),
    BlockType("mbv2", (3, 5), (4.0, 6.0, 8.0)),
    BlockType("mbv3", (3, 5), (4.0, 6.0, 8.0)),
    BlockType("resnet", (3, 5, 7), (0.5, 1.0, 1.5)),
    BlockType("resnet_se", (3, 5, 7), (0.5, 1.0, 1.5)),
    BlockType("fused", (3, 5, 7), (1.0, 2.0, 3.0, 4.0)),
)
"""Blocks of the hyperspaces `onnxw` and `small32`, by the digit of their encoding."""

MOBILEW_BLOCKS = (
    BlockType("mbv1", (3, 5, 7)),
    BlockType("mbv2", (3, 5, 7), (3.0, 6.0, 8.0)),
    BlockType("mbv3_swish", (3, 5, 7), (3.0, 6.0, 8.0)),
    BlockType("resnet", (3, 5), (0.5, 1.0, 1.5)),
    BlockType("fused_se", (3, 5, 7), (1.0, 2.0, 3.0, 4.0)),
    BlockType("mbv3_swish_stacked", (3, 5, 7), (3.0, 6.0, 8.0)),
    BlockType("mbv2_stacked", (3, 5, 7), (3.0, 6.0, 8.0)),
)
"""Blocks of the hyperspace `mobilew`."""
