"""Training-free proxies: what they compute, and when they are to be trusted."""

import json
import math

import numpy as np
import optuna
import pytest
import torch

from milliseek.db import studies as queries
from milliseek.db.engine import Database
from milliseek.errors import InvalidInput
from milliseek.nas.pictures.data import digits
from milliseek.nas.quality.proxies import PROXIES, ProxyTask, proxies_named
from milliseek.nas.search.proxy_search import search_by_proxy
from milliseek.nas.search.proxy_trust import check_proven, known_trust, measured_networks, prove, read_networks, trust
from milliseek.nas.studies import open_study
from milliseek.predictors.lookups.lookup import LatencyLookup
from milliseek.results import LatencyTable
from milliseek.spaces.blocks import BlockChoice
from milliseek.spaces.codes import block_keys
from milliseek.spaces.counting import count
from milliseek.spaces.hyperspace import SMALL32, TINY32
from milliseek.spaces.space import Space, Subnet, extreme_subnet, random_subnet

SPACE = Space.decode("tiny32-1253-0000")
SMALLEST, LARGEST = (extreme_subnet(SPACE, largest=largest) for largest in (False, True))


@pytest.fixture(scope="module")
def task():
    torch.set_num_threads(1)
    return ProxyTask.of(digits(), batch=6)


def shown(task, *, pictures):
    """The task with these pictures in both batches."""
    return ProxyTask(((pictures, task.batches[0][1]),) * 2, task.classes)


@pytest.fixture
def database(tmp_path):
    opened = Database.open(f"sqlite:///{tmp_path / 'milliseek.db'}")
    yield opened
    opened.close()


def test_sizes_are_those_that_are_counted(task):
    assert PROXIES["params"](LARGEST, task) == count(LARGEST).params
    assert PROXIES["macs"](LARGEST, task) == count(LARGEST).macs


@pytest.mark.parametrize("name", ["zico", "naswot", "synflow"])
def test_the_same_weights_give_the_same_number_and_others_another_one(name, task):
    proxy = PROXIES[name]
    first = proxy(SMALLEST, task)
    assert math.isfinite(first)
    assert proxy(SMALLEST, task) == first
    assert proxy(SMALLEST, ProxyTask(task.batches, task.classes, seed=1)) != first


def test_deepmad_of_a_network_by_hand(task):
    """One MobileNetV2 block of 3 x 3 in each stage, on 32 pixels: 16 in the stem, strides 2, 1, 1, 2, 2, 1."""
    space = Space.decode("tiny32-1111-0000")
    widths = (16, 16, 24, 48, 96)
    subnet = Subnet(space, 32, 16, tuple((BlockChoice(w, 3, 4.0 if i else 1.0),) for i, w in enumerate(widths)))
    entropy = [math.log(9 * 16 * 9 * 16) / 2]  # stage 0: two depthwise 3 x 3, each before a pointwise
    for cin in (16, 16, 24, 48):
        entropy.append(entropy[-1] + math.log(cin * 9 * 4 * cin) / 2)  # expand, depthwise, project
    sizes = (16, 16, 8, 4, 4)
    expected = sum(
        weight * math.log(width * size**2) * h
        for weight, width, size, h in zip((1, 1, 1, 1, 8), widths, sizes, entropy, strict=True)
    )
    assert PROXIES["deepmad"](subnet, task) == pytest.approx(expected - 10)


def test_deepmad_refuses_what_is_too_deep_for_its_width(task):
    deep = extreme_subnet(Space.decode("small32-3333-0000"), largest=True)
    narrow = tuple(tuple(block._replace(width=16) for block in blocks) for blocks in deep.stages)
    assert math.isfinite(PROXIES["deepmad"](deep, task))
    assert PROXIES["deepmad"](Subnet(deep.space, 32, 16, narrow), task) == -math.inf


def test_pictures_that_look_alike_have_no_rank_for_naswot(task):
    pictures = task.batches[0][0]
    same = pictures[:1].expand_as(pictures).contiguous()
    assert PROXIES["naswot"](SMALLEST, shown(task, pictures=same)) < PROXIES["naswot"](SMALLEST, task) - 10


def test_gradients_that_never_change_say_nothing_to_zico(task):
    assert PROXIES["zico"](SMALLEST, shown(task, pictures=task.batches[0][0])) == 0.0


def test_more_paths_are_more_flow(task):
    flow = PROXIES["synflow"]
    assert flow(LARGEST, task) > flow(SMALLEST, task)
    saturated = shown(task, pictures=torch.zeros(1, 3, 32, 32))
    assert flow(LARGEST, saturated) == flow(LARGEST, task), "it looks at no picture"


def test_an_unknown_proxy():
    with pytest.raises(InvalidInput, match="no proxy 'magic'"):
        proxies_named(["magic"])
    assert list(proxies_named(["zico"])) == ["zico", "params", "macs"]


