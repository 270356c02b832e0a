import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from milliseek.errors import InvalidInput
from milliseek.nas.exports.deploy import network_parameters
from milliseek.nas.pictures.data import Pictures, Split, digits
from milliseek.nas.training.budget import Budget, Meter, cosine
from milliseek.nas.training.evaluation import calibration_batches, predictions, recalibrate, top1
from milliseek.nas.training.losses import adaptive_alpha_divergence
from milliseek.nas.training.recipe import Recipe
from milliseek.nas.training.supernet import Supernet, start_quantisation
from milliseek.nas.training.supernet_training import SupernetTraining
from milliseek.spaces.elastic import Numerics
from milliseek.spaces.layers import Layer, Network, quantised_points
from milliseek.spaces.parameters import NetworkParameters, Quantiser
from milliseek.spaces.space import Space, extreme_subnet, random_subnet

RECIPE = Recipe(Budget(steps=2), Budget(steps=2), weight_bits=7, batch=4)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    torch.set_num_threads(1)
    whole = digits()
    train, val, test = (Split(s.pixels[:64], s.labels[:64]) for s in (whole.train, whole.val, whole.test))
    return Pictures(train, val, test, whole.classes, whole.mean, whole.std, "small")


def finish(training: SupernetTraining) -> list[float]:
    losses = []
    while not training.finished:
        losses.append(training.step().loss)
    return losses


@pytest.mark.parametrize("steps_before", [1, 3])
def test_a_resumed_training_equals_an_uninterrupted_one(pictures: Pictures, steps_before: int) -> None:
    space = Space.decode("small32-0000-0000")
    whole = SupernetTraining(space, pictures, RECIPE)
    losses = finish(whole)
    first = SupernetTraining(space, pictures, RECIPE)
    begun = [first.step().loss for _ in range(steps_before)]
    resumed = SupernetTraining.from_state(first.state(), pictures)
    assert begun + finish(resumed) == losses
    assert resumed.progress == 1.0
    assert resumed.supernet.quantised
    for mine, other in zip(resumed.supernet.elastic.parameters(), whole.supernet.elastic.parameters(), strict=True):
        assert torch.equal(mine, other)
    for mine, other in zip(
        resumed.supernet.quantisation.parameters(), whole.supernet.quantisation.parameters(), strict=True
    ):
        assert torch.equal(mine, other)


