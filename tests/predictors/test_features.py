"""The terms of the physics fit, by hand: each quantity of each kind of kernel."""

import numpy as np
import pytest

from milliseek.predictors.features import FEATURES, TERMS, path, physics_terms, tree_features


def terms(kernel):
    return dict(zip(TERMS, physics_terms(kernel) * [1, *[1000] * (len(TERMS) - 1)], strict=True))


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
            "column_bytes": 0,  # nothing to gather
            "input_bytes": 100 * 24,
            "output_bytes": 100 * 40,
            "weight_bytes": constants(40, 40 * 24),
            "edge_rows": 10 * 40,
            "tail_macs": 100 * 24 * 8,  # 40 outputs are two vectors and 8
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
            "tail_macs": 0,
        }
    )


def test_a_depthwise_convolution(make):
    found = terms(make.qconv(20, 20, 8, kernel=5, groups=20))
    assert found == pytest.approx(
        {
            "constant": 1,
            "macs": 64 * 20 * 25,
            "padded_macs": 0,  # no matrix product behind it
            "rows": 64 * 20,
            "column_bytes": 0,
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
            "column_bytes": 0,
            "input_bytes": 120,
            "output_bytes": 40,
            "weight_bytes": 1200 + 40,
            "edge_rows": 10,
            "tail_macs": 30 * 10,
        }
    )


def test_a_sum_moves_bytes_and_multiplies_nothing(make):
    found = terms(make.add(8, 5))
    assert found == pytest.approx(
        {
            "constant": 1,
            "macs": 0,
            "padded_macs": 0,
            "rows": 200,  # elements
            "column_bytes": 0,
            "input_bytes": 2 * 800,
            "output_bytes": 800,
            "weight_bytes": 0,
            "edge_rows": 5,
            "tail_macs": 0,
        }
    )


def test_paths_tell_the_implementations_apart(make):
    assert path(make.qconv(24, 40, 10)) == "QLinearConv:uint8:pointwise"
    assert path(make.qconv(24, 40, 10, kernel=3)) == "QLinearConv:uint8:dense"
    assert path(make.qconv(3, 16, 32, kernel=3)) == "QLinearConv:uint8:first"
    assert path(make.qconv(24, 24, 10, kernel=3, groups=24)) == "QLinearConv:uint8:depthwise"
    assert path(make.qconv(24, 48, 10, kernel=3, groups=2)) == "QLinearConv:uint8:grouped"
    assert path(make.gemm(30, 10)) == "Gemm:float32"
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