def test_trust_is_tau_with_its_interval():
    top1 = np.linspace(0.1, 0.9, 40)
    noise = np.random.default_rng(0).normal(0, 1, 40)
    perfect, noisy, useless = (trust(list(s), list(top1)) for s in (np.exp(top1), top1 + 0.15 * noise, noise))
    assert (perfect.tau, perfect.low, perfect.high) == pytest.approx((1, 1, 1))
    assert perfect.proven
    assert 0.3 < noisy.low < noisy.tau < noisy.high < 1
    assert useless.low < 0.3
    assert not useless.proven
    assert trust([1.0] * 40, list(top1)).tau == 0.0
    refused = trust([-math.inf, *top1[1:]], list(top1))
    assert refused.tau == 1.0
    assert not trust(list(top1[:19]), list(top1[:19])).proven, "too few networks"


def some_networks(count_=24):
    """Networks whose accuracy is a matter of their size."""
    rng = np.random.default_rng(0)
    subnets = {subnet.encoding: subnet for subnet in (random_subnet(SPACE, rng) for _ in range(count_))}
    return {encoding: 0.5 + count(subnet).params / 1e7 for encoding, subnet in subnets.items()}


def test_only_a_proven_proxy_is_an_objective(database, task):
    proxies = {name: PROXIES[name] for name in ("params", "deepmad")}
    with pytest.raises(InvalidInput, match="its tau is not known"):
        check_proven(database, TINY32, "pictures", "params")
    networks = some_networks()
    told = []
    found = prove(database, TINY32, "pictures", proxies, task, networks, on_network=lambda *p: told.append(p))
    assert told[-1] == (24, 24)
    assert known_trust(database, TINY32, "pictures") == found
    assert check_proven(database, TINY32, "pictures", "params") == found["params"]
    with pytest.raises(InvalidInput, match="'params' is not proven on 'tiny32' and these pictures"):
        check_proven(database, TINY32, "others", "params")
    with pytest.raises(InvalidInput, match="'params' is not proven on 'small32'"):
        check_proven(database, SMALL32, "pictures", "params")

    backwards = {encoding: -top1 for encoding, top1 in networks.items()}
    prove(database, TINY32, "pictures", proxies, task, backwards)
    with pytest.raises(InvalidInput, match=r"its tau is -1\.00"):
        check_proven(database, TINY32, "pictures", "params")
    assert check_proven(database, TINY32, "pictures", "params", force=True).tau == -1
    with pytest.raises(InvalidInput, match="3 measured networks of 'tiny32' on these pictures are too few"):
        prove(database, TINY32, "pictures", proxies, task, dict(list(networks.items())[:3]))


def test_networks_come_from_the_studies_of_these_pictures(database):
    networks = some_networks(4)
    for data, name in (("pictures", "mine"), ("others", "theirs")):
        config = {
            "objectives": ["top1"],
            "constraints": [],
            "target": "local/onnxruntime/int8",
            "budgets_ms": [],
            "algorithm": "random",
            "data": data,
        }
        with database.session() as session:
            queries.get_or_create_study(session, name, kind="subnet", config=config, predictors=[])
        study = open_study(database.url, name, ["maximize"], optuna.samplers.RandomSampler())
        for encoding, top1 in networks.items():
            attributes = {"subnet": encoding, "metrics": {"top1": top1}}
            study.add_trial(optuna.trial.create_trial(value=top1, user_attrs=attributes))
    assert measured_networks(database, TINY32, "pictures") == networks
    assert measured_networks(database, SMALL32, "pictures") == {}
    assert measured_networks(database, TINY32, "pictures", ["mine"]) == networks
    with pytest.raises(InvalidInput, match="'theirs' is of other pictures"):
        measured_networks(database, TINY32, "pictures", ["theirs"])


def test_networks_come_from_a_file(tmp_path):
    file, networks = tmp_path / "networks.json", some_networks(3)
    rows = [{"subnet": encoding, "top1": top1, "seed": 0} for encoding, top1 in networks.items()]
    file.write_text(json.dumps({"networks": rows}))
    assert read_networks(file, TINY32) == networks
    with pytest.raises(InvalidInput, match="other hyperspaces than 'small32'"):
        read_networks(file, SMALL32)
    for content in ("", "{}", '{"networks": [{"subnet": "tiny32", "top1": 1}]}'):
        file.write_text(content)
        with pytest.raises(InvalidInput, match="holds no measured networks"):
            read_networks(file, TINY32)


def test_a_search_by_proxy_takes_the_best_that_is_fast_enough(task):
    keys = np.array(block_keys(TINY32, SPACE), np.int32)
    table = LatencyTable(SPACE.encoding, "t", "p", keys, np.full(len(keys), 0.01), 0.0, (0.1, 0.1))
    lookup = LatencyLookup(table)  # a block is a hundredth of a millisecond: 7 to 12 of them with stem and head
    found = search_by_proxy(SPACE, lookup, PROXIES["params"], task, [0.12, 0.09], samples=40)
    assert [choice.budget_ms for choice in found] == [0.09, 0.12]
    assert all(choice.latency_ms <= choice.budget_ms + 1e-9 for choice in found)
    assert all(choice.score == count(choice.subnet).params for choice in found)
    assert found[0].score < found[1].score
    with pytest.raises(InvalidInput, match=r"takes 0\.01 ms or less"):
        search_by_proxy(SPACE, lookup, PROXIES["params"], task, [0.01], samples=4)
