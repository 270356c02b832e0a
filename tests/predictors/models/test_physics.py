"""The terms of the physics fit, by hand: each quantity of each kind of kernel."""

import numpy as np
import pytest

from milliseek.kernels.kernel import Kernel, TensorSpec
from milliseek.predictors.models.features import FEATURES, tree_features
from milliseek.predictors.models.physics import TERMS, chunks, family, path, physics_terms


def terms(kernel):
    """All terms that are not zero, in units."""
    found = dict(zip(TERMS, physics_terms(kernel) * [1, *[1000] * (len(TERMS) - 1)], strict=True))
    return {name: value for name, value in found.items() if value}


def constants(cout, weights):
    """Bytes of weights, scales (float32), zero points (int8) and biases (int32) per channel, 2 x (scale, zero)."""
    return weights + 4 * cout + cout + 4 * cout + 2 * 5


def test_a_pointwise_convolution(make):
    found = terms(make.qconv(24, 40, 10))
    assert found == pytest.approx(
        {
            "constant": 1,
            "macs": 100 * 40 * 24,
            "padded_macs": 100 * 48 * 24,  # 40 outputs fill three vectors of 16
            "rows": 100,
            "input_bytes": 100 * 24,
            "output_bytes": 100 * 40,
            "weight_bytes": constants(40, 40 * 24),
            "edge_rows": 10 * 40,
            "tail_macs": 100 * 24 * 8,  # 40 outputs are two vectors and 8
            "one_block_macs": 100 * 24 * 8,  # five blocks of 8 are four and one
        }
    )


def test_a_dense_convolution_with_a_stride(make):
    found = terms(make.qconv(6, 32, 9, kernel=3, stride=2))
    assert found == pytest.approx(
        {
            "constant": 1,
            "macs": 25 * 32 * 54,
            "padded_macs": 25 * 32 * 56,  # 54 summands in groups of four
            "rows": 25,
            "column_bytes": 25 * 54,  # uint8
            "input_bytes": 81 * 6,
            "output_bytes": 25 * 32,
            "weight_bytes": constants(32, 32 * 54),
            "edge_rows": 5 * 32,
        }
    )


def test_a_depthwise_convolution(make):
    found = terms(make.qconv(20, 20, 8, kernel=5, groups=20))
    assert found == pytest.approx(
        {
            "constant": 1,
            "macs": 64 * 20 * 25,
            "rows": 64 * 20,
            "input_bytes": 64 * 20,
            "output_bytes": 64 * 20,
            "weight_bytes": constants(20, 20 * 25),
            "edge_rows": 8 * 20,
            "tail_macs": 64 * 25 * 4,
        }
    )


def test_a_grouped_convolution_pads_every_group(make):
    found = terms(make.qconv(12, 36, 8, kernel=3, groups=2))
    assert found == pytest.approx(
        {
            "constant": 1,
            "macs": 64 * 36 * 54,
            "padded_macs": 64 * 2 * 32 * 56,  # 18 outputs a group fill two vectors
            "rows": 64 * 2,
            "column_bytes": 64 * 2 * 54,
            "input_bytes": 64 * 12,
            "output_bytes": 64 * 36,
            "weight_bytes": constants(36, 36 * 54),
            "edge_rows": 8 * 36,
            "tail_macs": 64 * 54 * 4,
            "three_block_macs": 64 * 2 * 54 * 24,  # 18 outputs a group are three blocks
        }
    )


def test_a_matrix_product(make):
    found = terms(make.gemm(30, 10))
    assert found == pytest.approx(
        {
            "constant": 1,
            "macs": 300,
            "padded_macs": 16 * 32,
            "rows": 1,
            "input_bytes": 120,
            "output_bytes": 40,
            "weight_bytes": 1200 + 40,
            "edge_rows": 10,
            "tail_macs": 30 * 10,
            "two_block_macs": 30 * 16,
        }
    )


def test_a_sum_moves_bytes_and_multiplies_nothing(make):
    found = terms(make.add(8, 5))
    assert found == pytest.approx(
        {
            "constant": 1,
            "rows": 200,  # elements
            "input_bytes": 2 * 800,
            "output_bytes": 800,
            "edge_rows": 5,
            "chunks": 40,  # rows of five
        }
    )


def test_a_pooling_reads_its_window_everywhere():
    pool = kernel("MaxPool", [(1, 8, 9, 9)], [(1, 8, 4, 4)], kernel_shape=(3, 3), strides=(2, 2))
    assert terms(pool) == pytest.approx(
        {
            "constant": 1,
            "rows": 128,
            "input_bytes": 4 * 8 * 81,
            "output_bytes": 4 * 128,
            "edge_rows": 4,
            "window_reads": 9 * 128,
            "chunks": 32,
        }
    )


