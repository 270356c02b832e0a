"""Tables of latencies are read row by row; what is no latency is refused by file, line and reason."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milliseek.errors import InvalidInput
from milliseek.predictors.tables import latency_rows
from milliseek.predictors.tables.latency_rows import Fields, LatencyRow, keys_of, read_rows

MS = Fields("ms")
GRAPH = [{"op": "input", "inp": [], "out": [1, 8, 8, 3]}]


def written(path: Path, *rows: Any) -> Path:
    """JSON lines; a text is a line as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(path: Path, fields: Fields = MS) -> list[LatencyRow]:
    return list(read_rows(path, fields))


def refused(path: Path, line: int, *words: str, fields: Fields = MS) -> None:
    """The error names file, line and reason."""
    with pytest.raises(InvalidInput) as caught:
        read(path, fields)
    assert caught.value.message.startswith(f"{path}:{line}: "), caught.value.message
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_json_lines(tmp_path: Path) -> None:
    path = written(
        tmp_path / "phone.jsonl",
        {"id": "resnet_7", "family": "resnet", "graph": GRAPH, "ms": 12.5, "std": 0.3, "n": 50},
        "",
        {"network": "timm:mobilenetv2_100", "ms": "7", "std": None},
    )
    first, second = read(path, Fields("ms", spread="std", runs="n"))
    assert (first.name, first.family, first.network, first.latency_ms) == ("resnet_7", "resnet", GRAPH, 12.5)
    assert (first.spread_ms, first.runs, first.place) == (0.3, 50, f"{path}:1")
    assert (second.name, second.family, second.latency_ms) == ("timm:mobilenetv2_100", "mobilenet", 7)
    assert (second.spread_ms, second.runs, second.place) == (None, None, f"{path}:3")


def test_csv_in_microseconds(tmp_path: Path) -> None:
    path = tmp_path / "phones.csv"
    path.write_text('model,"pixel4|cpu|mean","pixel4|cpu|std"\nresnet18,2500,10\n"densenet121",9e3,\n')
    first, second = read(path, Fields("pixel4|cpu|mean", "us", spread="pixel4|cpu|std", zoo="pytorchcv"))
    assert (first.name, first.network, first.latency_ms, first.spread_ms) == (
        "resnet18", "pytorchcv:resnet18", 2.5, pytest.approx(0.01)
    )  # fmt: skip
    assert (second.family, second.latency_ms, second.spread_ms, second.place) == ("densenet", 9, None, f"{path}:3")


def test_a_spreadsheet_marks_the_order_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "sheet.csv"
    path.write_bytes("ms,model\r\n3,timm:resnet18\r\n".encode("utf-8-sig"))
    assert [row.latency_ms for row in read(path)] == [3]


