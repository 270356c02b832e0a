"""Hyperspaces as plain values: how they are stored, and how a user's own is read from a YAML file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from ..errors import InvalidInput
from .blocks import LAYOUTS, BlockType
from .hyperspace import HYPERSPACES, Hyperspace, Stage
from .layers import Activation

MAX_DIGIT_CHOICES = 10
"""Block types of a hyperspace and windows of a stage: each is one digit of an encoding."""
MAX_STAGES = 16
MIN_HW = 2
"""Least height of any stage's output: a teacher's map of one pixel has no variance to imitate."""
MAX_FIXED_CHOICES = 10_000
"""Rows for the combinations of stage 0's blocks, shallower ones repeated so that every depth weighs the same."""
MAX_WIDTH, MAX_RESOLUTION, MAX_KERNEL, MAX_EXPAND, MAX_DEPTH = 4095, 1023, 15, 40.0, 32
"""What a latency table can tell apart."""


def read_hyperspace(path: Path) -> Hyperspace:
    """The hyperspace that a YAML file defines, known by its name from then on; raises InvalidInput."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is no YAML file: {' '.join(str(error).split())}.") from error
    try:
        return register(parse_hyperspace(values))
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error.message}", error.remedy) from error


def register(hyperspace: Hyperspace) -> Hyperspace:
    """Make a hyperspace known by its name; raises InvalidInput where the name stands for another one."""
    if HYPERSPACES.setdefault(hyperspace.name, hyperspace) != hyperspace:
        raise InvalidInput(
            f"There is another hyperspace named '{hyperspace.name}' already.", "Give this one a name of its own."
        )
    return hyperspace


def definition(hyperspace: Hyperspace) -> dict[str, Any]:
    """A hyperspace as JSON values, which `parse_hyperspace` reads."""
    return {
        "name": hyperspace.name,
        "resolutions": list(hyperspace.resolutions),
        "stem": {"widths": list(hyperspace.stem_widths), "stride": hyperspace.stem_stride},
        "blocks": [_block_values(block) for block in hyperspace.blocks],
        "stages": {number: _stage_values(stage) for number, stage in enumerate(hyperspace.stages)},
        "head": {"width": hyperspace.head_width, "mix": hyperspace.mix_width, "classes": hyperspace.nominal_classes},
        "act": hyperspace.act,
    }


def _block_values(block: BlockType) -> dict[str, Any]:
    return {"type": block.name, "kernels": list(block.kernels), "expands": list(block.expands)}


def _stage_values(stage: Stage) -> dict[str, Any]:
    values = {"widths": list(stage.widths), "depths": list(stage.depths), "stride": stage.stride}
    return {
        **values,
        **({"window": stage.window} if stage.window else {}),
        **({"block": _block_values(stage.fixed)} if stage.fixed else {}),
    }


def parse_hyperspace(values: Any) -> Hyperspace:
    """Inverse of `definition`; raises InvalidInput, naming the place, for what is no hyperspace."""
    top = _Fields(values, "the hyperspace")
    name = top.text("name")
    if not re.fullmatch(r"[a-z][a-z0-9]{0,31}", name):
        raise InvalidInput(f"'{name}' is no name of a hyperspace.", "Use small letters and digits.")
    resolutions = top.ascending("resolutions", MAX_RESOLUTION, least=8)
    stem = _Fields(top.take("stem"), "the stem")
    stem_widths, stem_stride = stem.ascending("widths", MAX_WIDTH), stem.stride()
    stem.end()
    blocks = top.take("blocks")
    if not isinstance(blocks, list) or not 1 <= len(blocks) <= MAX_DIGIT_CHOICES:
        raise InvalidInput(f"'blocks' must be a list of 1 to {MAX_DIGIT_CHOICES} block types: each is one digit.")
    types = tuple(_parse_block(block, f"block {digit}") for digit, block in enumerate(blocks))
    if len(set(types)) < len(types):
        raise InvalidInput("Two of the blocks are the same.")
    stages = _parse_stages(top.take("stages"))
    head = _Fields(top.take("head"), "the head")
    width, mix = head.integer("width", 1, MAX_WIDTH), head.integer("mix", 0, MAX_WIDTH, default=0)
    classes = head.integer("classes", 2, 100_000, default=10)
    head.end()
    act: Activation = top.choice("act", get_args(Activation), default="relu")  # type: ignore[assignment]
    top.end()
    hyperspace = Hyperspace(name, resolutions, types, stem_widths, stem_stride, stages, width, mix, act, classes)
    for number, (_, hw) in enumerate(hyperspace.stage_hw(resolutions[0])):
        if hw < MIN_HW:
            raise InvalidInput(
                f"Behind stage {number} a picture of {resolutions[0]} pixels is {hw} x {hw}, less than "
                f"{MIN_HW} x {MIN_HW}.",
                "Leave out a stride of 2, or that resolution.",
            )
    return hyperspace


def _parse_stages(values: Any) -> tuple[Stage, ...]:
    if not isinstance(values, Mapping):
        raise InvalidInput("'stages' must map the numbers 0, 1, 2, ... to stages; 0 is the fixed one.")
    stages = {int(key) if str(key).isdecimal() else key: stage for key, stage in values.items()}
    for number in range(len(stages)):
        if number not in stages:
            named = ", ".join(map(str, stages))
            raise InvalidInput(f"Stage {number} is missing; there are: {named}.", "Number them 0, 1, 2, ...")
    if not 2 <= len(stages) <= MAX_STAGES + 1:
        raise InvalidInput(f"A hyperspace has a fixed stage 0 and 1 to {MAX_STAGES} searched stages.")
    return tuple(_parse_stage(stages[number], number) for number in range(len(stages)))


def _parse_stage(values: Any, number: int) -> Stage:
    where = f"stage {number}"
    fields = _Fields(values, where)
    widths, depths = fields.ascending("widths", MAX_WIDTH), fields.ascending("depths", MAX_DEPTH)
    missing = sorted(set(range(depths[0], depths[-1] + 1)) - set(depths))
    if missing:
        raise InvalidInput(f"The depths of {where} leave out {missing[0]}.", "Depths are a run without gaps.")
    stride = fields.stride()
    if number == 0:
        fixed = _parse_block(fields.take("block"), "the block of stage 0")
        fields.end()
        choices = len(widths) * len(fixed.kernels) * len(fixed.expands)
        if len(depths) * choices ** depths[-1] > MAX_FIXED_CHOICES:
            raise InvalidInput(
                f"Stage 0 has {choices} kinds of blocks and up to {depths[-1]} of them: all combinations are compared.",
                "Give it fewer widths, kernels or expansions, or less depth.",
            )
        return Stage(widths, depths, stride, fixed=fixed)
    window = fields.integer("window", 1, MAX_WIDTH)
    fields.end()
    if window > len(widths):
        raise InvalidInput(f"The window of {where} is {window} widths long, but there are {len(widths)} widths.")
    stage = Stage(widths, depths, stride, window)
    if len(stage.windows) > MAX_DIGIT_CHOICES:
        raise InvalidInput(
            f"{where.capitalize()} has {len(stage.windows)} windows; at most {MAX_DIGIT_CHOICES}, each is one digit.",
            "Make the window longer or leave out widths.",
        )
    return stage


def _parse_block(values: Any, where: str) -> BlockType:
    fields = _Fields(values, where)
    name = fields.choice("type", tuple(LAYOUTS))
    kernels = fields.ascending("kernels", MAX_KERNEL)
    if even := [kernel for kernel in kernels if kernel % 2 == 0]:
        raise InvalidInput(f"{where} has the kernel size {even[0]}; sizes are odd.")
    if name.endswith("_stacked") and kernels[0] < 3:
        raise InvalidInput(f"{where} stacks 3 x 3 kernels; a kernel of 1 has none.")
    expands = fields.take("expands", [1.0])
    if (
        not isinstance(expands, list)
        or not expands
        or any(isinstance(e, bool) or not isinstance(e, int | float) or not 0.1 <= e <= MAX_EXPAND for e in expands)
        or any(abs(100 * e - round(100 * e)) > 1e-9 for e in expands)
        or sorted(set(expands)) != expands
    ):
        raise InvalidInput(
            f"The expands of {where} must be ascending numbers of two decimals from 0.1 to {MAX_EXPAND:g}."
        )
    fields.end()
    return BlockType(name, kernels, tuple(map(float, expands)))


class _Fields:
    """The keys of one mapping, each taken once; what is missing, wrong or left over is named with its place."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, Mapping):
            raise InvalidInput(f"{where} must be a mapping of names to values, not {type(values).__name__}.")
        self.values = dict(values)
        self.where = where

    def take(self, key: str, default: Any = None) -> Any:
        value = self.values.pop(key, default)
        if value is None:
            raise InvalidInput(f"{self.where} has no '{key}'.")
        return value

    def text(self, key: str) -> str:
        value = self.take(key)
        if not isinstance(value, str):
            raise InvalidInput(f"'{key}' of {self.where} must be a text, not {value!r}.")
        return value

    def choice(self, key: str, known: tuple[str, ...], default: str | None = None) -> str:
        value = self.take(key, default)
        if value not in known:
            raise InvalidInput(f"'{value}' is no {key} of {self.where}.", f"Known ones: {', '.join(known)}.")
        return str(value)

    def integer(self, key: str, least: int, most: int, default: int | None = None) -> int:
        value = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise InvalidInput(f"'{key}' of {self.where} must be a whole number from {least} to {most}, not {value!r}.")
        return value

    def stride(self) -> int:
        return self.integer("stride", 1, 2)

    def ascending(self, key: str, most: int, least: int = 1) -> tuple[int, ...]:
        value = self.take(key)
        good = isinstance(value, list) and value and all(type(v) is int and least <= v <= most for v in value)
        if not good or sorted(set(value)) != value:
            raise InvalidInput(
                f"'{key}' of {self.where} must be ascending whole numbers from {least} to {most}, not {value!r}."
            )
        return tuple(value)

    def end(self) -> None:
        if self.values:
            raise InvalidInput(f"{self.where} has an unknown key '{next(iter(self.values))}'.")