def test_a_state_belongs_to_its_pictures_and_is_checked(pictures: Pictures) -> None:
    state = SupernetTraining(Space.decode("small32-0000-0000"), pictures, RECIPE).state()
    with pytest.raises(InvalidInput, match="other pictures"):
        SupernetTraining.from_state(state, digits())
    with pytest.raises(InvalidInput, match="not a supernet file"):
        Supernet.from_bytes(state[: len(state) // 2])
    with pytest.raises(InvalidInput, match="not a supernet file"):
        Supernet.from_bytes(b"")


def layer_output(
    network: Network, parameters: NetworkParameters, name: str, values: dict[str, torch.Tensor]
) -> torch.Tensor:
    """One layer of the quantised network in float64, from its parameters alone and given inputs."""

    def quantise(value: torch.Tensor, quantiser: Quantiser) -> torch.Tensor:
        codes = (value / quantiser.scale).round() + quantiser.zero_point
        return (codes.clamp(0, 255) - quantiser.zero_point) * quantiser.scale

    layer = next(layer for layer in network.layers if layer.name == name)
    inputs = [values[name].double() for name in layer.inputs]
    y = inputs[0]
    if layer.op in ("conv", "linear"):
        numbers = parameters.layers[layer.name]
        weight, bias = (torch.from_numpy(part).double() for part in (numbers.weight, numbers.bias))
        if layer.op == "linear":
            return y.flatten(1) @ weight.T + bias
        y = F.conv2d(y, weight, bias, layer.stride, layer.kernel // 2, groups=layer.groups)
    elif layer.op == "add":
        y = inputs[0] + inputs[1]
    elif layer.op == "scale":
        y = inputs[0] * inputs[1]
    else:
        y = y.mean((2, 3), keepdim=True)
    if layer.act in ("hswish", "swish", "hsigmoid"):
        y = quantise(y, parameters.quantisers[f"{layer.name}:pre"])
        gate = (torch.sigmoid(y) * 255).round() / 255 if layer.act == "swish" else (y + 3).clamp(0, 6) / 6
        y = gate if layer.act == "hsigmoid" else y * gate
    return quantise(y, parameters.quantisers[layer.name])


class Recorder(Numerics):
    """The supernet's numerics, keeping every layer's output."""

    def __init__(self, inner: Numerics) -> None:
        self.inner = inner
        self.values: dict[str, torch.Tensor] = {}

    def picture(self, x: torch.Tensor) -> torch.Tensor:
        self.values["input"] = self.inner.picture(x)
        return self.values["input"]

    def weight(self, layer: Layer, weight: torch.Tensor) -> torch.Tensor:
        return self.inner.weight(layer, weight)

    def activate(self, layer: Layer, y: torch.Tensor) -> torch.Tensor:
        self.values[layer.name] = self.inner.activate(layer, y)
        return self.values[layer.name]


def calibrated(space: Space, rng: np.random.Generator, pictures: Pictures) -> Supernet:
    """A supernet with quantisers started and gains of both signs, as training would leave it."""
    supernet = Supernet(space, 10, 7)
    with torch.no_grad():
        for name, parameter in supernet.elastic.named_parameters():
            if name.endswith("gain"):
                parameter.copy_(torch.from_numpy(rng.choice([-1.0, 1.0], parameter.shape)))
    start_quantisation(supernet, [random_subnet(space, rng) for _ in range(3)], calibration_batches(pictures, 3, 8))
    return supernet


@pytest.mark.parametrize("block", range(6))
def test_deployed_parameters_give_the_numbers_of_the_supernet(pictures: Pictures, block: int) -> None:
    space, rng = Space.decode(f"small32-{str(block) * 4}-0000"), np.random.default_rng(block)
    supernet = calibrated(space, rng, pictures)
    subnet = random_subnet(space, rng, resolution=32)
    statistics = recalibrate(supernet, subnet, calibration_batches(pictures, 1, 16))
    parameters = network_parameters(supernet, subnet, statistics)
    network = subnet.network(supernet.classes)
    recorder = Recorder(supernet.numerics)
    with torch.no_grad():
        logits = supernet.elastic(network, pictures.tensor(pictures.val.pixels[:16]), recorder, statistics)
    values = recorder.values
    for layer in network.layers:
        mine, again = values[layer.name].double(), layer_output(network, parameters, layer.name, values)
        if layer.op == "linear":
            assert torch.equal(values[layer.name], logits)
            assert float((mine - again).abs().max() / mine.abs().max()) < 1e-5
            continue
        # A value that falls on a rounding edge may move by one code, or by what one code before the activation does.
        code = sum(parameters.quantisers[point].scale for point in quantised_points(layer))
        assert float((mine - again).abs().max()) < 1.2 * code
        assert float(((mine - again).abs() > 1e-5).float().mean()) < 2e-3


def test_deployed_codes_are_exact_and_relus_are_droppable(pictures: Pictures) -> None:
    space, rng = Space.decode("small32-0123-0000"), np.random.default_rng(0)
    supernet = calibrated(space, rng, pictures)
    subnet = extreme_subnet(space, largest=False)
    statistics = recalibrate(supernet, subnet, calibration_batches(pictures, 1, 16))
    parameters = network_parameters(supernet, subnet, statistics)
    for layer in subnet.network(10).layers:
        if layer.act in ("relu", "relu6"):
            assert parameters.quantisers[layer.name].zero_point == 0
        if layer.act == "relu6":
            assert parameters.quantisers[layer.name].scale <= 6 / 255 + 1e-8
        if layer.op in ("conv", "linear"):
            numbers = parameters.layers[layer.name]
            assert numbers.weight_scale is not None
            assert (numbers.weight_scale > 0).all()
            scale = numbers.weight_scale.reshape(-1, *(1,) * (numbers.weight.ndim - 1))
            codes = np.round(numbers.weight / scale)
            assert np.abs(codes).max() <= 63
            assert np.array_equal((codes * scale).astype(np.float32), numbers.weight)


def test_a_vanishing_gain_still_gives_biases_that_fit_32_bits(pictures: Pictures) -> None:
    space, rng = Space.decode("small32-0000-0000"), np.random.default_rng(0)
    supernet = calibrated(space, rng, pictures)
    with torch.no_grad():
        supernet.elastic.part("stem").gain[0] = 0
        supernet.elastic.part("stem").bias[0] = 1
    subnet = extreme_subnet(space, largest=False)
    statistics = recalibrate(supernet, subnet, calibration_batches(pictures, 1, 16))
    parameters = network_parameters(supernet, subnet, statistics)
    stem = parameters.layers["stem"]
    assert stem.weight_scale is not None
    assert (np.abs(stem.bias / (stem.weight_scale * parameters.quantisers["input"].scale)) < 2**31).all()


def test_a_supernet_without_quantisers_deploys_in_floating_point(pictures: Pictures) -> None:
    supernet = Supernet(Space.decode("small32-0000-0000"), 10, 8)
    subnet = extreme_subnet(supernet.space, largest=False)
    statistics = recalibrate(supernet, subnet, calibration_batches(pictures, 1, 16))
    parameters = network_parameters(supernet, subnet, statistics)
    assert parameters.quantisers == {}
    assert all(each.weight_scale is None for each in parameters.layers.values())
    logits = predictions(supernet, subnet, statistics, pictures, "val")
    right = float((logits.argmax(1).numpy() == pictures.val.labels).mean())
    assert top1(supernet, subnet, statistics, pictures, "val") == pytest.approx(right)


def test_recalibration_leaves_the_supernet_as_it_is(pictures: Pictures) -> None:
    supernet = Supernet(Space.decode("small32-0000-0000"), 10, 8)
    before = supernet.to_bytes()
    recalibrate(supernet, extreme_subnet(supernet.space, largest=False), calibration_batches(pictures, 2, 16))
    assert supernet.to_bytes() == before
    assert Supernet.from_bytes(before).to_bytes() == before


def test_the_adaptive_divergence_pulls_the_student_to_the_teacher() -> None:
    teacher = torch.randn(16, 10) * 3
    student = torch.zeros(16, 10, requires_grad=True)
    for _ in range(300):
        (gradient,) = torch.autograd.grad(adaptive_alpha_divergence(student, teacher), student)
        assert torch.isfinite(gradient).all()
        student = (student - 10 * gradient).detach().requires_grad_()
    assert float(F.kl_div(student.detach().log_softmax(1), teacher.softmax(1), reduction="batchmean")) < 0.02


def test_the_kullback_leibler_side_has_the_gradient_of_cross_entropy() -> None:
    teacher, student = torch.randn(4, 5), torch.randn(4, 5, requires_grad=True)
    (mine,) = torch.autograd.grad(adaptive_alpha_divergence(student, teacher, (1.0, 1.0)), student)
    cross_entropy = -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()
    (expected,) = torch.autograd.grad(cross_entropy, student)
    assert torch.allclose(mine, expected, atol=1e-6)


def test_budgets_count_steps_and_seconds() -> None:
    meter = Meter(Budget(steps=4))
    assert list(meter.run()) == [0, 1, 2, 3]
    assert meter.spent
    timed = Meter(Budget(seconds=10.0), steps=3, seconds=5.0)
    assert timed.fraction == 0.5
    assert cosine(1.0) == pytest.approx(0.0)
    assert max(cosine(i / 100) for i in range(101)) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="steps or seconds"):
        Budget()
    assert math.isclose(Meter(Budget(steps=4, seconds=10.0), steps=1, seconds=5.0).fraction, 0.5)
