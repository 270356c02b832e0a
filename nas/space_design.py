"""The search from end to end, one function a step; each step is kept in the database and goes on where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..client import Client
from ..db import devices as device_queries
from ..db import spaces as space_queries
from ..db import studies as queries
from ..db.artefacts import save_artefact
from ..db.engine import Database
from ..errors import InvalidInput
from ..predictors.evaluation import measure_models
from ..predictors.lookup import LatencyLookup
from ..predictors.targets import DeviceTarget
from ..results import Prediction
from ..spaces.codes import encode_genes
from ..spaces.definition import definition
from ..spaces.hyperspace import Hyperspace
from ..spaces.space import Space, Subnet, random_space, random_subnet
from .budget import Budget
from .data import Pictures
from .evaluation import calibration_batches, recalibrate, top1
from .export import build, write_file
from .fastest import check_budgets
from .quality_table import load_teacher, quality_table, store_teacher
from .score import ScoreKind
from .score_tables import MeasuredTables
from .scorers import TimedScorer, make_scorer
from .space_search import ScoredSpace, evolve_space
from .studies import load_study
from .subnet_search import EvaluatedSubnet, best_per_budget, evaluated_subnets, search_subnets
from .supernet import Supernet
from .teacher import teacher_top1, train_teacher

OnProgress = Callable[[str, float, float], None]
"""(what is being done, done, total)."""

BUDGET_QUANTILES = (0.12, 0.35, 0.65)
"""Where among the latencies of random subnets of random spaces the default latency budgets lie."""


@dataclass(frozen=True)
class SpacePlan:
    """How much work the design of a space may be; cell budgets are those of one (stage, block) cell."""

    teacher: Budget
    cell: tuple[Budget, Budget]
    samples: int = 6
    evaluations: int = 500
    population: int = 100
    tournament: int = 25
    score: ScoreKind = "exact"
    score_samples: int = 60_000
    seed: int = 0


@dataclass(frozen=True)
class DesignedSpaces:
    """Spaces that a study has scored, best first, the constraints used, and seconds spent scoring in this sitting."""

    ranking: list[ScoredSpace]
    constraints_ms: tuple[float, ...]
    seconds_scoring: float


@dataclass(frozen=True)
class ExportedSubnet:
    """A file made from a subnet: accuracy of the file and of the trained network, predicted and measured time."""

    subnet: Subnet
    trial: int
    budget_ms: float
    path: Path
    sha256: str
    size_bytes: int
    top1: float
    top1_fake_quant: float
    prediction: Prediction
    measured_ms: float
    disturbed: bool

    @property
    def error(self) -> float:
        """(predicted - measured) / measured."""
        return self.prediction.latency_ms / self.measured_ms - 1


def default_budgets_ms(hyperspace: Hyperspace, lookup: LatencyLookup, seed: int = 0) -> tuple[float, ...]:
    """Three latency budgets that networks of this hyperspace can meet on the table's target, two digits each."""
    rng = np.random.default_rng(seed)
    latency_ms = []
    for _ in range(200):
        space = random_space(hyperspace, rng)
        genes = encode_genes([random_subnet(space, rng) for _ in range(5)])
        latency_ms.append(lookup.subnets_ms(space, genes))
    return tuple(float(f"{value:.2g}") for value in np.quantile(np.concatenate(latency_ms), BUDGET_QUANTILES))


