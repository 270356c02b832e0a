"""What all scripts print beside their figures."""

from __future__ import annotations

import json
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
