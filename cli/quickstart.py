"""`quickstart`: the main job from nothing to INT8 files for this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
    DEFAULT_TARGET,
    Data,
    Db,
    Json,
    Seed,
    Server,
    TargetOption,
    extras,
    latency_client,
    open_database,
)
from .output import OnProgress, milliseconds, note, out, percent, print_json, print_table, progress_bar, size

if TYPE_CHECKING:
    from ..client import Client
    from ..db.engine import Database
    from ..nas.exports.exported_subnet import ExportedSubnet
    from ..nas.pictures.data import Pictures
    from ..predictors.targets import DeviceTarget

HYPERSPACE = "tiny32"
EVALUATED_SPACES = 500
MIN_SUBNETS, MAX_SUBNETS = 12, 90
"""Subnets evaluated: at least so many, however slow the machine is, and at most so many in the time there is."""
SHARES = {
    "profile": 0.15,
    "calibration": 0.05,
    "teacher": 0.06,
    "cells": 0.22,
    "float": 0.24,
    "int8": 0.11,
    "search": 0.08,
}
"""How the minutes are spent; the rest is loading, exporting and measuring."""


def quickstart(
    minutes: Annotated[float, typer.Option("--minutes", min=0.5, help="Time budget of the whole run.")] = 8.0,
    data: Data = "digits",
    target: TargetOption = DEFAULT_TARGET,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for the ONNX files.")] = Path("milliseek-out"),
    seed: Seed = 0,
    db: Db = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Search INT8 networks for this machine: three files, one for each of three latency budgets.

    Profiles the target, evolves a search space for it, trains one quantised supernet, searches it and exports the
    best subnets. Interrupted or killed, the same command goes on where it was.
    """
    with extras("search"):
        from ..nas.pictures.data import parse_data
    from ..predictors.targets import device_target

    started = time.monotonic()
    with open_database(db) as database, progress_bar(quiet=json) as on_progress:
        local = device_target(database, target)
        pictures = parse_data(data)
        run = _Run(database, local, pictures, {"minutes": minutes, "data": data, "seed": seed}, server, on_progress)
        exported, earlier_s = run.finish(folder)
    seconds = time.monotonic() - started + earlier_s
    space = exported[0][0].subnet.space.encoding
    files = [export for export, _ in exported]
    subnets = [_subnet_json(run.name, export, budget_ms, files) for export, budget_ms in exported]
    if json:
        print_json({"seconds": seconds, "target": local.name, "space": space, "subnets": subnets})
        return
    out.print(f"\nSpace {space} for {local.name}, {seconds:.0f} s")
    rows = [
        (
            Path(s["path"]).name,
            milliseconds(s["budget_ms"]),
            percent(s["top1"]) + ("*" if s["dominated"] else ""),
            f"{milliseconds(s['predicted_ms'])} ({'-'.join(map(milliseconds, s['interval_ms']))})",
            milliseconds(s["measured_ms"]) + ("?" if s["disturbed"] else ""),
            size(s["size_bytes"]),
        )
        for s in subnets
    ]
    print_table(("file", "budget", "top-1", "predicted ms", "measured", "size"), rows)
    note(f"files are in {folder.absolute()}")
    if any(s["dominated"] for s in subnets):
        note("* dominated: another file is as accurate and as fast, and better in one of them")
    if any(s["disturbed"] for s in subnets):
        note("? the machine was busy at every visit; measure again: milliseek measure FILE")


