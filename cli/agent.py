"""`agent`: this machine measures for a latency service elsewhere."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..devices.agent.agent import Agent


def agent(
    server: Annotated[str, typer.Option("--server", help="host:port of the latency service.", show_default=False)],
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", help="File with this device's token; else MILLISEEK_TOKEN.", show_default=False),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", help="Name in targets; by default the machine's stable id.", show_default=False)
    ] = "",
    model: Annotated[
        str, typer.Option("--model", help="Name that it shares with others of its model.", show_default=False)
    ] = "",
    ca_file: Annotated[
        Path | None,
        typer.Option("--ca-file", help="TLS: trust the certificates in this PEM file.", show_default=False),
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="TLS also to this machine; to others it is always used.")] = False,
    capacity: Annotated[int, typer.Option("--capacity", min=1, max=64, help="Jobs to hold at a time.")] = 8,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every job.")] = False,
) -> None:
    """Measure for a latency service until interrupted."""
    from ..devices.agent.agent import Agent
    from ..devices.agent.connection import Server
    from ..rpc.log import log_to_stderr

    log_to_stderr("text", logging.DEBUG if verbose else logging.INFO)
    asyncio.run(_serve(Agent(Server(server, token_file, ca_file, tls or None), name, model, capacity=capacity)))


async def _serve(agent: Agent) -> None:
    """Run until SIGTERM or ctrl-C, then leave in order; a second one ends it at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        agent.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    await agent.run()
