"""Options that several commands share, and what they open."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import config
from ..errors import InvalidInput, MissingExtra

if TYPE_CHECKING:
    from ..client import Client
    from ..db.engine import Database
    from ..spaces.hyperspace import Hyperspace

Db = Annotated[
    str | None,
    typer.Option("--db", help="Database file or SQLAlchemy URL. [env: MILLISEEK_DB]", show_default=False),
]
Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        help="host:port of a running latency service; without it one is started. [env: MILLISEEK_SERVER]",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
TargetOption = Annotated[
    str, typer.Option("--target", "-t", help="Target, such as local/onnxruntime/int8 or .../4t for 4 threads.")
]
Data = Annotated[str, typer.Option("--data", help="Pictures: digits, fashion-mnist, or imagefolder:PATH.")]
HyperspaceOption = Annotated[
    str,
    typer.Option("--hyperspace", help="tiny32, small32, onnxw, mobilew, or a YAML file that defines your own."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of all random choices.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", help="Shape of an input with open dimensions: input=1x3x224x224.", show_default=False),
]
Files = Annotated[list[Path], typer.Argument(help="ONNX or TFLite files.", show_default=False)]

DEFAULT_TARGET = "local/onnxruntime/int8"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
COMPILE_TIMEOUT_S = 1800.0
"""Seconds that compiling a whole hyperspace may take on a slow board."""


def seconds(duration: str) -> float:
    """`90s`, `5m`, `1.5h` or `90d` in seconds; raises a usage error."""
    match = _DURATION.fullmatch(duration)
    if match is None or float(match[1]) <= 0:
        raise typer.BadParameter(f"'{duration}' is not a duration; write 90s, 5m, 1h or 90d.")
    return float(match[1]) * _SECONDS[match[2]]


def milliseconds_list(text: str) -> tuple[float, ...]:
    """`0.3,0.5` as positive numbers; raises a usage error."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < value < math.inf for value in values):
        raise typer.BadParameter(f"'{text}' is not a list of milliseconds; write 0.3,0.5,0.8.")
    return values


@contextmanager
def open_database(option: str | None) -> Iterator[Database]:
    """The database that `--db` or MILLISEEK_DB names."""
    with extras("server"):
        from ..db.engine import Database
    database = Database.open(config.database_url(option))
    try:
        _know_hyperspaces(database)
        yield database
    finally:
        database.close()


def _know_hyperspaces(database: Database) -> None:
    """Make the hyperspaces that users defined known by their names."""
    from ..db.spaces import list_hyperspaces
    from ..spaces.definition import parse_hyperspace, register
    from ..spaces.hyperspace import HYPERSPACES

    with database.session(read_only=True) as session:
        for row in list_hyperspaces(session):
            if row.name not in HYPERSPACES:
                register(parse_hyperspace(row.definition))


@contextmanager
def latency_client(database: Database, server: str | None) -> Iterator[Client]:
    """A client of the service at `--server` or MILLISEEK_SERVER, else of one started here on a loopback port."""
    from ..client import Client

    address = config.server_address(server)
    if address is not None:
        with Client(address, timeout_s=COMPILE_TIMEOUT_S) as client:
            yield client
        return
    from ..predictors.service import LatencyService
    from ..rpc.server import InProcessServer

    with (
        LatencyService(database) as service,
        InProcessServer(service) as started,
        Client(started.address, timeout_s=COMPILE_TIMEOUT_S) as client,
    ):
        yield client


def hyperspace_option(name: str) -> Hyperspace:
    """The hyperspace that `--hyperspace` names, or that a YAML file defines; raises NotFound or InvalidInput."""
    from ..spaces.definition import read_hyperspace
    from ..spaces.hyperspace import hyperspace_named

    if name.endswith((".yaml", ".yml")):
        with extras("search"):
            return read_hyperspace(Path(name))
    return hyperspace_named(name)


@contextmanager
def extras(name: str) -> Iterator[None]:
    """Turns the ImportError of an optional package into the sentence that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("milliseek"):
            raise
        raise MissingExtra(error.name.partition(".")[0], name) from error


def read_model(path: Path, shapes: Sequence[str] | None) -> tuple[str, bytes]:
    """(path, bytes) of a model file, with its open dimensions fixed by `--shape`; raises InvalidInput."""
    if not path.is_file():
        raise InvalidInput(f"There is no file '{path}'.", "Check the path.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from error
    if not shapes:
        return str(path), data
    with extras("server"):
        from ..predictors.networks.files import with_shapes
    return str(path), with_shapes(data, dict(map(_shape, shapes)), str(path))


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    """`input=1x3x224x224` as name and shape; raises a usage error."""
    name, _, sizes = text.rpartition("=")
    if not name or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes):
        raise typer.BadParameter(f"'{text}' is not a shape; write input=1x3x224x224.", param_hint="--shape")
    return name, tuple(map(int, sizes.split("x")))
