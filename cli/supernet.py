"""`supernet`: training the shared weights of a space."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated

import typer

from .options import DEFAULT_TARGET, Data, Db, Json, Seed, TargetOption, extras, open_database, seconds
from .output import note, out, print_json, progress_bar

if TYPE_CHECKING:
    from ..nas.training.budget import Budget

app = typer.Typer(help="Train the shared weights of all networks of a space.", no_args_is_help=True)
QUANTISED_SHARE = 1 / 3


@app.command()
def train(
    space: Annotated[str, typer.Argument(help="Space, such as small32-1512-0231.", show_default=False)],
    data: Data = "digits",
    name: Annotated[
        str | None, typer.Option("--name", help="Name; an unfinished supernet of that name is resumed.")
    ] = None,
    budget: Annotated[
        str, typer.Option("--budget", help="10m, 2h, or 3000steps; a third of it fake-quantised.")
    ] = "30m",
    batch: Annotated[int, typer.Option("--batch", min=2, help="Pictures a step, over all processes.")] = 16,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", min=1e-6, help="Its peak; a tenth of it while fake-quantised.")
    ] = 0.1,
    sampler: Annotated[
        str, typer.Option("--sampler", help="uniform, complexity-aware or performance-aware.")
    ] = "uniform",
    augment: Annotated[str, typer.Option("--augment", help="none, crop, flip or randaugment.")] = "crop",
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, bf16 or fp16; auto: bf16 or fp16 on GPUs.")
    ] = "auto",
    ema: Annotated[
        float, typer.Option("--ema", min=0, max=0.99999, help="What averaged weights keep a step; 0: no averaging.")
    ] = 0.999,
    target: TargetOption = DEFAULT_TARGET,
    seed: Seed = 0,
    db: Db = None,
    json: Json = False,
) -> None:
    """Train one quantised supernet: sandwich steps in floating point, then with LSQ+ fake quantisation.

    The target decides how many bits a weight has: 7 on x86 without VNNI, where 8 would saturate. Started by torchrun,
    the processes share each batch.
    """
    with extras("search"):
        from ..nas.pictures.data import parse_data
        from ..nas.training.processes import joined, preferred_precision
        from ..nas.training.recipe import Recipe
        from ..nas.training.supernet_training import StepReport, SupernetTraining
        from ..nas.training.supernets import train_supernet, trained_size
    from ..predictors.targets import device_target
    from ..spaces.space import Space

    budgets = _budgets(budget)
    decoded = Space.decode(space)
    started = time.monotonic()
    with (
        joined(device) as processes,
        open_database(db) as database,
        progress_bar(quiet=json or not processes.leads) as on_progress,
    ):
        local = device_target(database, target)
        pictures = parse_data(data, trained_size(decoded))
        for remark in pictures.notes if processes.leads else ():
            note(remark)
        chosen = name or f"{space}-{pictures.fingerprint[:8]}-{seed}"
        recipe = Recipe(
            *budgets,
            weight_bits=local.weight_bits,
            batch=batch,
            learning_rate=learning_rate,
            seed=seed,
            sampler=sampler,  # type: ignore[arg-type]  # Recipe checks the names
            augmentation=augment,  # type: ignore[arg-type]
            ema=ema,
            precision=preferred_precision(processes.device) if precision == "auto" else precision,  # type: ignore[arg-type]
            shards=processes.count,
        )
        latest: SupernetTraining | None = None

        def on_step(training: SupernetTraining, report: StepReport | None) -> None:  # noqa: ARG001
            nonlocal latest
            latest = training
            on_progress("training the supernet", training.progress, 1)

        train_supernet(database, chosen, decoded, pictures, recipe, on_step, processes)
        assert latest is not None
    if not processes.leads:
        return
    if json:
        print_json(
            {
                "supernet": chosen,
                "space": space,
                "steps": latest.steps,
                "steps_quantised": latest.quantised_steps,
                "epochs": latest.epoch,
                "seconds": time.monotonic() - started,
                "seconds_training": latest.seconds,
                "device": processes.device.type,
                "processes": processes.count,
                "precision": latest.recipe.precision,
                "learning_rate": latest.recipe.learning_rate,
                "sampler": latest.recipe.sampler,
                "augmentation": latest.recipe.augmentation,
                "weight_bits": latest.recipe.weight_bits,
            }
        )
    else:
        out.print(f"Supernet {chosen} is trained ({latest.steps} steps). Next: milliseek search {chosen}")


def _budgets(text: str) -> tuple[Budget, Budget]:
    """Floating point and quantised part of `10m` or `3000steps`; raises a usage error."""
    from ..nas.training.budget import Budget

    if match := re.fullmatch(r"(\d+) ?steps", text):
        quantised = round(int(match[1]) * QUANTISED_SHARE)
        if not quantised:
            raise typer.BadParameter("A training needs at least 2 steps.", param_hint="--budget")
        return Budget(steps=int(match[1]) - quantised), Budget(steps=quantised)
    budget_s = seconds(text)
    return Budget(seconds=budget_s * (1 - QUANTISED_SHARE)), Budget(seconds=budget_s * QUANTISED_SHARE)
