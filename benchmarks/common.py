"""What all scripts print beside their figures."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from milliseek import __version__
from milliseek.devices.facts import local_facts


def report(name: str, figures: dict[str, Any]) -> None:
    facts = asdict(local_facts())
    machine = {key: facts[key] for key in ("cpu_model", "isa", "cores", "memory_bytes", "os", "runtimes")}
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    print(
        json.dumps({"benchmark": name, "version": __version__, "date": stamp, "machine": machine, **figures}, indent=1)
    )


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % bounds of a share seen in n trials (Wilson, 1927)."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
