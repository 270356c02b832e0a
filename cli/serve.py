"""`serve`: the latency service for other programs."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Db, open_database
from .output import out


def serve(
    address: Annotated[str, typer.Option("--address", help="host:port to listen on; loopback only.")] = (
        "127.0.0.1:50051"
    ),
    db: Db = None,
) -> None:
    """Answer latency questions over gRPC until interrupted."""
    from ..predictors.service import LatencyService
    from ..rpc.server import serve as run

    with open_database(db) as database, LatencyService(database) as service:
        run(service, address, on_ready=lambda bound: out.print(f"Serving milliseek.rpc.v1.LatencyService on {bound}"))
