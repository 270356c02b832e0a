"""Latencies of a device from ten measurements there and those of other devices, on HELP's tables (Lee et al., 2021).

    device_transfer.py --data FOLDER > device_transfer.json
    device_transfer.py --data FOLDER --splits help --counts 3 5 10 20 50

FOLDER holds nasbench201_latency_ms.npz, nasbench201_arch_str.json.gz, ofa_latency_ms.npz and ofa_archs.json.gz.
A draw takes a random pool of networks that are valid on all devices concerned, lets `choose_networks` choose from it,
fits, and compares predictions of all other networks with their measurements; figures are means over the draws. The
methods: `op_counts` (device latencies and the cell's counts of operators), `devices_only` (no features), `random` (as
op_counts, but a random choice of networks), `best_single` (the known device that fits the measurements best, scaled),
`ceiling` (with --ceiling: boosted trees on four fifths of the new device's own measurements, known devices and
positions of operators; what these miss is mostly noise). Rows under 5 % of their device's median are dropped.
Splits: `help` (HELP's published one), `families` (no device of the family is known), `each` (every phone and Xeon in
turn, its siblings are known), `ofa` (Once-for-all subnets, no batch size of the GPU model is known).
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import report
from scipy.stats import spearmanr
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import cross_val_predict

from milliseek.predictors.models.accuracy import accuracy
from milliseek.predictors.tables.device_prior import DevicePrior, learn_prior
from milliseek.predictors.tables.device_transfer import choose_networks, fit_transfer

PUBLISHED = {"titan_rtx_256": 0.987, "raspi4": 0.890, "eyeriss": 0.940}
"""Spearman of HELP with 10 samples (its table for NAS-Bench-201)."""
HELP_KNOWN = (
    *("1080ti_1", "1080ti_32", "1080ti_256", "silver_4114", "silver_4210r"),
    *("samsung_a50", "pixel3", "essential_ph_1", "samsung_s7"),
)
FAMILIES = {
    "phones": ("samsung_a50", "pixel3", "essential_ph_1", "samsung_s7"),
    "xeons": ("silver_4114", "silver_4210r", "gold_6240"),
    "boards": ("raspi4",),
    "accelerators": ("eyeriss",),
    "gpus": tuple(f"{gpu}_{n}" for gpu in ("1080ti", "2080ti", "titanx", "titanxp", "titan_rtx") for n in (1, 32, 256)),
}
OPERATORS = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
POOL = 1000


@dataclass(frozen=True, eq=False)
class Table:
    """Latencies in ms, (networks,) a device, with counts (networks, f) and positions (networks, p) of operators."""

    latency_ms: dict[str, np.ndarray]
    counts: np.ndarray
    positions: np.ndarray

    def of(self, devices: Sequence[str]) -> np.ndarray:
        return np.stack([self.latency_ms[device] for device in devices])


def latencies(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        table = {name: stored[name].astype(float) for name in stored.files}
    return {name: np.where(ms < 0.05 * np.median(ms), np.nan, ms) for name, ms in table.items()}


def nasbench201(folder: Path) -> Table:
    with gzip.open(folder / "nasbench201_arch_str.json.gz") as file:
        cells = [[edge.split("~")[0] for edge in cell.replace("+", "").split("|") if edge] for cell in json.load(file)]
    positions = np.array([[[edge == name for name in OPERATORS] for edge in cell] for cell in cells], float)
    return Table(
        latencies(folder / "nasbench201_latency_ms.npz"), positions.sum(1), positions.reshape(len(positions), -1)
    )


def once_for_all(folder: Path) -> Table:
    """Counts: of active layers by stage, kernel size and expansion; resolution squared, and the layers' sum of it."""
    with gzip.open(folder / "ofa_archs.json.gz") as file:
        subnets = json.load(file)
    rows = []
    for subnet in subnets:
        layers = [4 * stage + layer for stage, depth in enumerate(subnet["d"]) for layer in range(depth)]
        kernels, expands = ([subnet[key][layer] for layer in layers] for key in ("ks", "e"))
        counts = [*subnet["d"], *(kernels.count(k) for k in (3, 5, 7)), *(expands.count(e) for e in (3, 4, 6))]
        rows.append([*counts, subnet["r"] ** 2, subnet["r"] ** 2 * sum(expands)])
    return Table(latencies(folder / "ofa_latency_ms.npz"), np.array(rows, float), np.array(rows, float))


def judged(low: np.ndarray, predicted: np.ndarray, high: np.ndarray, measured_ms: np.ndarray) -> dict[str, float]:
    figures = accuracy(predicted, measured_ms)
    return {
        "spearman": float(spearmanr(predicted, measured_ms)[0]),
        **{key: figures[key] for key in ("within_5", "within_10", "mape")},
        "coverage": float(((low <= measured_ms) & (measured_ms <= high)).mean()),
    }


