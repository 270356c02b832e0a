"""The quality of sub-stages, from a quality table, and of networks that are put together from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...errors import NotReady
from ...spaces.blocks import BlockChoice
from ...spaces.hyperspace import Hyperspace
from ...spaces.space import Space, Subnet

if TYPE_CHECKING:
    from .quality_rows import QualityRow


class Cell(NamedTuple):
    """What a table has one entry for."""

    stage: int
    block: int
    window: int
    resolution: int


def cells_of(space: Space, stages: Iterable[int], resolution: int) -> list[Cell]:
    """The cells of these stages of a space at one resolution."""
    return [Cell(s, space.stage_block(s), space.windows[s - 1] if s else 0, resolution) for s in stages]


class StageQuality:
    """Sub-stages and their NSR for all cells of a hyperspace, the fixed stage's included; `noise` by resolution."""

    def __init__(self, hyperspace: Hyperspace, rows: Iterable[QualityRow], noise: Mapping[int, float]) -> None:
        self.hyperspace = hyperspace
        self._noise = noise
        self._rows: dict[Cell, list[QualityRow]] = defaultdict(list)
        for row in rows:  # which count searched stages
            self._rows[Cell(row.stage + 1, row.block, row.window, row.resolution)].append(row)

    def sub_stages(self, cell: Cell) -> Sequence[tuple[BlockChoice, ...]]:
        """The sub-stages of a cell, all equally likely; raises NotReady where the quality table has none."""
        return [row.choices for row in self._known(cell)] if cell.stage else self._fixed_sub_stages()

    def nsr(self, cell: Cell) -> np.ndarray:
        """NSR (sub-stages,) in their order; raises NotReady."""
        if cell.stage:
            return np.array([row.nsr for row in self._known(cell)])
        # The fixed stage has no rows: it is the same for all spaces, so nothing but the pictures' noise comes in.
        return np.full(len(self._fixed_sub_stages()), self._noise.get(cell.resolution, 0.0))

    def random_subnet(self, space: Space, rng: np.random.Generator) -> tuple[Subnet, float]:
        """A subnet of sub-stages of the table, and the sum of their NSR; raises NotReady."""
        hyperspace = self.hyperspace
        resolution = int(rng.choice(hyperspace.resolutions))
        stages, nsr = [], 0.0
        for cell in cells_of(space, range(len(hyperspace.stages)), resolution):
            sub_stages, own = self.sub_stages(cell), self.nsr(cell)
            row = int(rng.integers(len(own)))
            stages.append(sub_stages[row])
            nsr += float(own[row])
        return Subnet(space, resolution, int(rng.choice(hyperspace.stem_widths)), tuple(stages)), nsr

    def _known(self, cell: Cell) -> Sequence[QualityRow]:
        if not (rows := self._rows.get(cell)):
            s, block, window, resolution = cell
            raise NotReady(
                f"The quality table of '{self.hyperspace.name}' has no row for stage {s}, block {block}, "
                f"window {window}, resolution {resolution}.",
                "Complete it first: milliseek spaces evolve resumes where it was.",
            )
        return rows

    def _fixed_sub_stages(self) -> list[tuple[BlockChoice, ...]]:
        """All of them, the shallower ones repeated so that every depth weighs the same."""
        stage, block_type = self.hyperspace.stages[0], self.hyperspace.block_type(0, 0)
        choices = [BlockChoice(*c) for c in product(stage.widths, block_type.kernels, block_type.expands)]
        return [
            sub_stage
            for depth in stage.depths
            for sub_stage in product(choices, repeat=depth)
            for _ in range(len(choices) ** (max(stage.depths) - depth))
        ]
