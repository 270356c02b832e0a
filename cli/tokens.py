"""`tokens`: who may call a service that asks for tokens."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import InvalidInput
from .options import Db, Json, open_database, seconds
from .output import note, out, print_json, print_table

if TYPE_CHECKING:
    from ..db.models import Token

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
app = typer.Typer(help="The tokens of those who may call the service.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the token.", show_default=False)]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What to call it; jobs bear that name.", show_default=False)],
    scope: Annotated[
        Literal["search", "device", "admin"],
        typer.Option(
            "--scope", help="search: predict and measure. device: act as --device. admin: all.", show_default=False
        ),
    ],
    device: Annotated[
        str | None, typer.Option("--device", help="The one device that it may act as.", show_default=False)
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="90d", help="When it ends. Default: never.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="New file for the secret, for your eyes only.", show_default=False),
    ] = None,
    db: Db = None,
    json: Json = False,
) -> None:
    """Make a token. Its secret is shown once: the database keeps only a hash."""
    expires_at = datetime.now(UTC) + timedelta(seconds=seconds(expires)) if expires is not None else None
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"'{name}' cannot be the name of a token.", "Use letters, digits and . _ @ - only.")
    if output is not None and output.exists():
        raise InvalidInput(f"'{output}' exists already.", "Name a new file, or 'milliseek tokens rotate' the token.")
    with open_database(db) as database, _secret_file(output) as write:
        from ..db.tokens import create_token

        with database.session() as session:
            row, secret = create_token(session, name, scope, device, expires_at)
            write(secret)
    _tell(_described(row), secret, output, json=json)


@app.command("list")
def list_(db: Db = None, json: Json = False) -> None:
    """List tokens, those that hold no more among them. Secrets are not known."""
    with open_database(db) as database, database.session(read_only=True) as session:
        from ..db.tokens import list_tokens

        found = [_described(row) for row in list_tokens(session)]
    if json:
        print_json({"tokens": found})
    elif found:
        columns = ("name", "scope", "device", "state", "expires_at")
        rows = [
            [(token[column] or "")[:19] if column == "expires_at" else token[column] or "" for column in columns]
            for token in found
        ]
        print_table(("name", "scope", "device", "state", "expires (UTC)"), rows, left=range(5))
    else:
        note("There are no tokens yet: milliseek tokens create NAME --scope search")


@app.command()
def rotate(
    name: Name,
    grace: Annotated[
        str, typer.Option("--grace", metavar="1h", help="How long the old secret goes on to hold; 0: not at all.")
    ] = "1h",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File for the new secret, replaced if it exists.", show_default=False),
    ] = None,
    db: Db = None,
    json: Json = False,
) -> None:
    """Give a token a new secret, shown once."""
    grace_s = 0.0 if grace == "0" else seconds(grace)
    with open_database(db) as database, _secret_file(output) as write:
        from ..db.tokens import list_tokens, rotate_token

        with database.session() as session:
            secret = rotate_token(session, name, grace_s)
            write(secret)
            (described,) = (_described(row) for row in list_tokens(session) if row.name == name)
    _tell(described, secret, output, json=json)


@app.command()
def revoke(name: Name, db: Db = None, json: Json = False) -> None:
    """End a token for good; running services refuse it within two seconds."""
    with open_database(db) as database, database.session() as session:
        from ..db.tokens import revoke_token

        revoke_token(session, name)
    if json:
        print_json({"name": name, "state": "revoked"})
    else:
        out.print(f"{name} is revoked.", markup=False)


def _described(row: Token) -> dict[str, Any]:
    """What may be told of a token; times are UTC."""
    now = datetime.now(UTC)
    expired = row.expires_at is not None and row.expires_at <= now
    rotated = row.previous_expires_at is not None and row.previous_expires_at > now
    return {
        "name": row.name,
        "scope": row.scope,
        "device": row.device,
        "state": "revoked" if row.revoked_at else "expired" if expired else "valid",
        "created_at": row.created_at.isoformat(),
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        "old_secret_until": row.previous_expires_at.isoformat() if rotated and row.previous_expires_at else None,
    }


def _tell(described: dict[str, Any], secret: str, file: Path | None, *, json: bool) -> None:
    if json:
        print_json({**described, **({"file": str(file)} if file is not None else {"secret": secret})})
    elif file is not None:
        out.print(f"Wrote the secret of {described['name']} to {file}.", markup=False, soft_wrap=True)
    else:
        typer.echo(secret)
        note("This is the only time that it is shown. Hand it over as MILLISEEK_TOKEN or in a file.")


@contextmanager
def _secret_file(path: Path | None) -> Iterator[Callable[[str], None]]:
    """Writes a secret that becomes the file once the block has ended well; nobody else may ever read it."""
    if path is None:
        yield lambda _: None
        return
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:

            def write(secret: str) -> None:
                file.write(secret + "\n")
                file.flush()

            yield write
        unfinished.replace(path)
    except OSError as error:
        raise InvalidInput(f"The file '{path}' cannot be written: {error.strerror}.", "Choose another one.") from error
    finally:
        unfinished.unlink(missing_ok=True)
