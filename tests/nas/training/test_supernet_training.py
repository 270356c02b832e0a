from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from milliseek.errors import InvalidInput
from milliseek.nas.pictures.data import Pictures, Split
from milliseek.nas.training import level_tables
from milliseek.nas.training.budget import Budget
from milliseek.nas.training.processes import Processes, choose_device, joined, preferred_precision
from milliseek.nas.training.recipe import Recipe
from milliseek.nas.training.supernet import Supernet
from milliseek.nas.training.supernet_training import SupernetTraining, trained_supernet
from milliseek.spaces.space import extreme_subnet

from ..small_training import RECIPE, SPACE, small_pictures

SHORT = replace(RECIPE, float_budget=Budget(steps=2), quantised_budget=Budget(steps=1))
"""An epoch is two steps."""


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    torch.set_num_threads(1)
    whole = small_pictures()
    return replace(whole, train=Split(whole.train.pixels[:32], whole.train.labels[:32]))


@pytest.fixture(autouse=True)
def _small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(level_tables, "POOL", 100)
    monkeypatch.setattr(level_tables, "PER_LEVEL", 10)


def finished(training: SupernetTraining) -> SupernetTraining:
    while not training.finished:
        training.step()
    return training


def same(a: Supernet, b: Supernet) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


RECIPES = {
    "uniform": replace(SHORT, augmentation="randaugment"),
    "performance-aware": replace(SHORT, sampler="performance-aware"),
    "shards": replace(SHORT, shards=2),
    "unaveraged": replace(SHORT, ema=0.0, label_share=0.0),
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_resumes_exactly(pictures: Pictures, name: str) -> None:
    whole = finished(SupernetTraining(SPACE, pictures, RECIPES[name]))
    resumed = SupernetTraining(SPACE, pictures, RECIPES[name])
    while not resumed.finished:
        resumed.step()
        resumed = SupernetTraining.from_state(resumed.state(), pictures)
    assert same(resumed.supernet, whole.supernet)
    assert same(resumed.averaged, whole.averaged)
    assert all(torch.isfinite(p).all() for p in whole.averaged.parameters())


def test_a_training_that_diverges_says_so_before_it_spoils_its_weights(pictures: Pictures) -> None:
    training = SupernetTraining(SPACE, pictures, replace(SHORT, learning_rate=1e38, float_budget=Budget(steps=9)))
    with pytest.raises(InvalidInput, match=r"diverged: after [1-8] steps"):
        finished(training)


def test_sixteen_bits_take_about_the_same_step(pictures: Pictures) -> None:
    updates, losses = [], []
    for precision in ("fp32", "bf16"):
        training = SupernetTraining(SPACE, pictures, replace(SHORT, precision=precision))
        before = [p.detach().clone() for p in training.supernet.parameters()]
        losses.append(training.step().loss)
        changes = zip(training.supernet.parameters(), before, strict=True)
        updates.append(torch.cat([(after.detach() - earlier).flatten() for after, earlier in changes]))
    full, half = updates
    assert not torch.equal(full, half)
    assert float(torch.cosine_similarity(full, half, dim=0)) > 0.5
    assert losses[1] == pytest.approx(losses[0], rel=0.03)


def test_gradient_scaling_backs_off_and_is_resumed(pictures: Pictures) -> None:
    training = SupernetTraining(SPACE, pictures, replace(SHORT, precision="fp16"))
    training.step()
    before = [p.clone() for p in training.supernet.parameters()]
    training._scaler.update(1e38)  # so large that the gradients of the next step overflow
    training.step()
    assert all(torch.equal(a, b) for a, b in zip(before, training.supernet.parameters(), strict=True))
    scale = training._scaler.get_scale()
    assert scale < 1e38
    resumed = SupernetTraining.from_state(training.state(), pictures)
    assert resumed._scaler.get_scale() == scale
    resumed.step()
    training.step()
    assert same(resumed.supernet, training.supernet)


def test_averaged_weights_follow_the_trained_ones(pictures: Pictures) -> None:
    training = SupernetTraining(SPACE, pictures, SHORT)
    start = [p.clone() for p in training.supernet.parameters()]
    training.step()
    for first, trained, averaged in zip(
        start, training.supernet.parameters(), training.averaged.parameters(), strict=True
    ):
        assert torch.allclose(averaged, first + (trained - first) * (1 - 2 / 11), atol=1e-6)
    finished(training)
    assert training.averaged.quantised
    assert same(trained_supernet(training.state(), pictures), training.averaged)
    plain = finished(SupernetTraining(SPACE, pictures, replace(SHORT, ema=0.0)))
    assert plain.averaged is plain.supernet


def test_a_subnet_is_trained_alone_in_its_own_shapes(pictures: Pictures) -> None:
    subnet = extreme_subnet(SPACE, largest=False)
    training = finished(SupernetTraining(SPACE, pictures, SHORT, only=subnet))
    network = subnet.network(10)
    assert sum(p.numel() for p in training.supernet.elastic.parameters()) == network.params
    resumed = SupernetTraining.from_state(training.state(), pictures)
    assert resumed.supernet.only == subnet
    assert same(resumed.averaged, training.averaged)


def test_shards_need_a_fitting_number_of_processes_and_pictures(pictures: Pictures) -> None:
    three = Processes(torch.device("cpu"), rank=0, count=3)
    with pytest.raises(InvalidInput, match="3 processes cannot share the 2 part"):
        SupernetTraining(SPACE, pictures, replace(SHORT, shards=2), three)
    with pytest.raises(InvalidInput, match="batch of 4 cannot be cut into 4 parts"):
        replace(SHORT, batch=4, shards=4)


def test_options_are_checked_by_name() -> None:
    for name in ("sampler", "augmentation", "precision"):
        with pytest.raises(InvalidInput, match=f"'best' is no {name}"):
            replace(SHORT, **{name: "best"})
    with pytest.raises(InvalidInput, match="'tpu' is no device"):
        choose_device("tpu")
    assert Recipe.from_values(SHORT.values()) == SHORT


def test_without_torchrun_there_is_one_process() -> None:
    with joined("cpu") as processes:
        assert (processes.rank, processes.count, processes.leads) == (0, 1, True)
        assert processes.agreed([0.5]) == [0.5]
        assert processes.shared(b"x") == b"x"
        assert preferred_precision(processes.device) == "fp32"


def test_every_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert choose_device("auto", 1) == torch.device("cuda", 1)
    assert not torch.backends.cudnn.allow_tf32
    with pytest.raises(InvalidInput, match="Process 3 has no GPU of its own: there are 2"):
        choose_device("cuda", 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_named() -> None:
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(InvalidInput, match="no GPU"):
        choose_device("cuda")
