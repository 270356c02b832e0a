"""The sampling prior: which kernels networks have, and which networks to measure whole."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice, zip_longest

import numpy as np

from ...db.engine import Database
from ...db.measurements import ModelMeasurement
from ...errors import InvalidInput, MeasurementError, MilliseekError
from ...kernels.costs import is_view, macs, weight_bytes
from ...kernels.kernel import Kernel
from ...kernels.prior import prior_networks
from ...spaces.groups import LayerGroup, layer_groups
from ...spaces.hyperspace import Hyperspace
from ...spaces.space import Space, Subnet, drawn_subnet
from ..models.physics import path
from ..networks.files import PreparedModel, prepare_prior, sample_networks
from ..networks.kernel_cache import KernelCache
from ..networks.layer_kernels import layer_kernels, split_devices
from ..networks.splitting import joined_operations, split_network
from ..targets import DeviceTarget

MAX_POOL_GROUPS = 6000
DRAWN_NETWORKS = 2000
GROUPS_PER_SECOND = 20
"""Groups of layers split into kernels for every second of budget: about a tenth of the time goes there."""
SPACES_SHARE = 0.25
"""Beside published networks: the share of groups, of networks and of attention that the spaces get."""
SPLIT_SHARE = 0.15
"""Share of the budget for splitting published networks, the first time."""
MIN_PUBLISHED = 6
MAX_MACS, MAX_WEIGHT_BYTES = 5e9, 160e6
"""Larger networks are not measured whole: their visits would cost what a hundred kernels cost."""

OnProgress = Callable[[str, float, float], None]
"""(phase, done, total)."""


@dataclass(frozen=True)
class Candidate:
    """A network that can be measured whole: its kernels, if they are known yet, and how to make its file."""

    name: str
    family: str
    load: Callable[[], PreparedModel]
    kernels: tuple[Kernel, ...] | None = None


@dataclass
class Pool:
    """`uses`: how many networks have each kernel (views left out); `candidates` in the order to measure them in.

    `weights` say how much each kernel matters: the uses, those of all sources brought to the same scale.
    """

    uses: Counter[Kernel] = field(default_factory=Counter)
    weights: dict[Kernel, float] = field(default_factory=dict)
    candidates: list[Candidate] = field(default_factory=list)

    def in_order(self, rng: np.random.Generator) -> list[Kernel]:
        """All kernels in an order to measure them in before anything is known.

        Every path of the runtime has its turn early, and a share that grows with the square root of how many kernels
        it has; within a path, what occurs in many networks comes first.
        """
        by_path: dict[str, list[Kernel]] = defaultdict(list)
        for kernel in self.uses:
            by_path[path(kernel)].append(kernel)
        ranked = []
        for _, kernels in sorted(by_path.items()):
            order = drawn_order(np.array([self.weights[kernel] for kernel in kernels]), rng)
            ranked += [((rank + rng.random()) / len(kernels) ** 0.5, kernels[i]) for rank, i in enumerate(order)]
        return [kernel for _, kernel in sorted(ranked, key=lambda pair: pair[0])]


def drawn_order(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions (n,) drawn without replacement in proportion to positive weights (n,).

    Sorting by u^(1/w): Efraimidis and Spirakis, 2006.
    """
    keys = np.log(rng.random(len(weights))) / np.maximum(weights, 1e-12)
    return np.argsort(-keys, kind="stable")


def make_pool(
    database: Database,
    target: DeviceTarget,
    sources: Sequence[Hyperspace | Space],
    *,
    published: bool,
    budget_s: float,
    networks: int,
    rng: np.random.Generator,
    on_progress: OnProgress = lambda *_: None,
) -> Pool:
    """Kernels and whole networks of published architectures, of random subnets of the sources, or of both."""
    pool = Pool()
    groups: list[Candidate] = []
    subnets: list[Candidate] = []
    if published:
        found = _published(database, target, SPLIT_SHARE * budget_s, on_progress)
        for candidate in found:
            pool.uses.update({kernel for kernel in candidate.kernels or () if not is_view(kernel)})
        pool.weights.update(pool.uses)
        groups = [candidate for candidate in found if _is_measurable(candidate.kernels or ())]
    if sources:
        share = SPACES_SHARE if published else 1.0
        limit = int(share * min(MAX_POOL_GROUPS, GROUPS_PER_SECOND * budget_s))
        layers = _layer_uses(database, target, sources, limit, rng, on_progress)
        scale = share * sum(pool.uses.values()) / sum(layers.values()) if published else 1.0
        for kernel, count in layers.items():
            pool.weights[kernel] = pool.weights.get(kernel, 0.0) + scale * count
        pool.uses.update(layers)
        subnets = [
            Candidate(name, name.partition("-")[0], partial(_same, model))
            for name, model in sample_networks(sources, math.ceil(share * networks), target, rng)
        ]
    chosen = _by_turns(groups)[: networks - len(subnets)]
    pool.candidates = [item for pair in zip_longest(chosen, subnets) for item in pair if item is not None]
    return pool


