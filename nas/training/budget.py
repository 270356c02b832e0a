"""How long a training may take, in steps or seconds, and how much of that is spent."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """A number of steps, or seconds; where both are given, the first that runs out ends the training."""

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.steps is None and self.seconds is None:
            raise ValueError("a budget needs steps or seconds")


@dataclass
class Meter:
    """What is spent of a budget; `steps` and `seconds` are the resumable state."""

    budget: Budget
    steps: int = 0
    seconds: float = 0.0

    @property
    def fraction(self) -> float:
        """Progress, 0 to 1."""
        shares = [0.0]
        if self.budget.steps is not None:
            shares.append(self.steps / self.budget.steps if self.budget.steps else 1.0)
        if self.budget.seconds is not None:
            shares.append(self.seconds / self.budget.seconds if self.budget.seconds else 1.0)
        return min(1.0, max(shares))

    @property
    def spent(self) -> bool:
        """Whether the budget is used up."""
        return self.fraction >= 1.0

    def run(self) -> Iterator[int]:
        """Step numbers until the budget is spent; the body of the loop is what is timed."""
        while not self.spent:
            started = time.monotonic()
            yield self.steps
            self.count(time.monotonic() - started)

    def count(self, seconds: float) -> None:
        """One more step, which took this long."""
        self.steps += 1
        self.seconds += seconds


def cosine(fraction: float, warm_up: float = 0.05) -> float:
    """Share of the learning rate at a progress: linear warm-up, then half a cosine down to 0."""
    if fraction < warm_up:
        return (fraction + 0.01) / (warm_up + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (fraction - warm_up) / (1 - warm_up)))
