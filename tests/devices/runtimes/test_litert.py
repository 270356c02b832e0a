"""LiteRT: which path a model takes, what it may look like, and how it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import flatbuffers
import numpy as np
import psutil
import pytest
from ai_edge_litert import schema_py_generated as schema

from milliseek.devices.runtimes.litert import LiteRTRuntime, delegated
from milliseek.devices.target import Target
from milliseek.errors import InvalidInput, MeasurementError

RUNTIME = LiteRTRuntime()
ONE_THREAD = Target("here", "litert", "fp32")


def test_the_probe_is_one_abs_on_one_number() -> None:
    graph = schema.SubGraphT(
        tensors=[schema.TensorT(shape=[1], name="x"), schema.TensorT(shape=[1], name="y")],
        inputs=[0],
        outputs=[1],
        operators=[schema.OperatorT(inputs=[0], outputs=[1])],
    )
    number = schema.BuiltinOperator.ABS
    model = schema.ModelT(
        version=3,
        operatorCodes=[schema.OperatorCodeT(deprecatedBuiltinCode=number, builtinCode=number)],
        buffers=[schema.BufferT()],
        subgraphs=[graph],
    )
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    assert bytes(builder.Output()) == RUNTIME.probe_model
    assert delegated(RUNTIME.probe_model) == (True,)


@pytest.mark.parametrize("dtype", ["FLOAT32", "INT8"])
@pytest.mark.parametrize("threads", [1, 2])
def test_convolutions_run_in_xnnpack(tflite: SimpleNamespace, dtype: str, threads: int) -> None:
    model = tflite.convolution(dtype)
    assert delegated(model, threads) == (True, True)
    RUNTIME.load(model, Target("here", "litert", "int8", threads=threads), optimise=True).run()


def test_operators_that_xnnpack_lacks_are_told_apart(tflite: SimpleNamespace) -> None:
    model = tflite.chain(["NEG", "L2_NORMALIZATION", "ABS", "SQRT"], [1, 8])
    assert delegated(model) == (True, False, True, True)


def test_a_second_thread_is_one(tflite: SimpleNamespace) -> None:
    def threads_of(count: int) -> int:
        before = psutil.Process().num_threads()
        session = RUNTIME.load(tflite.convolution(), Target("here", "litert", "fp32", threads=count), optimise=True)
        session.run()
        return psutil.Process().num_threads() - before

    assert threads_of(1) == 0
    assert threads_of(3) == 2


def test_the_file_is_what_is_executed(tflite: SimpleNamespace) -> None:
    model = tflite.convolution()
    assert RUNTIME.optimise(model, ONE_THREAD) == model


def test_shapes_of_all_tensors_and_values_of_small_integers(tflite: SimpleNamespace) -> None:
    shapes = RUNTIME.tensor_shapes(tflite.convolution("INT8"), ONE_THREAD)
    assert list(shapes) == [str(index) for index in range(7)]
    assert shapes["2"] == ((16,), "int32", (0,) * 16)
    assert shapes["3"] == ((1, 16, 16, 16), "int8", None)


@pytest.mark.parametrize(
    "dtype",
    ["FLOAT32", "FLOAT16", "FLOAT64", "INT8", "UINT8", "INT16", "INT32", "INT64", "BOOL", "STRING"],
)
def test_inputs_of_many_types_are_made_up(tflite: SimpleNamespace, dtype: str) -> None:
    (info,) = RUNTIME.tensor_shapes(tflite.lone_input(dtype, [4]), ONE_THREAD).values()
    assert info.shape == (4,)
    assert info.dtype == ("str" if dtype == "STRING" else dtype.lower())
    assert info.values == ((1,) * 4 if dtype in ("INT32", "INT64", "BOOL") else None)


@pytest.mark.parametrize("dtype", ["RESOURCE", "VARIANT"])
def test_inputs_that_cannot_be_made_up_are_refused(tflite: SimpleNamespace, dtype: str) -> None:
    with pytest.raises(MeasurementError, match="cannot be made up"):
        RUNTIME.load(tflite.lone_input(dtype, [4]), ONE_THREAD, optimise=True)


def test_an_open_dimension_needs_a_size(tflite: SimpleNamespace) -> None:
    with pytest.raises(InvalidInput, match="Give its shape"):
        RUNTIME.load(tflite.lone_input("FLOAT32", [1, 1, 3], signature=[-1, -1, 3]), ONE_THREAD, optimise=True)
    found = RUNTIME.tensor_shapes(tflite.lone_input("FLOAT32", [8, 3], signature=[-1, 3]), ONE_THREAD)
    assert found["0"].shape == (1, 3)


@pytest.mark.parametrize("bad", [b"", b"TFL3", b"\0\0\0\0TFL3" + bytes(64), np.arange(99, dtype="int64").tobytes()])
def test_garbage_is_refused_by_every_method(bad: bytes) -> None:
    for refuse in (
        lambda: RUNTIME.optimise(bad, ONE_THREAD),
        lambda: RUNTIME.tensor_shapes(bad, ONE_THREAD),
        lambda: RUNTIME.load(bad, ONE_THREAD, optimise=True),
        lambda: delegated(bad),
    ):
        with pytest.raises(MeasurementError, match="LiteRT cannot load the model: "):
            refuse()


def test_operators_that_do_not_fit_their_tensors_are_refused(tflite: SimpleNamespace) -> None:
    with pytest.raises(MeasurementError, match="LiteRT cannot load the model"):
        RUNTIME.load(tflite.chain(["LOGICAL_NOT"], [4]), ONE_THREAD, optimise=True)


def test_claims_beyond_the_memory_are_refused(tflite: SimpleNamespace) -> None:
    for size in (2**31 - 1, 2**15):
        with pytest.raises(MeasurementError):
            RUNTIME.load(tflite.lone_input("FLOAT32", [size, size]), ONE_THREAD, optimise=True)