def stored_candidates(
    database: Database, target: DeviceTarget, rows: Sequence[ModelMeasurement]
) -> dict[str, Candidate]:
    """The candidates, by name, that stored measurements of networks are of.

    Users' files are none of them: what they evaluate a predictor on must not have shaped it.
    """
    cache = KernelCache(database, target, "networks")
    published = {network.name: network for network in prior_networks(target.format, target.precision)}
    found: dict[str, Candidate] = {}
    for name, row in {row.name: row for row in rows}.items():
        if row.format == f"{target.format}-skeleton":
            if name in published:
                network = published[name]
                found[name] = Candidate(name, network.family, partial(prepare_prior, network), cache.get(name))
        elif (family := _hyperspace(name)) is not None:
            found[name] = Candidate(name, family, partial(_stored, database, row.sha256))
    return found


def _hyperspace(encoding: str) -> str | None:
    """The hyperspace of a subnet's encoding, None for any other name."""
    try:
        return Subnet.decode(encoding).space.hyperspace.name
    except MilliseekError:
        return None


def _stored(database: Database, sha256: str) -> PreparedModel:
    return PreparedModel(database.artefacts.read(sha256))


def _is_measurable(kernels: Sequence[Kernel]) -> bool:
    return sum(map(macs, kernels)) <= MAX_MACS and sum(map(weight_bytes, kernels)) <= MAX_WEIGHT_BYTES


def _by_turns(candidates: Iterable[Candidate]) -> list[Candidate]:
    """One of each family, then a second of each, and so on; families and members in a fixed shuffled order."""
    families: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        families[candidate.family].append(candidate)
    rng = np.random.default_rng(0)  # not the caller's: more budget adds networks, it does not exchange them
    shuffled = [[members[i] for i in rng.permutation(len(members))] for _, members in sorted(families.items())]
    turns = zip_longest(*(shuffled[i] for i in rng.permutation(len(shuffled))))
    return [candidate for turn in turns for candidate in turn if candidate is not None]


def _published(
    database: Database, target: DeviceTarget, time_limit_s: float, on_progress: OnProgress
) -> list[Candidate]:
    """Published networks with their kernels; those not in the cache are split until the time is over."""
    cache = KernelCache(database, target, "networks")
    networks = prior_networks(target.format, target.precision)
    wanted = _by_turns(Candidate(found.name, found.family, partial(prepare_prior, found)) for found in networks)
    missing = [candidate for candidate in wanted if candidate.name not in cache]
    started = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(cache)
        devices = [stack.enter_context(device) for device in split_devices(database, target)]
        executor = stack.enter_context(ThreadPoolExecutor(len(devices)))
        idle = list(devices)

        def ask(candidate: Candidate) -> tuple[Kernel, ...] | None:
            device = idle.pop()  # as many threads as devices: one is always there
            try:
                return tuple(use.kernel for use in split_network(device, candidate.load().data))
            except InvalidInput:
                return ()  # this runtime, or its version, does not take it: nothing to measure there
            except MeasurementError:
                return None  # perhaps it only was so now: it is asked again next time
            finally:
                idle.append(device)

        left = iter(missing)
        done = 0
        while chunk := list(islice(left, len(devices))):
            if done >= MIN_PUBLISHED and time.monotonic() - started > time_limit_s:
                break
            for candidate, kernels in zip(chunk, executor.map(ask, chunk), strict=True):
                if kernels is not None:
                    cache[candidate.name] = kernels
            done += len(chunk)
            on_progress("splitting published networks", done, len(missing))
    known = [replace(candidate, kernels=cache[candidate.name]) for candidate in wanted if candidate.name in cache]
    return [candidate for candidate in known if candidate.kernels]


def _same(model: PreparedModel) -> PreparedModel:
    return model


def _layer_uses(
    database: Database,
    target: DeviceTarget,
    sources: Sequence[Hyperspace | Space],
    limit: int,
    rng: np.random.Generator,
    on_progress: OnProgress,
) -> Counter[Kernel]:
    """How often random subnets of the sources have each kernel; of at most `limit` distinct groups of layers."""
    counts: Counter[LayerGroup] = Counter()
    joined = joined_operations(target)
    for i in range(DRAWN_NETWORKS):
        subnet = drawn_subnet(sources[i % len(sources)], rng)
        layers = subnet.network(subnet.space.hyperspace.nominal_classes).layers
        counts.update(layer_groups(layers, joined))
        if len(counts) >= limit:
            break
    split = layer_kernels(
        database, target, counts, lambda done, total: on_progress("splitting into kernels", done, total)
    )
    uses: Counter[Kernel] = Counter()
    for group, count in counts.items():
        for kernel in split[group]:
            if not is_view(kernel):
                uses[kernel] += count
    return uses