def design_space(
    database: Database,
    client: Client,
    target: DeviceTarget,
    hyperspace: Hyperspace,
    pictures: Pictures,
    study: str,
    plan: SpacePlan,
    constraints_ms: Sequence[float] | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> DesignedSpaces:
    """Teacher, quality table, latency table, evolution.

    The study `study` remembers teacher and constraints, so that a resumed design uses the same ones.
    """
    lookup = LatencyLookup(client.latency_table(hyperspace.name, target.name))
    if constraints_ms:
        check_budgets(hyperspace, lookup, constraints_ms)
    with database.session(read_only=True) as session:
        known = queries.find_study(session, study)
        config: dict[str, Any] = dict(known.config) if known else {}
    if known is None:
        on_progress("training the teacher", 0, 1)
        teacher = train_teacher(
            hyperspace,
            pictures,
            plan.teacher,
            seed=plan.seed,
            report=lambda fraction: on_progress("training the teacher", fraction, 1),
        )
        config = {
            "hyperspace": hyperspace.name,
            "data": pictures.fingerprint,
            "teacher": store_teacher(database, teacher),
            "teacher_top1": teacher_top1(teacher, pictures, "val"),
            "constraints_ms": list(constraints_ms or default_budgets_ms(hyperspace, lookup, plan.seed)),
            "score": plan.score,
        }
        with database.session() as session:
            predictors = [lookup.table.predictor]
            queries.get_or_create_study(session, study, kind="space", config=config, predictors=predictors)
    else:
        _check_study(study, config, hyperspace, pictures, plan.score)
        teacher = load_teacher(database, config["teacher"], hyperspace, len(pictures.classes))
    rows = quality_table(
        database,
        hyperspace,
        teacher,
        config["teacher"],
        pictures,
        plan.cell,
        samples=plan.samples,
        weight_bits=target.weight_bits,
        seed=plan.seed,
        on_cell=lambda done, total: on_progress("distilling stages", done, total),
    )
    tables = MeasuredTables(hyperspace, rows, lookup)
    scorer = TimedScorer(
        make_scorer(plan.score, tables, config["constraints_ms"], samples=plan.score_samples, seed=plan.seed)
    )
    ranking = evolve_space(
        database.url,
        study,
        scorer,
        evaluations=plan.evaluations,
        population=plan.population,
        tournament=plan.tournament,
        seed=plan.seed,
        on_trial=lambda done: on_progress("evolving the space", done, plan.evaluations),
    )
    return DesignedSpaces(ranking, tuple(config["constraints_ms"]), scorer.seconds)


def _check_study(
    study: str, config: dict[str, Any], hyperspace: Hyperspace, pictures: Pictures, score: ScoreKind
) -> None:
    begun = (config.get("hyperspace"), config.get("data"), config.get("score"))
    if begun != (hyperspace.name, pictures.fingerprint, score):
        raise InvalidInput(
            f"The study '{study}' was begun with other data, another hyperspace or another score "
            f"({config.get('hyperspace')}, {config.get('score')}).",
            "Give the same ones to resume it, or another name for a new study.",
        )


def find_subnets(
    database: Database,
    client: Client,
    target: DeviceTarget,
    supernet: Supernet,
    supernet_name: str,
    pictures: Pictures,
    study: str,
    budgets_ms: Sequence[float],
    *,
    evaluations: int,
    seed: int = 0,
    on_progress: OnProgress = lambda *_: None,
    stop: Callable[[int], bool] = lambda _: False,
) -> list[EvaluatedSubnet]:
    """Search the supernet's subnets by INT8 top-1 on the validation pictures and predicted latency."""
    space = supernet.space
    lookup = LatencyLookup(client.latency_table(space.encoding, target.name))
    with database.session() as session:
        stored = queries.get_supernet(session, supernet_name)
        row = queries.get_or_create_study(
            session,
            study,
            kind="subnet",
            config={"budgets_ms": list(budgets_ms), "target": target.name, "data": pictures.fingerprint},
            predictors=[lookup.table.predictor],
            space_id=stored.space_id,
            supernet_id=stored.id,
        )
        budgets_ms = row.config["budgets_ms"]
    calibration = calibration_batches(pictures)

    def accuracy(subnet: Subnet) -> float:
        return top1(supernet, subnet, recalibrate(supernet, subnet, calibration), pictures, "val")

    return search_subnets(
        database.url,
        study,
        space,
        lookup,
        budgets_ms,
        accuracy,
        evaluations=evaluations,
        seed=seed,
        on_trial=lambda done: on_progress("searching subnets", done, evaluations),
        stop=stop,
    )


def chosen_subnets(database: Database, study: str, trial: int | None = None) -> list[EvaluatedSubnet]:
    """One trial of a subnet study, or the best one for each of its budgets; raises NotFound or InvalidInput."""
    with database.session(read_only=True) as session:
        row = queries.get_study(session, study)
        if row.kind != "subnet":
            raise InvalidInput(f"'{study}' is a study of spaces.", "Name a study of subnets: milliseek show")
        budgets_ms = row.config["budgets_ms"]
    found = evaluated_subnets(load_study(database.url, study), budgets_ms)
    if trial is None:
        return best_per_budget(found, budgets_ms)
    if chosen := [e for e in found if e.trial == trial]:
        return chosen
    raise InvalidInput(f"The study '{study}' has no finished trial {trial}.", "milliseek show STUDY lists its trials.")


def export_subnets(
    database: Database,
    client: Client,
    target: DeviceTarget,
    supernet: Supernet,
    pictures: Pictures,
    study: str,
    chosen: Sequence[EvaluatedSubnet],
    folder: Path,
    on_progress: OnProgress = lambda *_: None,
) -> list[ExportedSubnet]:
    """Write, check, predict and measure the chosen subnets; every file is recorded as an export."""
    calibration = calibration_batches(pictures)
    built = []
    for i, candidate in enumerate(chosen):
        on_progress("exporting", i, len(chosen))
        metadata = {"milliseek.study": f"{study}:{candidate.trial}", "milliseek.target": target.name}
        model = build(supernet, candidate.subnet, pictures, calibration, metadata=metadata)
        path = write_file(folder / f"{study}-{candidate.trial}.onnx", model.data)
        built.append((candidate, model, path, client.predict(model.data, target.name)))
    measured = measure_models(
        database,
        target,
        [(path.name, model.data) for _, model, path, _ in built],
        on_progress=lambda done, total: on_progress("measuring the files", done, total),
    )
    exported = [
        ExportedSubnet(
            subnet=candidate.subnet,
            trial=candidate.trial,
            budget_ms=candidate.budget_ms,
            path=path,
            sha256=hashlib.sha256(model.data).hexdigest(),
            size_bytes=len(model.data),
            top1=model.top1,
            top1_fake_quant=model.top1_fake_quant,
            prediction=prediction,
            measured_ms=measurement.latency_ms,
            disturbed=measurement.disturbed,
        )
        for (candidate, model, path, prediction), measurement in zip(built, measured, strict=True)
    ]
    _record(database, target, study, [(e, model.data) for e, (_, model, _, _) in zip(exported, built, strict=True)])
    return exported


def _record(
    database: Database, target: DeviceTarget, study: str, exported: Sequence[tuple[ExportedSubnet, bytes]]
) -> None:
    with database.session() as session:
        row = queries.get_study(session, study)
        target_id = device_queries.get_target(session, target.name).id
        for export, data in exported:
            space = export.subnet.space
            hyperspace = space_queries.get_or_create_hyperspace(
                session, space.hyperspace.name, definition(space.hyperspace)
            )
            space_row = space_queries.get_or_create_space(session, space.encoding, hyperspace.id)
            network = export.subnet.network(space.hyperspace.nominal_classes)
            subnet = space_queries.get_or_create_subnet(
                session, space_row.id, export.subnet.genome, macs=network.macs, params=network.params
            )
            queries.add_export(
                session,
                study_id=row.id,
                trial_number=export.trial,
                subnet_id=subnet.id,
                target_id=target_id,
                format="onnx",
                precision="int8",
                artefact_sha256=save_artefact(session, database.artefacts, data, "export"),
                path=str(export.path.absolute()),
                size_bytes=export.size_bytes,
                top1=export.top1,
                top1_fake_quant=export.top1_fake_quant,
                predicted_ms=export.prediction.latency_ms,
                interval_ms=export.prediction.interval_ms,
                measured_ms=export.measured_ms,
                info={"predictor": export.prediction.predictor},
            )


def best_space(ranking: Sequence[ScoredSpace]) -> Space:
    """The winner; raises InvalidInput where no space meets any constraint."""
    if not ranking or ranking[0].score <= 0:
        raise InvalidInput("No space of this hyperspace meets any of the latency constraints.", "Raise them.")
    return ranking[0].space
