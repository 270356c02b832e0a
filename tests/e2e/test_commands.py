"""Help, versions, exit codes, and what a user's mistakes look like."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import onnx
import psutil
import pytest

from milliseek.spaces.hyperspace import TINY32
from milliseek.spaces.onnx_network import network_model, random_parameters
from milliseek.spaces.space import Space, extreme_subnet

from .conftest import Milliseek, answer, command, environment

COMMANDS = [
    (),
    ("quickstart",),
    ("devices",),
    *(("devices", word) for word in ("list", "import", "choose", "drain", "resume", "remove", "add", "operators")),
    ("jobs",),
    *(("jobs", word) for word in ("list", "show", "cancel")),
    ("profile",),
    ("predict",),
    ("measure",),
    ("evaluate",),
    ("serve",),
    ("tokens",),
    *(("tokens", word) for word in ("create", "list", "rotate", "revoke")),
    ("db",),
    ("db", "upgrade"),
    ("db", "backup"),
    ("predictors",),
    *(("predictors", word) for word in ("list", "show", "check", "export", "import", "plot")),
    ("spaces",),
    ("spaces", "evolve"),
    ("spaces", "score"),
    ("spaces", "count"),
    ("spaces", "plot"),
    ("supernet",),
    ("supernet", "train"),
    ("search",),
    ("export",),
    ("report",),
    ("show",),
]


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    subnet = extreme_subnet(Space(TINY32, (1, 1, 1, 1), (0, 0, 0, 0)), largest=False)
    network = subnet.network(10)
    path = tmp_path_factory.mktemp("models") / "small.onnx"
    path.write_bytes(network_model(network, random_parameters(network.layers), "int8"))
    return path


def one_sentence(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 1, an error that names the thing and a remedy, no traceback, nothing on stdout."""
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("Error: "), result.stderr
    text = " ".join(result.stderr.split())
    for word in words:
        assert word in text, text


def test_every_command_explains_itself(milliseek: Milliseek) -> None:
    for words in COMMANDS:
        result = milliseek(*words, "--help")
        assert result.returncode == 0, result.stderr
        assert "Usage: " in result.stdout
        assert max(map(len, result.stdout.splitlines())) <= 80


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; import milliseek.cli.app;"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'sqlalchemy', 'sklearn', 'optuna', 'numpy', 'grpc')"
        " if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_wrong_command_line_is_exit_code_2(milliseek: Milliseek) -> None:
    for words in (("predict",), ("nonsense",), ("profile", "local/onnxruntime/int8", "--budget", "soon")):
        result = milliseek(*words)
        assert result.returncode == 2
        assert result.stdout == ""


def test_this_machine_registers_itself(milliseek: Milliseek) -> None:
    devices = answer(milliseek("devices", "list", "--json"))["devices"]
    (local,) = [device for device in devices if device["local"]]
    assert local["facts"]["cores"] == os.cpu_count()
    assert "onnxruntime" in local["facts"]["runtimes"]


def test_predicting_without_a_predictor_names_the_command_that_makes_one(
    milliseek: Milliseek, small_model: Path
) -> None:
    result = milliseek("predict", small_model, "--target", "local/onnxruntime/int8")
    one_sentence(result, "onnxruntime/int8", "milliseek profile")


def test_a_malformed_or_foreign_target_is_named(milliseek: Milliseek, small_model: Path) -> None:
    one_sentence(milliseek("predict", small_model, "--target", "pixel6"), "pixel6", "device/runtime")
    one_sentence(milliseek("measure", small_model, "--target", "pixel6/litert/int8"), "pixel6", "this machine")
    failure = answer(milliseek("predict", small_model, "--target", "pixel6", "--json"))["error"]
    assert failure["code"] == "INVALID_ARGUMENT"
    assert "pixel6" in failure["message"]
    assert failure["remedy"]


