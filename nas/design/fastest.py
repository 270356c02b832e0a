"""The fastest network that there is, and constraints that even it does not meet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from ...errors import InvalidInput
from ...predictors.lookups.lookup import LatencyLookup
from ...spaces.codes import HEAD, STEM, BlockKey
from ...spaces.hyperspace import Hyperspace
from ..quality.stage_quality import Cell
from .score_tables import ScoreTables


def fastest_ms(tables: ScoreTables) -> float:
    """Milliseconds of the fastest network that the tables know."""
    hyperspace, found = tables.hyperspace, []
    for resolution in tables.resolutions:
        best = tables.before_ms(resolution)
        for i, s in enumerate(tables.stages):
            leaving = np.full(tables.widths[i + 1], np.inf)
            stage = hyperspace.stages[s]
            for block, window in product(range(len(hyperspace.blocks) if s else 1), range(len(stage.windows))):
                rows = tables.rows(Cell(s, block, window, resolution))
                np.minimum.at(leaving, rows.last, (best[:, None] + rows.ms).min(0))
            best = leaving
        found.append(float((best + tables.behind_ms(resolution)).min()))
    return min(found)


def check_constraints(tables: ScoreTables, constraints_ms: Sequence[float]) -> None:
    """Raise InvalidInput for a constraint that no network of the tables meets."""
    _check(tables.hyperspace, fastest_ms(tables), constraints_ms)


def check_budgets(hyperspace: Hyperspace, latency: LatencyLookup, constraints_ms: Sequence[float]) -> None:
    """Raise InvalidInput for a constraint that no network of the hyperspace meets on the table's target."""
    _check(hyperspace, fastest_network_ms(hyperspace, latency), constraints_ms)


def _check(hyperspace: Hyperspace, fastest: float, constraints_ms: Sequence[float]) -> None:
    if not constraints_ms or min(constraints_ms) <= 0:
        raise InvalidInput("A latency constraint must be a positive number of milliseconds.")
    if fastest > min(constraints_ms):
        raise InvalidInput(
            f"No network of '{hyperspace.name}' takes {min(constraints_ms):g} ms or less: "
            f"the fastest one needs {fastest:.3g} ms.",
            "Raise the constraint or choose a smaller hyperspace.",
        )


def fastest_network_ms(hyperspace: Hyperspace, latency: LatencyLookup) -> float:
    """Milliseconds of the fastest network that any space of the hyperspace has."""
    found = []
    for resolution in hyperspace.resolutions:
        stem = [BlockKey(resolution, STEM, -1, 3, w, 3, 100, 1) for w in hyperspace.stem_widths]
        best = dict(zip(hyperspace.stem_widths, latency.block_ms(stem).tolist(), strict=True))
        for s, stage in enumerate(hyperspace.stages):
            leaving: dict[int, float] = {}
            for block, window in product(range(len(hyperspace.blocks) if s else 1), stage.windows):
                through, depths = best, set(stage.depths)
                for i in range(max(depths)):
                    through = _through(
                        hyperspace, latency, BlockKey(resolution, s, block, 0, 0, 0, 0, i == 0), window, through
                    )
                    if i + 1 in depths:
                        leaving = {w: min(ms, leaving.get(w, np.inf)) for w, ms in through.items()} | {
                            w: ms for w, ms in leaving.items() if w not in through
                        }
            best = leaving
        head = latency.block_ms([BlockKey(resolution, HEAD, -1, w, 0, 1, 100, 0) for w in best])
        found.append(float(np.min(head + np.array(list(best.values())))))
    return min(found) + latency.table.constant_ms


def _through(
    hyperspace: Hyperspace, latency: LatencyLookup, key: BlockKey, window: tuple[int, ...], entering: dict[int, float]
) -> dict[int, float]:
    """Least milliseconds by leaving width, behind one more block of any kernel and expansion."""
    block_type = hyperspace.block_type(key.stage, key.block)
    kinds = list(product(block_type.kernels, (round(100 * expand) for expand in block_type.expands)))
    keys = [
        key._replace(cin=cin, cout=cout, kernel=kernel, expand_pct=expand)
        for cout, cin, (kernel, expand) in product(window, entering, kinds)
    ]
    ms = latency.block_ms(keys).reshape(len(window), len(entering), len(kinds)).min(2)
    least = (ms + np.array(list(entering.values()))).min(1)
    return dict(zip(window, least.tolist(), strict=True))
