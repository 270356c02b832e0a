"""Which subnets a training step takes: uniformly, or by their multiply-accumulates (ElasticViT, section 3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from ...errors import InvalidInput
from ...spaces.space import Space, Subnet, extreme_subnet, random_subnet
from .level_tables import LevelTables

SamplerName = Literal["uniform", "complexity-aware", "performance-aware"]
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)

BANK_ENTRIES, TOP_BANK_ENTRIES, TOP_LEVEL = 150, 50, 4
"""Entries of a level's bank, and of those from level 4 up (500 MMACs in the paper)."""
EXPLOIT, EXPLOIT_GROWTH, EXPLOIT_TIMES = 0.2, 0.15, 6
"""Share of draws from the bank, and how much it grows, how often in a training (every 100 of 600 epochs)."""
CANDIDATES = 5


@dataclass(frozen=True)
class Draw:
    """The subnets of one step: the `teacher` learns from the labels, the `students` from its logits."""

    teacher: Subnet
    students: tuple[Subnet, ...]


class SubnetSampler(ABC):
    """The subnets of every step, a function of the seed, the steps before and, for some samplers, the losses.

    `draw` is called once for every step, in order. `state` holds plain values from which `load` goes on exactly.
    """

    @abstractmethod
    def draw(self, step: int, progress: float) -> Draw:
        """The subnets of this step; `progress` of the training is 0 to 1."""

    def observe(self, draw: Draw, losses: Sequence[float]) -> None:  # noqa: B027 - few samplers listen
        """Cross-entropies of the teacher and of the students on the step's batch."""

    def rescore(self, losses: Callable[[Sequence[Subnet]], Sequence[float]]) -> None:  # noqa: B027
        """An epoch is over: `losses` gives the cross-entropies of subnets under the weights of now."""

    def state(self) -> dict[str, Any]:
        """What `load` needs."""
        return {}

    def load(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Go on where `state` was taken."""


class OneSubnet(SubnetSampler):
    """A single subnet, trained alone."""

    def __init__(self, subnet: Subnet) -> None:
        self._draw = Draw(subnet, ())

    def draw(self, step: int, progress: float) -> Draw:  # noqa: ARG002
        """That subnet."""
        return self._draw


class UniformSampler(SubnetSampler):
    """The sandwich: the largest subnet teaches `count` random ones and the smallest (BigNAS)."""

    def __init__(self, space: Space, count: int, seed: int) -> None:
        self._space, self._count, self._seed = space, count, seed
        self._largest, self._smallest = (extreme_subnet(space, largest=largest) for largest in (True, False))

    def draw(self, step: int, progress: float) -> Draw:  # noqa: ARG002
        """Every choice of a random subnet is uniform; in MACs they crowd in the middle."""
        rng = np.random.default_rng((self._seed, 2, step))
        drawn = (random_subnet(self._space, rng) for _ in range(self._count))
        return Draw(self._largest, (*drawn, self._smallest))


class ComplexityAwareSampler(SubnetSampler):
    """All subnets of a step have about the same MACs, at a level that walks at random by at most one rung a step.

    There is no largest subnet: the largest of `count` + 1 drawn ones learns from the labels and teaches the others
    and the level's smallest subnet.
    """

    def __init__(self, space: Space, count: int, seed: int) -> None:
        self._space, self._count, self._seed = space, count, seed
        self._level = 0
        self._made: LevelTables | None = None

    @property
    def tables(self) -> LevelTables:
        """The subnets of every level, found once."""
        if self._made is None:
            self._made = LevelTables.build(self._space, self._seed)
        return self._made

    def draw(self, step: int, progress: float) -> Draw:
        """Subnets of the level's table, and the smallest one that goes with it."""
        tables, rng = self.tables, np.random.default_rng((self._seed, 2, step))
        walked = self._level + int(rng.integers(-1, 2)) if step else int(rng.integers(len(tables.levels)))
        self._level = min(max(walked, 0), len(tables.levels) - 1)
        drawn = sorted(self._pick(rng, progress) for _ in range(self._count + 1))  # tables ascend by MACs
        chosen = [tables.levels[self._level][number] for number in drawn]
        return Draw(chosen[-1], (*chosen[:-1], tables.smallest[self._level]))

    def _pick(self, rng: np.random.Generator, progress: float) -> int:  # noqa: ARG002 - others need it
        return int(rng.integers(len(self.tables.levels[self._level])))

    def state(self) -> dict[str, Any]:
        """The level and the tables."""
        return {"level": self._level, "tables": self.tables.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self._level, self._made = state["level"], LevelTables.from_state(self._space, state["tables"])


class PerformanceAwareSampler(ComplexityAwareSampler):
    """As complexity-aware, but subnets that do well on their level are drawn more often.

    Each level has a bank of subnets and their negative cross-entropy. A draw takes one from a bank that is at least
    half full with a probability that grows with the training, by softmax of the scores; otherwise it keeps that of five
    drawn ones whose MACs sit in width rather than depth. `per_epoch` is the number of steps between two
    rescorings, which bounds the banks so that rescoring costs at most `PER_STEP` forward passes a step.
    """

    PER_STEP = 2

    def __init__(self, space: Space, count: int, seed: int, per_epoch: int) -> None:
        super().__init__(space, count, seed)
        self._affordable = self.PER_STEP * per_epoch
        self._banks: dict[int, dict[int, float]] = {}

    def _pick(self, rng: np.random.Generator, progress: float) -> int:
        bank = self._banks.get(self._level, {})
        exploit = EXPLOIT + EXPLOIT_GROWTH * min(EXPLOIT_TIMES - 1, int(EXPLOIT_TIMES * progress))
        if 2 * len(bank) >= self._capacity(self._level) and rng.random() < exploit:
            scores = np.array(list(bank.values()))
            weights = np.exp(scores - scores.max())
            return int(rng.choice(list(bank), p=weights / weights.sum()))
        table = self.tables.levels[self._level]
        drawn = rng.integers(len(table), size=CANDIDATES).tolist()
        return int(max(drawn, key=lambda number: self.tables.widths[self._level][number]))

    def _capacity(self, level: int) -> int:
        entries = TOP_BANK_ENTRIES if level >= TOP_LEVEL else BANK_ENTRIES
        levels = len(self.tables.levels)
        return max(4, min(entries, self._affordable // levels, len(self.tables.levels[level])))

    def observe(self, draw: Draw, losses: Sequence[float]) -> None:
        """The step's subnets enter their level's bank; the worst leaves a full one."""
        table = self.tables.levels[self._level]
        bank = self._banks.setdefault(self._level, {})
        for subnet, loss in zip((draw.teacher, *draw.students[:-1]), losses[:-1], strict=True):
            bank[table.index(subnet)] = -loss
        while len(bank) > self._capacity(self._level):
            del bank[min(bank, key=bank.__getitem__)]

    def rescore(self, losses: Callable[[Sequence[Subnet]], Sequence[float]]) -> None:
        """All banks under the weights of now."""
        entries = [(level, number) for level, bank in self._banks.items() for number in bank]
        found = losses([self.tables.levels[level][number] for level, number in entries])
        for (level, number), loss in zip(entries, found, strict=True):
            self._banks[level][number] = -loss

    def state(self) -> dict[str, Any]:
        """The level, the tables and the banks."""
        return {**super().state(), "banks": {level: dict(bank) for level, bank in self._banks.items()}}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        super().load(state)
        self._banks = {level: dict(bank) for level, bank in state["banks"].items()}


def make_sampler(name: str, space: Space, count: int, seed: int, per_epoch: int) -> SubnetSampler:
    """The sampler of that name; `per_epoch` is the number of steps of an epoch. Raises InvalidInput."""
    match name:
        case "uniform":
            return UniformSampler(space, count, seed)
        case "complexity-aware":
            return ComplexityAwareSampler(space, count, seed)
        case "performance-aware":
            return PerformanceAwareSampler(space, count, seed, per_epoch)
    raise InvalidInput(f"'{name}' is no sampler.", f"Use {', '.join(SAMPLERS)}.")
