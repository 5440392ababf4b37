"""`tutelage label`: the web app where people judge. Starts without torch."""

from pathlib import Path
from typing import Annotated

import typer

from tutelage.cli.main import app
from tutelage.errors import ConfigError
from tutelage.log import say


@app.command()
def label(
    run: Annotated[Path | None, typer.Argument(help="A run directory whose rounds wait for people.")] = None,
    store: Annotated[str, typer.Option("--store", help="A store instead: a path or a PostgreSQL URL.")] = "",
    data: Annotated[Path | None, typer.Option("--data", help="Folder of secrets; beside the store by default.")] = None,
    host: Annotated[str, typer.Option("--host", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Where to listen.", min=1, max=65535)] = 8484,
    public_url: Annotated[str, typer.Option("--public-url", help="The https address behind a proxy.")] = "",
    private_endpoint: Annotated[
        list[str] | None, typer.Option("--private-endpoint", help="host:port of a model server on a private address.")
    ] = None,
    oidc_issuer: Annotated[str, typer.Option("--oidc-issuer", help="An OpenID Connect provider.")] = "",
    oidc_client: Annotated[str, typer.Option("--oidc-client", help="This app's id there.")] = "",
) -> None:
    """The web app where people rank, rate, write and correct; on this machine alone unless told otherwise."""
    from tutelage.label.config import LabelConfig, OidcConfig
    from tutelage.label.server import serve

    if not store and run is None:
        raise ConfigError(
            "name what is to be labelled: `tutelage label runs/mine`, or `--store FILE` for a store alone."
        )
    where = store or str((run or Path()) / "store.db")
    if run is not None and not (run / "config.toml").is_file():
        raise ConfigError(
            f"{run} is not a run directory. Start one with `tutelage run RECIPE --out {run}`, or give --store."
        )
    beside = data or (Path(where).with_suffix(".label") if "://" not in where else Path("tutelage.label"))
    serve(
        LabelConfig(
            store=where,
            data=beside,
            host=host,
            port=port,
            public_url=public_url,
            run=run,
            private_endpoints=tuple(private_endpoint or ()),
            oidc=OidcConfig(issuer=oidc_issuer, client_id=oidc_client),
        ),
        told=say,
    )
