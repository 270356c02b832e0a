"""Costs of kernels from whole networks alone: made-up phones, whose kernels cost what physics says."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from milliseek.errors import InvalidInput
from milliseek.kernels.costs import macs
from milliseek.kernels.kernel import Kernel
from milliseek.kernels.operators.fusion import FUSIONS, Fusion, fused
from milliseek.kernels.operators.graph_json import read_graph
from milliseek.predictors.models.kernel_model import KernelModel, fit_kernel_model
from milliseek.predictors.models.predictor import Predictor, from_bytes, to_bytes
from milliseek.predictors.models.sum_model import UNKNOWN_SPREAD, SumModel, network_amounts
from milliseek.predictors.models.sum_terms import Column, kernel_terms
from milliseek.predictors.tables.sums import MIN_NETWORKS, SumData, SumFit, TimedNetwork, fit_sums, held_out_summary


@pytest.fixture(scope="module")
def networks(phones: Any) -> list[TimedNetwork]:
    return timed(phones.rows())


def timed(rows: Sequence[dict[str, Any]], fusions: Sequence[Fusion] = ("operators",)) -> list[TimedNetwork]:
    return [
        TimedNetwork.of(row["id"], row["family"], read_graph(row["graph"]), row["latency_ms"]["phone"], fusions)
        for row in rows
    ]


@pytest.fixture(scope="module")
def fit(networks: list[TimedNetwork]) -> SumFit:
    return fit_sums(networks)


def kernels_of(network: TimedNetwork) -> list[Kernel]:
    (counts,) = network.kernels.values()
    return [kernel for kernel, times in counts.items() for _ in range(times)]


def as_predictor(fit: SumFit) -> Predictor:
    return Predictor("phone/imported/fp32", "imported", fit.model, fit.correction)


def errors(fit: SumFit, networks: Sequence[TimedNetwork]) -> np.ndarray:
    predicted = [as_predictor(fit).predict(kernels_of(network), "").latency_ms for network in networks]
    return np.array(predicted) / [network.latency_ms for network in networks] - 1


def parted(networks: Sequence[TimedNetwork], *families: str) -> tuple[list[TimedNetwork], list[TimedNetwork]]:
    """Networks without these families, and of them."""
    return [n for n in networks if n.family not in families], [n for n in networks if n.family in families]


def test_the_sum_over_a_network_fits(fit: SumFit, networks: list[TimedNetwork]) -> None:
    assert np.abs(errors(fit, networks)).max() < 0.01
    assert (fit.model.coefficients >= 0).all()
    prediction = as_predictor(fit).predict(kernels_of(networks[0]), "phone/imported/fp32@1")
    assert prediction.uncovered == 0
    assert sum(each.latency_ms * each.count for each in prediction.kernels) == pytest.approx(prediction.latency_ms)


@pytest.mark.parametrize("family", ["plain", "residual", "mobile", "shuffle"])
def test_families_never_seen_are_predicted(networks: list[TimedNetwork], family: str) -> None:
    others, left_out = parted(networks, family)
    assert np.abs(errors(fit_sums(others), left_out)).mean() < 0.03


def test_every_network_is_left_out_with_its_family(fit: SumFit, networks: list[TimedNetwork]) -> None:
    others, left_out = parted(networks, "mobile")
    here = [i for i, network in enumerate(networks) if network.family == "mobile"]
    alone = SumData(networks).fit(np.setdiff1d(np.arange(len(networks)), here))
    np.testing.assert_allclose(errors(fit_sums(others), left_out), errors(alone, left_out), atol=1e-4)
    np.testing.assert_allclose(errors(alone, left_out), fit.left_out_ms[here] / measured(left_out) - 1, atol=0.02)
    summary = held_out_summary(fit, networks)
    assert (summary["families"], summary["fusion"], summary["networks"]["networks"]) == (4, "operators", 60)
    assert summary["networks"]["within_5"] == (np.abs(fit.left_out_ms / measured(networks) - 1) <= 0.05).mean()


def measured(networks: Sequence[TimedNetwork]) -> np.ndarray:
    return np.array([network.latency_ms for network in networks])


def test_the_unit_does_not_matter(fit: SumFit, networks: list[TimedNetwork]) -> None:
    slow = [replace(network, latency_ms=1000 * network.latency_ms) for network in networks]
    np.testing.assert_allclose(fit_sums(slow).left_out_ms, 1000 * fit.left_out_ms, rtol=1e-3)


def test_intervals_are_as_wide_as_the_noise(networks: list[TimedNetwork]) -> None:
    rng = np.random.default_rng(0)

    def noisy(spread: float) -> list[TimedNetwork]:
        return [replace(n, latency_ms=n.latency_ms * float(np.exp(rng.normal(0, spread)))) for n in networks]

    widths = []
    for spread in (0.02, 0.08):
        found = fit_sums(noisy(spread))
        again = noisy(spread)
        predictions = [as_predictor(found).predict(kernels_of(network), "") for network in again]
        inside = [p.interval_ms[0] <= n.latency_ms <= p.interval_ms[1] for p, n in zip(predictions, again, strict=True)]
        assert np.mean(inside) > 0.8
        widths.append(np.mean([p.interval_ms[1] / p.interval_ms[0] - 1 for p in predictions]))
    assert 2 < widths[1] / widths[0] < 8


def test_an_operator_that_nobody_had_is_guessed_and_said_to_be(fit: SumFit, phones: Any) -> None:
    plain = phones.network("plain", 2, 16)
    shape, last = plain[-3]["out"], len(plain) - 3
    strange = [*plain[:-2]]
    for op, out in (("reshape", [*shape[:3], 2, shape[3] // 2]), ("transpose", [*shape[:3], shape[3] // 2, 2])):
        strange.append({"op": op, "inp": [len(strange) - 1], "out": out})
    strange += [{**entry, "inp": [len(strange) - 1 + i]} for i, entry in enumerate(plain[-2:])]
    assert strange[last + 1]["inp"] == [last]
    predictor = as_predictor(fit)
    known, unknown = (predictor.predict(fused(read_graph(graph), "operators"), "") for graph in (plain, strange))
    assert known.uncovered == 0 < unknown.uncovered < 0.5
    assert [kernel.kind for kernel in unknown.kernels if not kernel.covered] == ["TRANSPOSE"]
    assert relative_width(unknown) > 2 * relative_width(known)
    transpose = fused(read_graph(strange), "operators")[-3]
    assert fit.model.predict([transpose]).spread[0] >= UNKNOWN_SPREAD


def relative_width(prediction: Any) -> float:
    low, high = prediction.interval_ms
    return float((high - low) / prediction.latency_ms)


def uneven_ms(phones: Any, kernel: Kernel) -> float:
    """A kernel by itself on a device whose products take twice as long where channels fill no vectors of sixteen."""
    alone_ms = phones.kernel_ms("phone", kernel) - phones.COSTS["phone"][0]
    (out,) = kernel.outputs
    assert out is not None
    return float(alone_ms * (2 if macs(kernel) and out.shape[-1] % 16 else 1))


@pytest.fixture(scope="module")
def uneven(networks: list[TimedNetwork], phones: Any) -> list[TimedNetwork]:
    call = phones.COSTS["phone"][0]
    return [
        replace(network, latency_ms=sum(uneven_ms(phones, kernel) + call for kernel in kernels_of(network)))
        for network in networks
    ]


@pytest.fixture(scope="module")
def profiled(uneven: list[TimedNetwork], phones: Any) -> KernelModel:
    """Every product of the networks, timed alone."""
    kernels = list({kernel: None for network in uneven for kernel in kernels_of(network) if macs(kernel)})
    return fit_kernel_model(kernels, np.array([uneven_ms(phones, kernel) for kernel in kernels]))


@pytest.mark.parametrize("family", ["plain", "residual"])
def test_kernels_profiled_as_well_tell_what_sums_cannot(
    uneven: list[TimedNetwork], profiled: KernelModel, family: str
) -> None:
    others, left_out = parted(uneven, family)
    blind, seeing = fit_sums(others), fit_sums(others, profiled)
    assert np.abs(errors(seeing, left_out)).mean() < 0.3 * np.abs(errors(blind, left_out)).mean()
    assert np.abs(errors(seeing, left_out)).mean() < 0.05


def test_a_kernel_that_only_the_profile_has_is_covered(uneven: list[TimedNetwork], profiled: KernelModel) -> None:
    others, mobile = parted(uneven, "mobile", "shuffle")
    depthwise = [kernel for kernel in kernels_of(mobile[0]) if kernel.is_depthwise]
    assert not fit_sums(others).model.predict(depthwise).covered.any()
    assert fit_sums(others, profiled).model.predict(depthwise).covered.all()


def test_bytes_bring_profiled_kernels_back(uneven: list[TimedNetwork], profiled: KernelModel) -> None:
    predictor = as_predictor(fit_sums(uneven, profiled))
    again = from_bytes(to_bytes(predictor))
    for network in uneven[::11]:
        assert again.predict(kernels_of(network), "p") == predictor.predict(kernels_of(network), "p")
    without = rewritten(to_bytes(predictor), lambda manifest, _: manifest["paths"].clear())
    with pytest.raises(InvalidInput, match="not a predictor"):
        from_bytes(without)


def test_how_a_runtime_fuses_can_be_learned(phones: Any) -> None:
    """A device that links sums to convolutions, and pays for each kernel more than for what it does."""
    rows = phones.rows()
    networks = []
    for network in timed(rows, FUSIONS):
        linked = network.kernels["linked"]
        networks.append(replace(network, latency_ms=0.1 * sum(linked.values()) + 0.01 * network.latency_ms))
    assert fit_sums(networks).model.fusion == "linked"


def test_too_few_networks(networks: list[TimedNetwork]) -> None:
    with pytest.raises(InvalidInput, match=f"{MIN_NETWORKS - 1} networks; {MIN_NETWORKS} are needed") as caught:
        fit_sums(networks[: MIN_NETWORKS - 1])
    assert "--from-devices" in caught.value.remedy
    with pytest.raises(InvalidInput, match="0 networks"):
        fit_sums([])
    assert len(fit_sums(networks[:MIN_NETWORKS]).left_out_ms) == MIN_NETWORKS


def test_views_and_other_kernels_in_columns(phones: Any) -> None:
    graph = phones.network("mobile", 1, 8)
    graph.insert(-1, {"op": "reshape", "inp": [len(graph) - 2], "out": [1, 8]})
    graph[-1]["inp"] = [len(graph) - 2]
    kernels = fused(read_graph(graph), "operators")
    view = next(kernel for kernel in kernels if kernel.op_type == "RESHAPE")
    assert kernel_terms(view) is None
    amounts = network_amounts([dict.fromkeys(kernels, 1), {kernels[0]: 3}, {view: 7}])
    assert amounts.matrix.shape == (3, len(amounts.columns))
    shared = amounts.columns.index(Column(0, "*", "calls"))
    assert amounts.matrix[:, shared].tolist() == [len(kernels) - 1, 3, 0]
    assert not amounts.matrix[2].any()


def test_bytes_bring_it_back(fit: SumFit, networks: list[TimedNetwork]) -> None:
    predictor = as_predictor(fit)
    again = from_bytes(to_bytes(predictor))
    assert isinstance(again.kernel_model, SumModel)
    assert (again.target, again.correction, again.kernel_model.fusion) == (
        predictor.target, fit.correction, fit.model.fusion
    )  # fmt: skip
    for network in networks[::7]:
        assert again.predict(kernels_of(network), "p") == predictor.predict(kernels_of(network), "p")


def rewritten(data: bytes, change: Callable[[dict[str, Any], dict[str, np.ndarray]], object]) -> bytes:
    """The archive after `change` of manifest and arrays."""
    with np.load(io.BytesIO(data)) as archive:
        arrays = {name: archive[name] for name in archive.files}
    manifest = json.loads(arrays["manifest"].tobytes())
    change(manifest, arrays)
    arrays["manifest"] = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


CHANGES: dict[str, Callable[[dict[str, Any], dict[str, np.ndarray]], object]] = {
    "negative cost": lambda _, a: a["sums"].__setitem__((0, 0), -1e-9),
    "no number": lambda _, a: a["sums"].__setitem__((1, 2), np.nan),
    "endless cost": lambda _, a: a["sums"].__setitem__((0, 0), np.inf),
    "a column too few": lambda _, a: a.update(sums=a["sums"][:, 1:]),
    "one fit only": lambda _, a: a.update(sums=a["sums"][:1]),
    "flat": lambda _, a: a.update(sums=a["sums"][0]),
    "words": lambda _, a: a.update(sums=a["sums"].astype(str)),
    "no costs": lambda _, a: a.pop("sums"),
    "unknown fusion": lambda m, _: m["sums"].update(fusion="welded"),
    "no fusion": lambda m, _: m["sums"].pop("fusion"),
    "unknown term": lambda m, _: m["sums"]["columns"][0].__setitem__(2, "colour"),
    "columns of two": lambda m, _: m["sums"]["columns"][0].pop(),
    "columns of nothing": lambda m, _: m["sums"].update(columns=3),
    "sums of nothing": lambda m, _: m.update(sums=None),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_archives_that_say_something_else_are_refused(
    fit: SumFit, change: Callable[[dict[str, Any], dict[str, np.ndarray]], object]
) -> None:
    data = to_bytes(as_predictor(fit))
    from_bytes(rewritten(data, lambda *_: None))
    with pytest.raises(InvalidInput, match="not a predictor"):
        from_bytes(rewritten(data, change))
