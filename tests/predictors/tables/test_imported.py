"""Tables of made-up phones become predictors, with where they came from, or nothing at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from milliseek.db.devices import find_device, get_target, upsert_device
from milliseek.db.engine import Database
from milliseek.db.models import Base
from milliseek.errors import InvalidInput, MilliseekError, NotFound
from milliseek.kernels.costs import macs
from milliseek.kernels.operators.fusion import fused
from milliseek.kernels.operators.graph_json import read_graph
from milliseek.predictors.models.kernel_model import fit_kernel_model
from milliseek.predictors.models.sum_model import SumModel
from milliseek.predictors.service import LatencyService
from milliseek.predictors.stored.versions import newest_predictor
from milliseek.predictors.tables.from_devices import known_devices, telling_networks
from milliseek.predictors.tables.imported import (
    MAX_PER_FAMILY,
    ImportedTable,
    import_table,
    predict_operators,
    read_networks,
    stored_rows,
    stored_table,
)
from milliseek.predictors.tables.imported import imported_target as target_of
from milliseek.predictors.tables.latency_rows import Fields, read_rows

PHONE = Fields("latency_ms.phone")
Rows = list[dict[str, Any]]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(f"sqlite:///{tmp_path / 'home' / 'milliseek.db'}")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def rows(phones: Any) -> Rows:
    found: Rows = phones.rows(("phone", "tablet", "board"))
    return found


@pytest.fixture
def table(rows: Rows, phones: Any, tmp_path: Path) -> Path:
    written: Path = phones.write(tmp_path / "phones.jsonl.gz", rows)
    return written


def counted(database: Database) -> dict[str, int]:
    """Rows of every table."""
    with database.session(read_only=True) as session:
        tables = Base.metadata.sorted_tables
        return {t.name: session.scalar(select(func.count()).select_from(t)) or 0 for t in tables}


def latency_ms(database: Database, target: str, row: dict[str, Any]) -> float:
    predictor = newest_predictor(database, target).predictor
    return predict_operators(predictor, read_graph(row["graph"]), "").latency_ms


def test_a_table_becomes_a_predictor(database: Database, table: Path, rows: Rows) -> None:
    made = import_table(database, "phone", [table], PHONE)
    assert (made.target, made.predictor, made.networks) == ("phone/imported/fp32", "phone/imported/fp32@1", 60)
    assert made.held_out["within_5"] == made.held_out["within_10"] == 1
    assert made.held_out["rmspe"] < 0.02
    version = newest_predictor(database, made.target)
    assert isinstance(version.predictor.kernel_model, SumModel)
    assert (version.networks, version.kernels, version.held_out["families"]) == (60, 0, 4)
    assert len(version.predictor.report.networks) == 60
    for row in rows[::9]:
        assert latency_ms(database, made.target, row) == pytest.approx(row["latency_ms"]["phone"], rel=0.01)


def test_where_it_came_from_is_kept(database: Database, table: Path, rows: Rows) -> None:
    import_table(database, "phone", [table], PHONE, leave_out="shuffle", aggregate="min")
    with database.session(read_only=True) as session:
        device = find_device(session, "phone")
        assert device is not None
        (source,) = device.facts["tables"]
        assert device.kind == "imported"
        assert get_target(session, "phone/imported/fp32").settings == source
    assert source["files"] == [{"name": table.name, "sha256": hashlib.sha256(table.read_bytes()).hexdigest()}]
    assert (source["latency"], source["unit"], source["precision"]) == ("latency_ms.phone", "ms", "fp32")
    assert (source["networks"], source["left_out"], source["aggregate"]) == (45, "shuffle", "min")
    stored = list(stored_rows(database, stored_table(database, target_of("phone", "fp32"))))
    assert [(row["name"], row["latency_ms"]) for row in stored] == [
        (row["id"], row["latency_ms"]["phone"]) for row in rows if row["family"] != "shuffle"
    ]
    assert json.loads(stored[0]["written"]) == rows[0]["graph"]


def test_another_import_is_another_version(database: Database, table: Path) -> None:
    for version in (1, 2):
        assert import_table(database, "phone", [table], PHONE).predictor == f"phone/imported/fp32@{version}"
    int8 = import_table(database, "phone", [table], Fields("latency_ms.tablet"), precision="int8")
    assert int8.predictor == "phone/imported/int8@1"
    with database.session(read_only=True) as session:
        device = find_device(session, "phone")
        assert device is not None
        assert [source["precision"] for source in device.facts["tables"]] == ["fp32", "fp32", "int8"]


def test_a_family_left_out_teaches_nothing(database: Database, table: Path, rows: Rows) -> None:
    made = import_table(database, "phone", [table], PHONE, leave_out="mobile")
    assert made.networks == 45
    left_out = [row for row in rows if row["family"] == "mobile"]
    error = [latency_ms(database, made.target, row) / row["latency_ms"]["phone"] - 1 for row in left_out]
    assert 0 < np.abs(error).mean() < 0.05
    report = newest_predictor(database, made.target).predictor.report
    assert not [network for network in report.networks if network.name.startswith("mobile")]


def test_several_files_and_microseconds(database: Database, rows: Rows, phones: Any, tmp_path: Path) -> None:
    slow = [{**row, "us": 1000 * row["latency_ms"]["phone"]} for row in rows]
    files = [phones.write(tmp_path / "a.jsonl", slow[:20]), phones.write(tmp_path / "b.jsonl", slow[20:])]
    made = import_table(database, "phone", files, Fields("us", "us"))
    assert made.networks == 60
    assert latency_ms(database, made.target, rows[0]) == pytest.approx(rows[0]["latency_ms"]["phone"], rel=0.01)


def test_networks_may_be_files(database: Database, rows: Rows, phones: Any, tmp_path: Path) -> None:
    """Paths start at the table's folder, also when the table tells about a new device later."""
    onnx = _onnx()
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "own.onnx").write_bytes(onnx)
    for device in ("phone", "tablet"):
        own = {"id": "own", "file": "nets/own.onnx", "latency_ms": {device: 0.5}}
        import_table(
            database, device, [phones.write(tmp_path / f"{device}.jsonl", [*rows, own])], Fields(f"latency_ms.{device}")
        )
    known = known_devices(database, ["phone", "tablet"], "fp32")
    (position,) = [i for i, row in enumerate(known.rows) if row.name == "own"]
    assert known.latency_ms[:, position].tolist() == [0.5, 0.5]
    with LatencyService(database) as service:
        prediction = service.predict_model(service.store_model(onnx, "own.onnx"), "phone/imported/fp32")
    assert [kernel.kind for kernel in prediction.kernels] == ["CONV_2D 3x3"]


