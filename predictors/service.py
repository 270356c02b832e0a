"""What the latency service answers with: the implementation of `rpc.backend.LatencyBackend` on a database."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np

from ..db.engine import Database
from ..db.predictors import list_predictors
from ..devices.measuring_device import MeasuringDevice
from ..errors import InvalidInput
from ..kernels.kernel import TFLITE_DOMAIN, Kernel, KernelUse
from ..results import KernelLatencies, LatencyTable, Prediction, SubnetLatencies, TargetInfo
from ..spaces.space import Space, named_space
from .conversions import cache_folder
from .lookups.latency_table import latency_table
from .lookups.lookup import LatencyLookup
from .models.sum_model import SumModel
from .networks.files import ModelForm, Outline, keep_staged, load_network, model_format, stage_network
from .networks.model_reader import ModelReader
from .networks.splitting import split_hollow, split_whole
from .remembered import Remembered
from .stored.versions import PredictorVersion, newest_predictor, predictor_version
from .tables.imported import predict_operators
from .targets import DeviceTarget, device_target, open_device, parse_target

REMEMBERED_OUTLINES = 256
REMEMBERED_PREDICTIONS = 256
REMEMBERED_TABLES = 8
PATIENCE_S = 10.0
"""Seconds that somebody who asks waits for the agent of a device to come back, where only the device can tell."""
HASHED_UPLOADS = 4


class LatencyService:
    """Predictions from stored predictors; safe to call from many threads, closed with `close`.

    Models are parsed and split into kernels in child processes, and answers are remembered.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._workers: dict[str, tuple[DeviceTarget, MeasuringDevice]] = {}
        self._outlines: Remembered[str, Outline] = Remembered(REMEMBERED_OUTLINES)
        self._predictions: Remembered[tuple[str, str], Prediction] = Remembered(REMEMBERED_PREDICTIONS)
        self._tables: Remembered[tuple[str, str], LatencyLookup] = Remembered(REMEMBERED_TABLES)
        self._reader, self._preparer = ModelReader(), ModelReader()  # uploads do not wait for conversions
        self._hashing = ThreadPoolExecutor(HASHED_UPLOADS, thread_name_prefix="milliseek-hashing")
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
        for reader in (self._reader, self._preparer):
            reader.close()
        self._hashing.shutdown()

    def store_model(self, data: bytes, name: str) -> str:
        """Check and keep a model file; returns its SHA-256."""
        staged = stage_network(self._database, data)
        hashing = self._hashing.submit(lambda: staged.sha256)  # takes as long as checking, and leaves Python to others
        try:
            outlined = self._reader.outline(staged.partial, name)
            hashing.result()
            sha256 = keep_staged(self._database, staged, name, model_format(data))
        except BaseException:
            staged.discard()
            raise
        if outlined is not None:
            self._outlines.put(sha256, outlined)
        return sha256

    def predictor(self, target: str) -> str:
        """Version of the newest predictor of a target."""
        return newest_predictor(self._database, target).name

    def predict_model(self, sha256: str, target: str) -> Prediction:
        """Predict a stored model."""
        version = newest_predictor(self._database, target)
        key = (sha256, version.name)
        if (known := self._predictions.get(key)) is not None:
            return known
        prediction = self._predict(sha256, version)
        self._predictions.put(key, prediction)
        return prediction

    def predict_kernels(self, target: str, kernels: list[str]) -> KernelLatencies:
        """Predict kernels given as JSON."""
        version = newest_predictor(self._database, target)
        parsed = [Kernel.from_json(text) for text in kernels]
        runtime = parse_target(version.predictor.target).runtime
        for position, kernel in enumerate(parsed):
            if (kernel.domain == TFLITE_DOMAIN) != (
                runtime != "onnxruntime"
            ):  # imported tables speak TFLite's language
                raise InvalidInput(
                    f"Kernel {position} ({kernel.kind}) is not one that {runtime} executes.",
                    f"Take kernels from predictions of {version.predictor.target}.",
                )
        return version.predictor.predict_each(parsed, version.name)

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
        """Compile a space or a hyperspace for a target, or for one version of its predictor."""
        return self._lookup(space, predictor_version(self._database, target)).table

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
            data, name = load_network(self._database, sha256)
            return predict_operators(version.predictor, self._reader.operators(data, name), version.name)
        target, device = self._worker(version.predictor.target)
        uses, notes = self._kernels(sha256, target, device)
        return version.predictor.predict([use.kernel for use in uses], version.name, notes)

    def _kernels(
        self, sha256: str, target: DeviceTarget, device: MeasuringDevice
    ) -> tuple[list[KernelUse], tuple[str, ...]]:
        """What the target executes for a stored model, and what was changed in it for that."""
        outlined = self._outlines.get(sha256)
        if outlined is not None and outlined.runs_on(target) and (uses := split_hollow(device, outlined.data)):
            return uses, ()
        data, name = load_network(self._database, sha256)
        prepared = self._preparer.prepare(cache_folder(self._database), data, ModelForm.of(target), name)
        outlined = self._reader.outline(prepared.data, name)
        if outlined is None:
            return self._reader.operators(prepared.data, name), prepared.notes
        return split_hollow(device, outlined.data) or split_whole(device, prepared.data), prepared.notes

    def _worker(self, name: str) -> tuple[DeviceTarget, MeasuringDevice]:
        with self._lock:
            if name not in self._workers:
                target = device_target(self._database, name)
                device = open_device(self._database, target, patience_s=PATIENCE_S)
                if target.kind == "agent":  # it costs nothing, and its runtime may change while this runs
                    return target, device
                self._workers[name] = target, device
            return self._workers[name]
