"""Measuring and keeping: every visit becomes a row, good or disturbed."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime

from ...db.engine import Database
from ...db.measurements import NewMeasurement, add_measurements, get_or_create_kernels
from ...devices.measuring_device import MeasuringDevice
from ...devices.protocol import Visit
from ...errors import InvalidInput, MeasurementError
from ...kernels.kernel import Kernel
from ...kernels.onnx.builder import one_kernel_model
from ...kernels.tflite.builder import one_kernel_tflite
from ..networks.files import PreparedModel, store_prepared
from ..targets import DeviceTarget

BATCH = 64
"""Kernel visits of this machine written in one transaction: what a crash can cost at most."""


class Measurer:
    """One sitting on a target: measures kernels and networks and stores every visit.

    A kernel that the runtime refuses is remembered in `failures` and skipped from then on; `visited` holds the hashes
    of all that were tried, `quiet` of those that had an undisturbed visit.
    """

    def __init__(self, database: Database, target: DeviceTarget, device: MeasuringDevice) -> None:
        self.database = database
        self.target = target
        self.device = device
        self.sitting = str(uuid.uuid4())
        self.failures: dict[str, str] = {}
        self.visited: set[str] = set()
        self.quiet: set[str] = set()
        self._ids: dict[str, int] = {}

    def measure_kernels(
        self,
        kernels: Iterable[Kernel],
        goes_on: Callable[[], bool] = lambda: True,
        on_visit: Callable[[int], None] = lambda _: None,
    ) -> int:
        """One visit for each kernel, until `goes_on` says no; returns the number of visits stored.

        What a device elsewhere has under way then is still waited for.
        """
        done = 0
        rows: list[tuple[Kernel, Visit, datetime]] = []
        # A device elsewhere remembers what it measured until it is asked for more: then it must be stored.
        batch = BATCH if self.target.kind == "local" else 1
        try:
            for kernel, visit in self.device.measure_many(self._files(kernels, goes_on)):
                if visit.error is not None:
                    self.failures[kernel.hash] = visit.error
                    continue
                rows.append((kernel, visit, datetime.now(UTC)))
                if not visit.disturbed:
                    self.quiet.add(kernel.hash)
                done += 1
                on_visit(done)
                if len(rows) == batch:
                    self._store(rows)
                    rows = []
        finally:
            self._store(rows)
        return done

    def _files(self, kernels: Iterable[Kernel], goes_on: Callable[[], bool]) -> Iterator[tuple[Kernel, bytes]]:
        """Each kernel with a model file of it, made when it is asked for."""
        for kernel in kernels:
            if kernel.hash in self.failures:
                continue
            if not goes_on():
                return
            self.visited.add(kernel.hash)
            try:
                model = one_kernel_tflite(kernel) if kernel.domain == "tflite" else one_kernel_model(kernel)
            except InvalidInput as error:  # control flow, strings: predicted from its bytes
                self.failures[kernel.hash] = error.message
                continue
            yield kernel, model

    def measure_network(self, model: PreparedModel, name: str) -> Visit:
        """One visit of a whole network; raises MeasurementError if the runtime cannot run it."""
        visit = self.device.measure(model.data, optimise=True)[0]
        if visit.error is not None:
            raise MeasurementError(
                f"{name} cannot be measured on {self.target.name}: {visit.error}",
                "Try again when nothing else runs there, and check that it runs in the runtime alone.",
            )
        sha256 = store_prepared(self.database, model, name)
        with self.database.session() as session:
            add_measurements(session, [self._row(visit, datetime.now(UTC), model_sha256=sha256)])
        return visit

    def _store(self, rows: list[tuple[Kernel, Visit, datetime]]) -> None:
        if not rows:
            return
        with self.database.session() as session:
            new = {kernel.hash: kernel for kernel, _, _ in rows if kernel.hash not in self._ids}
            ids = get_or_create_kernels(session, [(key, kernel.kind, spec_of(kernel)) for key, kernel in new.items()])
            self._ids.update(zip(new, ids, strict=True))
            add_measurements(
                session, [self._row(visit, at, kernel_id=self._ids[kernel.hash]) for kernel, visit, at in rows]
            )

    def _row(
        self, visit: Visit, at: datetime, kernel_id: int | None = None, model_sha256: str | None = None
    ) -> NewMeasurement:
        assert visit.latency_ms is not None
        return NewMeasurement(
            target_id=self.target.row_id,
            latency_ms=visit.latency_ms,
            runs=visit.runs,
            sitting=self.sitting,
            runtime_version=self.target.runtime_version,
            measured_at=at,
            kernel_id=kernel_id,
            model_sha256=model_sha256,
            spread_ms=visit.spread_ms,
            probe_before_ms=visit.probe_before_ms,
            probe_after_ms=visit.probe_after_ms,
            probe_best_ms=visit.probe_best_ms,
            disturbed=visit.disturbed,
        )


def spec_of(kernel: Kernel) -> Mapping[str, str]:
    """What the database keeps of a kernel."""
    return {"kernel": kernel.to_json()}


def kernel_of(spec: Mapping[str, str]) -> Kernel:
    """Inverse of `spec_of`."""
    return Kernel.from_json(spec["kernel"])