def kernel(op, inputs, outputs, **attributes):
    specs = [TensorSpec(shape, "float32") for shape in (*inputs, *outputs)]
    return Kernel(
        "", op, tuple(sorted(attributes.items())), tuple(specs[: len(inputs)]), tuple(specs[len(inputs) :]), 13
    )


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (kernel("Transpose", [(1, 8, 6, 5)], [(1, 6, 5, 8)], perm=(0, 2, 3, 1)), 240),  # every element moves alone
        (kernel("Transpose", [(2, 3, 4, 5)], [(3, 2, 4, 5)], perm=(1, 0, 2, 3)), 6),  # planes of 4 x 5 stay whole
        (kernel("Concat", [(1, 3, 4, 4), (1, 5, 4, 4)], [(1, 8, 4, 4)], axis=1), 2),
        (kernel("Concat", [(1, 4, 4, 3), (1, 4, 4, 5)], [(1, 4, 4, 8)], axis=3), 32),
        (kernel("Split", [(1, 8, 4, 4)], [(1, 2, 4, 4), (1, 6, 4, 4)], axis=1), 2),
        (kernel("Slice", [(1, 8, 4, 6)], [(1, 8, 4, 5)]), 32),
        (kernel("Softmax", [(3, 7, 11)], [(3, 7, 11)], axis=-1), 21),
    ],
    ids=lambda value: value.op if isinstance(value, Kernel) else "",
)
def test_chunks_are_the_contiguous_runs(one, expected):
    assert chunks(one) == expected


@pytest.mark.parametrize(
    ("shape", "perm", "expected"),
    [
        ((1, 8, 6, 5), (0, 2, 3, 1), "matrix"),  # NCHW to NHWC: 8 x 30 swapped
        ((2, 8, 6, 5), (0, 2, 3, 1), "matrix"),  # twice
        ((2, 3, 4, 5), (1, 0, 2, 3), "blocks"),
        ((1, 96, 1, 7), (2, 1, 0, 3), "copy"),
        ((1, 4, 9, 6), (0, 3, 2, 1), "general"),
    ],
)
def test_transposes_are_told_apart_by_what_moves(shape, perm, expected):
    one = kernel("Transpose", [shape], [tuple(shape[axis] for axis in perm)], perm=perm)
    assert path(one) == f"Transpose:float32:{expected}"


def test_families_stand_in_for_paths_without_data(make):
    assert family(make.qconv(24, 40, 10)) == family(make.qconv(24, 40, 10, kernel=3)) == "*product:uint8"
    assert family(make.qconv(24, 24, 10, kernel=3, groups=24)) == "*depthwise:uint8"
    assert family(make.gemm(30, 10)) == "*product:float32"
    assert family(make.add(8, 5)) == family(kernel("HardSwish", [(1, 3)], [(1, 3)])) == "*elementwise:float32"
    assert family(kernel("Transpose", [(1, 3)], [(3, 1)])) == "*move:float32"


def test_paths_tell_the_implementations_apart(make):
    assert path(make.qconv(24, 40, 10)) == "QLinearConv:uint8:pointwise"
    assert path(make.qconv(24, 40, 10, kernel=3)) == "QLinearConv:uint8:dense"
    assert path(make.qconv(3, 16, 32, kernel=3)) == "QLinearConv:uint8:first"
    assert path(make.qconv(24, 24, 10, kernel=3, groups=24)) == "QLinearConv:uint8:depthwise"
    assert path(make.qconv(24, 48, 10, kernel=3, groups=2)) == "QLinearConv:uint8:grouped"
    assert path(make.gemm(30, 10)) == "Gemm:float32:row"
    assert path(make.add(8, 5)) == "Add:float32"


def test_features_of_the_trees(make):
    found = dict(zip(FEATURES, tree_features(make.qconv(24, 40, 9, kernel=3, stride=2), 0.25), strict=True))
    expected = {
        "macs": np.log2(1 + 25 * 40 * 216),
        "m": np.log2(26),
        "n": np.log2(41),
        "k": np.log2(217),
        "channels_in": np.log2(25),
        "height_in": np.log2(10),
        "height_out": np.log2(6),
        "window": np.log2(10),
        "stride": np.log2(3),
        "groups": 1,
        "n_mod_8": 0,
        "n_mod_16": 8,
        "n_fill_16": 40 / 48,
        "k_mod_4": 0,
        "k_mod_8": 0,
        "m_mod_6": 1,
        "activation": 0,
        "inputs": 1,
        "broadcast": 1,
        "physics": -2,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)


def test_a_gate_is_told_from_a_sum(make):
    kernel = make.add(8, 5)
    gate = type(kernel)(
        "", "Mul", (), (kernel.inputs[0], type(kernel.inputs[0])((1, 8, 1, 1), "float32")), kernel.outputs, 14
    )
    broadcast = FEATURES.index("broadcast")
    assert tree_features(kernel, 1.0)[broadcast] == 1
    assert tree_features(gate, 1.0)[broadcast] == pytest.approx(1 / 25)


def test_xnnpack_computes_a_partial_vector_like_a_full_one():
    weights = TensorSpec((40, 1, 1, 24), "float32", constant=True)
    sources = (TensorSpec((1, 10, 10, 24), "float32"), weights)
    convolution = Kernel("tflite", "CONV_2D", (), sources, (TensorSpec((1, 10, 10, 40), "float32"),), 1)
    found = terms(convolution)
    assert found["macs"] == pytest.approx(100 * 40 * 24)
    assert found["padded_macs"] == pytest.approx(100 * 48 * 24)
    assert found["edge_rows"] == pytest.approx(10 * 40), "the height is the second dimension"
    assert not {"tail_macs", "one_block_macs"} & found.keys()
