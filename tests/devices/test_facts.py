"""What a machine says about itself."""

from __future__ import annotations

import dataclasses
import re
from importlib import metadata
from pathlib import Path

import pytest

from milliseek.devices.facts import DeviceFacts, device_id, installed_version, isa_flags, local_facts, weight_bits
from milliseek.devices.target import Target, parse

X86 = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) CPU @ 2.20GHz\nflags\t\t: fpu sse4_1 avx2 avx512f avx512_vnni\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\nCPU implementer\t: 0x41\nCPU part\t: 0xd44\n"


def test_local_machine() -> None:
    facts = local_facts()
    assert facts.cores >= 1
    assert facts.memory_bytes > 1 << 26
    versions = dict(facts.runtimes)
    assert versions["onnxruntime"] == metadata.version("onnxruntime")
    assert versions["litert"] == f"ai-edge-litert {metadata.version('ai-edge-litert')}"
    assert parse("local/onnxruntime/int8", facts.id) == Target(facts.id, "onnxruntime", "int8")


def test_a_board_may_have_the_older_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package != "tflite-runtime":
            raise metadata.PackageNotFoundError(package)
        return "2.14.0"

    monkeypatch.setattr(metadata, "version", version)
    assert installed_version("litert") == "tflite-runtime 2.14.0"
    assert installed_version("onnxruntime") is None


def test_id_is_readable_and_keeps_the_machine_id_secret() -> None:
    fields = {"vendor_id": "GenuineIntel", "model": "85"}
    name = device_id("Intel(R) Xeon(R) CPU @ 2.20GHz", "0123456789abcdef", fields)
    assert re.fullmatch(r"intel-xeon-[0-9a-f]{8}", name)
    assert name == device_id("Intel(R) Xeon(R) CPU @ 2.20GHz", "0123456789abcdef", dict(fields))
    assert name != device_id("Intel(R) Xeon(R) CPU @ 2.20GHz", "0123456789abcdee", fields)
    machine_id = Path("/etc/machine-id")
    secret = machine_id.read_text().strip() if machine_id.exists() else "no machine-id"
    assert secret[:8] not in local_facts().id or not secret


def test_isa_flags() -> None:
    assert isa_flags(X86) == ("avx2", "avx512_vnni", "avx512f", "sse4_1")
    assert isa_flags(ARM) == ("dotprod", "i8mm", "neon")


@pytest.mark.parametrize(
    ("architecture", "isa", "bits"),
    [
        ("x86_64", ("avx2",), 7),
        ("x86_64", ("avx2", "avx_vnni"), 8),
        ("x86_64", ("avx512_vnni",), 8),
        ("aarch64", (), 8),
    ],
)
def test_weight_bits(architecture: str, isa: tuple[str, ...], bits: int) -> None:
    facts: DeviceFacts = dataclasses.replace(local_facts(), architecture=architecture, isa=isa)
    assert weight_bits(facts) == bits
