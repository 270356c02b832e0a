"""Q-T score: how good and how fast the INT8 subnets of a space are, without training it (SpaceEvo, section 3.2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InvalidInput, NotReady
from ..predictors.lookup import LatencyLookup
from ..spaces.blocks import BlockChoice
from ..spaces.codes import HEAD, STEM, BlockKey, with_input
from ..spaces.hyperspace import Hyperspace
from ..spaces.space import Space

if TYPE_CHECKING:
    from .quality import QualityRow

FEASIBLE_SHARE = 0.08
"""t of the paper: a space with fewer subnets than this share under the constraint is penalised."""
PENALTY_EXPONENT = 0.01
BEST_MASS = 5e-4
"""Share of all subnets whose mean NSR is the quality: the paper's best 50 of 100 000."""


@dataclass(frozen=True)
class SpaceScore:
    """Score of one space: `p` (feasible share) and `quality` (mean NSR of the best, lower is better) per constraint."""

    score: float
    p: tuple[float, ...]
    quality: tuple[float, ...]


@dataclass(frozen=True)
class _StageRows:
    """Quality rows of one (stage, block, window, resolution) with their latencies on one target.

    `nsr` (rows,); `inner_ms` (rows,) without the first block; `first_ms` (rows, widths before); `last` (rows,)
    index of the width that leaves the stage among the stage's widths.
    """

    nsr: np.ndarray
    inner_ms: np.ndarray
    first_ms: np.ndarray
    last: np.ndarray


