"""`tutelage serve`: a model behind an OpenAI-compatible address."""

import os
from pathlib import Path
from typing import Annotated

import typer

from tutelage.cli.main import app
from tutelage.errors import ConfigError
from tutelage.log import say


@app.command()
def serve(
    where: Annotated[str, typer.Argument(help="A run directory, a model folder, a hub name, or 'bundled'.")],
    stage: Annotated[str, typer.Option("--stage", help="Of a run directory: sft, round-1, …; its best one.")] = "",
    store: Annotated[str, typer.Option("--store", help="Keep answers and thumbs there: a path or a URL.")] = "",
    host: Annotated[str, typer.Option("--host", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Where to listen.", min=0, max=65535)] = 8585,
    key_env: Annotated[str, typer.Option("--key-env", help="Variable of the key.")] = "TUTELAGE_SERVE_KEY",
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Of one answer, at most.", min=1)] = 1024,
) -> None:
    """Answers chat requests as OpenAI's servers do; on this machine alone unless told otherwise."""
    from tutelage.serve.config import ServeConfig

    key = os.environ[key_env] if key_env in os.environ else ""
    if key_env != "TUTELAGE_SERVE_KEY" and not key:
        raise ConfigError(f"--key-env {key_env}, but there is no such variable, or it is empty. Set it first.")
    config = ServeConfig(host=host, port=port, key=key, max_tokens=max_tokens)

    from tutelage.model.checkpoint import LINEAGE, read_lineage
    from tutelage.model.load import locate
    from tutelage.rounds.talk import open_speaker
    from tutelage.serve.memory import Memory
    from tutelage.serve.server import serve as run
    from tutelage.serve.voice import Voice
    from tutelage.store.db import open_store

    speaker = open_speaker(where, stage)
    folder = Path(locate(speaker.source))
    is_ours = (folder / LINEAGE).is_file() and {"stage", "weights"} <= read_lineage(folder).keys()
    lineage = read_lineage(folder) if is_ours else None
    voice = Voice(
        speaker.name, speaker.version, speaker.model, speaker.chat, lineage=lineage, precision=speaker.precision
    )
    if not store:
        return run(config, voice, None, told=say)
    with open_store(store) as opened:
        run(config, voice, Memory(opened, voice), told=say)