class _Run:
    """One run of the main job; every phase that is finished is kept and skipped when the run is resumed."""

    def __init__(
        self,
        database: Database,
        target: DeviceTarget,
        pictures: Pictures,
        config: dict[str, Any],
        server: str | None,
        on_progress: OnProgress,
    ) -> None:
        from ..db import studies as queries

        self.database = database
        self.target = target
        self.pictures = pictures
        self.server = server
        self.on_progress = on_progress
        self.seed = int(config["seed"])
        self.budget_s = 60 * float(config["minutes"])
        config = {**config, "target": target.name, "fingerprint": pictures.fingerprint}
        with database.session() as session:
            runs = queries.list_runs(session)
            unfinished = [run for run in runs if run.config == config and not run.finished]
            self.name = unfinished[-1].name if unfinished else f"quickstart{len(runs) + 1}"
            row = queries.get_or_create_run(session, self.name, config)
            self.state: dict[str, Any] = dict(row.state)
        if self.state:
            note(f"Going on with {self.name}: {', '.join(self.state)} done.")

    def finish(self, folder: Path) -> tuple[list[tuple[ExportedSubnet, float | None]], float]:
        """All phases that are left; returns the files with their budgets in ms, and the seconds of earlier sittings."""
        from ..nas.exports.export import FileForm
        from ..nas.exports.exporting import ExportOptions, export_subnets
        from ..nas.search.subnet_studies import chosen_subnets
        from ..nas.training.supernets import load_supernet

        earlier_s = sum(float(result.get("seconds", 0)) for result in self.state.values())
        self._phase("profile", self._profile)
        with latency_client(self.database, self.server) as client:
            self._phase("space", lambda: self._space(client))
            self._phase("calibration", self._calibrate)
            self._phase("supernet", self._supernet)
            self._phase("search", lambda: self._search(client))
            chosen = chosen_subnets(self.database, f"{self.name}-subnets")
            exported = export_subnets(
                self.database,
                client,
                [self.target],
                load_supernet(self.database, self.name, self.pictures),
                self.pictures,
                f"{self.name}-subnets",
                {each.trial: each.subnet for each in chosen},
                folder,
                ExportOptions((FileForm.of(self.target),)),
                self.on_progress,
            )
        self._keep("export", {"files": [str(export.path) for export in exported]}, last=True)
        budgets_ms = {each.trial: each.budget_ms for each in chosen if each.budget_ms is not None}
        return [(export, budgets_ms[export.trial]) for export in exported], earlier_s

    def _phase(self, name: str, work: Any) -> None:
        if name in self.state:
            return
        started = time.monotonic()
        result = work()
        self._keep(name, {**result, "seconds": time.monotonic() - started})

    def _keep(self, name: str, result: dict[str, Any], *, last: bool = False) -> None:
        from ..db.studies import finish_phase

        with self.database.session() as session:
            self.state = dict(finish_phase(session, self.name, name, result, last=last).state)

    def _seconds(self, share: str) -> float:
        return SHARES[share] * self.budget_s

    def _profile(self) -> dict[str, Any]:
        from ..errors import NotFound, NotReady
        from ..predictors.profiles.profiling import profile
        from ..predictors.stored.versions import newest_predictor
        from ..spaces.hyperspace import hyperspace_named

        if self.server is not None:
            return {"predictor": "served"}
        try:
            known = newest_predictor(self.database, self.target.name)
            if known.predictor.runtime_version == self.target.runtime_version:
                note(f"Using {known.name}, profiled before; milliseek profile {self.target.name} makes a new one.")
                return {"predictor": known.name}
        except (NotFound, NotReady):
            pass
        result = profile(
            self.database,
            self.target,
            [hyperspace_named(HYPERSPACE)],
            self._seconds("profile"),
            seed=self.seed,
            on_progress=self.on_progress,
        )
        return {"predictor": result.predictor}

    def _space(self, client: Client) -> dict[str, Any]:
        from ..nas.design.space_design import SpacePlan, best_space, design_space
        from ..nas.training.budget import Budget
        from ..spaces.hyperspace import hyperspace_named

        hyperspace = hyperspace_named(HYPERSPACE)
        cells = len(hyperspace.searched) * len(hyperspace.blocks)
        cell_s = self._seconds("cells") * _cores() / cells
        plan = SpacePlan(
            teacher=Budget(seconds=self._seconds("teacher")),
            cell=(Budget(seconds=0.6 * cell_s), Budget(seconds=0.2 * cell_s)),
            evaluations=EVALUATED_SPACES,
            seed=self.seed,
        )
        designed = design_space(
            self.database,
            client,
            [self.target],
            hyperspace,
            self.pictures,
            f"{self.name}-space",
            plan,
            on_progress=self.on_progress,
        )
        budgets_ms = designed.constraints_ms[self.target.name]
        return {"space": best_space(designed.ranking).encoding, "budgets_ms": list(budgets_ms)}

    def _calibrate(self) -> dict[str, Any]:
        """Look closer where the search goes: the networks of the winning space, beside those of the hyperspace."""
        from ..predictors.profiles.profiling import profile
        from ..spaces.hyperspace import hyperspace_named
        from ..spaces.space import Space

        if self.server is not None:
            return {"predictor": "served"}
        result = profile(
            self.database,
            self.target,
            [Space.decode(self.state["space"]["space"]), hyperspace_named(HYPERSPACE)],
            self._seconds("calibration"),
            add=True,
            seed=self.seed + 1,
            on_progress=lambda _, done, total: self.on_progress("measuring its kernels", done, total),
        )
        return {"predictor": result.predictor}

    def _supernet(self) -> dict[str, Any]:
        from ..nas.training.budget import Budget
        from ..nas.training.recipe import Recipe
        from ..nas.training.supernets import train_supernet
        from ..spaces.space import Space

        recipe = Recipe(
            Budget(seconds=self._seconds("float")),
            Budget(seconds=self._seconds("int8")),
            weight_bits=self.target.weight_bits,
            seed=self.seed,
        )
        train_supernet(
            self.database,
            self.name,
            Space.decode(self.state["space"]["space"]),
            self.pictures,
            recipe,
            lambda training, _: self.on_progress("training the supernet", training.progress, 1),
        )
        return {"supernet": self.name}

    def _search(self, client: Client) -> dict[str, Any]:
        from ..nas.search.subnet_studies import SearchPlan, find_subnets
        from ..nas.training.supernets import load_supernet

        study = f"{self.name}-subnets"
        end = time.monotonic() + self._seconds("search")
        find_subnets(
            self.database,
            client,
            SearchPlan.within(self.target.name, self.state["space"]["budgets_ms"]),
            load_supernet(self.database, self.name, self.pictures),
            self.name,
            self.pictures,
            study,
            evaluations=MAX_SUBNETS,
            seed=self.seed,
            on_progress=self.on_progress,
            stop=lambda done: done >= MIN_SUBNETS and time.monotonic() > end,
        )
        return {"study": study}


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


def _subnet_json(
    run: str, export: ExportedSubnet, budget_ms: float | None, exported: list[ExportedSubnet]
) -> dict[str, Any]:
    """The documented object of one subnet; `dominated`: another one is as accurate and as fast, and better in one."""
    (latency,) = export.latencies
    prediction = latency.prediction
    assert prediction is not None, "a run profiles its target first"
    ours = export.top1, -latency.measured_ms
    others = [(other.top1, -other.latencies[0].measured_ms) for other in exported]
    dominated = any(their != ours and their[0] >= ours[0] and their[1] >= ours[1] for their in others)
    return {
        "id": f"{run}-subnets:{export.trial}",
        "subnet": export.subnet.encoding,
        "budget_ms": budget_ms,
        "top1": export.top1,
        "top1_fake_quant": export.top1_fake_quant,
        "predicted_ms": prediction.latency_ms,
        "interval_ms": list(prediction.interval_ms),
        "measured_ms": latency.measured_ms,
        "error": prediction.latency_ms / latency.measured_ms - 1,
        "disturbed": latency.disturbed,
        "dominated": dominated,
        "size_bytes": export.size_bytes,
        "path": str(export.path.absolute()),
    }
