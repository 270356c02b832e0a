"""Spaces and subnets: encodings, random draws, packed integers, and the layers of a subnet."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ..errors import InvalidInput
from .blocks import BlockChoice, BlockType
from .hyperspace import Hyperspace, hyperspace_named
from .layers import INPUT, Network, NetworkBuilder

_INTEGERS = r"\d{1,4}(?:#\d{1,4})*"
_DECIMALS = r"\d{1,2}(?:\.\d{1,2})?(?:#\d{1,2}(?:\.\d{1,2})?)*"
SPACE_PATTERN = re.compile(r"(?P<hyperspace>[a-z][a-z0-9]*)-(?P<blocks>\d+)-(?P<windows>\d+)", re.ASCII)
HANDMADE_PATTERN = re.compile(r"[a-z][a-z0-9]*:[a-z][a-z0-9]*", re.ASCII)
SUBNET_PATTERN = re.compile(
    rf"d(?P<d>{_INTEGERS})_k(?P<k>{_INTEGERS})_w(?P<w>{_INTEGERS})_e(?P<e>{_DECIMALS})_r(?P<r>\d{{1,4}})", re.ASCII
)


@dataclass(frozen=True)
class Space:
    """One block type and one width window for each searched stage of a hyperspace."""

    hyperspace: Hyperspace
    blocks: tuple[int, ...]
    windows: tuple[int, ...]

    def __post_init__(self) -> None:
        stages = self.hyperspace.searched
        if len(self.blocks) != len(stages) or len(self.windows) != len(stages):
            raise InvalidInput(
                f"A space of '{self.hyperspace.name}' has {len(stages)} blocks and {len(stages)} windows, "
                f"not {len(self.blocks)} and {len(self.windows)}."
            )
        for i, (stage, block, window) in enumerate(zip(stages, self.blocks, self.windows, strict=True), 1):
            if not 0 <= block < len(self.hyperspace.blocks):
                raise InvalidInput(f"Stage {i}: '{self.hyperspace.name}' has no block type {block}.")
            if not 0 <= window < len(stage.windows):
                raise InvalidInput(f"Stage {i} of '{self.hyperspace.name}' has no width window {window}.")

    @property
    def encoding(self) -> str:
        """Published form, for example `onnxw-151122-023231`."""
        digits = ("".join(map(str, part)) for part in (self.blocks, self.windows))
        return "-".join((self.hyperspace.name, *digits))

    @classmethod
    def decode(cls, encoding: str) -> Space:
        """Inverse of `encoding`; raises InvalidInput or NotFound."""
        match = SPACE_PATTERN.fullmatch(encoding)
        if match is None:
            handmade = HANDMADE_PATTERN.fullmatch(encoding) is not None
            raise InvalidInput(
                f"'{encoding}' is "
                + ("a space only for a target, which chooses its windows." if handmade else "no space."),
                f"Find them out: milliseek spaces score {encoding} --study STUDY"
                if handmade
                else "A space looks like small32-1512-0231: blocks, then windows.",
            )
        blocks, windows = (tuple(map(int, match[part])) for part in ("blocks", "windows"))
        return cls(hyperspace_named(match["hyperspace"]), blocks, windows)

    def stage_block(self, stage: int) -> int:
        """Digit of the block type of stage `stage`; 0 for the fixed one, whose type no digit names."""
        return self.blocks[stage - 1] if stage else 0

    def stage_type(self, stage: int) -> BlockType:
        """Description of that block type."""
        return self.hyperspace.block_type(stage, self.stage_block(stage))

    def stage_widths(self, stage: int) -> tuple[int, ...]:
        """Widths that the blocks of a stage may have, ascending."""
        windows = self.hyperspace.stages[stage].windows
        return windows[self.windows[stage - 1]] if stage else windows[0]


def named_space(name: str) -> Hyperspace | Space:
    """A hyperspace (`small32`) or one of its spaces (`small32-5125-0312`); raises NotFound or InvalidInput."""
    return Space.decode(name) if "-" in name or ":" in name else hyperspace_named(name)


@dataclass(frozen=True)
class Subnet:
    """One network of a space: a resolution, a stem width, and one choice per block of every stage."""

    space: Space
    resolution: int
    stem_width: int
    stages: tuple[tuple[BlockChoice, ...], ...]

    @property
    def genome(self) -> str:
        """`d.._k.._w.._e.._r..`: lists over the blocks, the stem first (the published form)."""
        blocks = [block for stage in self.stages for block in stage]
        depths = [1, *map(len, self.stages)]
        kernels = [3, *(block.kernel for block in blocks)]
        widths = [self.stem_width, *(block.width for block in blocks)]
        expands = ["0", *(str(float(block.expand)) for block in blocks)]
        parts = (("d", depths), ("k", kernels), ("w", widths), ("e", expands))
        lists = "_".join(key + "#".join(map(str, values)) for key, values in parts)
        return f"{lists}_r{self.resolution}"

    @property
    def encoding(self) -> str:
        """`SPACE:GENOME`, the name of this subnet everywhere."""
        return f"{self.space.encoding}:{self.genome}"

    @classmethod
    def decode(cls, encoding: str) -> Subnet:
        """Inverse of `encoding`; raises InvalidInput where the lists do not fit each other or the hyperspace."""
        space_part, _, genome = encoding.partition(":")
        space = Space.decode(space_part)
        match = SUBNET_PATTERN.fullmatch(genome)
        if match is None:
            raise InvalidInput(f"'{genome}' is not a subnet.", "A subnet looks like d1#1#2_k3.._w16.._e0#1.0.._r32.")
        depths, kernels, widths = (tuple(map(int, match[key].split("#"))) for key in "dkw")
        expands = tuple(map(float, match["e"].split("#")))
        stages = space.hyperspace.stages
        if len(depths) != len(stages) + 1 or not len(kernels) == len(widths) == len(expands) == sum(depths):
            raise InvalidInput(f"'{genome}': the lists do not fit the depths of {space.encoding}.")
        choices = [BlockChoice(*choice) for choice in zip(widths, kernels, expands, strict=True)]
        split: list[tuple[BlockChoice, ...]] = []
        position = 1
        for depth in depths[1:]:
            split.append(tuple(choices[position : position + depth]))
            position += depth
        subnet = cls(space, int(match["r"]), widths[0], tuple(split))
        if choices[0] != (widths[0], 3, 0) or depths[0] != 1 or not subnet.is_legal:
            raise InvalidInput(f"'{genome}' makes choices that {space.encoding} does not offer.")
        return subnet

    @property
    def is_legal(self) -> bool:
        """Whether the hyperspace offers every choice; block types with one expansion ignore what is said of it."""
        hyperspace = self.space.hyperspace
        return (
            self.resolution in hyperspace.resolutions
            and self.stem_width in hyperspace.stem_widths
            and all(len(blocks) in stage.depths for stage, blocks in zip(hyperspace.stages, self.stages, strict=True))
            and all(
                width in self.space.stage_widths(s)
                and kernel in self.space.stage_type(s).kernels
                and (expand in self.space.stage_type(s).expands or len(self.space.stage_type(s).expands) == 1)
                for s, blocks in enumerate(self.stages)
                for width, kernel, expand in blocks
            )
        )

    def network(self, classes: int) -> Network:
        """Its layers, with a classifier of `classes` outputs."""
        hyperspace = self.space.hyperspace
        b = NetworkBuilder(self.resolution)
        x = b.conv("stem", INPUT, self.stem_width, 3, hyperspace.stem_stride, act=hyperspace.act)
        for s, blocks in enumerate(self.stages):
            block_type = self.space.stage_type(s)
            for i, choice in enumerate(blocks):
                stride = hyperspace.stages[s].stride if i == 0 else 1
                x = block_type.emit(b, f"s{s}.{i}", x, choice, stride)
        emit_head(b, hyperspace, x, classes)
        return b.build()


def emit_head(b: NetworkBuilder, hyperspace: Hyperspace, x: str, classes: int) -> None:
    """Final expansion, pooling, feature mix where the hyperspace has one, classifier."""
    x = b.conv("head.expand", x, hyperspace.head_width, act=hyperspace.act)
    x = b.pool("head.pool", x)
    if hyperspace.mix_width:
        x = b.conv("head.mix", x, hyperspace.mix_width, act=hyperspace.act)
    b.linear("head.classifier", x, classes)


def random_subnet(space: Space, rng: np.random.Generator, resolution: int | None = None) -> Subnet:
    """A subnet drawn uniformly choice by choice."""
    hyperspace = space.hyperspace
    stages = []
    for s, stage in enumerate(hyperspace.stages):
        block_type, widths = space.stage_type(s), space.stage_widths(s)
        depth = int(rng.choice(stage.depths))
        stages.append(
            tuple(
                BlockChoice(
                    int(rng.choice(widths)),
                    int(rng.choice(block_type.kernels)),
                    float(rng.choice(block_type.expands)),
                )
                for _ in range(depth)
            )
        )
    chosen = resolution if resolution is not None else int(rng.choice(hyperspace.resolutions))
    return Subnet(space, chosen, int(rng.choice(hyperspace.stem_widths)), tuple(stages))


def drawn_subnet(source: Hyperspace | Space, rng: np.random.Generator) -> Subnet:
    """A random subnet of a space, or of a random space of a hyperspace."""
    return random_subnet(source if isinstance(source, Space) else random_space(source, rng), rng)


def extreme_subnet(space: Space, *, largest: bool) -> Subnet:
    """The subnet with every choice at its maximum, or at its minimum."""
    pick = max if largest else min
    hyperspace = space.hyperspace
    stages = tuple(
        (
            BlockChoice(
                pick(space.stage_widths(s)),
                pick(space.stage_type(s).kernels),
                pick(space.stage_type(s).expands),
            ),
        )
        * pick(stage.depths)
        for s, stage in enumerate(hyperspace.stages)
    )
    return Subnet(space, pick(hyperspace.resolutions), pick(hyperspace.stem_widths), stages)


def random_space(hyperspace: Hyperspace, rng: np.random.Generator) -> Space:
    """A space drawn uniformly."""
    blocks = tuple(int(rng.integers(len(hyperspace.blocks))) for _ in hyperspace.searched)
    return Space(hyperspace, blocks, tuple(int(rng.integers(len(s.windows))) for s in hyperspace.searched))
