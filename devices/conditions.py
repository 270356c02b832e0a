"""What the machine is like while it measures: how warm its CPU is and how fast it runs, where the kernel says so."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

_THERMAL = Path("/sys/class/thermal")
_CPUS = Path("/sys/devices/system/cpu")
_CPU_ZONE = re.compile(r"cpu|soc|pkg|core|cluster|bcm2835", re.IGNORECASE)
_INTEGER = re.compile(r"-?\d+")
_PLAUSIBLE_C = (-40.0, 150.0)
"""Sensors that are off or broken report 0 K, a bare flag or a sentinel; that is no temperature."""


def temperature_c(zones: Path = _THERMAL) -> float | None:
    """The warmest sensor of the CPU in degrees Celsius, of any sensor where none is named after it; None without."""
    return warmest_c((_text(folder / "type"), _text(folder / "temp")) for folder in zones.glob("thermal_zone*"))


def warmest_c(sensors: Iterable[tuple[str, str]]) -> float | None:
    """The same of sensors of any machine, as what their files `type` and `temp` (millidegrees) hold."""
    readings = [(kind, int(temp) / 1e3) for kind, temp in sensors if _INTEGER.fullmatch(temp)]
    lowest, highest = _PLAUSIBLE_C
    celsius = [(kind, temp) for kind, temp in readings if temp and lowest < temp < highest]
    of_cpu = [temp for kind, temp in celsius if _CPU_ZONE.search(kind)]
    return max(of_cpu or [temp for _, temp in celsius], default=None)


def cpu_mhz(cores: Collection[int] | None = None, cpus: Path = _CPUS) -> float | None:
    """Frequency of the fastest of the `cores` now, of all by default, in MHz; None where it cannot be read."""
    names = [f"cpu{core}" for core in cores] if cores else ["cpu[0-9]*"]
    files = (file for name in names for file in cpus.glob(f"{name}/cpufreq/scaling_cur_freq"))
    return max((khz / 1e3 for file in files if (khz := _number(file))), default=None)


def _number(file: Path) -> float | None:
    text = _text(file)
    return float(text) if _INTEGER.fullmatch(text) else None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # a sensor that is asleep refuses to be read
        return ""
