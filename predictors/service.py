"""What the latency service answers with: the implementation of `rpc.backend.LatencyBackend` on a database."""

from __future__ import annotations

import threading
from collections import OrderedDict
from types import TracebackType
from typing import Self

import numpy as np

from ..db.engine import Database
from ..db.predictors import list_predictors
from ..devices.local import LocalDevice
from ..errors import InvalidInput
from ..results import LatencyTable, Prediction, SubnetLatencies, TargetInfo
from ..spaces.codes import check_genes
from ..spaces.space import Space, named_space
from .latency_table import latency_table
from .lookup import LatencyLookup
from .networks import load_network, prepare, store_network
from .splitting import split_network
from .targets import local_target
from .versions import PredictorVersion, newest_predictor

REMEMBERED_PREDICTIONS = 256
REMEMBERED_TABLES = 8


class LatencyService:
    """Predictions from stored predictors; safe to call from many threads, closed with `close`.

    Models are split into kernels in a child process, and answers are remembered.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._devices: dict[str, LocalDevice] = {}
        self._predictions: OrderedDict[tuple[str, str], Prediction] = OrderedDict()
        self._tables: OrderedDict[tuple[str, str], LatencyLookup] = OrderedDict()
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
            devices, self._devices = list(self._devices.values()), {}
        for device in devices:
            device.close()

    def store_model(self, data: bytes, name: str) -> str:
        """Check and keep an ONNX file; returns its SHA-256."""
        return store_network(self._database, data, name)

    def predict_model(self, sha256: str, target: str) -> Prediction:
        """Predict a stored model."""
        version = newest_predictor(self._database, target)
        key = (sha256, version.name)
        with self._lock:
            if key in self._predictions:
                self._predictions.move_to_end(key)
                return self._predictions[key]
        prediction = self._predict(sha256, version)
        with self._lock:
            self._predictions[key] = prediction
            while len(self._predictions) > REMEMBERED_PREDICTIONS:
                self._predictions.popitem(last=False)
        return prediction

    def predict_subnets(self, space: str, target: str, genes: np.ndarray) -> SubnetLatencies:
        """Predict subnets of a space from the genes (subnets, genes)."""
        chosen = named_space(space)
        if not isinstance(chosen, Space):
            raise InvalidInput(
                f"'{space}' is a hyperspace.", "Name the space of the subnets, such as small32-5125-0312."
            )
        check_genes(chosen, genes)
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
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
                return self._tables[key]
        with self._compiling:  # it takes every core: one at a time
            lookup = LatencyLookup(latency_table(self._database, version, space))
        with self._lock:
            self._tables[key] = lookup
            while len(self._tables) > REMEMBERED_TABLES:
                self._tables.popitem(last=False)
        return lookup

    def _predict(self, sha256: str, version: PredictorVersion) -> Prediction:
        data, name = load_network(self._database, sha256)
        target = local_target(self._database, version.predictor.target)
        prepared = prepare(data, target, name)
        with self._lock:
            device = self._devices.setdefault(target.name, LocalDevice(target.target))
        kernels = [use.kernel for use in split_network(device, prepared.data)]
        return version.predictor.predict(kernels, version.name, prepared.notes)
