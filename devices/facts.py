"""What the local machine says about itself."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

RUNTIME_PACKAGES = {"onnxruntime": ("onnxruntime",), "litert": ("ai-edge-litert", "tflite-runtime")}
"""Runtimes and the distributions that provide them, the preferred one first."""

_ISA_FLAGS = {
    # x86: name in /proc/cpuinfo -> our name
    "sse4_1": "sse4_1",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512vl": "avx512vl",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "avx_vnni": "avx_vnni",
    "avx_vnni_int8": "avx_vnni_int8",
    "amx_tile": "amx_tile",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    # Arm
    "asimd": "neon",
    "neon": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}
"""The instruction sets that decide which kernels a runtime picks; other flags are noise in a record."""

_VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")
_IDENTITY_FIELDS = (
    "vendor_id",
    "cpu family",
    "model",
    "model name",
    "stepping",
    "CPU implementer",
    "CPU part",
)


@dataclass(frozen=True)
class DeviceFacts:
    """A machine as it registers itself; `runtimes` holds (name, version) of each installed runtime.

    `id` stays the same across reboots and updates of the kernel or the runtimes, and does not tell the
    machine-id that it is derived from. `cores` counts logical CPUs.
    """

    id: str
    cpu_model: str
    architecture: str
    isa: tuple[str, ...]
    cores: int
    memory_bytes: int
    os: str
    runtimes: tuple[tuple[str, str], ...]


@cache
def local_facts() -> DeviceFacts:
    """Facts of this machine, read once a process."""
    import psutil

    cpuinfo = _read("/proc/cpuinfo")
    machine_id = _read("/etc/machine-id").strip() or _read("/var/lib/dbus/machine-id").strip()
    fields = _cpu_fields(cpuinfo)
    cpu_model = _cpu_model(fields)
    return DeviceFacts(
        id=device_id(cpu_model, machine_id, fields),
        cpu_model=cpu_model,
        architecture=platform.machine(),
        isa=isa_flags(cpuinfo),
        cores=os.cpu_count() or 1,
        memory_bytes=int(psutil.virtual_memory().total),
        os=f"{platform.system()} {platform.release()}",
        runtimes=_runtime_versions(),
    )


def weight_bits(facts: DeviceFacts) -> int:
    """Bits of an int8 weight that are safe on this CPU: 7 on x86 without VNNI, else 8.

    Without VNNI, ONNX Runtime multiplies uint8 by int8 with `vpmaddubsw`, whose 16-bit sum of two products
    saturates for 8-bit weights and gives wrong results.
    """
    is_x86 = facts.architecture.lower() in {"x86_64", "amd64", "i386", "i686"}
    return 7 if is_x86 and not any(flag in facts.isa for flag in _VNNI) else 8


def installed_version(runtime: str) -> str | None:
    """Version of a runtime, after its distribution's name where that is another: `1.31.0`, `tflite-runtime 2.14.0`."""
    for package in RUNTIME_PACKAGES[runtime]:
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        return version if package == runtime else f"{package} {version}"
    return None


def device_id(cpu_model: str, machine_id: str, cpu_fields: dict[str, str]) -> str:
    """Readable slug of the CPU's name and eight hex digits that tell two such machines apart."""
    slug = re.sub(r"\((r|tm|c)\)|\bcpu\b|\bprocessor\b|@.*", " ", cpu_model.lower())
    slug = re.sub(r"[^a-z0-9]+", "-", slug).strip("-")[:40].strip("-") or "device"
    identity = [machine_id, cpu_model, *(cpu_fields.get(field, "") for field in _IDENTITY_FIELDS)]
    digest = hashlib.sha256("\n".join(["milliseek device", *identity]).encode()).hexdigest()
    return f"{slug}-{digest[:8]}"


def isa_flags(cpuinfo: str) -> tuple[str, ...]:
    """Instruction sets in the text of /proc/cpuinfo, sorted, under the names of this package."""
    fields = _cpu_fields(cpuinfo)
    flags = fields.get("flags", fields.get("Features", "")).split()
    return tuple(sorted({_ISA_FLAGS[flag] for flag in flags if flag in _ISA_FLAGS}))


def _cpu_fields(cpuinfo: str) -> dict[str, str]:
    """Fields of the last core: on big.LITTLE the fastest cores come last."""
    pairs = (line.partition(":") for line in cpuinfo.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def _cpu_model(fields: dict[str, str]) -> str:
    board = _read("/proc/device-tree/model").strip("\0\n ")
    arm_part = f"Arm {fields['CPU implementer']}-{fields['CPU part']}" if "CPU part" in fields else ""
    candidates = (fields.get("model name"), board, fields.get("Hardware"), arm_part, platform.processor())
    return next((name for name in candidates if name), platform.machine())


def _runtime_versions() -> tuple[tuple[str, str], ...]:
    found = ((name, installed_version(name)) for name in RUNTIME_PACKAGES)
    return tuple((name, version) for name, version in found if version)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
