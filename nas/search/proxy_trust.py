"""How far a proxy can be trusted on a task: Kendall's tau against networks whose accuracy was measured there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from ...db import studies as queries
from ...db.engine import Database
from ...errors import InvalidInput, MilliseekError
from ...spaces.hyperspace import Hyperspace
from ...spaces.space import Subnet
from ..quality.proxies import Proxy, ProxyTask
from .subnet_studies import search_result

LEAST_NETWORKS = 20
PROVEN_TAU = 0.3
"""Lower end of tau's interval from which a proxy is proven: it then orders two of three pairs of networks right."""
INTERVAL = 0.9
RESAMPLES = 1000


@dataclass(frozen=True)
class Trust:
    """Kendall's tau-b of a proxy on `networks` measured networks, with a 90 % bootstrap interval over networks."""

    tau: float
    low: float
    high: float
    networks: int

    @property
    def proven(self) -> bool:
        """Whether the proxy may be an objective."""
        return self.networks >= LEAST_NETWORKS and self.low >= PROVEN_TAU


def trust(scores: Sequence[float], top1: Sequence[float], seed: int = 0) -> Trust:
    """How well scores order networks by their accuracy; a constant score has tau 0."""
    x, y = np.asarray(scores, float), np.asarray(top1, float)
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(x), size=len(x)) for _ in range(RESAMPLES))
    taus = [_tau(x[index], y[index]) for index in drawn]
    low, high = np.quantile(taus, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return Trust(_tau(x, y), float(low), float(high), len(x))


def measured_networks(
    database: Database, hyperspace: Hyperspace, fingerprint: str, studies: Sequence[str] = ()
) -> dict[str, float]:
    """Top-1 by subnet of all networks of a hyperspace that studies of subnets have evaluated on these pictures.

    Raises NotFound for a study that is not there, InvalidInput for one of other pictures.
    """
    if not studies:
        with database.session(read_only=True) as session:
            kept = [(row.name, row.config) for row in queries.list_studies(session) if row.kind == "subnet"]
        studies = [name for name, config in kept if config["data"] == fingerprint]
    found = {}
    for name in studies:
        result = search_result(database, name)
        if result.config["data"] != fingerprint:
            raise InvalidInput(f"The study '{name}' is of other pictures.", "Give the --data that it was made with.")
        for each in result.evaluated:
            if each.subnet.space.hyperspace == hyperspace:
                found[each.subnet.encoding] = each.top1
    return found


def read_networks(path: Path, hyperspace: Hyperspace) -> dict[str, float]:
    """Top-1 by subnet from a JSON file with `networks`: [{`subnet`, `top1`}]; raises InvalidInput."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["networks"]
        found = {str(row["subnet"]): float(row["top1"]) for row in rows}
        subnets = [Subnet.decode(encoding) for encoding in found]
    except (OSError, ValueError, KeyError, TypeError, MilliseekError) as error:
        raise InvalidInput(
            f"{path} holds no measured networks: {error}.", 'Write {"networks": [{"subnet": ..., "top1": ...}, ...]}.'
        ) from error
    if any(subnet.space.hyperspace != hyperspace for subnet in subnets):
        raise InvalidInput(f"{path} has networks of other hyperspaces than '{hyperspace.name}'.", "Give --hyperspace.")
    return found


def prove(
    database: Database,
    hyperspace: Hyperspace,
    fingerprint: str,
    proxies: Mapping[str, Proxy],
    task: ProxyTask,
    networks: Mapping[str, float],
    *,
    seed: int = 0,
    on_network: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Trust]:
    """The trust in each proxy on these networks, kept in the database; raises InvalidInput for too few of them."""
    if len(networks) < LEAST_NETWORKS:
        raise InvalidInput(
            f"{len(networks)} measured networks of '{hyperspace.name}' on these pictures are too few to prove a proxy: "
            f"it takes {LEAST_NETWORKS}.",
            "Search a supernet on them (milliseek search), or give measured networks with --file.",
        )
    scores: dict[str, list[float]] = {name: [] for name in proxies}
    for done, encoding in enumerate(networks, 1):
        subnet = Subnet.decode(encoding)
        for name, proxy in proxies.items():
            scores[name].append(proxy(subnet, task))
        on_network(done, len(networks))
    found = {name: trust(values, list(networks.values()), seed) for name, values in scores.items()}
    with database.session() as session:
        run = _run_name(hyperspace, fingerprint)
        queries.get_or_create_run(session, run, {"kind": "proxies"})
        for name, told in found.items():
            queries.finish_phase(session, run, name, asdict(told), last=True)
    return found


def known_trust(database: Database, hyperspace: Hyperspace, fingerprint: str) -> dict[str, Trust]:
    """What `prove` has found out last, by proxy."""
    with database.session(read_only=True) as session:
        run = queries.find_run(session, _run_name(hyperspace, fingerprint))
        state = dict(run.state) if run else {}
    return {name: Trust(**values) for name, values in state.items()}


def check_proven(
    database: Database, hyperspace: Hyperspace, fingerprint: str, proxy: str, *, force: bool = False
) -> Trust | None:
    """What is known of a proxy that is to be an objective; raises InvalidInput unless it is proven, or forced."""
    told = known_trust(database, hyperspace, fingerprint).get(proxy)
    if force or (told and told.proven):
        return told
    known = f"its tau is {told.tau:.2f} ({told.low:.2f} to {told.high:.2f})" if told else "its tau is not known"
    raise InvalidInput(
        f"The proxy '{proxy}' is not proven on '{hyperspace.name}' and these pictures: {known}, and an objective needs "
        f"an interval from {PROVEN_TAU} up.",
        "Measure it: milliseek proxies check. Or use it all the same with --force.",
    )


def _run_name(hyperspace: Hyperspace, fingerprint: str) -> str:
    return f"proxies:{hyperspace.name}:{fingerprint[:16]}"


def _tau(x: np.ndarray, y: np.ndarray) -> float:
    if np.ptp(np.nan_to_num(x)) == 0 or np.ptp(y) == 0:  # tau-b is not defined where one side has no order
        return 0.0
    return float(kendalltau(x, y).statistic)
