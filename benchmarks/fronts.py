"""Networks of one space against a single other network, at equal milliseconds and at equal accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def compared_with(own: Sequence[tuple[float, float]], ms: float, top1: float) -> dict[str, float | None]:
    """`own`: (milliseconds, top-1) of a space's networks, of which the best at their speed count.

    better_by: top-1 of own networks at `ms`, between two of them, minus `top1`. needs_ms: milliseconds that own
    networks take for `top1`, between two of them. needs_at_most_ms: the fastest own one where even that is better.
    Each is None where it cannot be told.
    """
    every = sorted(own)
    front = [each for i, each in enumerate(every) if all(each[1] > faster[1] for faster in every[:i])]
    if not front:
        return {"better_by": None, "needs_ms": None, "needs_at_most_ms": None}
    times, accuracies = zip(*front, strict=True)
    return {
        "better_by": float(np.interp(ms, times, accuracies)) - top1 if times[0] <= ms <= times[-1] else None,
        "needs_ms": float(np.interp(top1, accuracies, times)) if accuracies[0] <= top1 <= accuracies[-1] else None,
        "needs_at_most_ms": times[0] if top1 < accuracies[0] else None,
    }
