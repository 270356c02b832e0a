"""`report`: what a search has found, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import StorageError
from .options import Db, Json, extras, open_database
from .output import out, print_json


def report(
    study: Annotated[str, typer.Argument(help="Study of `search`, or of the quickstart.", show_default=False)],
    path: Annotated[Path, typer.Option("--out", "-o", help="HTML file to write.", show_default=False)],
    db: Db = None,
    json: Json = False,
) -> None:
    """Report a search of subnets as one HTML file that needs no network.

    Pareto fronts, predicted against measured latency, accuracy of every form, architectures, and what was tried.
    """
    with extras("search"):
        from ..nas.reports.study_report import report_html

    with open_database(db) as database:
        html = report_html(database, study)
    try:
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.", "Choose another file.") from error
    if json:
        print_json({"study": study, "path": str(path), "size_bytes": path.stat().st_size})
    else:
        out.print(f"Wrote {path}; open it in a browser.")
