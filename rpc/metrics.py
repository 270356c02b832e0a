"""Figures about the running service for Prometheus, over HTTP on a port of their own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..db.counts import connected_devices, job_counts
from ..db.engine import Database
from ..db.jobs import JobState
from ..errors import StorageError
from .access.address import Address, check_free, parse_address

_LOG = logging.getLogger(__name__)
_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Metrics:
    """Counts what happens in this process; jobs and agents are looked up in the database when somebody asks."""

    def __init__(self, database: Database) -> None:
        self.registry = CollectorRegistry()
        self._calls = Counter("milliseek_calls", "Calls that ended.", ("method", "code"), registry=self.registry)
        self._seconds = Histogram(
            "milliseek_call_seconds",
            "Seconds from the first message of a call to its end.",
            ("method",),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._expiries = Counter(
            "milliseek_lease_expiries", "Jobs that this server took back from a silent device.", registry=self.registry
        )
        self.registry.register(_InDatabase(database))
        ProcessCollector(registry=self.registry)

    def call_ended(self, method: str, code: str, seconds: float) -> None:
        """A call of a method ended with the status code of this name."""
        self._calls.labels(method, code).inc()
        self._seconds.labels(method).observe(seconds)

    def leases_expired(self, count: int) -> None:
        """So many leases ran out."""
        self._expiries.inc(count)

    @contextmanager
    def served(self, address: str) -> Iterator[str]:
        """Answer `GET /metrics` at `port` (of this machine only) or `host:port`; yields what was bound.

        Raises `InvalidInput` for what is not an address, `Busy` for a taken port.
        """
        bind = parse_address(address if ":" in address else f"127.0.0.1:{address}")
        check_free(bind)
        server, thread = start_http_server(bind.port, bind.host, self.registry)
        bound = Address(bind.host, server.server_port, bind.loopback)
        if not bind.loopback:
            _LOG.warning("anybody who reaches %s may read the metrics: they have neither TLS nor tokens", bound)
        try:
            yield str(bound)
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _InDatabase(Collector):
    """Jobs and agents, as the servers of this database have them together."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask the database."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The figures; without the database only that it does not answer."""
        up = GaugeMetricFamily("milliseek_database_up", "1 if the database answers.")
        try:
            with self._database.session(read_only=True) as session:
                counts, agents = job_counts(session), connected_devices(session)
        except StorageError as error:
            _LOG.warning("the metrics lack what is in the database: %s", error)
            up.add_metric((), 0)
            return [up]
        up.add_metric((), 1)
        jobs = GaugeMetricFamily(
            "milliseek_jobs", "Jobs by state; those that ended are kept for a while.", labels=["state"]
        )
        for state in get_args(JobState):
            jobs.add_metric((state,), counts.get(state, 0))
        connected = GaugeMetricFamily("milliseek_connected_agents", "Agents connected to any server of the database.")
        connected.add_metric((), agents)
        return [up, jobs, connected]
