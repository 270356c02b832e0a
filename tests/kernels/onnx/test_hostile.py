"""Files made to do harm, or just broken: one clear sentence, soon, and without much memory."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import TensorProto, helper, numpy_helper

from milliseek.db.engine import Database
from milliseek.errors import InvalidInput, MilliseekError
from milliseek.kernels.onnx.file import MAX_NODES, check_model
from milliseek.kernels.onnx.protobuf_fields import field_count
from milliseek.predictors.networks.files import outline, store_network

from ..conftest import branching, mobile

value_info = helper.make_tensor_value_info


def build(
    nodes: list[onnx.NodeProto],
    constants: list[TensorProto] | None = None,
    shape: list[int | str] | None = None,
    functions: list[onnx.FunctionProto] | None = None,
) -> onnx.ModelProto:
    """`x` (1, 4) -> nodes -> `y`."""
    inputs = [value_info("x", TensorProto.FLOAT, shape or [1, 4])]
    outputs = [value_info("y", TensorProto.FLOAT, shape or [1, 4])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants or [])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions or [])


def with_constant(**fields: object) -> bytes:
    """x + w, where the tensor `w` has these fields."""
    tensor = numpy_helper.from_array(np.ones((1, 4), np.float32), "w")
    for name, value in fields.items():
        tensor.ClearField(name)
        if isinstance(value, list):
            getattr(tensor, name).extend(value)
        elif value is not None:
            setattr(tensor, name, value)
    return build([helper.make_node("Add", ["x", "w"], ["y"])], [tensor]).SerializeToString()


def external(location: str) -> bytes:
    entry = onnx.StringStringEntryProto(key="location", value=location)
    return with_constant(raw_data=None, data_location=TensorProto.EXTERNAL, external_data=[entry])


def relus(*names: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Relu", [a], [b]) for a, b in pairwise(names)]


def nested(depth: int) -> bytes:
    """A Scan in a Scan in a Scan ..."""
    node = helper.make_node("Relu", ["x"], ["y"])
    for _ in range(depth):
        inputs, outputs = ([value_info(name, TensorProto.FLOAT, [4])] for name in "xy")
        body = helper.make_graph([node], "g", inputs, outputs)
        node = helper.make_node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1)
    return build([node]).SerializeToString()


def too_nested() -> bytes:
    """Node, attribute and graph inside each other, a thousand times: no library writes that."""
    data = b""
    for _ in range(1000):
        data = delimited(1, delimited(5, delimited(6, data)))
    return delimited(7, data)


def sparse(*dims: int) -> bytes:
    model = build([helper.make_node("Add", ["x", "w"], ["y"])])
    one = numpy_helper.from_array(np.ones(1, np.float32), "w")
    at = numpy_helper.from_array(np.zeros(1, np.int64), "w_indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(one, at, dims))
    return model.SerializeToString()


def calling_itself() -> bytes:
    body = [helper.make_node("F", ["a"], ["b"], domain="own")]
    function = helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("own", 1)])
    return build([helper.make_node("F", ["x"], ["y"], domain="own")], functions=[function]).SerializeToString()


def in_attribute() -> bytes:
    tensor = onnx.ModelProto.FromString(external("/etc/passwd")).graph.initializer[0]
    nodes = [helper.make_node("Constant", [], ["w"], value=tensor), helper.make_node("Add", ["x", "w"], ["y"])]
    return build(nodes).SerializeToString()


def delimited(field: int, data: bytes) -> bytes:
    size, rest = b"", len(data)
    while rest > 0x7F:
        size, rest = size + bytes([rest & 0x7F | 0x80]), rest >> 7
    return bytes([field << 3 | 2]) + size + bytes([rest]) + data


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty"),
    "names that are no text": (
        lambda: build(relus("x", "hidden", "y")).SerializeToString().replace(b"hidden", b"hid\xff\xfen"),
        "UTF-8",
    ),
    "garbage": (lambda: b"hello", "not an ONNX file"),
    "zip": (lambda: b"PK\x03\x04" + bytes(60), "not an ONNX file"),
    "truncated": (lambda: mobile()[:-700], "truncated"),
    "cyclic": (lambda: build(relus("z", "y", "z")).SerializeToString(), "not a valid ONNX model"),
    "made later": (lambda: build(relus("x", "a", "y")[::-1]).SerializeToString(), "not a valid ONNX model"),
    "made twice": (lambda: build(relus("x", "y") + relus("x", "y")).SerializeToString(), "not a valid ONNX model"),
    "two constants of a name": (
        lambda: build(
            [helper.make_node("Add", ["x", "w"], ["y"])],
            [numpy_helper.from_array(np.ones((1, 400), np.float32), "w")] * 2,
        ).SerializeToString(),
        "not a valid ONNX model",
    ),
    "weights in a file": (lambda: external("weights.bin"), "another file"),
    "weights outside": (lambda: external("../../etc/passwd"), "another file"),
    "weights at a path": (lambda: external("/etc/passwd"), "another file"),
    "an attribute in a file": (in_attribute, "another file"),
    "2 GiB": (lambda: with_constant(dims=[1 << 29], raw_data=b""), "more than 1024 MiB"),
    "2 GiB without data": (lambda: with_constant(dims=[1 << 29], raw_data=None), "more than 1024 MiB"),
    "negative": (lambda: with_constant(dims=[-1, 4]), "negative dimension"),
    "two negatives": (lambda: with_constant(dims=[-1, -4]), "negative dimension"),
    "overflowing": (lambda: with_constant(dims=[1 << 32, 1 << 32, 0x7FFFFFFFFFFFFFFF]), "more than 1024 MiB"),
    "too little data": (lambda: with_constant(raw_data=bytes(12)), "12 bytes of data where its shape needs 16"),
    "too much data": (lambda: with_constant(raw_data=bytes(1 << 20)), "needs 16"),
    "too few elements": (lambda: with_constant(raw_data=None, float_data=[1.0]), "1 elements of data"),
    "no data": (lambda: with_constant(raw_data=None), "0 elements of data"),
    "no type": (lambda: with_constant(data_type=0), "unknown type 0"),
    "a type of the future": (lambda: with_constant(data_type=99), "unknown type 99"),
    "text as raw data": (lambda: with_constant(data_type=TensorProto.STRING), "strings as raw data"),
    "a sparse bomb": (lambda: sparse(1 << 20, 1 << 20), "more than 1024 MiB"),
    "a sparse negative": (lambda: sparse(-4), "negative dimension"),
    "open input": (lambda: build(relus("x", "y"), shape=[1, "width"]).SerializeToString(), "--shape x="),
    "huge input": (
        lambda: build(relus("x", "y"), shape=[1 << 20, 1 << 20]).SerializeToString(),
        "more than 268435456 elements",
    ),
    "nested": (too_nested, "nested too deeply"),
    "calls itself": (calling_itself, "'F' calls itself"),
    "many nodes": (
        lambda: build(relus("x", *map(str, range(100_000)), "y")).SerializeToString(),
        f"more than {MAX_NODES} nodes",
    ),
    "tiny messages": (lambda: delimited(7, b"\x0a\x00" * 4_000_000), "more memory"),
}


@contextmanager
def at_most(more_bytes: int) -> Iterator[None]:
    """No more memory than there is and `more_bytes`: whoever asks for it gets a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (psutil.Process().memory_info().data + more_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database.open(f"sqlite:///{tmp_path / 'milliseek.db'}")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_and_nothing_is_stored(name: str, database: Database) -> None:
    make, message = HOSTILE[name]
    data = make()
    with at_most(512 << 20), pytest.raises(InvalidInput) as caught:
        store_network(database, data, "hostile.onnx")
    assert message in str(caught.value)
    assert "hostile.onnx" in caught.value.message
    assert caught.value.remedy
    assert not [path for path in database.artefacts.root.rglob("*") if path.is_file()]
    with database.session(read_only=True) as session:
        assert session.connection().exec_driver_sql("SELECT count(*) FROM ms_model").scalar() == 0


@pytest.mark.parametrize("depth", [1, 10])
def test_moderate_nesting_is_fine(depth: int) -> None:
    assert check_model(nested(depth)).graph.node


def test_small_messages_are_counted_one_by_one_before_a_file_is_refused() -> None:
    nodes = build(relus("x", *map(str, range(2000)), "y")).SerializeToString()
    assert field_count(nodes, onnx.ModelProto, enough=100_000) == pytest.approx(len(nodes) / 2, rel=0.01)
    assert field_count(nodes, onnx.ModelProto, enough=10_000) == pytest.approx(8000, rel=0.01)


def test_packed_integers_count() -> None:
    tensor = numpy_helper.from_array(np.ones(1, np.int32), "w")
    tensor.ClearField("raw_data")
    tensor.int32_data.extend([1] * 640_000)
    data = build(relus("x", "y"), [tensor]).SerializeToString()
    assert field_count(data, onnx.ModelProto, enough=10**6) == pytest.approx(10_000, rel=0.01)


def with_other_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """A byte changed, a stretch cut out or repeated."""
    at, size = int(rng.integers(len(data))), int(rng.integers(1, 64))
    match rng.integers(4):
        case 0:
            return data[:at] + data[at + size :]
        case 1:
            return data[: at + size] + data[at:]
        case _:
            return data[:at] + bytes([rng.integers(256)]) + data[at + 1 :]


def fields_of(message: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    for field, value in message.ListFields():
        yield message, field
        inner = value if isinstance(value, Sequence) else [value]
        for item in inner if field.message_type else []:
            yield from fields_of(item)


def with_another_field(data: bytes, rng: np.random.Generator) -> bytes:
    """One field of one message changed, emptied, or an element of it dropped or repeated."""
    model = onnx.ModelProto.FromString(data)
    places = list(fields_of(model))
    message, field = places[rng.integers(len(places))]
    value = getattr(message, field.name)
    if isinstance(value, str | bytes | int | float):
        texts = ("", "x", "input", "Conv", "If", "Constant", "value", "ai.onnx", "ai.onnx.ml", "\N{SNOWMAN}")
        other = {
            str: lambda: texts[rng.integers(len(texts))],
            bytes: lambda: value[: int(rng.integers(len(value) + 1))],
            int: lambda: (0, 1, 2, 5, 99, 2**31 - 1, -1, -(2**31))[rng.integers(8)],
            float: lambda: float("nan"),
        }[type(value)]
        with suppress(ValueError):  # not a number of this enumeration
            setattr(message, field.name, other())
    elif isinstance(value, Message):
        message.ClearField(field.name)
    else:
        at = int(rng.integers(len(value)))
        kept = [*list(value), value[at]] if rng.integers(2) else [*value[:at], *value[at + 1 :]]
        message.ClearField(field.name)
        getattr(message, field.name).extend(kept)
    return model.SerializeToString()


@pytest.mark.parametrize("mutated", [with_other_bytes, with_another_field])
@pytest.mark.parametrize("network", [mobile, branching])
def test_mutations_are_refused_or_are_models(
    mutated: Callable[[bytes, np.random.Generator], bytes], network: Callable[[], bytes]
) -> None:
    """Of a network without most of its weights, so that what is hit is structure."""
    model = onnx.ModelProto.FromString(network())
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 64:
            shape = (1,) * len(tensor.dims)
            tensor.CopyFrom(numpy_helper.from_array(np.ones(shape, np.float32), tensor.name))
    data = model.SerializeToString()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        with suppress(MilliseekError):
            outline(mutated(data, rng), "mutated.onnx")
            continue
        refused += 1
    assert 30 < refused < 300
