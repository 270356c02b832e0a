"""The Q-T score without sampling: distributions of whole spaces from those of their stages.

The latencies and NSRs of a space's subnets are sums over its stages, so their distribution is a convolution, which the
discrete Fourier transform turns into products. `p` comes from latencies in fine bins. `quality` is the mean NSR of the
lowest-NSR mass `BEST_MASS` of the feasible subnets (of all of them, where less is feasible): it needs latency and NSR
together, in coarser bins. Nothing but the order of subnets within a few NSR bins is lost to those: what rounding takes
from a row's NSR is carried along as a second sum. Latencies are split between neighbouring bins, which keeps their
mean. The width that leaves a stage is the one that enters the next wherever the tables tell widths apart.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...spaces.hyperspace import Hyperspace
from ...spaces.space import Space
from ..quality.stage_quality import Cell
from .score import BEST_MASS, SpaceScore, combined
from .score_tables import ScoreTables, space_cells

FINE_BINS, COARSE_BINS, NSR_BINS = 1500, 64, 256
"""Latency bins up to the longest constraint for `p` (0.01 ms at 15 ms) and for `quality`, and bins of the NSR.

Where widths are carried along, which takes as much work as there are pairs of them, half as many bins of the NSR do.
"""
LEAST_P = 1e-8
"""Subnets rarer than this count as none."""
MEMORY_BYTES = 400 << 20
"""Transforms that are kept; more are computed anew."""
_ALIAS = 1e-10
"""How much of what lies one period higher is left of latencies that wrap around."""


class _LatencyAxis:
    """A latency axis of `bins` bins up to `end_ms`, in a transform twice as long.

    What lies beyond its end wraps around; all values are damped towards it so that this does not matter.
    """

    def __init__(self, bins: int, end_ms: float, *, half: bool) -> None:
        self.bins, self.size = bins, 2 * bins
        self.bin_ms = end_ms / bins
        damping = np.exp(np.arange(bins + 2) * math.log(_ALIAS) / self.size)
        frequencies = np.arange(bins + 1 if half else self.size)
        self.waves = damping[:, None] * np.exp(-2j * np.pi / self.size * np.outer(np.arange(bins + 2), frequencies))
        """(bins + 2, frequencies): transform of a unit mass in each bin; the last one only takes part of a split."""
        self._growth = 1 / damping

    def transform(self, latency_ms: np.ndarray) -> np.ndarray:
        """(n, frequencies) of unit masses at these latencies (n,); nothing where beyond the end."""
        position = latency_ms / self.bin_ms
        within = position <= self.bins
        low = np.where(within, position, 0).astype(np.intp)
        upper = (position - low) * within
        waves: np.ndarray = (within - upper)[:, None] * self.waves[low] + upper[:, None] * self.waves[low + 1]
        return waves

    def below(self, constraint_ms: float) -> np.ndarray:
        """(frequencies,): the mass up to a constraint is the real part of this times a transform, summed."""
        bins = np.arange(self.bins + 2)
        share = np.clip(constraint_ms / self.bin_ms - bins + 0.5, 0, 1) * self._growth**2
        weight = share @ self.waves.conj() / self.size
        if self.waves.shape[1] < self.size:  # frequencies that stand for their mirror images too
            weight[1:-1] *= 2
        found: np.ndarray = weight
        return found


class _Masses(NamedTuple):
    """Transforms of masses over some widths: `fine` (widths, latency), `joint` (widths, 2, latency, NSR).

    The second of the `joint` is that of the masses times what their NSR is more than their bin says.
    """

    fine: np.ndarray
    joint: np.ndarray


@dataclass(frozen=True)
class _Step:
    """One cell behind one entering width: masses by leaving width."""

    leaving: tuple[int, ...]
    masses: _Masses

    @property
    def size_bytes(self) -> int:
        return self.masses.fine.nbytes + self.masses.joint.nbytes


class ExactScorer:
    """Scores spaces without random numbers; tests compare it with Monte Carlo and with counting every subnet."""

    def __init__(self, tables: ScoreTables, constraints_ms: Sequence[float]) -> None:
        self.tables = tables
        self.constraints_ms = tuple(constraints_ms)
        end_ms = max(self.constraints_ms)
        self._fine = _LatencyAxis(FINE_BINS, end_ms, half=True)
        self._coarse = _LatencyAxis(COARSE_BINS, end_ms, half=False)
        self._below = [(self._fine.below(c), self._coarse.below(c)) for c in self.constraints_ms]
        self._bins = bins = NSR_BINS if max(tables.widths) == 1 else NSR_BINS // 2
        self._nsr_bin = _nsr_span(tables) / (bins - len(tables.stages)) or 1.0
        turns = np.outer(np.arange(bins), np.arange(bins // 2 + 1)) / bins
        self._nsr_waves = np.exp(-2j * np.pi * turns)
        self._steps: OrderedDict[tuple[Cell, int], _Step] = OrderedDict()
        self._steps_bytes = 0

    def score(self, space: Space) -> SpaceScore:
        """Score of a space."""
        each = [self._at_resolution(space, resolution) for resolution in self.tables.resolutions]
        shares, qualities = [], []
        for i in range(len(self.constraints_ms)):
            p = float(np.mean([part[i][0] for part in each]))
            mass, total = (np.concatenate([part[i][k] for part in each]) / len(each) for k in (1, 2))
            feasible = p > LEAST_P and mass.sum() > 0
            shares.append(min(p, 1.0) if feasible else 0.0)
            qualities.append(_lowest_mean(mass, total) if feasible else math.inf)
        return combined(shares, qualities)

    def _at_resolution(self, space: Space, resolution: int) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """For every constraint: p, and feasible mass and sum of NSR by NSR bin."""
        tables = self.tables
        start = tables.before_ms(resolution)
        states = dict(enumerate(self._starts(start)))
        floor = 0.0
        for cell in space_cells(tables, space, resolution):
            floor += float(tables.rows(cell).nsr.min())
            states = self._advance(cell, states)
        fine, joint = self._finish(states, tables.behind_ms(resolution))
        nsr = floor + np.arange(self._bins) * self._nsr_bin
        found = []
        for below_fine, below_coarse in self._below:
            p = float((below_fine @ fine).real)
            mass, excess = np.fft.irfft(below_coarse @ joint, self._bins)
            keep = mass > LEAST_P / self._bins
            found.append((p, mass[keep], (nsr * mass + excess)[keep]))
        return found

    def _starts(self, start_ms: np.ndarray) -> list[_Masses]:
        share = 1 / len(start_ms)
        fine, coarse = self._fine.transform(start_ms) * share, self._coarse.transform(start_ms) * share
        joint = np.zeros((len(start_ms), 2, self._coarse.size, self._bins // 2 + 1), complex)
        joint[:, 0] = coarse[:, :, None]
        return [_Masses(fine[i], joint[i]) for i in range(len(start_ms))]

    def _advance(self, cell: Cell, states: dict[int, _Masses]) -> dict[int, _Masses]:
        """Masses by the width that leaves a cell, from those by the width that enters it."""
        found: dict[int, _Masses] = {}
        for entering, (fine, joint) in states.items():
            step = self._step(cell, entering)
            for i, leaving in enumerate(step.leaving):
                own_fine, own = step.masses.fine[i] * fine, joint * step.masses.joint[i, 0]
                own[1] += joint[0] * step.masses.joint[i, 1]
                if leaving in found:
                    found[leaving].fine[...] += own_fine
                    found[leaving].joint[...] += own
                else:
                    found[leaving] = _Masses(own_fine, own)
        return found

    def _finish(self, states: dict[int, _Masses], behind_ms: np.ndarray) -> _Masses:
        fines, coarses = self._fine.transform(behind_ms), self._coarse.transform(behind_ms)
        fine = sum(masses.fine * fines[width] for width, masses in states.items())
        joint = sum(masses.joint * coarses[width][:, None] for width, masses in states.items())
        return _Masses(np.asarray(fine), np.asarray(joint))

    def _step(self, cell: Cell, entering: int) -> _Step:
        key = (cell, entering)
        if (known := self._steps.get(key)) is not None:
            self._steps.move_to_end(key)
            return known
        step = self._steps[key] = self._transformed(cell, entering)
        self._steps_bytes += step.size_bytes
        while self._steps_bytes > MEMORY_BYTES and len(self._steps) > 1:
            self._steps_bytes -= self._steps.popitem(last=False)[1].size_bytes
        return step

    def _transformed(self, cell: Cell, entering: int) -> _Step:
        rows = self.tables.rows(cell)
        excess = rows.nsr - rows.nsr.min()
        bins = np.rint(excess / self._nsr_bin).astype(np.intp)
        rest = excess - bins * self._nsr_bin
        nsr_waves = self._nsr_waves[bins]
        latency_ms = rows.ms[entering]
        fine, coarse = self._fine.transform(latency_ms), self._coarse.transform(latency_ms)
        leaving = tuple(sorted(set(rows.last.tolist())))
        fines, joints = [], []
        for width in leaving:
            own = rows.last == width
            fines.append(fine[own].sum(0))
            joints.append([coarse[own].T @ waves for waves in (nsr_waves[own], rest[own, None] * nsr_waves[own])])
        return _Step(leaving, _Masses(np.array(fines) / len(rows.nsr), np.array(joints) / len(rows.nsr)))


def _lowest_mean(mass: np.ndarray, total: np.ndarray) -> float:
    """Mean NSR of the lowest-NSR mass `BEST_MASS`, or of all there is; `total` is NSR times mass, by bin."""
    order = np.argsort(total / mass)
    mass, total = mass[order], total[order]
    taken = np.diff(np.minimum(np.cumsum(mass), BEST_MASS), prepend=0.0)
    return float((total / mass * taken).sum() / taken.sum())


def _nsr_span(tables: ScoreTables) -> float:
    """How much more NSR a subnet can have than the least one of its space."""
    hyperspace: Hyperspace = tables.hyperspace
    span = 0.0
    for s in tables.stages:
        blocks, windows = range(len(hyperspace.blocks) if s else 1), range(len(hyperspace.stages[s].windows))
        cells = (Cell(s, b, w, r) for b in blocks for w in windows for r in tables.resolutions)
        span += max(float(np.ptp(tables.rows(cell).nsr)) for cell in cells)
    return span
