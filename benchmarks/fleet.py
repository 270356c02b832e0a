"""A service and its agents, each in a process and an installation of its own, on a scratch database with tokens."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from milliseek.spaces.hyperspace import TINY32
from milliseek.spaces.onnx_network import Precision, network_model, random_parameters
from milliseek.spaces.space import Subnet, random_space, random_subnet
from milliseek.spaces.tflite_network import WEIGHT_BITS, tflite_model

CHECKOUT = Path(__file__).resolve().parent.parent
_CONNECT_S = 120.0


def wheel(folder: Path) -> Path:
    """milliseek as a wheel, built from a copy of this checkout, in which no `build/` is left behind."""
    source = folder / "source"
    shutil.rmtree(source, ignore_errors=True)
    ignored = shutil.ignore_patterns(".*", "build", "dist", "tests", "*.egg-info", "__pycache__", "milliseek-out")
    shutil.copytree(CHECKOUT, source, symlinks=True, ignore=ignored)
    pip("wheel", "--no-deps", "--wheel-dir", folder, source)
    (built,) = folder.glob("milliseek-*.whl")
    return built


def requirements(folder: Path, *packages: str) -> list[str]:
    """Arguments of pip: `packages`, of the versions in constraints.txt if they name none (NAME==VERSION) themselves."""
    names = {name for name, given, _ in (package.partition("==") for package in packages) if given}
    lines = (CHECKOUT / "constraints.txt").read_text().splitlines()
    folder.mkdir(parents=True, exist_ok=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(line for line in lines if line.partition("==")[0] not in names))
    return ["--constraint", str(constraints), *packages]


def installed(folder: Path, built: Path, *packages: str) -> Path:
    """The Python of a virtual environment with milliseek's base dependencies and these `packages`."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip("install", *requirements(folder, *packages), built, python=python)
    pip("install", "--no-deps", "--force-reinstall", built, python=python)
    return python


def models(folder: Path, runtime: str, precision: Precision, count: int, seed: int = 1) -> list[Path]:
    """Files of `count` subnets from anywhere in `tiny32`, with random weights."""
    rng = np.random.default_rng(seed)
    subnets = [random_subnet(random_space(TINY32, rng), rng) for _ in range(count)]
    return [model(folder / f"{precision}-{i}", subnet, runtime, precision) for i, subnet in enumerate(subnets)]


def model(path: Path, subnet: Subnet, runtime: str, precision: Precision) -> Path:
    """A file of a subnet in the runtime's format, whose suffix `path` gets."""
    network = subnet.network(10)
    if runtime == "litert":
        path = path.with_suffix(".tflite")
        path.write_bytes(tflite_model(network, random_parameters(network.layers, WEIGHT_BITS), precision))
    else:
        path = path.with_suffix(".onnx")
        path.write_bytes(network_model(network, random_parameters(network.layers), precision))
    return path


class Fleet:
    """A running service; `milliseek` asks it, and its database, as a user with a `search` token."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.address = address
        self._token = self._secret("user", "--scope", "search").read_text().strip()

    def milliseek(self, *arguments: object, tries: int = 1) -> dict[str, Any]:
        """What a command prints with `--json`; `tries` more than 1 where an agent may find itself disturbed."""
        command = _command(*arguments, "--json")
        for left in reversed(range(tries)):
            done = subprocess.run(command, env=self._environment(), stdout=subprocess.PIPE, text=True, check=False)
            found: dict[str, Any] = json.loads(done.stdout)
            if not done.returncode:
                break
            print(f"milliseek {arguments[0]}: {found['error']['message']}", file=sys.stderr)
            if not left or "disturbed" not in found["error"]["message"]:
                raise SystemExit(1)
        return found

    @contextmanager
    def agent(self, name: str, python: Path) -> Iterator[dict[str, Any]]:
        """An agent under another Python, with a token of its own; what the service knows of it once it is there."""
        token, log = self._secret(name, "--scope", "device", "--device", name), self.folder / f"{name}.log"
        command = _command(
            "agent", "--server", self.address, "--token-file", token, "--name", name, "-v", python=python
        )
        environment = _environment(self.folder / name)
        with (
            log.open("w") as stderr,
            _ended(subprocess.Popen(command, env=environment, cwd=self.folder, stderr=stderr)) as process,
        ):
            deadline = time.monotonic() + _CONNECT_S
            while not (known := self._device(name)).get("connected"):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{name} does not connect: {log.read_text()[-2000:]}")
            yield known

    def _device(self, name: str) -> dict[str, Any]:
        devices = self.milliseek("devices", "list")["devices"]
        return next((device for device in devices if device["name"] == name), {})

    def _secret(self, name: str, *arguments: str) -> Path:
        path = self.folder / f"{name}.token"
        subprocess.run(
            _command("tokens", "create", name, *arguments, "--output", path),
            env=_environment(self.folder / "home"),
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return path

    def _environment(self) -> dict[str, str]:
        return {**_environment(self.folder / "home"), "MILLISEEK_TOKEN": self._token}


@contextmanager
def fleet(folder: Path) -> Iterator[Fleet]:
    """A service on loopback that asks for tokens, with its database in an empty `folder`."""
    command = _command("serve", "--address", "127.0.0.1:0", "--tokens")
    with ExitStack() as stack:
        log = stack.enter_context((folder / "serve.log").open("w"))
        environment = _environment(folder / "home")
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        stack.enter_context(_ended(process))
        assert process.stdout is not None
        bound = re.search(r"127\.0\.0\.1:\d+", process.stdout.readline())
        assert bound is not None, (folder / "serve.log").read_text()
        yield Fleet(folder, bound[0])


@contextmanager
def _ended(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    with process:
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()


def _command(*arguments: object, python: Path = Path(sys.executable)) -> list[str]:
    return [str(python), "-P", "-m", "milliseek", *map(str, arguments)]


def _environment(home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MILLISEEK_", "PYTHON"))}
    return {**kept, "MILLISEEK_HOME": str(home)}


def pip(*arguments: object, python: Path = Path(sys.executable)) -> None:
    """pip as that Python has it."""
    subprocess.run([python, "-m", "pip", "--quiet", *map(str, arguments)], check=True, stdout=sys.stderr)


def versions(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """Versions of packages there."""
    code = "import json, sys, importlib.metadata as m; print(json.dumps({p: m.version(p) for p in sys.argv[1:]}))"
    found = subprocess.run([python, "-P", "-c", code, *packages], check=True, stdout=subprocess.PIPE, text=True).stdout
    answer: dict[str, str] = json.loads(found)
    return answer
