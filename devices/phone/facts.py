"""What a phone says about itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..conditions import warmest_c
from ..facts import DeviceFacts, isa_flags
from .adb import Adb

_FACTS = (
    "getprop; echo; cat /proc/meminfo; echo; cat /sys/devices/system/cpu/present; echo;"
    " for p in /sys/devices/system/cpu/cpu[0-9]*; do echo ${p##*cpu} $(cat $p/cpufreq/cpuinfo_max_freq); done;"
    " echo; uname -m; echo; cat /proc/cpuinfo"
)
_CONDITIONS = (
    "cd /sys/class/thermal && for z in thermal_zone*; do echo $(cat $z/temp) $(cat $z/type); done 2>/dev/null; echo;"
    " cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq 2>/dev/null"
)
_PROPERTY = re.compile(r"\[([^\]]+)\]: \[(.*)\]")


@dataclass(frozen=True)
class PhoneFacts(DeviceFacts):
    """A phone as it registers itself; `id` is adb's serial number.

    core_max_mhz: of each core in order, 0 where the phone does not tell. soc, android, build: empty where unknown.
    """

    manufacturer: str
    product: str
    soc: str
    android: str
    build: str
    abi: str
    core_max_mhz: tuple[int, ...]


@dataclass(frozen=True)
class PhoneConditions:
    """How warm the phone's CPU is and how fast its fastest core runs now; None where Android does not let us see."""

    temperature_c: float | None
    cpu_mhz: float | None


def phone_facts(adb: Adb, runtimes: tuple[tuple[str, str], ...]) -> PhoneFacts:
    """Ask the phone; `runtimes` are names and versions of what is brought there. Raises NotReady as `Adb` does."""
    properties_text, memory, present, frequencies, machine, cpuinfo = _sections(adb.shell(_FACTS).output, 6)
    properties = dict(_PROPERTY.findall(properties_text))

    def first(*names: str) -> str:
        return next((properties[name] for name in names if properties.get(name)), "")

    total = re.search(r"MemTotal:\s*(\d+) kB", memory)
    mhz = {int(core): int(khz) // 1000 for core, khz in re.findall(r"^(\d+) (\d+)$", frequencies, re.MULTILINE)}
    cores = core_count(present)
    soc = " ".join(filter(None, (first("ro.soc.manufacturer"), first("ro.soc.model", "ro.board.platform"))))
    return PhoneFacts(
        id=adb.serial,
        cpu_model=soc or first("ro.hardware") or machine,
        architecture=machine,
        isa=isa_flags(cpuinfo),
        cores=cores,
        memory_bytes=int(total[1]) * 1024 if total else 0,
        os=f"Android {first('ro.build.version.release')}".strip(),
        runtimes=runtimes,
        manufacturer=first("ro.product.manufacturer"),
        product=first("ro.product.model"),
        soc=soc,
        android=first("ro.build.version.release"),
        build=first("ro.build.fingerprint"),
        abi=first("ro.product.cpu.abi"),
        core_max_mhz=tuple(mhz.get(core, 0) for core in range(cores)),
    )


def phone_conditions(adb: Adb) -> PhoneConditions:
    """Ask the phone. Raises NotReady as `Adb` does."""
    thermal, frequencies = _sections(adb.shell(_CONDITIONS).output, 2)
    sensors = [line.partition(" ") for line in thermal.splitlines()]
    mhz = [int(khz) / 1e3 for khz in frequencies.split() if khz.isdigit()]
    return PhoneConditions(warmest_c((kind, temp) for temp, _, kind in sensors), max(mhz, default=None))


def core_count(present: str) -> int:
    """Cores in what /sys/devices/system/cpu/present holds, such as 0-7; 1 where that is unreadable."""
    last = re.search(r"(\d+)\s*$", present)
    return int(last[1]) + 1 if last else 1


def _sections(text: str, count: int) -> list[str]:
    """The parts between the first empty lines; the last one may hold more of them."""
    parts = [part.strip() for part in re.split(r"\n[ \t]*\n", text, maxsplit=count - 1)]
    return parts + [""] * (count - len(parts))
