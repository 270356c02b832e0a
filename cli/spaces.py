"""`spaces`: searching the search space."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import InvalidInput, StorageError
from .options import (
    DEFAULT_TARGET,
    Data,
    Db,
    HyperspaceOption,
    Json,
    Seed,
    Server,
    extras,
    hyperspace_option,
    latency_client,
    milliseconds_list,
    open_database,
)
from .output import milliseconds, note, out, percent, print_json, print_table, progress_bar
from .quality import quality as quality_table

if TYPE_CHECKING:
    from ..db.engine import Database
    from ..nas.design.published_tables import PublishedTables
    from ..nas.design.table_search import CompiledTable
    from ..spaces.hyperspace import Hyperspace

app = typer.Typer(help="Search spaces: which blocks and widths a device likes.", no_args_is_help=True)
app.command("quality")(quality_table)

SHOWN = 10
Constraints = Annotated[
    list[str] | None,
    typer.Option(
        "--constraints",
        help="Latency constraints in ms, such as 0.3,0.5; once for each target, in their order.",
        show_default=False,
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target", "-t", help=f"Target; several: good and fast on all. [default: {DEFAULT_TARGET}]", show_default=False
    ),
]
Tables = Annotated[
    Path | None,
    typer.Option("--tables", help="Published block tables, a folder or zip file: no target.", show_default=False),
]
FixedMs = Annotated[
    str | None,
    typer.Option(
        "--fixed-ms",
        help="Milliseconds of the stages that --tables leaves out, by resolution: 160=1.4,192=1.7. "
        "[default: fixed_stage_ms.json beside the tables]",
        show_default=False,
    ),
]
Score = Annotated[Literal["exact", "montecarlo"], typer.Option("--score", help="How spaces are scored.")]
Samples = Annotated[int, typer.Option("--samples", min=100, help="Subnets that Monte Carlo draws of a space.")]


@app.command()
def evolve(
    targets: Targets = None,
    hyperspace: HyperspaceOption = "small32",
    data: Data = "digits",
    quality: Annotated[
        str | None,
        typer.Option(
            "--quality", help="Quality table of `spaces quality`; else a small one is made.", show_default=False
        ),
    ] = None,
    constraints: Constraints = None,
    tables: Tables = None,
    fixed_ms: FixedMs = None,
    score: Score = "exact",
    samples: Samples = 50_000,
    evaluations: Annotated[int, typer.Option("--evaluations", min=1, help="Spaces to score in all.")] = 1000,
    study: Annotated[
        str | None, typer.Option("--study", help="Name; a study of that name is resumed.", show_default=False)
    ] = None,
    teacher_seconds: Annotated[float, typer.Option(help="Seconds to train the teacher.")] = 60.0,
    cell_seconds: Annotated[float, typer.Option(help="Seconds to distil one stage and block type.")] = 20.0,
    seed: Seed = 0,
    db: Db = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Evolve the space whose INT8 networks are good and fast on one target, or on several (SpaceEvo)."""
    started = time.monotonic()
    limits = _limits(constraints)
    breeding = {"population": max(20, min(500, evaluations // 5)), "tournament": max(5, min(125, evaluations // 20))}
    with open_database(db) as database, progress_bar(quiet=json) as on_progress:
        chosen = hyperspace_option(hyperspace)
        if tables is not None:
            with extras("search"):
                from ..nas.design.scorers import TimedScorer, make_scorer
                from ..nas.design.table_search import evolve_on_tables

            used_ms = _needed(limits)
            published = _published(chosen, tables, fixed_ms)
            name = study or f"{chosen.name}-{tables.stem}-{'-'.join(f'{ms:g}' for ms in used_ms)}-{score}-{seed}"
            scorer = TimedScorer(make_scorer(score, published, used_ms, samples=samples, seed=seed))
            ranking = evolve_on_tables(
                database,
                published,
                scorer,
                name,
                score,
                draws=[samples, seed] if score == "montecarlo" else None,
                evaluations=evaluations,
                seed=seed,
                on_trial=lambda done: on_progress("evolving the space", done, evaluations),
                **breeding,
            )
            seconds_scoring, by_target = scorer.seconds, None
        else:
            with extras("search"):
                from ..nas.design.space_design import SpacePlan, design_space
                from ..nas.pictures.data import parse_data
                from ..nas.quality.quality_run import find_table
                from ..nas.training.budget import Budget
            from ..predictors.targets import device_target

            plan = SpacePlan(
                teacher=Budget(seconds=teacher_seconds),
                cell=(Budget(seconds=0.75 * cell_seconds), Budget(seconds=0.25 * cell_seconds)),
                evaluations=evaluations,
                score=score,
                score_samples=samples,
                seed=seed,
                **breeding,
            )
            wanted = [device_target(database, target) for target in targets or [DEFAULT_TARGET]]
            pictures = parse_data(data, max(chosen.resolutions))
            table = find_table(database, quality) if quality else None
            of = "+".join(target.name.replace("/", "-") for target in wanted)
            begun_with = [f"{ms:g}" for each in limits or () for ms in each] + ([table.sha256[:8]] if table else [])
            name = study or "-".join((chosen.name, pictures.fingerprint[:8], of, *begun_with, str(seed)))
            with latency_client(database, server) as client:
                designed = design_space(
                    database,
                    client,
                    wanted,
                    chosen,
                    pictures,
                    name,
                    plan,
                    constraints_ms=limits,
                    quality=table,
                    on_progress=on_progress,
                )
            ranking, seconds_scoring, by_target = designed.ranking, designed.seconds_scoring, designed.constraints_ms
            used_ms = tuple(ms for limits in by_target.values() for ms in limits)
    best = [
        {"space": found.space.encoding, "score": found.score, "p": list(found.p), "quality": _finite(found.quality)}
        for found in ranking
    ]
    if json:
        print_json(
            {
                "study": name,
                "seconds_scoring": seconds_scoring,
                "seconds": time.monotonic() - started,
                "constraints_ms": list(used_ms),
                "targets": {target: list(limits) for target, limits in (by_target or {}).items()},
                "evaluations": evaluations,
                "best": best,
            }
        )
        return
    note(f"study {name}, constraints {', '.join(map(milliseconds, used_ms))} ms{_of_targets(by_target)}")
    _print_scores([(each["space"], each["score"], each["p"]) for each in best[:SHOWN]])


Spaces = Annotated[
    list[str],
    typer.Argument(
        help="Spaces such as onnxw-151122-023231, or hand-made: small32:mobilenetv2, :mobilenetv3, :resnet, :fused.",
        show_default=False,
    ),
]
StudyOption = Annotated[
    str | None,
    typer.Option("--study", help="Study of `spaces evolve` whose tables and constraints to use.", show_default=False),
]


@app.command("score")
def score_spaces(
    spaces: Spaces,
    hyperspace: HyperspaceOption = "small32",
    study: StudyOption = None,
    tables: Tables = None,
    fixed_ms: FixedMs = None,
    constraints: Constraints = None,
    score: Score = "exact",
    samples: Samples = 100_000,
    seed: Seed = 0,
    db: Db = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Score spaces with published tables, or with those that a study has made for its target.

    Hand-made spaces get the widths that score best.
    """
    with extras("search"):
        from ..nas.design.fastest import check_constraints
        from ..nas.design.space_search import scored_space
        from ..nas.design.table_search import PUBLISHED, StudyTables, study_tables

    limits = _limits(constraints)
    if (study is None) == (tables is None):
        raise InvalidInput("Scores need tables: those of a study, or published ones.", "Give --study or --tables.")
    if tables is not None:
        chosen = _published(hyperspace_option(hyperspace), tables, fixed_ms)
        found = StudyTables({PUBLISHED: chosen}, {PUBLISHED: _needed(limits)})
    else:
        assert study is not None
        with open_database(db) as database, _compiled(database, server) as compiled:
            found = study_tables(database, study, compiled).constrained(limits)
    for target, target_tables in found.tables.items():
        check_constraints(target_tables, found.constraints_ms[target])
    scorer = found.scorer(score, samples=samples, seed=seed)
    results = []
    for name in spaces:
        space = scored_space(scorer, name)
        results.append((name, space, scorer.score(space)))
    if json:
        print_json(
            {
                "score": score,
                "constraints_ms": list(scorer.constraints_ms),
                "spaces": [
                    {
                        "name": name,
                        "space": space.encoding,
                        "score": result.score,
                        "p": list(result.p),
                        "quality": _finite(result.quality),
                    }
                    for name, space, result in results
                ],
            }
        )
        return
    _print_scores([(space.encoding, result.score, result.p) for _, space, result in results])


@app.command()
def count(
    names: Annotated[list[str], typer.Argument(help="Spaces or subnets (SPACE:d.._k.._w.._e.._r..).")],
    hyperspace: Annotated[
        Path | None, typer.Option("--hyperspace", help="YAML file that defines their hyperspace.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Count multiply-accumulates (without the classifier) and parameters; of a space, its smallest and largest."""
    from ..spaces.counting import count as count_subnet
    from ..spaces.space import Space, Subnet, extreme_subnet

    if hyperspace is not None:
        hyperspace_option(str(hyperspace))
    counts: list[dict[str, Any]] = []
    for name in names:
        if ":" in name:
            counts.append({"encoding": name, **count_subnet(Subnet.decode(name))._asdict()})
            continue
        extremes = {
            end: extreme_subnet(Space.decode(name), largest=end == "largest") for end in ("smallest", "largest")
        }
        ends = {end: {"encoding": s.encoding, **count_subnet(s)._asdict()} for end, s in extremes.items()}
        counts.append({"encoding": name, **{k: ends["largest"][k] for k in ("macs", "params")}, **ends})
    if json:
        print_json(counts[0] if len(counts) == 1 else {"counts": counts})
        return
    rows = []
    for each in counts:
        for end in ("smallest", "largest") if "largest" in each else ("",):
            of = each[end] if end else each
            rows.append((f"{each['encoding']} {end}".strip(), f"{of['macs'] / 1e6:.1f}", f"{of['params'] / 1e6:.2f}"))
    print_table(("space or subnet", "M macs", "M parameters"), rows)


@app.command()
def plot(
    study: Annotated[str, typer.Argument(help="Study of `spaces evolve`.", show_default=False)],
    path: Annotated[Path, typer.Option("--out", "-o", help="HTML file to write.", show_default=False)],
    target: Annotated[
        str | None,
        typer.Option(
            "--target", "-t", help="Whose latencies, in a study of several. [default: the first]", show_default=False
        ),
    ] = None,
    db: Db = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Draw a study of spaces, evolved against hand-made ones, as one HTML file."""
    with extras("search"):
        from ..nas.design.space_plots import plot_html
        from ..nas.design.table_search import study_tables
        from ..nas.studies import load_study
    from ..predictors.targets import parse_target

    with open_database(db) as database, _compiled(database, server) as compiled:
        found = study_tables(database, study, compiled).only(str(parse_target(target)) if target else None)
        html = plot_html(load_study(database.url, study), found.scorer())
    try:
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.", "Choose another file.") from error
    if json:
        print_json({"study": study, "path": str(path)})
    else:
        out.print(f"Wrote {path}; open it in a browser.")


def _published(hyperspace: Hyperspace, path: Path, fixed_ms: str | None) -> PublishedTables:
    with extras("search"):
        from ..nas.design.published_tables import FIXED_FILE, PublishedTables

    tables = PublishedTables(hyperspace, path, _by_resolution(fixed_ms) if fixed_ms else None)
    if not tables.fixed_ms:
        note(f"no {FIXED_FILE} beside the tables and no --fixed-ms: stem, stage 0 and head count as 0 ms")
    return tables


def _by_resolution(text: str) -> Mapping[int, float]:
    parts = [re.fullmatch(r"(\d{1,4})=(\d+(?:\.\d+)?)", part) for part in text.split(",")]
    if not all(parts):
        raise typer.BadParameter(f"'{text}' is no list of milliseconds by resolution; write 160=1.4,192=1.7.")
    return {int(part[1]): float(part[2]) for part in parts if part}


def _limits(constraints: list[str] | None) -> list[tuple[float, ...]] | None:
    return [milliseconds_list(each) for each in constraints] if constraints else None


def _needed(limits: Sequence[tuple[float, ...]] | None) -> tuple[float, ...]:
    if limits is None or len(limits) != 1:
        raise typer.BadParameter("Published tables need --constraints once, such as --constraints 15.")
    return limits[0]


def _of_targets(constraints_ms: Mapping[str, Sequence[float]] | None) -> str:
    return f" on {', '.join(constraints_ms)}" if constraints_ms else ""


@contextmanager
def _compiled(database: Database, server: str | None) -> Iterator[CompiledTable]:
    """Latency tables of a service that is started only when one is asked for."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def compiled(hyperspace: str, target: str) -> Any:
            return stack.enter_context(latency_client(database, server)).latency_table(hyperspace, target)

        yield compiled


def _finite(quality: Sequence[float]) -> list[float | None]:
    return [value if value < float("inf") else None for value in quality]


def _print_scores(scores: Sequence[tuple[Any, Any, Any]]) -> None:
    rows = [(space, f"{score:.4f}", " ".join(percent(p) for p in shares)) for space, score, shares in scores]
    print_table(("space", "score", "share of subnets that meet each constraint"), rows)
