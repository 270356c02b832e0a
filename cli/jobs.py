"""`jobs`: what devices are asked to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from .options import Db, Json, open_database
from .output import milliseconds, note, out, print_json, print_table

if TYPE_CHECKING:
    from ..db.models import Job

app = typer.Typer(help="The jobs of devices.", no_args_is_help=True)

Ids = Annotated[list[int], typer.Argument(help="Numbers of jobs.", show_default=False)]


@app.command("list")
def list_(
    target: Annotated[str | None, typer.Option("--target", "-t", help="Only those of this target.")] = None,
    state: Annotated[
        Literal["queued", "leased", "done", "failed", "cancelled"] | None,
        typer.Option("--state", help="Only those of this state.", show_default=False),
    ] = None,
    after: Annotated[int, typer.Option("--after", help="Only those with a higher number.")] = 0,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="At most so many.")] = 100,
    db: Db = None,
    json: Json = False,
) -> None:
    """List jobs, the oldest first."""
    with open_database(db) as database:
        from ..db.jobs import list_jobs

        with database.session(read_only=True) as session:
            found = [
                _content(job) for job in list_jobs(session, target=target, state=state, after_id=after, limit=count)
            ]
    if json:
        print_json({"jobs": found})
        return
    rows = [
        (str(job["id"]), job["target"], job["kind"], job["state"], str(job["tries"]), _outcome(job)) for job in found
    ]
    print_table(("job", "target", "kind", "state", "tries", "outcome"), rows, left=(1, 2, 3, 5))
    if len(found) == count:
        note(f"and perhaps more: --after {found[-1]['id']}")


@app.command()
def show(
    number: Annotated[int, typer.Argument(help="Number of the job.", show_default=False)],
    db: Db = None,
    json: Json = False,
) -> None:
    """Show a job with what came out of it."""
    with open_database(db) as database:
        from ..db.jobs import get_jobs

        with database.session(read_only=True) as session:
            (job,) = get_jobs(session, [number])
            content = {
                **_content(job),
                "options": job.options,
                "payload_sha256": job.payload_sha256,
                "result": job.result,
            }
    if json:
        print_json(content)
        return
    for name, value in content.items():
        if value not in (None, ""):
            out.print(f"[bold]{name}[/]: {escape(str(value))}")


@app.command()
def cancel(ids: Ids, db: Db = None, json: Json = False) -> None:
    """Cancel jobs; those that have ended stay as they are."""
    with open_database(db) as database:
        from ..db.jobs import cancel_jobs

        with database.session() as session:
            found = [_content(job) for job in cancel_jobs(session, ids)]
    if json:
        print_json({"jobs": found})
        return
    for job in found:
        out.print(f"Job {job['id']} is {job['state']}.")


def _content(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "user": job.user,
        "target": job.target,
        "kind": job.kind,
        "state": job.state,
        "priority": job.priority,
        "tries": job.tries,
        "device": job.lease_device,
        "failure": job.failure,
        "latency_ms": _latencies(job),
        "created_at": job.created_at.isoformat(),
        "ended_at": job.ended_at.isoformat() if job.ended_at else None,
    }


def _latencies(job: Job) -> list[float]:
    visits = (job.result or {}).get("visits", [])
    return [visit["latency_ms"] for visit in visits if visit.get("latency_ms") is not None]


def _outcome(job: dict[str, Any]) -> str:
    if job["latency_ms"]:
        return " ".join(map(milliseconds, job["latency_ms"])) + " ms"
    return job["failure"] or ""
