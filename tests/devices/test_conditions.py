"""Temperature and frequency as Linux tells them, on folders that look like some boards."""

from __future__ import annotations

from pathlib import Path

import pytest

from milliseek.devices.conditions import cpu_mhz, temperature_c


def zones(folder: Path, *sensors: tuple[str, str]) -> Path:
    for number, (kind, temperature) in enumerate(sensors):
        zone = folder / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "type").write_text(f"{kind}\n")
        (zone / "temp").write_text(f"{temperature}\n")
    return folder


@pytest.mark.parametrize(
    ("sensors", "celsius"),
    [
        ([("cpu-thermal", "48312")], 48.312),  # Raspberry Pi
        ([("battery", "61000"), ("cpu-0-0", "45000"), ("cpu-1-3", "52000")], 52.0),  # a phone
        ([("acpitz", "27800"), ("x86_pkg_temp", "41000")], 41.0),
        ([("acpitz", "27800")], 27.8),
        ([("cpu-0-0", "-273000"), ("soc", "0"), ("battery", "30000")], 30.0),
        ([("cpu-thermal", "")], None),
        ([], None),
    ],
)
def test_the_warmest_sensor_of_the_cpu_counts(
    tmp_path: Path, sensors: list[tuple[str, str]], celsius: float | None
) -> None:
    assert temperature_c(zones(tmp_path, *sensors)) == celsius


def test_the_fastest_core_counts(tmp_path: Path) -> None:
    assert cpu_mhz(cpus=tmp_path) is None
    for core, khz in ((0, 600_000), (1, 1_800_000), (2, 2_400_000)):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(f"{khz}\n")
    assert cpu_mhz(cpus=tmp_path) == 2400.0
    assert cpu_mhz((0, 1), cpus=tmp_path) == 1800.0
    assert cpu_mhz((7,), cpus=tmp_path) is None


def test_this_machine_tells_something_or_nothing() -> None:
    for value, low, high in ((temperature_c(), -40.0, 150.0), (cpu_mhz(), 10.0, 10_000.0)):
        assert value is None or low < value < high
