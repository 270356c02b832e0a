"""`milliseek proxies`: a proxy becomes an objective when networks have proven it."""

import json

import numpy as np
import pytest

from milliseek.spaces.counting import count
from milliseek.spaces.space import Space, random_subnet

from .conftest import answer

SPACE = "tiny32-1253-0000"


@pytest.fixture
def networks(tmp_path):
    """A file of networks whose accuracy is a matter of their size."""
    rng = np.random.default_rng(0)
    subnets = [random_subnet(Space.decode(SPACE), rng) for _ in range(22)]
    rows = [{"subnet": subnet.encoding, "top1": 0.5 + count(subnet).params / 1e7} for subnet in subnets]
    (tmp_path / "networks.json").write_text(json.dumps({"networks": rows}))
    return subnets


def test_a_proxy_is_proven_before_it_is_used(milliseek, networks):
    search = ("proxies", "search", SPACE, "--proxy", "params", "--budgets", "0.5", "--json")
    refused = milliseek(*search)
    assert refused.returncode == 1
    assert "'params' is not proven on 'tiny32'" in answer(refused)["error"]["message"]

    of_file = ("--hyperspace", "tiny32", "--file", "networks.json", "--json")
    proven = answer(milliseek("proxies", "check", "--proxy", "deepmad", *of_file))
    assert (proven["hyperspace"], proven["networks"]) == ("tiny32", 22)
    by_name = {each["name"]: each for each in proven["proxies"]}
    assert set(by_name) == {"deepmad", "params", "macs"}, "the sizes are always shown"
    assert by_name["params"]["tau"] == pytest.approx(1)
    assert by_name["params"]["proven"]
    assert by_name["deepmad"]["low"] <= by_name["deepmad"]["tau"] <= by_name["deepmad"]["high"]

    accepted = answer(milliseek(*search))["error"]["message"]
    assert "not proven" not in accepted
    assert "predictor" in accepted, "what is missing now is a latency"


def test_subnets_are_scored(milliseek, networks):
    first, second = networks[:2]
    found = answer(milliseek("proxies", "score", first.encoding, second.encoding, "--proxy", "synflow", "--json"))
    assert [each["subnet"] for each in found["subnets"]] == [first.encoding, second.encoding]
    assert [each["params"] for each in found["subnets"]] == [count(first).params, count(second).params]
    assert all(each["synflow"] > 0 for each in found["subnets"])


def test_too_few_networks(milliseek):
    result = milliseek("proxies", "check", "--hyperspace", "tiny32", "--json")
    assert "0 measured networks of 'tiny32'" in answer(result)["error"]["message"]
