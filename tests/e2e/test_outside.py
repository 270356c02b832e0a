"""A service on a network: another network namespace stands for the other machine, and only TLS with a token gets in."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import milliseek as package

from .conftest import Milliseek, answer, command, environment

HERE, THERE, PORT = "10.77.0.1", "10.77.0.2", 50077
ASK = """
import sys
from milliseek.client import Client
from milliseek.errors import MilliseekError

address, ca_file = sys.argv[1:]
try:
    with Client(address, ca_file=ca_file or None, tls=bool(ca_file), timeout_s=20) as client:
        client.targets()
    print("answered")
except MilliseekError as error:
    print(type(error).__name__)
"""


@dataclass(frozen=True)
class Machines:
    """Two network namespaces joined by a cable: commands that run on this one and on the other."""

    here: tuple[str, ...]
    there: tuple[str, ...]

    def ask(self, machine: tuple[str, ...], address: str, ca_file: object = "", secret: str = "") -> str:
        """What a client on a machine gets: `answered`, or the class of the error."""
        asking = [*machine, sys.executable, "-P", "-c", ASK, address, str(ca_file)]
        env = {**environment(Path("/nonexistent")), "MILLISEEK_TOKEN": secret}
        return subprocess.run(
            asking, env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=120
        ).stdout.strip()


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    """They end with the processes that hold them; the network of the real machine is not touched."""
    holders: list[subprocess.Popen[bytes]] = []

    def namespace() -> tuple[str, ...]:
        holder = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-c", "print(flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        holders.append(holder)
        if not holder.stdout.readline():  # type: ignore[union-attr]
            pytest.skip("no network namespaces may be made here")
        return ("nsenter", "--target", str(holder.pid), "--net")

    if os.geteuid() != 0:
        pytest.skip("only root makes network namespaces")
    try:
        here, there = namespace(), namespace()
        for arguments in (
            (*here, "ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", there[2]),
            *((*machine, "ip", "link", "set", link, "up") for machine in (here, there) for link in ("lo", "cable")),
            (*here, "ip", "addr", "add", f"{HERE}/30", "dev", "cable"),
            (*there, "ip", "addr", "add", f"{THERE}/30", "dev", "cable"),
        ):
            subprocess.run(arguments, check=True)
        yield Machines(here, there)
    finally:
        for holder in holders:
            holder.communicate(b"\n")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificate and key of a server at this address, made with the commands of SECURITY.md, beside `ca.pem`."""
    folder = tmp_path_factory.mktemp("pair")
    text = Path(package.__file__).with_name("SECURITY.md").read_text()
    commands = next(block for block in re.findall("```sh\n(.+?)```", text, re.DOTALL) if "openssl" in block)
    assert "192.0.2.7" in commands
    subprocess.run(["bash", "-ec", commands.replace("192.0.2.7", HERE)], cwd=folder, check=True, capture_output=True)
    return folder / "server.pem", folder / "server.key"


@contextmanager
def serving(machine: tuple[str, ...], home: Path, *arguments: object) -> Iterator[Callable[[], str]]:
    """`milliseek serve` on a machine; gives what ends it and returns its log."""
    log = home.parent / "log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [*machine, *command("serve", "--log-format", "json", *arguments)],
            env=environment(home),
            cwd=home.parent,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):

        def end() -> str:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            return log.read_text()

        try:
            assert process.stdout is not None
            assert "Serving" in process.stdout.readline(), log.read_text()
            yield end
        finally:
            process.kill()


def test_plain_text_stays_on_the_machine(machines: Machines, home: Path) -> None:
    with serving(machines.here, home, "--address", f"127.0.0.1:{PORT}"):
        assert machines.ask(machines.here, f"127.0.0.1:{PORT}") == "answered"
        assert machines.ask(machines.here, f"{HERE}:{PORT}") == "ServiceError"
        assert machines.ask(machines.there, f"{HERE}:{PORT}") == "ServiceError"


def test_elsewhere_it_takes_tls_and_a_token(
    machines: Machines, milliseek: Milliseek, home: Path, pair: tuple[Path, Path]
) -> None:
    cert, key = pair
    made = answer(milliseek("tokens", "create", "ann", "--scope", "search", "--json", home=home))
    device = ("--scope", "device", "--device", "pi", "--json")
    pi = answer(milliseek("tokens", "create", "pi", *device, home=home))
    address, ca_file = f"{HERE}:{PORT}", cert.with_name("ca.pem")
    with serving(machines.here, home, "--address", address, "--tls-cert", cert, "--tls-key", key) as end:
        assert machines.ask(machines.there, address, ca_file, made["secret"]) == "answered"
        assert machines.ask(machines.there, address) == "ServiceError"
        assert machines.ask(machines.there, address, ca_file) == "Unauthenticated"
        assert machines.ask(machines.there, address, ca_file, pi["secret"]) == "PermissionDenied"
        milliseek("tokens", "revoke", "ann", home=home)
        while (said := machines.ask(machines.there, address, ca_file, made["secret"])) == "answered":
            pass
        assert said == "Unauthenticated"
        log = end()
    assert "Handshake failed" in log  # of plain text only gRPC itself knows
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    warned = [line for line in lines if line["level"] == "warning"]
    assert [line["code"] for line in warned] == ["UNAUTHENTICATED", "PERMISSION_DENIED", "UNAUTHENTICATED"]
    assert [line.get("caller") for line in warned] == [None, "pi", "ann"]
    assert warned[0]["message"] == "refused: missing token"
    assert warned[2]["message"] == "refused: revoked token"
    assert all(line["peer"].startswith(f"ipv4:{THERE}:") for line in warned)
    assert "ms_" not in log


@pytest.mark.parametrize(
    ("arguments", "lack"),
    [
        ((), "a TLS certificate with its key"),
        (("--no-tokens",), "a TLS certificate with its key and tokens"),
        (("--tokens",), "a TLS certificate with its key"),
        (("--no-tokens", "tls"), "tokens"),
    ],
)
def test_without_either_it_does_not_start(
    milliseek: Milliseek, home: Path, pair: tuple[Path, Path], arguments: tuple[str, ...], lack: str
) -> None:
    files = ("--tls-cert", str(pair[0]), "--tls-key", str(pair[1])) if "tls" in arguments else ()
    options = [argument for argument in arguments if argument != "tls"]
    result = milliseek("serve", "--address", "0.0.0.0:0", *options, *files, home=home)
    assert result.returncode == 1
    said = " ".join(result.stderr.split())
    assert f"does not listen on '0.0.0.0:0' without {lack}:" in said
    assert "Traceback" not in result.stderr


def test_half_a_pair_is_a_wrong_command_line(milliseek: Milliseek, home: Path, pair: tuple[Path, Path]) -> None:
    result = milliseek("serve", "--tls-cert", pair[0], home=home)
    assert result.returncode == 2
    assert "--tls-key together" in " ".join(result.stderr.split())
