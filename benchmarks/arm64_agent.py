"""An arm64 agent on this machine, under qemu-user: it registers, and a model of each runtime is measured through it.

What is shown is that the agent and its wheels work on arm64 and that both ends understand each other. The latencies are
those of an emulator and mean nothing. On Debian with amd64, without being root, and nothing is installed: packages and
wheels are fetched for arm64 and unpacked into a folder, with an apt of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import report
from fleet import Fleet, fleet, model, pip, requirements, versions, wheel

from milliseek.spaces.space import Space, extreme_subnet

PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
BASE = ("grpcio", "protobuf", "numpy", "typer", "rich", "psutil", "platformdirs")
RUNTIMES = {"onnxruntime": "onnxruntime", "litert": "ai-edge-litert"}
PLATFORMS = ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 35)))
# The CPU of a Raspberry Pi 4. Older versions of qemu-user show the host's /proc/cpuinfo, at which ONNX Runtime crashes;
# a file below the root that it is given comes first.
CPU = "cortex-a72"
CPUINFO = """\
processor\t: {core}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep what is fetched here, and use it if it is there")
    parser.add_argument("--sources", type=Path, default="/etc/apt/sources.list.d/debian.sources")
    options = parser.parse_args()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = (options.folder or scratch / "arm64").resolve()
        if not (folder / "root").exists():
            _unpack(folder, options.sources)
        python = _emulated(folder)
        _install(folder, python, wheel(scratch))
        service = stack.enter_context(fleet(scratch))
        known = stack.enter_context(service.agent("arm64", python))
        measured = [_measure(service, runtime, scratch) for runtime in RUNTIMES]
        found = versions(python, [*BASE, *RUNTIMES.values()])
    report("arm64_agent", {"facts": known["facts"], "versions": found, "measured": measured})


def _unpack(folder: Path, sources: Path) -> None:
    """`folder/root` with Python and the libraries that wheels need, and `folder/host` with the emulator."""
    archives = folder / "apt" / "archives"
    (folder / "apt" / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    (folder / "apt" / "status").touch()
    config = folder / "apt" / "apt.conf"
    config.write_text(
        f"""
        APT::Architecture "arm64";
        APT::Architectures {{ "arm64"; "amd64"; }};
        APT::Sandbox::User "";
        Dir::State "{folder}/apt";
        Dir::State::status "{folder}/apt/status";
        Dir::Cache "{folder}/apt";
        Dir::Etc::sourcelist "{sources.resolve()}";
        Dir::Etc::sourceparts "-";
        """
    )
    environment = {**os.environ, "APT_CONFIG": str(config)}

    def run(*command: str, cwd: Path = folder) -> None:
        subprocess.run(command, env=environment, cwd=cwd, check=True, stdout=subprocess.DEVNULL)

    run("apt-get", "update")
    run("apt-get", "install", "--yes", "--no-install-recommends", "--download-only", *PACKAGES)
    host = folder / "host"
    host.mkdir(exist_ok=True)
    run("apt-get", "download", "qemu-user-static:amd64", cwd=host)
    run("dpkg-deb", "-x", str(next(host.glob("*.deb"))), str(host))
    unpacked = folder / "unpacked"
    for package in archives.glob("*.deb"):
        run("dpkg-deb", "-x", str(package), str(unpacked))
    (unpacked / "proc").mkdir()
    cores = range(os.cpu_count() or 1)
    (unpacked / "proc" / "cpuinfo").write_text("".join(CPUINFO.format(core=core) for core in cores))
    unpacked.rename(folder / "root")


def _emulated(folder: Path) -> Path:
    """A program that behaves as Python for arm64, its children included: they are started by its name."""
    root, emulator = folder / "root", folder / "host" / "usr" / "bin" / "qemu-aarch64-static"
    python = root / "usr" / "bin" / "python-emulated"
    python.write_text(f'#!/bin/sh\nexec {emulator} -cpu {CPU} -0 "$0" -L {root} {root}/usr/bin/python3 "$@"\n')
    python.chmod(0o755)
    return python


def _install(folder: Path, python: Path, built: Path) -> None:
    """milliseek and wheels for arm64 into the emulated Python, by the pip of this one."""
    site = folder / "root" / "usr" / "lib" / "python3" / "dist-packages"
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = subprocess.run([python, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    exact = [f"--platform={platform}" for platform in PLATFORMS]
    if not (site / "grpc").exists():
        shutil.rmtree(site, ignore_errors=True)
        where = ("--target", site, "--python-version", version, "--only-binary=:all:", *exact)
        pip("install", "--no-warn-conflicts", *where, *requirements(folder, *BASE, *RUNTIMES.values()))
    for old in (*site.glob("milliseek*"), site / "bin"):
        shutil.rmtree(old)
    pip("install", "--no-warn-conflicts", "--no-deps", "--target", site, built)


def _measure(service: Fleet, runtime: str, scratch: Path) -> dict[str, Any]:
    smallest = extreme_subnet(Space.decode("tiny32-0000-0000"), largest=False)
    path = model(scratch / "smallest", smallest, runtime, "int8")
    # An emulator is not a quiet machine: the agent may send a job back for that.
    found = service.milliseek("measure", path, "--target", f"arm64/{runtime}/int8", tries=10)
    return {"target": found["target"], **found["models"][0]}


if __name__ == "__main__":
    main()
