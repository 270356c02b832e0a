"""`serve`: the latency service for other programs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .options import Db, extras, open_database
from .output import out

if TYPE_CHECKING:
    from ..db.engine import Database
    from ..rpc.access.access import Access


def serve(
    address: Annotated[
        str, typer.Option("--address", help="host:port to listen on; any but loopback needs TLS and tokens.")
    ] = "127.0.0.1:50051",
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", help="PEM file: certificate chain.", show_default=False)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", help="PEM file: its private key.", show_default=False)
    ] = None,
    tokens: Annotated[
        bool | None,
        typer.Option("--tokens/--no-tokens", help="Ask for tokens. Default: not on loopback.", show_default=False),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", metavar="[HOST:]PORT", help="Serve Prometheus metrics there.", show_default=False),
    ] = None,
    log_format: Annotated[Literal["text", "json"], typer.Option("--log-format", help="Log lines on stderr.")] = "text",
    db: Db = None,
) -> None:
    """Answer latency questions over gRPC until interrupted."""
    with extras("server"):
        from ..predictors.service import LatencyService
        from ..rpc.fleet.dispatcher import FleetConfig
        from ..rpc.log import log_to_stderr
        from ..rpc.metrics import Metrics
        from ..rpc.server import serve as run

    log_to_stderr(log_format)
    with open_database(db) as database, LatencyService(database) as service, ExitStack() as stack:
        access = _access(database, address, tls_cert, tls_key, tokens)
        counted = Metrics(database) if metrics is not None else None
        if counted is not None and metrics is not None:
            bound = stack.enter_context(counted.served(metrics))
            out.print(f"Serving metrics on http://{bound}/metrics")
        run(
            service,
            address,
            database=database,
            fleet=FleetConfig(on_expired=counted.leases_expired) if counted else None,
            access=access,
            observe=counted.call_ended if counted else None,
            on_ready=lambda bound: out.print(f"Serving milliseek.rpc.v1.LatencyService on {bound}"),
        )


def _access(database: Database, address: str, cert: Path | None, key: Path | None, tokens: bool | None) -> Access:
    from ..rpc.access.access import Access
    from ..rpc.access.address import parse_address
    from ..rpc.access.live_tokens import LiveTokens
    from ..rpc.access.tls import TlsFiles

    if (cert is None) != (key is None):
        raise typer.BadParameter("Give --tls-cert and --tls-key together.")
    tls = TlsFiles(cert, key) if cert is not None and key is not None else None
    wanted = not parse_address(address).loopback if tokens is None else tokens
    return Access(tls, LiveTokens(database) if wanted else None)
