"""A subnet's latency from the compiled space is what its file would be predicted at."""

from dataclasses import replace

import numpy as np
import pytest

from milliseek.db.engine import Database
from milliseek.devices.facts import local_facts, weight_bits
from milliseek.predictors.service import LatencyService
from milliseek.spaces import hyperspace as hyperspaces
from milliseek.spaces.blocks import ONNXW_BLOCKS
from milliseek.spaces.codes import encode_genes
from milliseek.spaces.hyperspace import Hyperspace, Stage
from milliseek.spaces.onnx_network import network_model, random_parameters
from milliseek.spaces.space import Space, random_subnet

HYPERSPACE = Hyperspace(
    name="few24",
    resolutions=(24,),
    blocks=ONNXW_BLOCKS,
    stem_widths=(16,),
    stem_stride=2,
    stages=(Stage((16,), (1,), 1), Stage((16, 24), (1, 2), 1, window=2), Stage((16, 24), (1, 2), 1, window=2)),
    head_width=32,
    mix_width=48,
    act="hswish",
)


@pytest.fixture(params=["fp32", "int8"])
def precision(request):
    return request.param


@pytest.fixture
def service(tmp_path, made_up, keep, precision, monkeypatch):
    monkeypatch.setitem(hyperspaces.HYPERSPACES, HYPERSPACE.name, HYPERSPACE)
    database = Database.open(f"sqlite:///{tmp_path / 'milliseek.db'}")
    keep(database, replace(made_up, target=f"{local_facts().id}/onnxruntime/{precision}"))
    with LatencyService(database) as running:
        yield running
    database.close()


@pytest.mark.parametrize("space", ["few24-01-00", "few24-42-00", "few24-44-00", "few24-35-00"])
def test_the_table_adds_up_to_what_kernels_predict(service, precision, space):
    target, chosen = f"local/onnxruntime/{precision}", Space.decode(space)
    rng = np.random.default_rng(0)
    subnets = [random_subnet(chosen, rng) for _ in range(4)]
    by_table = service.predict_subnets(space, target, encode_genes(subnets))
    for subnet, latency_ms in zip(subnets, by_table.latency_ms, strict=True):
        network = subnet.network(HYPERSPACE.nominal_classes)
        parameters = random_parameters(network.layers, weight_bits(local_facts()))
        file = network_model(network, parameters, precision)
        whole = service.predict_model(service.store_model(file, "subnet.onnx"), target)
        assert latency_ms == pytest.approx(whole.latency_ms, rel=1e-3)
        assert by_table.predictor == whole.predictor
