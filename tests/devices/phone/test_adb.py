"""The real `adb` client and server against the stand-in for a phone's daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from milliseek.devices.phone.adb import Adb
from milliseek.devices.phone.folder import PhoneFolder
from milliseek.errors import InvalidInput, NotReady

from .adbd import Adbd, AdbServer, Phone


@pytest.mark.parametrize("features", [("shell_v2", "stat_v2"), ()])
def test_shell_tells_output_and_exit_code_with_and_without_shell_v2(
    adb_server: AdbServer, phone: Phone, features: tuple[str, ...]
) -> None:
    with Adbd(phone, features) as adbd, adb_server.connected(adbd) as serial:
        adb = Adb(serial, adb_server.address)
        assert adb.shell("echo out; echo err >&2; (exit 7)") == ("out\nerr\n", 7)
        assert adb.shell("true") == ("", 0)
        assert adb.shell("printf 'no end of line'").output == "no end of line"
        assert "0xd44" in adb.shell("cat /proc/cpuinfo").output
        assert adb.shell("nonsense-command").code == 127


@pytest.mark.parametrize("features", [("shell_v2", "stat_v2"), ()])
def test_push_copies_or_tells_why_not(
    adb_server: AdbServer, phone: Phone, tmp_path: Path, features: tuple[str, ...]
) -> None:
    source = tmp_path / "a file"
    source.write_bytes(bytes(range(256)) * 2000)  # several packets
    with Adbd(phone, features) as adbd, adb_server.connected(adbd) as serial:
        adb = Adb(serial, adb_server.address)
        assert adb.push(source, "/data/local/tmp/b") is None
        assert (phone.root / "data/local/tmp/b").read_bytes() == source.read_bytes()
        assert adb.push(source, "/data/nowhere/b") == "No such file or directory"
        phone.room_bytes = 600_000
        assert adb.push(source, "/data/local/tmp/c") == "No space left on device"


def test_files_are_pushed_once_and_checked(adb_server: AdbServer, phone: Phone) -> None:
    with Adbd(phone) as adbd, adb_server.connected(adbd) as serial:
        folder = PhoneFolder(Adb(serial, adb_server.address), "/data/local/tmp/here")
        folder.create()
        path = folder.put(b"model")
        assert folder.put(b"model") == path
        assert len(adbd.pushed) == 1
        assert (phone.root / path[1:]).read_bytes() == b"model"
        (phone.root / "bin/sha256sum").write_text("#!/bin/sh\necho 0123 $1\n")
        (phone.root / "bin/sha256sum").chmod(0o755)
        with pytest.raises(NotReady, match="did not arrive"):
            folder.put(b"other")
        folder.remove()
    assert phone.left_behind() == []


def test_a_full_phone_loses_the_models_that_were_measured(adb_server: AdbServer, phone: Phone) -> None:
    with Adbd(phone) as adbd, adb_server.connected(adbd) as serial:
        folder = PhoneFolder(Adb(serial, adb_server.address), "/data/local/tmp/here")
        folder.create()
        phone.room_bytes = 10_000
        kept = folder.put(b"k" * 1000, keep=True)
        first, second = folder.put(b"a" * 6000), folder.put(b"b" * 6000)
        assert (phone.root / kept[1:]).exists()
        assert not (phone.root / first[1:]).exists()
        assert (phone.root / second[1:]).exists()
        assert folder.put(b"a" * 6000) == first
        with pytest.raises(NotReady, match=r"No space left on device. Free 0.1 MB"):
            folder.put(b"c" * 100_000)


@pytest.mark.parametrize("parent", ["relative", "/", "/data"])
def test_only_folders_well_below_the_root_are_used(parent: str) -> None:
    with pytest.raises(InvalidInput, match="no folder to work in"):
        PhoneFolder(Adb("x"), parent)


def test_absent_phones_are_named(adb_server: AdbServer) -> None:
    with pytest.raises(NotReady, match=r"'nobody' is not connected. Plug it in"):
        Adb("nobody", adb_server.address).shell("true")
    with pytest.raises(NotReady, match="'nobody' is not connected"):
        Adb("nobody", adb_server.address).push(Path(__file__), "/data/x")


def test_a_phone_that_does_not_trust_us(adb_server: AdbServer, phone: Phone) -> None:
    with Adbd(phone, state="unauthorized") as adbd, adb_server.connected(adbd, "unauthorized") as serial:
        adb = Adb(serial, adb_server.address)
        with pytest.raises(NotReady, match=r"does not trust this computer yet. Unlock it"):
            adb.shell("true")


def test_a_phone_that_goes_in_the_middle(adb_server: AdbServer, phone: Phone) -> None:
    with Adbd(phone, cut_at="echo second") as adbd, adb_server.connected(adbd) as serial:
        adb = Adb(serial, adb_server.address)
        assert adb.shell("echo first").output == "first\n"
        with pytest.raises(NotReady, match=r"does not answer|is offline|is not connected"):
            adb.shell("echo second")
        with pytest.raises(NotReady, match=r"is offline|is not connected"):
            adb.shell("echo third")


def test_a_silent_phone(adb_server: AdbServer, phone: Phone) -> None:
    with Adbd(phone) as adbd, adb_server.connected(adbd) as serial:
        adb = Adb(serial, adb_server.address)
        with pytest.raises(NotReady, match=r"has been silent for 0\.3 s"):
            adb.shell("sleep 2", time_limit_s=0.3)


def test_no_server_and_no_adb(monkeypatch: pytest.MonkeyPatch, adb_server: AdbServer) -> None:
    with pytest.raises(NotReady, match="adb server does not answer"):
        Adb("x", f"127.0.0.1:{adb_server.free_port()}").shell("true")
    with pytest.raises(InvalidInput, match="host:port"):
        Adb("x", "localhost")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(NotReady, match=r"'adb' is not installed. On Debian or Ubuntu: apt install adb"):
        Adb("x").shell("true")