def best_single(known_ms: np.ndarray, chosen: np.ndarray, measured_ms: np.ndarray) -> np.ndarray:
    ratios = np.log(measured_ms / known_ms[:, chosen])
    best = int(ratios.std(1).argmin())
    return np.asarray(known_ms[best] * np.exp(np.median(ratios[best])))


def draws(
    table: Table, known: Sequence[str], new: str, count: int, seeds: range, priors: dict[str, DevicePrior]
) -> Iterator[tuple[str, dict[str, float]]]:
    known_ms, new_ms = table.of(known), table.latency_ms[new]
    valid = np.flatnonzero(np.isfinite(known_ms).all(0) & np.isfinite(new_ms))
    for seed in seeds:
        pool = np.random.default_rng(seed).choice(valid, POOL, replace=False)
        for method, prior in (*priors.items(), ("random", priors["op_counts"])):
            features = None if method == "devices_only" else table.counts
            chosen = pool[:count]
            if method != "random":
                chosen = choose_networks(known_ms, count, features, among=pool, prior=prior, seed=seed)
            rest = np.delete(np.arange(len(new_ms)), chosen)
            rest = rest[np.isfinite(new_ms[rest])]
            transfer = fit_transfer(known_ms, chosen, new_ms[chosen], features, prior=prior)
            latency_ms, low, high = transfer.predict(known_ms[:, rest], None if features is None else features[rest])
            yield method, judged(low, latency_ms, high, new_ms[rest])
            if method == "op_counts":
                single = best_single(known_ms, chosen, new_ms[chosen])[rest]
                there = np.isfinite(single)
                figures = judged(single[there], single[there], single[there], new_ms[rest][there])
                yield "best_single", {key: value for key, value in figures.items() if key != "coverage"}


def ceiling(table: Table, known: Sequence[str], new: str) -> dict[str, float]:
    new_ms = table.latency_ms[new]
    rows = np.isfinite(new_ms)
    inputs = np.hstack([np.log(table.of(known).T), table.counts, table.positions])[rows]
    trees = HistGradientBoostingRegressor(max_iter=150, random_state=0)
    latency_ms = np.exp(cross_val_predict(trees, inputs, np.log(new_ms[rows]), cv=5))
    figures = judged(latency_ms, latency_ms, latency_ms, new_ms[rows])
    return {key: figures[key] for key in ("spearman", "within_10", "mape")}


def evaluate(table: Table, known: Sequence[str], new: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Figures by device, count and method: the mean of the draws, and the worst Spearman."""
    known_ms = table.of(known)
    priors = {"op_counts": learn_prior(known_ms, table.counts), "devices_only": learn_prior(known_ms)}
    outcome: dict[str, Any] = {}
    for device in new:
        outcome[device] = {}
        for count in options.counts:
            found = defaultdict(list)
            for method, figures in draws(table, known, device, count, range(options.draws), priors):
                found[method].append(figures)
            outcome[device][str(count)] = {
                method: {
                    **{key: round(float(np.mean([f[key] for f in figures])), 4) for key in figures[0]},
                    "worst_spearman": round(min(f["spearman"] for f in figures), 4),
                }
                for method, figures in found.items()
            }
        if options.ceiling:
            outcome[device]["ceiling"] = ceiling(table, known, device)
    return outcome


def split(name: str, options: argparse.Namespace) -> dict[str, Any]:
    if name == "ofa":
        table = once_for_all(options.data)
        models = sorted({device.rsplit("_", 1)[0] for device in table.latency_ms})
        families = {m: tuple(device for device in table.latency_ms if device.rsplit("_", 1)[0] == m) for m in models}
    else:
        table = nasbench201(options.data)
        families = FAMILIES
    if name == "help":
        return {**evaluate(table, HELP_KNOWN, tuple(PUBLISHED), options), "published_spearman": PUBLISHED}
    if name == "each":
        families = {device: (device,) for family in ("phones", "xeons") for device in FAMILIES[family]}
    outcome = {}
    for family, devices in families.items():
        known = [device for device in table.latency_ms if device not in devices]
        outcome[family] = evaluate(table, known, devices, options)
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of HELP's tables")
    parser.add_argument("--splits", nargs="+", default=["help", "families", "each", "ofa"])
    parser.add_argument("--counts", nargs="+", type=int, default=[10], help="measurements on the new device")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--ceiling", action="store_true", help="seconds a device more")
    options = parser.parse_args()
    figures = {name: split(name, options) for name in options.splits}
    report("device_transfer", {"draws": options.draws, "pool": POOL, "splits": figures})


if __name__ == "__main__":
    main()
