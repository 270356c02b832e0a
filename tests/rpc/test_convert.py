"""Messages and dataclasses are pairs: there and back again gives the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from milliseek.results import KernelLatency, LatencyTable, Prediction, SubnetLatencies, TargetInfo
from milliseek.rpc import convert
from milliseek.rpc.v1 import latency_pb2

texts = st.text(st.characters(codec="utf-8"), max_size=20)
numbers = st.floats(allow_nan=False)
intervals = st.tuples(numbers, numbers)
kernels = st.builds(KernelLatency, texts, texts, numbers, st.integers(0, 2**32 - 1), st.booleans())
predictions = st.builds(
    Prediction,
    target=texts,
    predictor=texts,
    latency_ms=numbers,
    interval_ms=intervals,
    uncovered=numbers,
    kernels=st.lists(kernels, max_size=4).map(tuple),
    notes=st.lists(texts, max_size=3).map(tuple),
)
finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
infos = st.builds(TargetInfo, texts, texts, texts, st.dictionaries(texts, json_values, max_size=3))
int32_matrices = hnp.arrays(np.int32, st.tuples(st.integers(0, 30), st.integers(1, 8)))


def over_the_wire(message):
    return type(message).FromString(message.SerializeToString())


@given(predictions)
def test_prediction(prediction):
    assert convert.prediction_from_proto(over_the_wire(convert.prediction_to_proto(prediction))) == prediction


@given(infos)
def test_target_info(info):
    assert convert.target_info_from_proto(over_the_wire(convert.target_info_to_proto(info))) == info


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32(1), object()])
def test_held_out_must_be_json(value):
    with pytest.raises((ValueError, TypeError)):
        convert.target_info_to_proto(TargetInfo("t", "t@1", "1", {"within_5": value}))


@given(int32_matrices)
def test_genes(genes):
    back = convert.genes_from_proto(over_the_wire(convert.subnets_to_proto("small32", "t", genes)))
    assert back.dtype == np.int32
    assert np.array_equal(back, genes)
    assert back.shape == genes.shape


@given(hnp.arrays(np.float64, st.integers(0, 30)), intervals, texts)
def test_subnet_latencies(latency_ms, interval, predictor):
    message = over_the_wire(convert.subnet_latencies_to_proto(SubnetLatencies(latency_ms, interval, predictor)))
    back = convert.subnet_latencies_from_proto(message)
    assert back.latency_ms.dtype == np.float64
    assert np.array_equal(back.latency_ms, latency_ms, equal_nan=True)
    assert (back.interval, back.predictor) == (interval, predictor)


@given(int32_matrices, numbers, intervals, texts, st.integers(1, 10))
def test_table_in_parts(keys, constant_ms, interval, name, rows_per_part):
    latency_ms = np.arange(len(keys)) / 7
    table = LatencyTable(name, name, name, keys, latency_ms, constant_ms, interval)
    parts = list(convert.table_to_parts(table, rows_per_part))
    assert len(parts) == max(1, -(-len(keys) // rows_per_part))
    assert all(len(part.latency_ms) <= rows_per_part for part in parts)
    back = convert.table_from_parts(map(over_the_wire, parts))
    assert np.array_equal(back.keys, keys)
    assert (back.keys.dtype, back.keys.shape) == (np.int32, keys.shape)
    assert np.array_equal(back.latency_ms, latency_ms)
    assert (back.space, back.target, back.predictor) == (name, name, name)
    assert (back.constant_ms, back.interval) == (constant_ms, interval)


def test_parts_of_wide_tables_stay_below_4_mib():
    keys = np.full((60_000, 40), -(2**31), np.int32)
    parts = convert.table_to_parts(LatencyTable("s", "t", "p", keys, np.ones(60_000), 0.0, (0.0, 0.0)))
    assert max(part.ByteSize() for part in parts) < 4 * 1024 * 1024


class TestBrokenTables:
    def table(self):
        keys = np.arange(20, dtype=np.int32).reshape(10, 2)
        return list(convert.table_to_parts(LatencyTable("s", "t", "p", keys, np.ones(10), 0.0, (0.0, 0.0)), 4))

    def test_no_part(self):
        with pytest.raises(ValueError, match="without any part"):
            convert.table_from_parts([])

    def test_a_part_is_missing(self):
        with pytest.raises(ValueError, match="10 rows and 2 columns arrived with 8 latencies and 16 integers"):
            convert.table_from_parts(self.table()[:-1])

    def test_the_first_part_is_missing(self):
        with pytest.raises(ValueError, match="header in the first part"):
            convert.table_from_parts(self.table()[1:])

    def test_a_second_header(self):
        with pytest.raises(ValueError, match="only there"):
            convert.table_from_parts([*self.table(), latency_pb2.GetLatencyTableResponse(header={"rows": 1})])
