"""Tokens on the command line: made, listed, rotated, revoked, and what a running service makes of them."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest

from .conftest import Milliseek, answer

SECRET = re.compile(r"ms_[A-Za-z0-9_-]{43}")


def listed(milliseek: Milliseek) -> dict[str, str]:
    """States by name."""
    return {token["name"]: token["state"] for token in answer(milliseek("tokens", "list", "--json"))["tokens"]}


def test_a_secret_is_shown_once(milliseek: Milliseek, tmp_path: Path) -> None:
    made = milliseek("tokens", "create", "ann", "--scope", "search", "--expires", "90d")
    assert SECRET.fullmatch(made.stdout.strip())
    assert "only time" in made.stderr
    shown = milliseek("tokens", "list").stdout
    assert "ann" in shown
    assert "ms_" not in shown
    assert made.stdout.strip().encode() not in (tmp_path / "home" / "milliseek.db").read_bytes()


def test_a_secret_in_a_file_is_for_its_owner_only(milliseek: Milliseek, tmp_path: Path) -> None:
    path = tmp_path / "pi.token"
    create = ("tokens", "create", "pi-token", "--scope", "device", "--device", "pi", "--output", path)
    made = answer(milliseek(*create, "--json"))
    assert made.keys().isdisjoint({"secret"})
    assert (made["device"], made["file"], made["expires_at"]) == ("pi", str(path), None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = path.read_text()
    assert SECRET.fullmatch(first.strip())

    again = milliseek(*create)
    assert "exists already" in again.stderr
    assert path.read_text() == first

    rotated = answer(milliseek("tokens", "rotate", "pi-token", "--grace", "10m", "--output", path, "--json"))
    assert rotated["old_secret_until"] > rotated["created_at"]
    assert path.read_text() != first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in tmp_path.iterdir() if "token" in found.name] == ["pi.token"]


def test_a_failed_command_leaves_no_secret_behind(milliseek: Milliseek, tmp_path: Path) -> None:
    assert milliseek("tokens", "create", "x", "--scope", "device", "--output", tmp_path / "x.token").returncode == 1
    assert milliseek("tokens", "rotate", "nobody", "--output", tmp_path / "x.token").returncode == 1
    assert not [found for found in tmp_path.iterdir() if "token" in found.name]
    lost = milliseek("tokens", "create", "x", "--scope", "search", "--output", tmp_path / "no" / "x.token")
    assert "cannot be written" in " ".join(lost.stderr.split())
    assert listed(milliseek) == {}


def test_states(milliseek: Milliseek) -> None:
    assert "tokens create" in milliseek("tokens", "list").stderr
    for name, more in (("ann", ()), ("bob", ("--expires", "0.001s")), ("eve", ())):
        milliseek("tokens", "create", name, "--scope", "search", *more)
    assert answer(milliseek("tokens", "revoke", "eve", "--json")) == {"name": "eve", "state": "revoked"}
    assert listed(milliseek) == {"ann": "valid", "bob": "expired", "eve": "revoked"}
    for name in ("bob", "eve"):
        assert "revoked or has expired" in milliseek("tokens", "rotate", name).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "a b", "--scope", "search"), "cannot be the name"),
        (("create", "ann", "--scope", "search", "--device", "pi"), "has no device"),
        (("create", "ann", "--scope", "device"), "needs a device"),
        (("revoke", "nobody"), "no token 'nobody'"),
    ],
)
def test_mistakes(milliseek: Milliseek, arguments: tuple[str, ...], said: str) -> None:
    result = milliseek("tokens", *arguments)
    assert result.returncode == 1
    assert said in " ".join(result.stderr.split())
    failure = json.loads(milliseek("tokens", *arguments, "--json").stdout)["error"]
    assert failure["remedy"]
