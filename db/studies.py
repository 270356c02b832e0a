"""What a search leaves behind: supernets, studies, exports, and runs that can be resumed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from ..errors import NotFound
from .conflicts import get_or_create
from .models import Export, Run, Study, Supernet, Target


def get_or_create_supernet(
    session: Session, name: str, *, space_id: int, config: dict[str, Any], data_fingerprint: str, phase: str
) -> Supernet:
    """The supernet `name`, inserted at step 0 of `phase` if new; an existing one keeps everything it has."""
    return get_or_create(
        session,
        Supernet,
        {"name": name},
        {
            "space_id": space_id,
            "config": config,
            "data_fingerprint": data_fingerprint,
            "phase": phase,
            "step": 0,
        },
    )


def find_supernet(session: Session, name: str) -> Supernet | None:
    """The supernet `name`, or None."""
    return session.scalars(select(Supernet).where(Supernet.name == name)).one_or_none()


def get_supernet(session: Session, name: str) -> Supernet:
    """The supernet `name`; NotFound if the database has none."""
    if (supernet := find_supernet(session, name)) is None:
        raise NotFound(f"There is no supernet '{name}' here.", "Train one with `milliseek supernet train`.")
    return supernet


def list_supernets(session: Session, space_id: int | None = None) -> Sequence[Supernet]:
    """All supernets by name, or those of one space."""
    query = select(Supernet).order_by(Supernet.name)
    if space_id is not None:
        query = query.where(Supernet.space_id == space_id)
    return session.scalars(query).all()


def update_supernet(session: Session, name: str, *, phase: str, step: int, artefact_sha256: str) -> str | None:
    """Note a new checkpoint; returns the artefact that it replaces, if any, for `forget_artefact`."""
    query = select(Supernet).where(Supernet.name == name).with_for_update(of=Supernet)
    if (supernet := session.scalars(query).one_or_none()) is None:
        raise NotFound(f"There is no supernet '{name}' here.", "Train one with `milliseek supernet train`.")
    replaced = supernet.artefact_sha256
    supernet.phase, supernet.step, supernet.artefact_sha256 = phase, step, artefact_sha256
    session.flush()
    return replaced if replaced != artefact_sha256 else None


def get_or_create_study(
    session: Session,
    name: str,
    *,
    kind: Literal["space", "subnet"],
    config: dict[str, Any],
    predictors: Sequence[str] = (),
    space_id: int | None = None,
    supernet_id: int | None = None,
) -> Study:
    """The study `name` (Optuna's `study_name`), inserted if new; an existing one keeps everything it has.

    `predictors` names the versions that answer it, `TARGET@VERSION`.
    """
    return get_or_create(
        session,
        Study,
        {"name": name},
        {
            "kind": kind,
            "config": config,
            "predictors": list(predictors),
            "space_id": space_id,
            "supernet_id": supernet_id,
        },
    )


def find_study(session: Session, name: str) -> Study | None:
    """The study `name`, or None."""
    return session.scalars(select(Study).where(Study.name == name)).one_or_none()


def get_study(session: Session, name: str) -> Study:
    """The study `name`; NotFound if the database has none."""
    if (study := find_study(session, name)) is None:
        raise NotFound(f"There is no study '{name}' here.", "`milliseek show` lists what there is.")
    return study


def forget_study(session: Session, name: str) -> None:
    """Remove the study `name`, if there is one and nothing rests on it."""
    session.execute(delete(Study).where(Study.name == name))


def begun_predictors(session: Session, name: str) -> dict[str, str]:
    """For each target the version, `TARGET@VERSION`, that a study's milliseconds come from; {} if there is none yet."""
    study = find_study(session, name)
    return {version.rpartition("@")[0]: version for version in study.predictors} if study else {}


def list_studies(session: Session, kind: Literal["space", "subnet"] | None = None) -> Sequence[Study]:
    """All studies in the order they were begun, or those of one kind."""
    query = select(Study).order_by(Study.id)
    if kind is not None:
        query = query.where(Study.kind == kind)
    return session.scalars(query).all()


def update_study(session: Session, name: str, *, predictors: Sequence[str]) -> Study:
    """Note which predictor versions answer a study from now on; NotFound if there is no such study."""
    study = get_study(session, name)
    study.predictors = list(predictors)
    session.flush()
    return study


def add_export(
    session: Session,
    *,
    subnet_id: int,
    target_id: int,
    format: str,  # noqa: A002
    precision: str,
    artefact_sha256: str,
    path: str,
    size_bytes: int,
    study_id: int | None = None,
    trial_number: int | None = None,
    top1: float | None = None,
    top1_fake_quant: float | None = None,
    predicted_ms: float | None = None,
    interval_ms: tuple[float, float] | None = None,
    measured_ms: float | None = None,
    info: dict[str, Any] | None = None,
) -> Export:
    """Store what is known of an exported file; top-1 as fractions, latencies in milliseconds."""
    low, high = interval_ms or (None, None)
    export = Export(
        subnet_id=subnet_id,
        target_id=target_id,
        format=format,
        precision=precision,
        artefact_sha256=artefact_sha256,
        path=path,
        size_bytes=size_bytes,
        study_id=study_id,
        trial_number=trial_number,
        top1=top1,
        top1_fake_quant=top1_fake_quant,
        predicted_ms=predicted_ms,
        interval_low_ms=low,
        interval_high_ms=high,
        measured_ms=measured_ms,
        info=info or {},
    )
    session.add(export)
    session.flush()
    return export


def update_export(
    session: Session,
    export_id: int,
    *,
    top1: float | None = None,
    top1_fake_quant: float | None = None,
    measured_ms: float | None = None,
    info: dict[str, Any] | None = None,
) -> Export:
    """Add what was found out later about an export; None leaves a value as it is. May raise NotFound."""
    export = get_export(session, export_id)
    found = {"top1": top1, "top1_fake_quant": top1_fake_quant, "measured_ms": measured_ms, "info": info}
    for name, value in found.items():
        if value is not None:
            setattr(export, name, value)
    session.flush()
    return export


def get_export(session: Session, export_id: int) -> Export:
    """One export; NotFound if the database has none with this number."""
    if (export := session.get(Export, export_id)) is None:
        raise NotFound(f"There is no export number {export_id} here.", "`milliseek show` lists what there is.")
    return export


def list_exports(session: Session, *, study_id: int | None = None, target: str | None = None) -> Sequence[Export]:
    """All exports in the order they were made, or those of one study or of the target with this name."""
    query = select(Export).join(Export.target).order_by(Export.id)
    if study_id is not None:
        query = query.where(Export.study_id == study_id)
    if target is not None:
        query = query.where(Target.name == target)
    return session.scalars(query).all()


def get_or_create_run(session: Session, name: str, config: dict[str, Any]) -> Run:
    """The run `name`, inserted without finished phases if new; an existing one keeps config and state."""
    return get_or_create(session, Run, {"name": name}, {"config": config, "state": {}, "finished": False})


def find_run(session: Session, name: str) -> Run | None:
    """The run `name`, or None."""
    return session.scalars(select(Run).where(Run.name == name)).one_or_none()


def list_runs(session: Session) -> Sequence[Run]:
    """All runs in the order they were begun."""
    return session.scalars(select(Run).order_by(Run.id)).all()


def forget_run(session: Session, name: str) -> None:
    """Remove the run `name`, if there is one."""
    session.execute(delete(Run).where(Run.name == name))


def finish_phase(session: Session, name: str, phase: str, result: dict[str, Any], *, last: bool = False) -> Run:
    """Store the result of a finished phase of a run; the `last` one finishes it. May raise NotFound."""
    run = session.scalars(select(Run).where(Run.name == name).with_for_update()).one_or_none()
    if run is None:
        raise NotFound(f"There is no run '{name}' here.", "`milliseek show` lists what there is.")
    run.state = {**run.state, phase: result}  # a new dictionary: changes inside the old one go unnoticed
    run.finished = run.finished or last
    session.flush()
    return run
