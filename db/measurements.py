"""Kernels and measurements, written and read in bulk. Measurements are only ever added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, insert, select
from sqlalchemy.orm import Session

from .conflicts import chunked, insert_missing
from .models import Kernel, Measurement, Model


@dataclass(frozen=True)
class NewMeasurement:
    """One timed visit to be stored: of the kernel `kernel_id` or of the network file `model_sha256`.

    Latencies, spread and probes in milliseconds; `measured_at` timezone-aware. What an imported table does
    not tell (spread, probes) is None.
    """

    target_id: int
    latency_ms: float
    runs: int
    sitting: str
    runtime_version: str
    measured_at: datetime
    kernel_id: int | None = None
    model_sha256: str | None = None
    spread_ms: float | None = None
    probe_before_ms: float | None = None
    probe_after_ms: float | None = None
    probe_best_ms: float | None = None
    disturbed: bool = False

    def __post_init__(self) -> None:
        if (self.kernel_id is None) == (self.model_sha256 is None):
            raise ValueError("a measurement is of either a kernel or a model")


_FIELDS = tuple(field.name for field in fields(NewMeasurement))


@dataclass(frozen=True)
class Visit:
    """One stored measurement without its subject; units as in `NewMeasurement`."""

    latency_ms: float
    spread_ms: float | None
    runs: int
    probe_before_ms: float | None
    probe_after_ms: float | None
    probe_best_ms: float | None
    disturbed: bool
    sitting: str
    runtime_version: str
    measured_at: datetime


@dataclass(frozen=True)
class KernelMeasurement(Visit):
    """One visit of a kernel. Visits of one kernel share `spec`: do not change it."""

    kernel_id: int
    hash: str
    kind: str
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class ModelMeasurement(Visit):
    """One visit of a network file."""

    sha256: str
    format: str
    name: str


_VISIT = tuple(getattr(Measurement, field.name) for field in fields(Visit))
_KERNEL = (Kernel.hash, Kernel.kind, Kernel.spec)


def get_or_create_kernels(session: Session, kernels: Iterable[tuple[str, str, Mapping[str, Any]]]) -> list[int]:
    """Ids of kernels given as (hash, kind, spec), in their order; new ones are inserted in bulk.

    A hash stands for its spec, so the specs of known hashes are not compared.
    """
    rows = list(kernels)
    by_hash = {hash_: {"hash": hash_, "kind": kind, "spec": spec} for hash_, kind, spec in rows}
    ids = insert_missing(session, Kernel, by_hash, lambda hashes: _kernel_ids(session, hashes))
    return [ids[row[0]] for row in rows]


def add_measurements(session: Session, rows: Sequence[NewMeasurement]) -> None:
    """Store measurements in bulk."""
    if rows:
        session.execute(insert(Measurement), [{name: getattr(row, name) for name in _FIELDS} for row in rows])


def count_measurements(session: Session, target_id: int) -> tuple[int, int]:
    """How many measurements of kernels and of networks a target has, disturbed ones included."""
    query = select(func.count(Measurement.kernel_id), func.count(Measurement.model_sha256))
    kernels, models = session.execute(query.where(Measurement.target_id == target_id)).one()
    return kernels, models


def kernel_measurements(
    session: Session,
    target_id: int,
    *,
    runtime_version: str | None = None,
    sitting: str | None = None,
    since: datetime | None = None,
    include_disturbed: bool = False,
) -> list[KernelMeasurement]:
    """All kernel visits of a target in the order they were stored, with the kernels' specs.

    Without `include_disturbed` only those fit for fitting; with `runtime_version` or `sitting` only those of it, with
    `since` only later ones.
    """
    wanted = _wanted(target_id, runtime_version, since, include_disturbed)
    if sitting is not None:
        wanted.append(Measurement.sitting == sitting)
    query = select(Measurement.kernel_id, *_VISIT).where(Measurement.kernel_id.is_not(None), *wanted)
    visits = session.execute(query.order_by(Measurement.id)).mappings().all()
    # Kernels are read apart, so that the JSON of each is parsed once and not at every visit.
    kernels: dict[int, dict[str, Any]] = {}
    for ids in chunked(list({visit["kernel_id"] for visit in visits})):
        found = session.execute(select(Kernel.id, *_KERNEL).where(Kernel.id.in_(ids)))
        kernels.update({id_: {"hash": hash_, "kind": kind, "spec": spec} for id_, hash_, kind, spec in found})
    return [KernelMeasurement(**visit, **kernels[visit["kernel_id"]]) for visit in visits]


def model_measurements(
    session: Session,
    target_id: int,
    *,
    runtime_version: str | None = None,
    since: datetime | None = None,
    include_disturbed: bool = False,
) -> list[ModelMeasurement]:
    """All network visits of a target in the order they were stored; filters as in `kernel_measurements`."""
    wanted = _wanted(target_id, runtime_version, since, include_disturbed)
    query = select(*_VISIT, Model.sha256, Model.format, Model.name).where(*wanted)
    query = query.join(Model, Model.sha256 == Measurement.model_sha256)
    visits = session.execute(query.order_by(Measurement.id)).mappings()
    return [ModelMeasurement(**visit) for visit in visits]


def _wanted(
    target_id: int, runtime_version: str | None, since: datetime | None, include_disturbed: bool
) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [Measurement.target_id == target_id]
    if runtime_version is not None:
        conditions.append(Measurement.runtime_version == runtime_version)
    if since is not None:
        conditions.append(Measurement.measured_at > since)
    if not include_disturbed:
        conditions.append(Measurement.disturbed.is_(False))
    return conditions


def _kernel_ids(session: Session, hashes: Sequence[str]) -> dict[str, int]:
    ids: dict[str, int] = {}
    for chunk in chunked(hashes):
        found = session.execute(select(Kernel.hash, Kernel.id).where(Kernel.hash.in_(chunk)))
        ids.update((hash_, id_) for hash_, id_ in found)
    return ids
