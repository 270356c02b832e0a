"""Space evolution: which block type and which widths each stage should offer on one target (SpaceEvo, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.study import Study

from ...errors import InvalidInput
from ...spaces.handmade import PLANS, planned_blocks
from ...spaces.hyperspace import Hyperspace, hyperspace_named
from ...spaces.space import Space, random_space
from ..studies import Outcome, finished_trials, open_study
from .evolution import AgingEvolution, Params
from .score import Scorer
from .trial_batches import run_batches

EXHAUSTIVE = 128
"""Combinations of windows that are all tried."""


@dataclass(frozen=True)
class ScoredSpace:
    """A space that a study has scored."""

    space: Space
    score: float
    p: tuple[float, ...]
    quality: tuple[float, ...]


class SpaceDomain:
    """Individuals are spaces: `block1`, `window1`, ... one pair for each searched stage."""

    def __init__(self, hyperspace: Hyperspace) -> None:
        self.hyperspace = hyperspace

        self.distributions: Mapping[str, BaseDistribution] = {
            name: IntDistribution(0, choices - 1)
            for i, stage in enumerate(hyperspace.searched, 1)
            for name, choices in ((f"block{i}", len(hyperspace.blocks)), (f"window{i}", len(stage.windows)))
        }

    def initial(self, number: int, rng: np.random.Generator) -> Params:
        """All uniform spaces (one block type, the first or the last windows) first, then random ones."""
        blocks = len(self.hyperspace.blocks)
        if number < 2 * blocks:
            last = number >= blocks
            windows = tuple(len(stage.windows) - 1 if last else 0 for stage in self.hyperspace.searched)
            return self.params(Space(self.hyperspace, (number % blocks,) * len(windows), windows))
        return self.params(random_space(self.hyperspace, rng))

    def child(self, parent: Params, number: int, rng: np.random.Generator) -> Params:
        """The parent with one block type changed (even trials) or one window changed (odd trials).

        With one of the other kind where there is nothing to choose; the parent itself where there is no choice at all.
        """
        free = [
            name
            for name, distribution in self.distributions.items()
            if isinstance(distribution, IntDistribution) and distribution.high > 0
        ]
        if not free:
            return parent
        changeable = [name for name in free if name.startswith("window" if number % 2 else "block")] or free
        name = changeable[rng.integers(len(changeable))]
        distribution = self.distributions[name]
        assert isinstance(distribution, IntDistribution)
        others = [value for value in range(distribution.high + 1) if value != parent[name]]
        return {**parent, name: int(others[rng.integers(len(others))])}

    def params(self, space: Space) -> Params:
        """Inverse of `space`."""
        pairs = enumerate(zip(space.blocks, space.windows, strict=True), 1)
        return {key: value for i, (b, w) in pairs for key, value in ((f"block{i}", b), (f"window{i}", w))}

    def space(self, params: Params) -> Space:
        """The space that parameters name."""
        numbers = range(1, len(self.hyperspace.searched) + 1)
        blocks, windows = (tuple(int(params[f"{key}{i}"]) for i in numbers) for key in ("block", "window"))
        return Space(self.hyperspace, blocks, windows)


def evolve_space(
    url: str,
    name: str,
    scorer: Scorer,
    *,
    evaluations: int,
    population: int = 500,
    tournament: int = 125,
    seed: int = 0,
    on_trial: Callable[[int], None] = lambda _: None,
) -> list[ScoredSpace]:
    """Run or resume the study `name` up to `evaluations` scored spaces; returns the ranking, best first."""
    domain = SpaceDomain(scorer.tables.hyperspace)
    sampler = AgingEvolution(domain, population=population, tournament=tournament, litter=2, seed=seed)
    study = open_study(url, name, ["maximize"], sampler)

    def evaluate(params: Params) -> Outcome:
        space = domain.space(params)
        result = scorer.score(space)
        quality = [value if np.isfinite(value) else None for value in result.quality]
        return Outcome([result.score], {"space": space.encoding, "p": list(result.p), "quality": quality})

    run_batches(study, sampler, evaluate, evaluations, on_trial)
    return ranked_spaces(study)


def best_windows(scorer: Scorer, blocks: Sequence[int]) -> Space:
    """The space with these blocks whose windows score best.

    All of them are tried where there are few; else one stage after the other, from the first and from the last windows,
    until no change of one stage is better.
    """
    hyperspace = scorer.tables.hyperspace
    windows = [len(stage.windows) for stage in hyperspace.searched]
    scores: dict[tuple[int, ...], float] = {}

    def score(chosen: tuple[int, ...]) -> float:
        if chosen not in scores:
            scores[chosen] = scorer.score(Space(hyperspace, tuple(blocks), chosen)).score
        return scores[chosen]

    if math.prod(windows) <= EXHAUSTIVE:
        return Space(hyperspace, tuple(blocks), max(product(*map(range, windows)), key=score))
    for start in ((0,) * len(windows), tuple(count - 1 for count in windows)):
        best, before = start, -1.0
        while score(best) > before:
            before = score(best)
            for s, count in enumerate(windows):
                best = max(((*best[:s], w, *best[s + 1 :]) for w in range(count)), key=score)
    return Space(hyperspace, tuple(blocks), max(scores, key=score))


def handmade_spaces(scorer: Scorer) -> dict[str, Space]:
    """The hand-made spaces of the hyperspace by the names of their plans, each with its best windows."""
    found = {}
    for plan in PLANS:
        try:
            found[plan] = best_windows(scorer, planned_blocks(scorer.tables.hyperspace, plan))
        except InvalidInput:
            continue  # a hyperspace of a user's own need not have every block type
    return found


def scored_space(scorer: Scorer, name: str) -> Space:
    """A space by its encoding, or a hand-made one (`small32:mobilenetv2`) with the windows that score best.

    Raises NotFound or InvalidInput.
    """
    hyperspace = scorer.tables.hyperspace
    owner, colon, plan = name.partition(":")
    space = best_windows(scorer, planned_blocks(hyperspace_named(owner), plan)) if colon else Space.decode(name)
    if space.hyperspace != hyperspace:
        raise InvalidInput(f"'{name}' is no space of '{hyperspace.name}'.", f"--hyperspace {space.hyperspace.name}")
    return space


def ranked_spaces(study: Study) -> list[ScoredSpace]:
    """Distinct spaces of a study, best first."""
    best: dict[str, ScoredSpace] = {}
    for trial in sorted(finished_trials(study), key=lambda t: (-float(t.values[0]), t.number)):
        attributes = trial.user_attrs
        quality = tuple(float("inf") if value is None else value for value in attributes["quality"])
        best.setdefault(
            attributes["space"],
            ScoredSpace(Space.decode(attributes["space"]), float(trial.values[0]), tuple(attributes["p"]), quality),
        )
    return list(best.values())
