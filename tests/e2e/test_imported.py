"""Tables of latencies become predictors, and say how right they are: the commands as a user types them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from milliseek.db.devices import list_devices, upsert_device
from milliseek.db.engine import Database
from milliseek.db.models import Artefact
from milliseek.db.predictors import list_predictors

from .conftest import Milliseek, answer

TARGET = "phone/imported/fp32"
PHONE = ("--latency", "latency_ms.phone")


@pytest.fixture(scope="module")
def table(phones: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty networks on three devices."""
    path: Path = phones.write(
        tmp_path_factory.mktemp("tables") / "phones.jsonl.gz", phones.rows(("phone", "tablet", "board"))
    )
    return path


@pytest.fixture(scope="module")
def _imported(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from milliseek.predictors.tables.imported import import_table
    from milliseek.predictors.tables.latency_rows import Fields

    folder = tmp_path_factory.mktemp("imported")
    database = Database.open(f"sqlite:///{folder / 'milliseek.db'}")
    for name in ("phone", "tablet"):
        import_table(database, name, [table], Fields(f"latency_ms.{name}"))
    database.close()
    return folder


@pytest.fixture
def home(_imported: Path, tmp_path: Path) -> Path:
    """A home that knows the tables of a phone and a tablet."""
    shutil.copytree(_imported, tmp_path / "home")
    return tmp_path / "home"


def small_onnx() -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((16, 3, 3, 3), np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["y"], ["z"])]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 32, 32])
        for name, channels in (("x", 3), ("z", 16))
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def small_tflite(phones: Any) -> bytes:
    """The convolution of a network of the table."""
    from milliseek.kernels.operators.fusion import fused
    from milliseek.kernels.operators.graph_json import read_graph
    from milliseek.kernels.tflite.builder import one_kernel_tflite

    return one_kernel_tflite(fused(read_graph(phones.network("plain", 1, 16)), "operators")[0])


def nothing_stored(home: Path) -> bool:
    database = Database.open(f"sqlite:///{home / 'milliseek.db'}")
    with database.session(read_only=True) as session:
        found = [*list_predictors(session), *list_devices(session), *session.scalars(select(Artefact))]
    database.close()
    return not found


def test_import_evaluate_and_list(milliseek: Milliseek, table: Path) -> None:
    left_out = ("--leave-out", "family=mobile")
    made = answer(milliseek("devices", "import", "phone", table, *PHONE, *left_out, "--json"))
    assert (made["target"], made["predictor"], made["networks"]) == (TARGET, f"{TARGET}@1", 45)
    assert {"within_5", "within_10", "rmspe"} <= set(made["held_out"])
    found = answer(milliseek("evaluate", "--table", table, *PHONE, "--target", TARGET, "--json"))
    assert found["target"] == TARGET
    assert {"mape", "within_5", "within_10", "rmspe", "spearman", "kendall", "coverage"} <= set(found)
    assert set(found["families"]) == {"plain", "residual", "mobile", "shuffle"}
    for figures in found["families"].values():
        assert {"n", "mape", "within_5", "within_10"} <= set(figures)
        assert figures["n"] == 15
    assert found["families"]["mobile"]["within_10"] == 1
    first = found["models"][0]
    assert first["error"] == pytest.approx(first["predicted_ms"] / first["measured_ms"] - 1)
    assert first["interval_ms"][0] < first["predicted_ms"] < first["interval_ms"][1]
    (device,) = [each for each in answer(milliseek("devices", "list", "--json"))["devices"] if not each["local"]]
    assert (device["name"], device["kind"]) == ("phone", "imported")
    assert [target["predictor"] for target in device["targets"]] == [f"{TARGET}@1"]
    (source,) = device["facts"]["tables"]
    assert (source["latency"], source["left_out"], source["files"][0]["name"]) == (PHONE[1], "mobile", table.name)


def test_tables_for_people(milliseek: Milliseek, table: Path, home: Path) -> None:
    said = milliseek("devices", "import", "phone", table, *PHONE)
    assert f"{TARGET}@2: learned from 60 networks" in said.stdout
    assert "left out in turn: 100.0 % within 5 %" in said.stdout
    listed = milliseek("devices", "list").stdout
    assert f"60 networks of {table.name}" in listed
    assert TARGET in listed
    for words in (
        ("evaluate", "--table", table, *PHONE, "--target", TARGET),
        ("evaluate", "--table", table, *PHONE, "--split", "family"),
    ):
        result = milliseek(*words)
        assert result.returncode == 0, result.stderr
        assert max(map(len, result.stdout.splitlines())) <= 80
        if "--split" in words:
            assert "linear model" in result.stdout
            assert "MACs alone" in result.stdout


def test_parts_left_out_as_json(milliseek: Milliseek, table: Path, home: Path) -> None:
    found = answer(milliseek("evaluate", "--table", table, *PHONE, "--split", "family", "--json"))
    assert (found["split"], found["networks"], len(found["families"])) == ("family", 60, 4)
    assert set(found["parts"]) == {"mean", "linear", "macs"}
    assert found["parts"]["mean"]["within_10"] > found["parts"]["macs"]["within_10"]


