"""What the latency service answers with: the implementation of `rpc.backend.LatencyBackend` on a database."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import numpy as np

from ..db.engine import Database
from ..db.predictors import list_predictors
from ..devices.local import LocalDevice
from ..errors import InvalidInput
from ..results import LatencyTable, Prediction, SubnetLatencies, TargetInfo
from ..spaces.space import Space, named_space
from .imported import predict_file
from .latency_table import latency_table
from .lookup import LatencyLookup
from .networks import Outline, keep_network, load_network, model_format, outline, prepare
from .remembered import Remembered
from .splitting import split_hollow, split_network
from .sum_model import SumModel
from .targets import LocalTarget, local_target
from .versions import PredictorVersion, newest_predictor

REMEMBERED_OUTLINES = 256
REMEMBERED_PREDICTIONS = 256
REMEMBERED_TABLES = 8


class LatencyService:
    """Predictions from stored predictors; safe to call from many threads, closed with `close`.

    Models are split into kernels in a child process, and answers are remembered.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._workers: dict[str, tuple[LocalTarget, LocalDevice]] = {}
        self._outlines: Remembered[str, Outline] = Remembered(REMEMBERED_OUTLINES)
        self._predictions: Remembered[tuple[str, str], Prediction] = Remembered(REMEMBERED_PREDICTIONS)
        self._tables: Remembered[tuple[str, str], LatencyLookup] = Remembered(REMEMBERED_TABLES)
        self._lock = threading.Lock()
        self._compiling = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child processes."""
        with self._lock:
            workers, self._workers = list(self._workers.values()), {}
        for _, device in workers:
            device.close()

    def store_model(self, data: bytes, name: str) -> str:
        """Check and keep a model file; returns its SHA-256."""
        outlined = outline(data, name)
        sha256 = keep_network(self._database, data, name, model_format(data))
        if outlined is not None:
            self._outlines.put(sha256, outlined)
        return sha256

    def predict_model(self, sha256: str, target: str) -> Prediction:
        """Predict a stored model."""
        version = newest_predictor(self._database, target)
        key = (sha256, version.name)
        if (known := self._predictions.get(key)) is not None:
            return known
        prediction = self._predict(sha256, version)
        self._predictions.put(key, prediction)
        return prediction

    def predict_subnets(self, space: str, target: str, genes: np.ndarray) -> SubnetLatencies:
        """Predict subnets of a space from the genes (subnets, genes)."""
        chosen = named_space(space)
        if not isinstance(chosen, Space):
            raise InvalidInput(
                f"'{space}' is a hyperspace.", "Name the space of the subnets, such as small32-5125-0312."
            )
        lookup = self._lookup(space, newest_predictor(self._database, target))
        latency_ms = lookup.subnets_ms(chosen, genes)
        return SubnetLatencies(latency_ms, lookup.table.interval, lookup.table.predictor)

    def latency_table(self, space: str, target: str) -> LatencyTable:
        """Compile a space or a hyperspace for a target."""
        return self._lookup(space, newest_predictor(self._database, target)).table

    def targets(self) -> list[TargetInfo]:
        """The targets that have a predictor."""
        with self._database.session(read_only=True) as session:
            newest = {row.target.name: row for row in list_predictors(session)}
            return [
                TargetInfo(name, f"{name}@{row.version}", row.runtime_version, row.held_out)
                for name, row in sorted(newest.items())
            ]

    def _lookup(self, space: str, version: PredictorVersion) -> LatencyLookup:
        key = (space, version.name)
        if (known := self._tables.get(key)) is not None:
            return known
        with self._compiling:  # it takes every core: one at a time
            lookup = LatencyLookup(latency_table(self._database, version, space))
        self._tables.put(key, lookup)
        return lookup

    def _predict(self, sha256: str, version: PredictorVersion) -> Prediction:
        if isinstance(version.predictor.kernel_model, SumModel):
            return predict_file(version.predictor, *load_network(self._database, sha256), version.name)
        target, device = self._worker(version.predictor.target)
        outlined = self._outlines.get(sha256)
        if outlined is not None and outlined.runs_on(target) and (uses := split_hollow(device, outlined.data)):
            return version.predictor.predict([use.kernel for use in uses], version.name)
        data, name = load_network(self._database, sha256)
        prepared = prepare(self._database, data, target, name)
        uses = split_network(device, prepared.data)
        return version.predictor.predict([use.kernel for use in uses], version.name, prepared.notes)

    def _worker(self, name: str) -> tuple[LocalTarget, LocalDevice]:
        with self._lock:
            if name not in self._workers:
                target = local_target(self._database, name)
                self._workers[name] = target, LocalDevice(target.target)
            return self._workers[name]
