"""The command `milliseek`: its commands, and how every failure reaches the user."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..errors import Interrupted, MilliseekError
from . import (
    agent,
    database,
    devices,
    export,
    jobs,
    models,
    predictors,
    profile,
    proxies,
    quickstart,
    report,
    search,
    serve,
    show,
    spaces,
    supernet,
    tokens,
)
from .output import show_error


class _Commands(TyperGroup):
    """Ctrl-C is an ordinary failure with a remedy: Typer would end with exit code 130 and say nothing."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("Interrupted.", "The same command goes on where it stopped.") from None


app = typer.Typer(
    cls=_Commands,
    name="milliseek",
    help="Neural architecture search that knows how many milliseconds your device needs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"milliseek {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("quickstart")(quickstart.quickstart)
app.command("profile")(profile.profile)
app.command("predict")(models.predict)
app.command("measure")(models.measure)
app.command("evaluate")(models.evaluate)
app.command("search")(search.search)
app.command("export")(export.export)
app.command("report")(report.report)
app.command("show")(show.show)
app.command("serve")(serve.serve)
app.command("agent")(agent.agent)
app.add_typer(devices.app, name="devices")
app.add_typer(jobs.app, name="jobs")
app.add_typer(predictors.app, name="predictors")
app.add_typer(proxies.app, name="proxies")
app.add_typer(spaces.app, name="spaces")
app.add_typer(supernet.app, name="supernet")
app.add_typer(tokens.app, name="tokens")
app.add_typer(database.app, name="db")


def main() -> None:
    """Run the command line: exit code 0, 1 (failed) or 2 (usage); a user's mistake gives no traceback."""
    as_json = "--json" in sys.argv
    try:
        app()
    except MilliseekError as error:
        show_error(error, as_json=as_json)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