def test_from_a_few_measurements(milliseek: Milliseek, home: Path, phones: Any, tmp_path: Path) -> None:
    known = ("--from-devices", "phone,tablet")
    networks = answer(milliseek("devices", "choose", *known, "--count", 8, "--json"))["networks"]
    assert len(networks) == 8
    rows = [
        {"name": each["name"], "graph": each["network"], "ms": phones.latency_ms("board", each["network"])}
        for each in networks
    ]
    few = phones.write(tmp_path / "board.jsonl", rows)
    made = answer(milliseek("devices", "import", "board", few, "--latency", "ms", *known, "--json"))
    assert (made["target"], made["networks"]) == ("board/imported/fp32", 8)
    assert made["held_out"]["mape"] < 0.15


@pytest.mark.parametrize("format_", ["onnx", "tflite"])
def test_a_file_on_an_imported_target(
    milliseek: Milliseek, home: Path, phones: Any, tmp_path: Path, format_: str
) -> None:
    file = tmp_path / f"small.{format_}"
    file.write_bytes(small_onnx() if format_ == "onnx" else small_tflite(phones))
    found = answer(milliseek("predict", file, "--target", TARGET, "--json"))
    assert (found["target"], found["predictor"]) == (TARGET, f"{TARGET}@1")
    assert [kernel["kind"] for kernel in found["kernels"]] == ["CONV_2D 3x3"]
    assert found["interval_ms"][0] < found["latency_ms"] < found["interval_ms"][1]
    assert found["uncovered"] == 0


def lines(phones: Any, change: Callable[[list[dict[str, Any]]], object]) -> list[dict[str, Any]]:
    """A table after `change`."""
    rows: list[dict[str, Any]] = phones.rows()
    change(rows)
    return rows


BAD: dict[str, tuple[Callable[[list[dict[str, Any]]], object], int, str]] = {
    "negative": (lambda rows: rows[4]["latency_ms"].update(phone=-1), 5, "not positive"),
    "unit": (lambda rows: rows[4]["latency_ms"].update(phone=2e3), 5, "units mixed"),
    "operators": (lambda rows: rows[9]["graph"][1].update(op="lstm"), 10, "unknown operators: lstm"),
    "repeated": (lambda rows: rows[9].update(graph=rows[0]["graph"]), 10, "there before with another latency"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_table_is_an_error_object_and_stores_nothing(
    milliseek: Milliseek, phones: Any, tmp_path: Path, name: str
) -> None:
    change, line, reason = BAD[name]
    path = phones.write(tmp_path / "bad.jsonl", lines(phones, change))
    result = milliseek("devices", "import", "phone", path, *PHONE, "--json")
    assert result.returncode == 1
    error = answer(result)["error"]
    assert error["code"] == "INVALID_ARGUMENT"
    assert f"{path}:{line}:" in error["message"]
    assert reason in error["message"] + error["remedy"]
    assert nothing_stored(tmp_path / "home")


def test_mistakes_are_one_sentence(milliseek: Milliseek, table: Path, home: Path, tmp_path: Path) -> None:
    for words, told in (
        (("devices", "import", "local", table, *PHONE), "is this machine"),
        (("evaluate", "--table", table, *PHONE, "--target", "pixel9/imported/fp32"), "devices import pixel9"),
        (("devices", "choose", "--from-devices", "phone,pixel9"), "pixel9/imported/fp32 has no imported table"),
        (("profile", "local/onnxruntime/fp32", "--from", TARGET), "was learned from whole networks"),
        (("predictors", "check", TARGET), "not this machine"),
        (("predictors", "export", TARGET, "-o", tmp_path / "out.zip"), "was learned from a table"),
    ):
        result = milliseek(*words)
        assert result.returncode == 1, (words, result.stderr)
        assert result.stdout == ""
        assert result.stderr.startswith("Error: "), result.stderr
        assert told in " ".join(result.stderr.split()), result.stderr
    assert not (tmp_path / "out.zip").exists()


def test_wrong_command_lines(milliseek: Milliseek, table: Path) -> None:
    for words in (
        ("devices", "import", "phone", table, *PHONE, "--leave-out", "mobile"),
        ("evaluate", "--table", table),
        ("evaluate", table, *PHONE),
        ("evaluate", table, "--table", table, *PHONE),
    ):
        result = milliseek(*words)
        assert result.returncode == 2, words
        assert result.stdout == ""


def test_a_device_whose_predictor_came_as_a_file_is_another_matter(
    milliseek: Milliseek, table: Path, tmp_path: Path
) -> None:
    """`predictors import` registers devices as well: they have facts, and measurements of their own elsewhere."""
    database = Database.open(f"sqlite:///{tmp_path / 'home' / 'milliseek.db'}")
    facts = {"cpu_model": "Tensor", "cores": 8, "memory_bytes": 2**33, "isa": ["neon"], "runtimes": {"litert": "2.3"}}
    with database.session() as session:
        upsert_device(session, "pixel6", "imported", facts)
    database.close()
    listed = milliseek("devices", "list")
    assert "Tensor, 8 cores" in listed.stdout, listed.stderr
    refused = milliseek("devices", "import", "pixel6", table, *PHONE)
    assert refused.returncode == 1
    assert "own measurements an import would mix with" in " ".join(refused.stderr.split())
