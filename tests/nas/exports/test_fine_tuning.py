"""Fine-tuning: one subnet alone, on a copy of the supernet."""

import numpy as np
import torch

from milliseek.nas.exports.fine_tuning import fine_tune, with_weight_bits
from milliseek.nas.training.budget import Budget


def tune(trained, weight_bits, steps=6):
    return fine_tune(
        trained.supernet,
        trained.subnet,
        trained.pictures,
        Budget(steps=steps),
        trained.calibration,
        weight_bits=weight_bits,
    )


def test_fine_tuning_helps_or_changes_nothing_and_leaves_the_supernet_alone(trained):
    before = trained.supernet.to_bytes()
    tuned, tuning = tune(trained, 7)
    again, same = tune(trained, 7)
    assert trained.supernet.to_bytes() == before
    assert tuning == same
    assert tuned.to_bytes() == again.to_bytes()
    assert tuning.steps == 6
    assert tuning.top1_after >= tuning.top1_before
    assert (tuned.to_bytes() == before) == (tuning.top1_after == tuning.top1_before)


def test_fine_tuning_trains_for_other_weights(trained):
    tuned, _ = tune(trained, 8, steps=2)
    assert tuned.quantisation.weight_bits == 8
    network = trained.network("int8", tuned)
    codes = [
        p.weight / p.weight_scale.reshape(-1, *(1,) * (p.weight.ndim - 1)) for p in network.parameters.layers.values()
    ]
    assert 63.5 < max(np.abs(code).max() for code in codes) < 127.5


def test_wider_weights_have_the_same_ranges(trained):
    wide = with_weight_bits(trained.supernet, 8)
    for key, scale in trained.supernet.quantisation.weight_scales.items():
        assert torch.allclose(wide.quantisation.weight_scales[key] * 127, scale * 63)
    assert with_weight_bits(trained.supernet, 7).to_bytes() == trained.supernet.to_bytes()
