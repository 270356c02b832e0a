"""What subnets cost without being run, against files and layer lists."""

from itertools import pairwise

import numpy as np
import pytest

from milliseek.nas.search.objectives import TOP1, Metric, parse_goal
from milliseek.nas.search.subnet_costs import SubnetCosts, file_bytes, peak_memory_bytes, reference_values
from milliseek.spaces.counting import count
from milliseek.spaces.hyperspace import SMALL32, TINY32
from milliseek.spaces.layers import NetworkBuilder
from milliseek.spaces.onnx_network import network_model, random_parameters
from milliseek.spaces.space import extreme_subnet, random_space, random_subnet
from milliseek.spaces.tflite_network import tflite_model

WRITERS = {"onnx": network_model, "tflite": tflite_model}


@pytest.mark.parametrize("file_format", ["onnx", "tflite"])
def test_the_size_of_a_file_is_known_before_it_is_written(file_format):
    rng = np.random.default_rng(3)
    for hyperspace in (TINY32, SMALL32):
        for _ in range(3):
            network = random_subnet(random_space(hyperspace, rng), rng).network(10)
            written = len(WRITERS[file_format](network, random_parameters(network.layers), "int8"))
            assert file_bytes(network, file_format) == pytest.approx(written, rel=0.015)


def test_peak_memory_of_a_chain_is_its_widest_pair():
    b = NetworkBuilder(8)
    x = b.conv("narrow", "input", 4)
    x = b.conv("wide", x, 16, stride=2)
    b.conv("end", x, 2)
    sizes = [3 * 64, 4 * 64, 16 * 16, 2 * 16]
    assert peak_memory_bytes(b.build()) == max(map(sum, pairwise(sizes))) == 512


def test_peak_memory_counts_what_a_sum_waits_for():
    b = NetworkBuilder(4)
    start = b.conv("start", "input", 8)
    y = b.conv("up", start, 32)
    y = b.conv("down", y, 8)
    b.add("sum", y, start)
    pixels = 16
    assert peak_memory_bytes(b.build()) == (8 + 32 + 8) * pixels


def test_costs_of_subnets(space, costs, latency):
    small, large = (extreme_subnet(space, largest=largest) for largest in (False, True))
    for metric in (latency, *map(Metric, ("macs", "params", "size", "memory"))):
        low, high = costs.of(metric, [small, large])
        assert 0 < low < high
    assert costs.of(Metric("macs"), [small])[0] == count(small).macs
    assert costs.all_of((TOP1, Metric("params")), small) == {Metric("params"): count(small).params}


def test_fitting_subnets_meet_every_bound(space, costs, latency):
    rng = np.random.default_rng(0)
    subnets = [random_subnet(space, rng) for _ in range(40)]
    goal = parse_goal(["top1"], ["macs<=15M", f"latency:{latency.target}>=0.8", "memory<=60kB"], "x/y/int8")
    fitting = costs.fitting(goal.constraints, subnets)
    expected = [
        all(c.violation(value) <= 0 for c, value in zip(goal.constraints, values, strict=True))
        for values in zip(*(costs.of(c.metric, subnets) for c in goal.constraints), strict=True)
    ]
    assert fitting.tolist() == np.flatnonzero(expected).tolist()
    assert 0 < len(fitting) < 40


def test_the_reference_is_the_bound_or_the_largest_subnet(space, costs):
    goal = parse_goal(["top1", "macs", "size"], ["size<=50kB"], "x/y/int8")
    reference = reference_values(goal, costs, 0.1)
    largest = extreme_subnet(space, largest=True)
    assert reference == {TOP1: 0.1, Metric("macs"): count(largest).macs, Metric("size"): 50_000}


def test_a_format_has_its_own_size(space, lookup):
    subnet, size = extreme_subnet(space, largest=False), Metric("size")
    onnx, tflite = (SubnetCosts(space, {}, 10, form).of(size, [subnet])[0] for form in ("onnx", "tflite"))
    assert onnx != tflite
