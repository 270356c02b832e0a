"""`spaces quality`: how well every stage choice of a hyperspace can do its part, on the user's pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import StorageError
from .options import Data, Db, HyperspaceOption, Json, Seed, extras, hyperspace_option, open_database, seconds
from .output import note, percent, print_json, progress_bar


def quality(
    hyperspace: HyperspaceOption = "small32",
    data: Data = "digits",
    teacher: Annotated[
        Path | None,
        typer.Option("--teacher", help="Checkpoint of a teacher, from --teacher-out.", show_default=False),
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows for each stage, block type and width window.")] = 100,
    budget: Annotated[str, typer.Option("--budget", help="Time for all of it, such as 60m.")] = "60m",
    name: Annotated[
        str | None, typer.Option("--name", help="Name; a table of that name is gone on with.", show_default=False)
    ] = None,
    weight_bits: Annotated[
        Literal["7", "8"] | None,
        typer.Option(
            "--weight-bits",
            help="7 on x86 without VNNI, else 8. [default: what this machine needs]",
            show_default=False,
        ),
    ] = None,
    teacher_out: Annotated[
        Path | None, typer.Option("--teacher-out", help="File for the teacher's weights.", show_default=False)
    ] = None,
    seed: Seed = 0,
    db: Db = None,
    json: Json = False,
) -> None:
    """Make the quality table of a hyperspace for your pictures: a teacher, and stages that learn to imitate its own.

    Uses GPUs where there are any, else all cores. Interrupted or killed, the same command goes on where it was.
    """
    with extras("search"):
        from ..nas.pictures.data import parse_data
        from ..nas.quality.quality_run import QualityBudget, make_table, table_name
    from ..devices import facts

    limit_s = seconds(budget)
    bits = int(weight_bits) if weight_bits else facts.weight_bits(facts.local_facts())
    with open_database(db) as database, progress_bar(quiet=json) as on_progress:
        chosen = hyperspace_option(hyperspace)
        pictures = parse_data(data, max(chosen.resolutions))
        asked = QualityBudget(limit_s, rows, bits, seed)
        called = name or table_name(chosen, pictures, asked)
        made = make_table(database, chosen, pictures, called, asked, checkpoint=teacher, on_progress=on_progress)
        if teacher_out is not None:
            try:
                teacher_out.write_bytes(database.artefacts.read(made.table.teacher))
            except OSError as error:
                raise StorageError(f"{teacher_out} cannot be written: {error.strerror}.", "Choose another.") from error
    plan, by_cell = made.table.plan, made.rows_by_cell
    if json:
        print_json(
            {
                "table": called,
                "hyperspace": chosen.name,
                "data": pictures.fingerprint,
                "teacher": made.table.teacher,
                "teacher_top1": made.table.teacher_top1,
                "steps": {"float": plan.float_budget.steps, "quantised": plan.quantised_budget.steps},
                "weight_bits": plan.weight_bits,
                "cells": len(by_cell),
                "rows": len(made.rows),
                "least_rows": min(by_cell.values()),
                "noise": {str(resolution): value for resolution, value in made.table.noise.items()},
                "seconds": made.seconds,
            }
        )
        return
    note(
        f"quality table {called}: {len(made.rows)} rows in {len(by_cell)} cells, at least {min(by_cell.values())} in "
        f"each; teacher {percent(made.table.teacher_top1)} top-1, {plan.float_budget.steps} steps a stage"
    )
    note(f"use it: milliseek spaces evolve --hyperspace {hyperspace} --data {data} --quality {called}")
