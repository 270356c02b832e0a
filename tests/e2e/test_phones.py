"""A phone behind adb, from its registration to a measured file, through the real `adb`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..devices.conftest import tflite_convolution
from ..devices.phone.adbd import FIXED, Adbd, AdbServer, Phone, fixed_program
from .conftest import Milliseek, answer

pytestmark = pytest.mark.slow

SLOW = FIXED.replace("=100 ", "=1000 ").replace("=102 ", "=1010 ").replace("p95=150", "p95=1050")
PROFILE = """\
INFO: Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
\t[node type]\t[start]\t[first]\t[avg ms]\t[%]\t[cdf%]\t[mem KB]\t[times called]\t[Name]
\tTfLiteXNNPackDelegate\t0.000\t1.000\t0.990\t100.000%\t100.000%\t0.000\t1\t[y1]:2

"""


@pytest.fixture
def adb_server(tmp_path: Path) -> Iterator[AdbServer]:
    if shutil.which("adb") is None:
        pytest.skip("the program adb is not installed: apt install adb")
    (tmp_path / "adb").mkdir()
    with AdbServer(tmp_path / "adb") as server:
        yield server


def test_a_phone_is_added_measures_and_is_left_as_it_was(
    milliseek: Milliseek, adb_server: AdbServer, tmp_path: Path
) -> None:
    phone = Phone(tmp_path / "phone")
    program = fixed_program(tmp_path / "benchmark_model", f"cat <<'END'\n{SLOW}{PROFILE}END\nexit")
    file = tmp_path / "net.tflite"
    file.write_bytes(tflite_convolution())
    with Adbd(phone) as adbd, adb_server.connected(adbd) as serial:
        options = ("--adb-server", adb_server.address, "--benchmark-model", program)
        added = milliseek("devices", "add", "pixel6", "--adb", serial, *options, "--model", "oriole", "--json")
        facts = answer(added)["facts"]
        assert facts["adb"]["serial"] == serial
        assert facts["delegates"] == ["xnnpack", "gpu", "nnapi"]
        assert "cannot be pinned, as it is not rooted" in added.stderr.replace("\n", " ")
        told = milliseek("devices", "add", "pixel6", "--adb", serial, *options)
        assert "Google Pixel 6, Android 14" in told.stdout
        assert "pixel6/litert+gpu/fp32" in told.stdout.replace("\n", "")

        (listed,) = [each for each in answer(milliseek("devices", "list", "--json"))["devices"] if not each["local"]]
        assert (listed["name"], listed["kind"], listed["facts"]) == ("pixel6", "adb", facts)
        assert "Google Tensor" in milliseek("devices", "list").stdout

        measured = answer(milliseek("measure", file, "--target", "pixel6/litert/fp32", "--json"))
        assert measured["models"][0]["measured_ms"] == pytest.approx(0.9)
        rows = answer(milliseek("devices", "operators", "pixel6/litert+gpu/fp32", file, "--json"))["operators"]
        assert [(row["node_type"], row["avg_ms"]) for row in rows] == [("TfLiteXNNPackDelegate", 0.99)]
        assert "TfLiteXNNPackDelegate" in milliseek("devices", "operators", "pixel6/litert/fp32", file).stdout

        program.write_text(program.read_text() + "# another build\n")
        changed = milliseek("measure", file, "--target", "pixel6/litert/fp32")
        assert changed.returncode == 1
        assert "not the one that the phone was registered with" in changed.stderr.replace("\n", " ")
    assert phone.left_behind() == []


def test_phones_and_names_that_cannot_be(milliseek: Milliseek, adb_server: AdbServer, tmp_path: Path) -> None:
    program = fixed_program(tmp_path / "benchmark_model")
    options = ("--adb", "nobody", "--adb-server", adb_server.address, "--benchmark-model", program)
    absent = milliseek("devices", "add", "pixel6", *options, "--json")
    assert absent.returncode == 1
    assert answer(absent)["error"]["code"] == "FAILED_PRECONDITION"
    assert "'nobody' is not connected" in answer(absent)["error"]["message"]
    taken = milliseek("devices", "add", "local", *options, "--json")
    assert answer(taken)["error"]["code"] == "INVALID_ARGUMENT"
    assert [each["kind"] for each in answer(milliseek("devices", "list", "--json"))["devices"]] == ["local"]
    here = milliseek("devices", "operators", "local/litert/fp32", program)
    assert "is not on a phone" in here.stderr
