"""Hyperspaces: the choices from which spaces are made, as data (SpaceEvo, tables 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import NotFound
from .blocks import MOBILEW_BLOCKS, ONNXW_BLOCKS, BlockType
from .layers import Activation


@dataclass(frozen=True)
class Stage:
    """One stage: its widths in ascending order, its possible depths, the stride of its first block.

    A searched stage (`window` > 0) lets a space choose a block type and a run of `window` neighbouring widths;
    a fixed stage (`window` 0) always has the block type `fixed` and all widths.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stride: int
    window: int = 0
    fixed: BlockType | None = None

    @property
    def windows(self) -> tuple[tuple[int, ...], ...]:
        """The width windows a space can choose from."""
        if not self.window:
            return (self.widths,)
        return tuple(self.widths[i : i + self.window] for i in range(len(self.widths) - self.window + 1))


@dataclass(frozen=True)
class Hyperspace:
    """Stem, stages and head from which spaces are made.

    `stages[0]` is fixed, the others are searched. The head is a 1 x 1 convolution to `head_width`, global pooling,
    then `mix_width` (a 1 x 1 convolution on the pooled features; 0: none) and the classifier. Latency tables assume
    `nominal_classes` outputs; the classifier's share of the time is about a microsecond.
    """

    name: str
    resolutions: tuple[int, ...]
    blocks: tuple[BlockType, ...]
    stem_widths: tuple[int, ...]
    stem_stride: int
    stages: tuple[Stage, ...]
    head_width: int
    mix_width: int = 0
    act: Activation = "relu"
    nominal_classes: int = 10

    @property
    def searched(self) -> tuple[Stage, ...]:
        """The stages whose block type and window a space chooses."""
        return self.stages[1:]

    def block_type(self, stage: int, block: int) -> BlockType:
        """Block type of a stage of spaces that choose `block` there; the fixed stage's is always the same."""
        return self.stages[stage].fixed or self.blocks[block]

    @property
    def size(self) -> int:
        """Number of spaces."""
        count = 1
        for stage in self.searched:
            count *= len(self.blocks) * len(stage.windows)
        return count

    def stage_hw(self, resolution: int) -> tuple[tuple[int, int], ...]:
        """(input, output) height of every stage, in pixels, for pictures of this resolution."""
        hw = (resolution - 1) // self.stem_stride + 1
        sizes = []
        for stage in self.stages:
            out = (hw - 1) // stage.stride + 1
            sizes.append((hw, out))
            hw = out
        return tuple(sizes)


def _steps(first: int, last: int, step: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1, step))


SMALL32 = Hyperspace(
    name="small32",
    resolutions=(24, 28, 32),
    blocks=ONNXW_BLOCKS,
    stem_widths=(16, 24),
    stem_stride=1,
    stages=(
        Stage((16, 24), (1,), 1, fixed=ONNXW_BLOCKS[0]),
        Stage((16, 24, 32), (1, 2, 3), 1, window=2),
        Stage(_steps(24, 64, 8), (1, 2, 3, 4), 2, window=3),
        Stage(_steps(48, 128, 16), (1, 2, 3, 4), 2, window=3),
        Stage(_steps(96, 192, 16), (1, 2), 1, window=4),
    ),
    head_width=256,
)

TINY32 = Hyperspace(
    name="tiny32",
    resolutions=(24, 28, 32),
    blocks=ONNXW_BLOCKS,
    stem_widths=(16, 24),
    stem_stride=2,
    stages=(
        Stage((16, 24), (1,), 1, fixed=ONNXW_BLOCKS[0]),
        Stage((16, 24, 32), (1, 2), 1, window=2),
        Stage(_steps(24, 64, 8), (1, 2, 3), 2, window=3),
        Stage(_steps(48, 128, 16), (1, 2, 3), 2, window=3),
        Stage(_steps(96, 192, 16), (1, 2), 1, window=4),
    ),
    head_width=256,
)
"""`small32` at half the height inside and a little shallower: a supernet of it trains in minutes on two cores."""

ONNXW = Hyperspace(
    name="onnxw",
    resolutions=(160, 176, 192, 208, 224),
    blocks=ONNXW_BLOCKS,
    stem_widths=(16, 32),
    stem_stride=2,
    stages=(
        Stage((16, 32), (1, 2), 1, fixed=BlockType("resnet", (3,), (0.5,))),
        Stage((32, 48, 64), (2, 3, 4), 2, window=2),
        Stage(_steps(32, 96, 16), (2, 3, 4), 2, window=2),
        Stage(_steps(64, 144, 16), (2, 3, 4, 5, 6), 2, window=3),
        Stage(_steps(112, 192, 16), (2, 3, 4, 5, 6), 1, window=3),
        Stage(_steps(192, 304, 16), (2, 3, 4, 5, 6), 2, window=5),
        Stage(_steps(304, 448, 16), (1, 2), 1, window=7),
    ),
    head_width=1280,
    mix_width=1920,
    act="hswish",
    nominal_classes=1000,
)

MOBILEW = Hyperspace(
    name="mobilew",
    resolutions=(160, 176, 192, 208, 224),
    blocks=MOBILEW_BLOCKS,
    stem_widths=(16, 24, 32),
    stem_stride=2,
    stages=(
        Stage((16, 24, 32), (1, 2), 1, fixed=BlockType("separable", (3,))),
        Stage(_steps(24, 40, 8), (2, 3, 4), 2, window=2),
        Stage(_steps(24, 72, 8), (2, 3, 4), 2, window=2),
        Stage(_steps(56, 112, 8), (2, 3, 4, 5, 6), 2, window=3),
        Stage(_steps(112, 176, 8), (2, 3, 4, 5, 6, 7, 8), 1, window=3),
        Stage((192, 200, 208, 216, 224, 240, 256, 272, 288), (2, 3, 4, 5, 6, 7, 8), 2, window=5),
        Stage(_steps(216, 360, 16), (1, 2), 1, window=7),
    ),
    head_width=1280,
    mix_width=1920,
    act="swish",
    nominal_classes=1000,
)

HYPERSPACES = {hyperspace.name: hyperspace for hyperspace in (TINY32, SMALL32, ONNXW, MOBILEW)}


def hyperspace_named(name: str) -> Hyperspace:
    """The hyperspace of that name; raises NotFound."""
    try:
        return HYPERSPACES[name]
    except KeyError:
        known = ", ".join(sorted(HYPERSPACES))
        raise NotFound(f"There is no hyperspace named '{name}'.", f"Known hyperspaces: {known}.") from None