def _onnx() -> bytes:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((16, 3, 3, 3), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 32, 32])
        for name, channels in (("x", 3), ("z", 16))
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def change(rows: Rows, position: int, **changed: Any) -> Rows:
    return [{**row, **changed} if i == position else row for i, row in enumerate(rows)]


REFUSED: dict[str, tuple[Callable[[Rows], Rows], str, str]] = {
    "negative": (lambda rows: change(rows, 7, latency_ms={"phone": -1}), ":8:", "not positive"),
    "missing": (lambda rows: change(rows, 7, latency_ms={"phone": None}), ":8:", "missing"),
    "words": (lambda rows: change(rows, 59, latency_ms={"phone": "x"}), ":60:", "no number"),
    "mixed units": (
        lambda rows: change(rows, 30, latency_ms={"phone": 1000 * rows[30]["latency_ms"]["phone"]}),
        ":31:",
        "units mixed",
    ),
    "unknown operators": (
        lambda rows: change(rows, 3, graph=[{"op": "lstm", "inp": [], "out": [1]}, {"op": "gru"}]),
        ":4:",
        "unknown operators: gru, lstm",
    ),
    "malformed": (
        lambda rows: change(rows, 3, graph=[*rows[3]["graph"][:2], {"op": "add", "inp": [9], "out": [1]}]),
        ":4:",
        "Entry 2 of the graph (add) does not fit",
    ),
    "no such file": (lambda rows: change(rows, 3, graph="nowhere.onnx"), ":4:", "There is no file"),
    "no such network": (lambda rows: change(rows, 3, graph="nowhere"), ":4:", "names no network"),
    "no such subnet": (lambda rows: change(rows, 3, graph="small32-9:d1"), ":4:", "small32"),
    "repeated": (
        lambda rows: [*rows, {**rows[3], "id": "again", "latency_ms": {"phone": 1.5}}],
        ":61:",
        "'again' was there before with another latency",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_stores_nothing(name: str, database: Database, rows: Rows, phones: Any, tmp_path: Path) -> None:
    spoil, place, reason = REFUSED[name]
    path = phones.write(tmp_path / "bad.jsonl", spoil(rows))
    before = counted(database)
    with pytest.raises(MilliseekError) as caught:
        import_table(database, "phone", [path], PHONE)
    assert f"{path}{place}" in caught.value.message
    assert reason in str(caught.value)
    assert "Nothing was stored." in caught.value.remedy
    assert counted(database) == before


@pytest.mark.parametrize(
    ("name", "fields", "leave_out", "reason"),
    [
        ("phone", Fields("latency_ms.pixel9"), None, "has a latency"),
        ("phone", PHONE, "all", "has a latency"),
        ("my phone", PHONE, None, "illegal name"),
        ("a/b", PHONE, None, "illegal name"),
        ("local", PHONE, None, "this machine"),
    ],
)
def test_other_mistakes_store_nothing_either(
    database: Database,
    rows: Rows,
    phones: Any,
    tmp_path: Path,
    name: str,
    fields: Fields,
    leave_out: str | None,
    reason: str,
) -> None:
    path = phones.write(tmp_path / "one.jsonl", [{**row, "family": "all"} for row in rows])
    before = counted(database)
    with pytest.raises(InvalidInput, match=reason):
        import_table(database, name, [path], fields, leave_out=leave_out)
    assert counted(database) == before


def test_own_measurements_and_imported_ones_stay_apart(database: Database, table: Path) -> None:
    with database.session() as session:
        upsert_device(session, "board", "local", {})
    before = counted(database)
    with pytest.raises(InvalidInput, match="'board' is a device of kind 'local'"):
        import_table(database, "board", [table], PHONE)
    assert counted(database) == before


@pytest.mark.parametrize(("aggregate", "factor"), [("min", 1.0), ("median", 1.1), ("mean", 1.2)])
def test_repeated_networks_on_request(
    database: Database, rows: Rows, phones: Any, tmp_path: Path, aggregate: Any, factor: float
) -> None:
    """Every network three times; what is stored of it is what was learned from."""
    repeated = [
        {**row, "latency_ms": {"phone": times * row["latency_ms"]["phone"]}} for times in (1.1, 1, 1.5) for row in rows
    ]
    path = phones.write(tmp_path / "repeated.jsonl", repeated)
    made = import_table(database, "phone", [path], PHONE, aggregate=aggregate)
    assert made.networks == 60
    wanted = [factor * row["latency_ms"]["phone"] for row in rows]
    stored = stored_rows(database, stored_table(database, target_of("phone", "fp32")))
    assert [row["latency_ms"] for row in stored] == pytest.approx(wanted)
    assert [network.latency_ms for network in read_networks([path], PHONE, aggregate=aggregate)] == pytest.approx(
        wanted
    )
    assert latency_ms(database, made.target, rows[5]) == pytest.approx(wanted[5], rel=0.02)


def test_equal_rows_are_one(database: Database, rows: Rows, phones: Any, tmp_path: Path) -> None:
    path = phones.write(tmp_path / "twice.jsonl", [*rows, *rows[:9]])
    assert import_table(database, "phone", [path], PHONE).networks == 60


def test_of_very_many_networks_of_a_family_some_are_learned_from(phones: Any, tmp_path: Path) -> None:
    graph = phones.network("plain", 1, 8)
    few = MAX_PER_FAMILY // 2
    rows = []
    for i in range(MAX_PER_FAMILY + few):
        written = [*graph[:-1], {**graph[-1], "out": [1, 10 + i]}]
        rows += [{"id": f"{family}{i}", "graph": written, "ms": 1 + i / 1e3} for family in ("wide",)]
    rows += [
        {"id": f"rare{i}", "graph": [*graph[:-1], {**graph[-1], "out": [1, 5000 + i]}], "ms": 2} for i in range(few)
    ]
    networks = read_networks([phones.write(tmp_path / "many.jsonl", rows)], Fields("ms"))
    families = [network.family for network in networks]
    assert (families.count("wide"), families.count("rare")) == (MAX_PER_FAMILY, few)
    again = read_networks([tmp_path / "many.jsonl"], Fields("ms"))
    assert [network.name for network in again] == [network.name for network in networks]


@pytest.fixture
def known(database: Database, table: Path) -> Database:
    """A database that knows the tables of two devices."""
    for name in ("phone", "tablet"):
        import_table(database, name, [table], Fields(f"latency_ms.{name}"))
    return database


def measured(rows: Rows, chosen: set[str], phones: Any, path: Path) -> Path:
    """A table of a few networks on the third device."""
    written: Path = phones.write(path, [row for row in rows if row["id"] in chosen])
    return written


def test_ten_measurements_beside_known_devices(known: Database, rows: Rows, phones: Any, tmp_path: Path) -> None:
    devices = known_devices(known, ["phone", "tablet"], "fp32")
    chosen = {row.name for row in telling_networks(devices, 10)}
    assert len(chosen) == 10
    path = measured(rows, chosen, phones, tmp_path / "board.jsonl")
    made = import_table(known, "board", [path], Fields("latency_ms.board"), known=["phone", "tablet"])
    assert (made.predictor, made.networks) == ("board/imported/fp32@1", 10)
    assert made.held_out["networks"] == 10
    rest = [row for row in rows if row["id"] not in chosen]
    error = [latency_ms(known, made.target, row) / row["latency_ms"]["board"] - 1 for row in rest]
    assert np.abs(error).mean() < 0.1
    version = newest_predictor(known, made.target)
    assert version.held_out["from_devices"] == ["phone", "tablet"]
    inside = 0
    for row in rest:
        low, high = predict_operators(version.predictor, read_graph(row["graph"]), "").interval_ms
        inside += low <= row["latency_ms"]["board"] <= high
    assert inside > 0.8 * len(rest)


def test_too_few_networks_in_common(known: Database, rows: Rows, phones: Any, tmp_path: Path) -> None:
    strange = [
        {"id": f"new{i}", "graph": phones.network("plain", 5, 8 + i), "latency_ms": {"board": 1}} for i in range(20)
    ]
    path = phones.write(tmp_path / "board.jsonl", [*rows[:2], *strange])
    before = counted(known)
    with pytest.raises(InvalidInput, match="Only 2 of 22 networks were measured on the known devices"):
        import_table(known, "board", [path], Fields("latency_ms.board"), known=["phone", "tablet"])
    assert counted(known) == before


def test_devices_that_are_not_known(known: Database, table: Path) -> None:
    with pytest.raises(NotFound, match="pixel9/imported/fp32"):
        known_devices(known, ["phone", "pixel9"], "fp32")
    with pytest.raises(NotFound, match="tablet/imported/int8"):
        known_devices(known, ["tablet", "phone"], "int8")
    for names in (["phone"], ["phone", "phone"], []):
        with pytest.raises(InvalidInput, match="Two known devices"):
            known_devices(known, names, "fp32")
    with pytest.raises(InvalidInput, match="have 60 networks in common, not 61"):
        telling_networks(known_devices(known, ["phone", "tablet"], "fp32"), 61)


def test_what_is_wanted_is_always_among_the_known(
    known: Database, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milliseek.predictors.tables.from_devices.MAX_NETWORKS", 12)
    wanted = list(read_rows(table, PHONE))[20:25]
    found = known_devices(known, ["phone", "tablet"], "fp32", wanted)
    assert found.latency_ms.shape == (2, 12)
    assert {row.name for row in wanted} <= {row.name for row in found.rows}
    names = [row.name for row in known_devices(known, ["phone", "tablet"], "fp32", wanted).rows]
    assert names == [row.name for row in found.rows]


def test_kernels_that_were_profiled_are_kept(database: Database, table: Path, rows: Rows, phones: Any) -> None:
    kernels = list({kernel: None for row in rows for kernel in fused(read_graph(row["graph"]), "operators")})
    products = [kernel for kernel in kernels if macs(kernel)]
    profiled = fit_kernel_model(products, np.array([phones.kernel_ms("phone", kernel) for kernel in products]))
    told = {"kernels": len(products), "kernel_table": "kernels.csv", "kernel_latency": "us"}
    made: ImportedTable = import_table(database, "phone", [table], PHONE, profiled=profiled, provenance=told)
    predictor = newest_predictor(database, made.target).predictor
    assert isinstance(predictor.kernel_model, SumModel)
    assert predictor.kernel_model.profiled is not None
    with database.session(read_only=True) as session:
        settings = get_target(session, made.target).settings
    assert {key: settings[key] for key in told} == told
    assert latency_ms(database, made.target, rows[7]) == pytest.approx(rows[7]["latency_ms"]["phone"], rel=0.02)
