"""What commands print: results to stdout, everything else to stderr; `--json` prints one object."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import MilliseekError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

OnProgress = Callable[[str, float, float], None]


def print_json(value: Mapping[str, Any]) -> None:
    """The one object of a `--json` run."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def show_error(error: MilliseekError, *, as_json: bool) -> None:
    """One sentence and its remedy; with `--json` the error object."""
    if as_json:
        print_json({"error": {"code": error.code, "message": error.message, "remedy": error.remedy}})
        return
    err.print(f"[bold red]Error:[/] {escape(error.message)}")
    if error.remedy:
        err.print(escape(error.remedy))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None, left: Sequence[int] = (0,)
) -> None:
    """A table that fits 80 columns; the columns numbered in `left` hold text, the others numbers."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    out.print(table)


def note(text: str) -> None:
    """A remark for people, on stderr."""
    err.print(f"[dim]{escape(text)}[/]")


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[OnProgress]:
    """A bar per phase with the time left, on stderr; nothing where stderr is no terminal and `quiet` is set."""
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    if quiet and not err.is_terminal:
        yield lambda *_: None
        return
    bars = Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=10),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[news]}"),
        console=err,
    )
    tasks: dict[str, TaskID] = {}

    def on_progress(phase: str, done: float, total: float) -> None:
        phase, _, news = phase.partition(": ")
        if phase not in tasks:
            bars.start()  # not before there is something to show
            for earlier in tasks.values():
                bars.update(earlier, completed=bars.tasks[earlier].total)
            tasks[phase] = bars.add_task(phase, total=total, news="")
        bars.update(tasks[phase], completed=min(done, total), total=total, news=news)

    try:
        yield on_progress
    finally:
        if tasks:
            bars.stop()


def milliseconds(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def percent(share: float) -> str:
    """A fraction as a percentage."""
    return f"{100 * share:.1f} %"


def size(size_bytes: int) -> str:
    """Bytes as kB or MB."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.0f} kB"
