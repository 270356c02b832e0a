"""What a space is scored from: for every cell, rows of NSR and latency, and the width that goes from stage to stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...predictors.lookups.lookup import LatencyLookup
from ...spaces.codes import HEAD, STEM, BlockKey
from ...spaces.hyperspace import Hyperspace
from ...spaces.space import Space
from ..quality.stage_quality import Cell, StageQuality, cells_of

if TYPE_CHECKING:
    from ..quality.quality_rows import QualityRow


@dataclass(frozen=True)
class CellRows:
    """Sub-stages of one cell, all equally likely.

    `nsr` (rows,); `ms` (widths before, rows): milliseconds behind each width that may enter the stage; `last` (rows,)
    index of the width that leaves it. Where stages are independent there is one width, index 0, between any two.
    """

    nsr: np.ndarray
    ms: np.ndarray
    last: np.ndarray


class ScoreTables(Protocol):
    """Rows of all cells of a hyperspace for one target.

    Latencies and NSRs add up only within one of the `resolutions`; those are mixed with equal weight. `stages` are the
    numbers of the stages that have cells, in order; `widths` counts the widths before each of them and behind the last.
    """

    hyperspace: Hyperspace
    resolutions: tuple[int, ...]
    stages: tuple[int, ...]
    widths: tuple[int, ...]

    def rows(self, cell: Cell) -> CellRows:
        """Rows of a cell; raises NotReady where there are none."""
        ...

    def before_ms(self, resolution: int) -> np.ndarray:
        """Milliseconds (widths[0],) of what lies before the first of the stages; the widths are equally likely."""
        ...

    def behind_ms(self, resolution: int) -> np.ndarray:
        """Milliseconds (widths[-1],) of what lies behind the last stage."""
        ...


def space_cells(tables: ScoreTables, space: Space, resolution: int) -> list[Cell]:
    """The cells of a space at one resolution, in order."""
    return cells_of(space, tables.stages, resolution)


class MeasuredTables:
    """NSR from a quality table, latency from a table of blocks; the width is carried from stage to stage.

    `noise` by resolution is added to the NSR of every network: what the teacher loses on smaller pictures.
    """

    def __init__(
        self,
        hyperspace: Hyperspace,
        rows: Iterable[QualityRow],
        latency: LatencyLookup,
        noise: Mapping[int, float] | None = None,
    ) -> None:
        self.hyperspace = hyperspace
        self.quality = StageQuality(hyperspace, rows, noise or {})
        self.resolutions = hyperspace.resolutions
        self.stages = tuple(range(len(hyperspace.stages)))
        self.widths = (len(hyperspace.stem_widths), *(len(stage.widths) for stage in hyperspace.stages))
        self._latency = latency
        self._timed: dict[Cell, CellRows] = {}

    def rows(self, cell: Cell) -> CellRows:
        """Rows of a cell; raises NotReady where the quality table has none."""
        if cell not in self._timed:
            self._timed[cell] = self._time(cell)
        return self._timed[cell]

    def before_ms(self, resolution: int) -> np.ndarray:
        """Milliseconds (stem widths,) up to the stem's output."""
        keys = [BlockKey(resolution, STEM, -1, 3, w, 3, 100, 1) for w in self.hyperspace.stem_widths]
        return self._latency.block_ms(keys) + self._latency.table.constant_ms

    def behind_ms(self, resolution: int) -> np.ndarray:
        """Milliseconds (widths of the last stage,) of the head."""
        widths = self.hyperspace.stages[-1].widths
        return self._latency.block_ms([BlockKey(resolution, HEAD, -1, w, 0, 1, 100, 0) for w in widths])

    def _time(self, cell: Cell) -> CellRows:
        s, block, _, resolution = cell
        hyperspace = self.hyperspace
        stage = hyperspace.stages[s]
        sub_stages = self.quality.sub_stages(cell)
        before = hyperspace.stages[s - 1].widths if s else hyperspace.stem_widths
        keys, ends = [], []
        for choices in sub_stages:
            (width, kernel, expand), *rest = choices
            keys += [BlockKey(resolution, s, block, w, width, kernel, round(100 * expand), 1) for w in before]
            for w, k, e in rest:
                keys.append(BlockKey(resolution, s, block, width, w, k, round(100 * e), 0))
                width = w
            ends.append(len(keys))
        ms = np.split(self._latency.block_ms(keys), ends[:-1])
        total_ms = np.array([own[: len(before)] + own[len(before) :].sum() for own in ms]).T
        last = np.array([stage.widths.index(choices[-1][0]) for choices in sub_stages])
        return CellRows(self.quality.nsr(cell), total_ms, last)