class QTScorer:
    """Scores spaces by Monte Carlo over the rows of a quality table, carrying the width from stage to stage.

    Every space is scored with the same random numbers, so that two spaces differ by their rows, not by luck. A
    resolution's latencies and NSRs add up only within it, so each is sampled apart and the results are mixed with
    equal weight.
    """

    def __init__(
        self,
        hyperspace: Hyperspace,
        rows: Iterable[QualityRow],
        latency: LatencyLookup,
        constraints_ms: Sequence[float],
        *,
        samples: int = 20_000,
        seed: int = 0,
    ) -> None:
        if not constraints_ms or min(constraints_ms) <= 0:
            raise InvalidInput("A latency constraint must be a positive number of milliseconds.")
        self.hyperspace = hyperspace
        self.constraints_ms = tuple(constraints_ms)
        self._latency = latency
        self._rows: dict[tuple[int, int, int, int], list[QualityRow]] = defaultdict(list)
        for row in rows:
            self._rows[row.stage + 1, row.block, row.window, row.resolution].append(row)  # rows count searched stages
        self._cells: dict[tuple[int, int, int, int], _StageRows] = {}
        self._uniform = np.random.default_rng(seed).random((len(hyperspace.stages) + 1, samples))

    def score(self, space: Space) -> SpaceScore:
        """sum over constraints T of 1 / (L * Q), L = max(1, (t / p)^alpha) with p floored at 1e-5; 0 where p = 0."""
        draws = [self._draw(space, resolution) for resolution in self.hyperspace.resolutions]
        latency_ms = np.concatenate([draw[0] for draw in draws])
        nsr = np.concatenate([draw[1] for draw in draws])
        total, shares, qualities = 0.0, [], []
        for constraint_ms in self.constraints_ms:
            feasible = np.sort(nsr[latency_ms <= constraint_ms])
            p = len(feasible) / len(nsr)
            best = feasible[: max(1, round(BEST_MASS * len(nsr)))]
            quality = float(best.mean()) if len(best) else float("inf")
            shares.append(p)
            qualities.append(quality)
            if p:
                total += 1 / (max(1.0, (FEASIBLE_SHARE / max(p, 1e-5)) ** PENALTY_EXPONENT) * quality)
        return SpaceScore(total, tuple(shares), tuple(qualities))

    def _draw(self, space: Space, resolution: int) -> tuple[np.ndarray, np.ndarray]:
        """(latency_ms, nsr), both (samples,), of random subnets at one resolution."""
        stems = self.hyperspace.stem_widths
        width = (self._uniform[0] * len(stems)).astype(int)
        latency_ms = self._latency.table.constant_ms + self._stem_ms(resolution)[width]
        nsr = np.zeros(len(width))
        for s in range(len(self.hyperspace.stages)):
            cell = self._cell(space, s, resolution)
            row = (self._uniform[s + 1] * len(cell.nsr)).astype(int)
            latency_ms = latency_ms + cell.inner_ms[row] + cell.first_ms[row, width]
            nsr += cell.nsr[row]
            width = cell.last[row]
        return latency_ms + self._head_ms(resolution)[width], nsr

    def _stem_ms(self, resolution: int) -> np.ndarray:
        widths = self.hyperspace.stem_widths
        return self._latency.block_ms([BlockKey(resolution, STEM, -1, 3, w, 3, 100, 1) for w in widths])

    def _head_ms(self, resolution: int) -> np.ndarray:
        widths = self.hyperspace.stages[-1].widths
        return self._latency.block_ms([BlockKey(resolution, HEAD, -1, w, 0, 1, 100, 0) for w in widths])

    def _cell(self, space: Space, s: int, resolution: int) -> _StageRows:
        key = (s, space.stage_block(s), space.windows[s - 1] if s else 0, resolution)
        if key not in self._cells:
            self._cells[key] = self._timed_rows(*key)
        return self._cells[key]

    def _timed_rows(self, s: int, block: int, window: int, resolution: int) -> _StageRows:
        stage = self.hyperspace.stages[s]
        sub_stages: list[tuple[BlockChoice, ...]]
        if s == 0:
            # The fixed stage has no rows: it is the same for all spaces and adds nothing to their comparison.
            sub_stages = self._fixed_sub_stages()
            nsr = np.zeros(len(sub_stages))
        else:
            rows = self._rows.get((s, block, window, resolution), [])
            if not rows:
                raise NotReady(
                    f"The quality table of '{self.hyperspace.name}' has no row for stage {s}, block {block}, "
                    f"window {window}, resolution {resolution}.",
                    "Complete it first: milliseek spaces evolve resumes where it was.",
                )
            sub_stages = [tuple(row.choices) for row in rows]
            nsr = np.array([row.nsr for row in rows])
        before = self.hyperspace.stages[s - 1].widths if s else self.hyperspace.stem_widths
        inner_ms, first_ms = [], []
        for choices in sub_stages:
            (width, kernel, expand), *rest = choices
            keys = [BlockKey(resolution, s, block, w, width, kernel, round(100 * expand), 1) for w in before]
            first_ms.append(self._latency.block_ms(keys))
            # What enters the stage counts as not gated: which block the stage before ends in is drawn later.
            keys, gated = [], self.hyperspace.blocks[block].gated
            for w, k, e in rest:
                key = BlockKey(resolution, s, block, width, w, k, round(100 * e), 0)
                key, gated = with_input(self.hyperspace, key, gated=gated)
                keys.append(key)
                width = w
            inner_ms.append(float(self._latency.block_ms(keys).sum()))
        last = np.array([stage.widths.index(choices[-1][0]) for choices in sub_stages])
        return _StageRows(nsr, np.array(inner_ms), np.array(first_ms), last)

    def _fixed_sub_stages(self) -> list[tuple[BlockChoice, ...]]:
        """All of them, the shallower ones repeated so that every depth weighs the same."""
        stage = self.hyperspace.stages[0]
        block_type = self.hyperspace.blocks[stage.fixed_block]
        choices = [BlockChoice(*c) for c in product(stage.widths, block_type.kernels, block_type.expands)]
        return [
            sub_stage
            for depth in stage.depths
            for sub_stage in product(choices, repeat=depth)
            for _ in range(len(choices) ** (max(stage.depths) - depth))
        ]
