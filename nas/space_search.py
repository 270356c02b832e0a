"""Space evolution: which block type and which widths each stage should offer on one target (SpaceEvo, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.study import Study

from ..spaces.hyperspace import Hyperspace
from ..spaces.space import Space, random_space
from .evolution import AgingEvolution, Params
from .score import QTScorer, SpaceScore
from .studies import Outcome, finished_trials, open_study, run_trials


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

    @property
    def distributions(self) -> Mapping[str, BaseDistribution]:
        """Block type and window of every searched stage."""
        found: dict[str, BaseDistribution] = {}
        for i, stage in enumerate(self.hyperspace.searched, 1):
            found[f"block{i}"] = IntDistribution(0, len(self.hyperspace.blocks) - 1)
            found[f"window{i}"] = IntDistribution(0, len(stage.windows) - 1)
        return found

    def initial(self, number: int, rng: np.random.Generator) -> Params:
        """All uniform spaces (one block type, the first or the last windows) first, then random ones."""
        blocks = len(self.hyperspace.blocks)
        if number < 2 * blocks:
            last = number >= blocks
            windows = tuple(len(stage.windows) - 1 if last else 0 for stage in self.hyperspace.searched)
            return self.params(Space(self.hyperspace, (number % blocks,) * len(windows), windows))
        return self.params(random_space(self.hyperspace, rng))

    def child(self, parent: Params, number: int, rng: np.random.Generator) -> Params:
        """The parent with one block type changed (even trials) or one window changed (odd trials)."""
        changeable = [
            name
            for name, distribution in self.distributions.items()
            if name.startswith("window" if number % 2 else "block")
            and isinstance(distribution, IntDistribution)
            and distribution.high > 0
        ]
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
    scorer: QTScorer,
    *,
    evaluations: int,
    population: int = 500,
    tournament: int = 125,
    seed: int = 0,
    on_trial: Callable[[int], None] = lambda _: None,
) -> list[ScoredSpace]:
    """Run or resume the study `name` up to `evaluations` scored spaces; returns the ranking, best first."""
    domain = SpaceDomain(scorer.hyperspace)
    sampler = AgingEvolution(domain, population=population, tournament=tournament, seed=seed)
    study = open_study(url, name, ["maximize"], sampler)

    def evaluate(params: Params) -> Outcome:
        space = domain.space(params)
        result: SpaceScore = scorer.score(space)
        quality = [value if np.isfinite(value) else None for value in result.quality]
        return Outcome([result.score], {"space": space.encoding, "p": list(result.p), "quality": quality})

    run_trials(study, domain.distributions, evaluate, evaluations, on_trial)
    return ranked_spaces(study)


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
