import numpy as np
import pytest
import torch

from milliseek.nas.training.fake_quant import RELU6_SCALE, ActivationSampler, FakeQuantisation
from milliseek.spaces.elastic import ElasticNetwork
from milliseek.spaces.layers import Layer, quantised_points
from milliseek.spaces.space import Space, extreme_subnet


def conv(act: str = "none", cout: int = 4) -> Layer:
    return Layer("c", "conv", ("input",), 3, cout, 8, 8, act=act)  # type: ignore[arg-type]


def quantisation(act: str, scale: float, offset: float = 0.0) -> FakeQuantisation:
    made = FakeQuantisation({"c": conv(act)}, 8)
    with torch.no_grad():
        for point in quantised_points(conv(act)):
            made.scales[point].fill_(scale)
            made.offsets[point].fill_(offset)
    return made


def test_values_and_gradients_follow_the_formula() -> None:
    made = quantisation("none", 0.1, -1.0)
    x = torch.randn(2, 4, 8, 8).mul(10).requires_grad_()
    g = torch.randn_like(x)
    out = made.activate(conv(), x)
    out.backward(g)
    codes = (x.detach() / 0.1).round() + 10
    inside = (codes >= 0) & (codes <= 255)
    expected = 0.1 * (codes.clamp(0, 255) - 10)
    assert torch.allclose(out, expected, atol=1e-5)
    assert torch.equal(x.grad, g * inside)
    factor = 1 / np.sqrt(x.numel() / 2 * 255)
    by_scale = torch.where(inside, (expected - x.detach()) / 0.1, (expected + 1.0) / 0.1)
    assert float(made.scales["c"].grad) == pytest.approx(
        float((g * by_scale).detach().sum()) * factor, rel=1e-3, abs=1e-4
    )
    assert float(made.offsets["c"].grad) == pytest.approx(float((g * ~inside).sum()) * factor, rel=1e-3, abs=1e-4)


def test_without_gradients_the_same_values_come_out() -> None:
    made = quantisation("hswish", 0.05, -3.0)
    x = torch.randn(2, 4, 8, 8)
    with_gradients = made.activate(conv("hswish"), x.clone())
    with torch.no_grad():
        assert torch.equal(made.activate(conv("hswish"), x.clone()), with_gradients)


@pytest.mark.parametrize(("act", "function"), [("relu", torch.relu), ("relu6", torch.nn.functional.relu6)])
def test_the_quantiser_does_the_clamping_of_relu_and_relu6(act: str, function) -> None:
    made = quantisation(act, 1.0)
    made.constrain()
    quantiser = made.quantiser("c")
    assert quantiser.zero_point == 0
    if act == "relu6":
        assert quantiser.scale <= RELU6_SCALE * (1 + 1e-6)
    x = torch.randn(2, 4, 8, 8) * 5
    codes = (function(x) / quantiser.scale).round().clamp(0, 255)
    assert torch.allclose(made.activate(conv(act), x).detach(), codes * quantiser.scale, atol=1e-5)


@pytest.mark.parametrize(("bits", "limit"), [(7, 63), (8, 127)])
def test_weight_codes_are_sign_symmetric_and_use_the_bits(bits: int, limit: int) -> None:
    space = Space.decode("small32-1111-0000")
    model = ElasticNetwork(space, 10)
    made = FakeQuantisation(model.layers, bits)
    made.start(model, {})
    layer = model.layers["s1.0.expand"]
    codes, scale = made.weight_codes(layer, model.part(layer.name).weight)
    mirrored, _ = made.weight_codes(layer, -model.part(layer.name).weight)
    assert codes.abs().max() == limit
    assert torch.equal(codes, -mirrored)
    assert torch.equal(made.weight(layer, model.part(layer.name).weight), codes * scale.view(-1, 1, 1, 1))


def test_weight_scales_learn() -> None:
    made = FakeQuantisation({"c": conv()}, 8)
    weight = torch.randn(4, 3, 1, 1).mul(100).requires_grad_()
    made.weight(conv(), weight).sum().backward()
    gradient = made.weight_scales["c"].grad
    codes = weight.detach().round().clamp(-127, 127)
    inside = weight.detach().abs() <= 127
    expected = torch.where(inside, codes - weight.detach(), codes).flatten(1).sum(1) / np.sqrt(3 * 127)
    assert torch.allclose(gradient, expected, atol=1e-3)


@pytest.mark.parametrize("block", range(6))
def test_quantisers_start_close_to_floating_point(block: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    space = Space.decode(f"small32-{str(block) * 4}-0000")
    model = ElasticNetwork(space, 10)
    network = extreme_subnet(space, largest=False).network(10)
    x = torch.randn(16, 3, 24, 24)
    sampler = ActivationSampler()
    with torch.no_grad():
        floating = model(network, x, sampler)
        made = FakeQuantisation(model.layers, 8)
        made.start(model, sampler.samples())
        quantised = model(network, x, made)
    assert float((floating - quantised).norm() / floating.norm()) < 0.2
    for layer in network.layers:
        for point in quantised_points(layer):
            quantiser = made.quantiser(point)
            assert 0 <= quantiser.zero_point <= 255
            assert quantiser.scale > 0