def test_rubbish_instead_of_a_model(milliseek: Milliseek, small_model: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(small_model.read_bytes()[:-1000])
    text = tmp_path / "text.onnx"
    text.write_text("hello\n" * 100)
    empty = tmp_path / "empty.onnx"
    empty.touch()
    for path in (truncated, text, empty):
        one_sentence(milliseek("measure", path), path.name)
    one_sentence(milliseek("measure", tmp_path / "absent.onnx"), "absent.onnx")
    one_sentence(milliseek("measure", tmp_path), tmp_path.name)


def test_a_model_without_sizes_is_refused_with_the_input_named(
    milliseek: Milliseek, small_model: Path, tmp_path: Path
) -> None:
    model = onnx.load(str(small_model))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    path = tmp_path / "dynamic.onnx"
    onnx.save(model, str(path))
    one_sentence(milliseek("measure", path), "dynamic.onnx", "input")


def test_pictures_that_are_not_there(milliseek: Milliseek, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "cats").mkdir(parents=True)
    (tmp_path / "pictures" / "dogs").mkdir()
    one_sentence(milliseek("quickstart", "--data", f"imagefolder:{tmp_path}/pictures"), "no pictures", "pictures")
    one_sentence(milliseek("quickstart", "--data", f"imagefolder:{tmp_path}/absent"), "absent")
    one_sentence(milliseek("quickstart", "--data", "mnist"), "mnist", "imagefolder")


def test_a_database_from_a_newer_version_is_left_alone(milliseek: Milliseek, tmp_path: Path) -> None:
    assert milliseek("devices", "list").returncode == 0
    file = tmp_path / "home" / "milliseek.db"
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE ms_alembic_version SET version_num = 'v99.0.0'")
    connection.close()
    one_sentence(milliseek("devices", "list"), "milliseek.db", "newer")
    one_sentence(milliseek("db", "upgrade"), "milliseek.db", "newer")


def test_a_file_that_is_no_database(milliseek: Milliseek, tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    file.write_text("not a database, but long enough to look like a file of some kind\n" * 50)
    one_sentence(milliseek("show", "--db", file), "notes.db")
    assert file.read_text().startswith("not a database")


def test_backup_is_a_database_and_never_overwrites(milliseek: Milliseek, tmp_path: Path) -> None:
    milliseek("devices", "list")
    written = answer(milliseek("db", "backup", tmp_path / "copy.db", "--json"))
    assert written["path"] == str(tmp_path / "copy.db")
    assert answer(milliseek("devices", "list", "--db", tmp_path / "copy.db", "--json"))["devices"]
    one_sentence(milliseek("db", "backup", tmp_path / "copy.db"), "copy.db", "exists")


def test_measuring_a_file(milliseek: Milliseek, small_model: Path) -> None:
    measured = answer(milliseek("measure", small_model, "--json"))
    (model,) = measured["models"]
    assert model["measured_ms"] > 0
    assert measured["target"].endswith("/onnxruntime/int8")


def test_ctrl_c_is_one_sentence_and_leaves_no_process_behind(tmp_path: Path) -> None:
    process = psutil.Popen(
        command("quickstart", "--minutes", "1"),
        env=environment(tmp_path / "home"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    while not (children := process.children(recursive=True)):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert "Interrupted. " in err.replace("\n", " ")
    assert "Traceback" not in err
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def test_an_unreachable_service_is_named(milliseek: Milliseek, small_model: Path) -> None:
    one_sentence(milliseek("predict", small_model, "--server", "127.0.0.1:9"), "127.0.0.1:9")


FULL_DISK = """
set -e
mount -t tmpfs -o size=600k tmpfs "$1"
cd "$1"
shift
"$@"
"""


def test_a_full_disk_is_named_and_nothing_is_left_half_written(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    in_namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", FULL_DISK, "sh", str(disk)]
    try:
        trial = subprocess.run([*in_namespace, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if trial.returncode:
        pytest.skip("this kernel lets nobody mount a small disk")
    fill = 'head -c 590k /dev/zero > filler; exec "$@"'
    result = subprocess.run(
        [*in_namespace, "sh", "-c", fill, "sh", *command("devices", "list", "--db", disk / "m.db")],
        env=environment(disk),
        capture_output=True,
        text=True,
        check=False,
    )
    one_sentence(result, "m.db")