@pytest.mark.parametrize("name", ["table.jsonl.gz", "table.csv.gz"])
def test_gzip(tmp_path: Path, name: str) -> None:
    text = "model,ms\ntimm:a,3\n" if "csv" in name else '{"model": "timm:a", "ms": 3}\n'
    (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    (row,) = read(tmp_path / name)
    assert (row.network, row.latency_ms) == ("timm:a", 3)


def test_a_column_of_that_name_goes_before_a_path(tmp_path: Path) -> None:
    row = {"model": "a", "ms.phone": 1, "ms": {"phone": 2, "v1.5": {"cpu": 3}}}
    path = written(tmp_path / "t.jsonl", row)
    for field, expected in (("ms.phone", 1), ("ms.v1.5.cpu", 3)):
        assert [found.latency_ms for found in read(path, Fields(field))] == [expected]


def test_what_was_not_measured_there_is_left_out(tmp_path: Path) -> None:
    rows = [{"model": "a", "ms": {"phone": 1}}, {"model": "b", "ms": {"tablet": 2}}, {"model": "c", "ms": {"phone": 3}}]
    path = written(tmp_path / "t.jsonl", *rows)
    assert [row.name for row in read(path, Fields("ms.phone"))] == ["a", "c"]
    assert keys_of([path], "ms") == ["ms.phone", "ms.tablet"]


def test_a_row_without_the_object_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", {"model": "a", "ms": {"phone": 1}}, {"model": "b", "us": {"phone": 1}})
    refused(path, 2, "no latency 'ms.phone'", "model, us", fields=Fields("ms.phone"))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (-3.0, "'ms' is -3.0, which is not positive"),
        (0, "'ms' is 0, which is not positive"),
        ("-1e3", "not positive"),
        (None, "'ms' is missing"),
        ("", "'ms' is missing"),
        ("failed", "'failed', which is no number"),
        ("12 ms", "'12 ms', which is no number"),
        ("nan", "'nan', which is no number"),
        (float("nan"), "no number"),
        (float("inf"), "no number"),
        (10**400, "no number"),
        (True, "'True', which is no number"),
        ([3.0], "no number"),
        ({"mean": 3.0}, "no number"),
        (1e-6, "no latency of a network"),
        (1e9, "no latency of a network"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_latency(tmp_path: Path, value: object, reason: str) -> None:
    refused(written(tmp_path / "t.jsonl", {"model": "a", "ms": 1}, {"model": "b", "ms": value}), 2, reason)


def test_the_unit_decides_what_a_latency_can_be(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", {"model": "a", "ms": 5_000_000})
    refused(path, 1, "5000000 ms", "--unit")
    assert [row.latency_ms for row in read(path, Fields("ms", "us"))] == [5000]


def test_a_latency_that_is_not_there_is_missing(tmp_path: Path) -> None:
    refused(written(tmp_path / "t.jsonl", {"model": "a", "us": 1}), 1, "no latency 'ms'", "model, us")


@pytest.mark.parametrize("spread", [-1, "-", "wide", "1e999", True, [1], 10**400], ids=lambda value: str(value)[:10])
def test_what_is_no_spread(tmp_path: Path, spread: object) -> None:
    path = written(tmp_path / "t.jsonl", {"model": "a", "ms": 1, "std": spread})
    refused(path, 1, "'std'", "no spread", fields=Fields("ms", spread="std"))
    refused(path, 1, "'std'", "no count", fields=Fields("ms", runs="std"))


@pytest.mark.parametrize("network", [None, "", [], 7, {"op": "conv"}], ids=str)
def test_a_row_without_a_network(tmp_path: Path, network: object) -> None:
    path = written(tmp_path / "t.jsonl", {"model": network, "net": "a", "ms": 1})
    refused(path, 1, "no network in 'graph' or 'network'", "--network")
    assert [row.network for row in read(path, Fields("ms", network="net"))] == ["a"]


@pytest.mark.parametrize(
    "line", ["{", "hello", "{'ms': 1}", '{"ms": 1} {"ms": 2}', "[" * 100_000, '{"ms": ' + "9" * 5000 + "}"]
)
def test_lines_that_are_no_json(tmp_path: Path, line: str) -> None:
    refused(written(tmp_path / "t.jsonl", {"model": "a", "ms": 1}, line), 2, "no JSON")


@pytest.mark.parametrize("line", ["3", "null", "[1, 2]", '"ms"'])
def test_lines_that_are_no_objects(tmp_path: Path, line: str) -> None:
    refused(written(tmp_path / "t.jsonl", line), 1, "no latency 'ms'")


@pytest.mark.parametrize("cells", ["timm:b", "timm:b,2,3"])
def test_ragged_csv(tmp_path: Path, cells: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"model,ms\ntimm:a,1\n{cells}\n")
    refused(path, 3, "not as many cells")


def test_an_open_quote_ends_somewhere(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('model,ms\ntimm:a,1\n"timm:b,2\n' + "timm:c,3\n" * 50_000)
    with pytest.raises(InvalidInput, match=r"t\.csv:\d+: it is no CSV"):
        read(path)


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.csv.gz"])
def test_a_truncated_gzip_names_where_it_stops(tmp_path: Path, name: str) -> None:
    lines = ["model,ms\n"] + [f"timm:net{i},{i % 97 + 1}\n" for i in range(20_000)]
    if "jsonl" in name:
        lines = [json.dumps({"model": f"timm:net{i}", "ms": i % 97 + 1}) + "\n" for i in range(20_000)]
    packed = gzip.compress("".join(lines).encode())
    (tmp_path / name).write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InvalidInput, match=r"t\.\w+\.gz:(\d+): it cannot be read") as caught:
        read(tmp_path / name)
    stopped = int(caught.value.message.removeprefix(f"{tmp_path / name}:").partition(":")[0])
    assert 1_000 < stopped < 20_000


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.jsonl.gz", "t.csv.gz"])
def test_binary_rubbish(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bytes(range(255, 0, -1)) * 40)
    with pytest.raises(InvalidInput, match=r"t\.[a-z.]+:1: "):
        read(tmp_path / name)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.csv", tmp_path):
        with pytest.raises(InvalidInput, match="There is no file"):
            read(path)


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.csv"])
def test_an_endless_line_does_not_fill_the_memory(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_rows, "MAX_LINE_BYTES", 1 << 20)
    endless = b'{"ms": 1}\n{"ms": "' + b"0" * (20 << 20)
    (tmp_path / name).write_bytes(gzip.compress(endless, 1) if name.endswith("gz") else endless)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match=r"line is longer than 1 MiB|field larger than field limit"):
            for _ in latency_rows.lines(tmp_path / name):
                pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_a_long_table_is_streamed(tmp_path: Path) -> None:
    path, rows = tmp_path / "long.csv", 200_000
    path.write_text("model,ms\n" + "timm:resnet18,12.5\n" * rows)
    lines = latency_rows.lines(path)
    next(lines)
    tracemalloc.start()
    try:
        for _ in range(5_000):
            next(lines)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert sum(1 for _ in read_rows(path, MS)) == rows


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("resnet18", "resnet"),
        ("timm:mobilenetv2_100.ra", "mobilenet"),
        ("pytorchcv:mobilenet_w1", "mobilenet"),
        ("EfficientNet_b0", "efficientnet"),
        ("vgg16", "vgg"),
        ("nets/squeezenet_v1_1.onnx", "squeezenet"),
        ("small32-5125-0312:d1#1#1#1#1_k3#3_w8_e1_r32", "small32-5125-0312"),
        ("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|", "nasbench201"),
    ],
)
def test_families_from_names(tmp_path: Path, name: str, family: str) -> None:
    (row,) = read(written(tmp_path / "t.jsonl", {"model": name, "ms": 1}))
    assert row.family == family


def test_a_column_names_the_family(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", {"model": "a1", "kind": "x", "ms": 1}, {"model": "b1", "kind": "", "ms": 1})
    assert [row.family for row in read(path, Fields("ms", family="kind"))] == ["x", "b"]


def test_equal_networks_have_equal_digests(tmp_path: Path) -> None:
    turned = [dict(reversed(entry.items())) for entry in GRAPH]
    rows = ({"id": "a", "graph": GRAPH, "ms": 1}, {"graph": turned, "ms": 2}, {"graph": GRAPH * 2, "ms": 1})
    first, second, third = read(written(tmp_path / "t.jsonl", *rows))
    assert first.digest == second.digest != third.digest


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["ms", "graph", "id"]), inner),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=VALUES | st.fixed_dictionaries({"ms": VALUES, "graph": VALUES, "family": VALUES, "std": VALUES}))
def test_any_json_is_read_or_refused(tmp_path: Path, row: Any) -> None:
    path = written(tmp_path / "t.jsonl", row)
    try:
        found = read(path, Fields("ms", spread="std"))
    except InvalidInput:
        refused(path, 1, fields=Fields("ms", spread="std"))
        return
    assert all(1e-3 <= each.latency_ms <= 3.6e6 for each in found)
