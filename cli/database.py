"""`db`: the database's schema and backups."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import config
from .options import Db, Json, extras
from .output import out, print_json

app = typer.Typer(help="Upgrade or back up the database.", no_args_is_help=True)


@app.command()
def upgrade(db: Db = None, json: Json = False) -> None:
    """Bring the schema of the database up to date."""
    with extras("server"):
        from ..db.engine import Database
    database = Database.connect(config.database_url(db), create=True)
    try:
        before = database.upgrade()
        after = database.revision
    finally:
        database.close()
    if json:
        print_json({"before": before, "after": after})
    else:
        out.print(f"The schema is {after}" + (", as it was." if before == after else f"; it was {before or 'empty'}."))


@app.command()
def backup(
    path: Annotated[Path, typer.Argument(help="File to create.", show_default=False)], db: Db = None, json: Json = False
) -> None:
    """Copy the database to a new file while it may be in use. Copy the artefacts folder afterwards."""
    with extras("server"):
        from ..db.engine import Database
    database = Database.connect(config.database_url(db))
    try:
        written = database.backup(path)
        artefacts = database.artefacts.root
    finally:
        database.close()
    if json:
        print_json({"path": str(written), "artefacts": str(artefacts)})
    else:
        out.print(f"Wrote {written}. Now copy the folder {artefacts}: the database names files in it.")
