"""`tutelage`: the commands, and what an error looks like."""

import os
import sys
from typing import Annotated

import typer

from tutelage import __version__
from tutelage.cli.terminal import printable
from tutelage.errors import TutelageError, WaitingForLabels
from tutelage.log import say

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="People's judgement of a language model's answers, turned into a better model, round after round.",
)  # fmt: skip
evaluate = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure a reward model or a policy.")
app.add_typer(evaluate, name="eval")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if debug:
        os.environ["TUTELAGE_DEBUG"] = "1"


def main() -> None:
    """Runs a command; a deliberate error is one message on standard error and its exit code, without a traceback."""
    from tutelage.cli import data, models, people, runs, serving  # noqa: F401  # each registers its commands

    try:
        app()
    except TutelageError as e:
        if "TUTELAGE_DEBUG" in os.environ:
            raise
        say(printable(str(e) if isinstance(e, WaitingForLabels) else f"error: {e}"))
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        say("stopped; the same command goes on from the last saved state")
        sys.exit(1)
