import numpy as np
import pytest
import torch

from milliseek.spaces.blocks import ONNXW_BLOCKS
from milliseek.spaces.elastic import (
    ElasticNetwork,
    StageFragment,
    Statistics,
    extract,
    space_layers,
)
from milliseek.spaces.hyperspace import SMALL32
from milliseek.spaces.layers import Layer
from milliseek.spaces.space import Space, extreme_subnet, random_subnet

SPACES = [f"small32-{block * 4}-0213" for block in "012345"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def measured(model: ElasticNetwork, network, x: torch.Tensor) -> Statistics:
    statistics = Statistics(momentum=1.0)
    with torch.no_grad():
        model(network, x, statistics=statistics)
    statistics.momentum = None
    return statistics


def fits(layer: Layer, largest: Layer) -> bool:
    depthwise = layer.groups > 1
    return (
        layer.cin <= largest.cin
        and layer.cout <= largest.cout
        and layer.kernel <= largest.kernel
        and depthwise == (largest.groups > 1)
    )


@pytest.mark.parametrize("encoding", SPACES)
def test_every_subnet_fits_the_largest_shapes(encoding: str) -> None:
    space, rng = Space.decode(encoding), np.random.default_rng(0)
    largest = space_layers(space, 10)
    seen: set[str] = set()
    for _ in range(150):
        for layer in random_subnet(space, rng).network(10).layers:
            assert fits(layer, largest[layer.name])
            seen.add(layer.name)
    assert seen == set(largest)  # and nothing is held that no subnet uses


@pytest.mark.parametrize("encoding", SPACES)
def test_an_extracted_network_equals_its_slice_bit_for_bit(encoding: str) -> None:
    torch.manual_seed(0)
    space, rng = Space.decode(encoding), np.random.default_rng(1)
    model = ElasticNetwork(space, 10)
    for subnet in (extreme_subnet(space, largest=False), random_subnet(space, rng)):
        network = subnet.network(10)
        x = torch.randn(4, 3, subnet.resolution, subnet.resolution)
        statistics = measured(model, network, x)
        with torch.no_grad():
            shared = model(network, x, statistics=statistics)
            alone = extract(model, network, statistics)(x)
        assert shared.shape == (4, 10)
        assert float((shared - alone).abs().max()) == 0
        own = extract(model, network, statistics)
        assert sum(p.numel() for p in own.parameters()) == network.params


def test_a_smaller_kernel_is_the_centre_of_the_larger_one() -> None:
    space = Space.decode("small32-1111-0000")
    part = ElasticNetwork(space, 10).part("s1.0.dw")
    small = extreme_subnet(space, largest=False).network(10)
    layer = next(layer for layer in small.layers if layer.name == "s1.0.dw")
    assert torch.equal(part.slice(layer), part.weight[: layer.cout, :, 1:4, 1:4])


def test_batch_statistics_are_averaged_over_batches() -> None:
    space = Space.decode("small32-0000-0000")
    model, network = ElasticNetwork(space, 10), extreme_subnet(space, largest=False).network(10)
    batches = [torch.randn(8, 3, 24, 24) for _ in range(2)]
    single = [measured(model, network, x).values["stem"] for x in batches]
    both = Statistics()
    with torch.no_grad():
        for i, x in enumerate(batches, 1):
            both.momentum = 1 / i
            model(network, x, statistics=both)
    for part in range(2):
        average = (single[0][part] + single[1][part]) / 2
        assert torch.allclose(both.values["stem"][part], average, atol=1e-6)


@pytest.mark.parametrize("block", range(6))
def test_a_stage_can_be_trained_on_its_own(block: int) -> None:
    from milliseek.spaces.elastic import ElasticLayers

    stage = SMALL32.searched[1]
    fragment = StageFragment(ONNXW_BLOCKS[block], stage.widths, stage.depths, stage.stride, 32, 24, 64)
    layers = ElasticLayers(fragment.layers())
    for largest in (True, False):
        network = fragment.network(fragment.extreme(largest=largest), 16)
        output = layers(network, torch.randn(2, 32, 16, 16))
        assert output.shape == (2, 64, 8, 8)
        output.square().mean().backward()
    assert all(p.grad is not None for p in layers.parts["in"].parameters())
