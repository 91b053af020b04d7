"""The commands that keep a consortium running: one at the coordinator, one at each site."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

server = typer.Typer(
    name="server",
    help="The coordinator's service.",
    no_args_is_help=True,
)


def register(cli: typer.Typer, site: typer.Typer) -> None:
    """Add `run` and `health` to the groups `server` and `site`."""
    server.command("run")(run_server)
    server.command("health")(check_server)
    cli.add_typer(server)
    site.command("run")(run_site)
    site.command("health")(check_site)


def run_server(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The server's start kit.", show_default=False)
    ],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "0.0.0.0",
) -> None:
    """Run the SuperLink and its executor until stopped; sites register by their keys."""
    from federation.supervision import stopping_on_signals
    from server.control import load_kit
    from server.service import run_server as run

    with stopping_on_signals() as stop:
        run(load_kit(folder), stop, _tell, host)


def run_site(
    site: Annotated[Path, typer.Argument(help="A site's folder or site.toml.", show_default=False)],
    kit: Annotated[
        Path | None, typer.Option(help="The start kit; by default the site's folder.")
    ] = None,
) -> None:
    """Keep this site connected until stopped: outbound connections only."""
    from clients.node import run_site as run
    from federation.supervision import stopping_on_signals

    with stopping_on_signals() as stop:
        run(site, kit or (site if site.is_dir() else site.parent), stop, _tell)


def check_server(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The server's start kit.", show_default=False)
    ],
) -> None:
    """Say whether the server on this machine answers: exit code 0 or 1, for a container."""
    from server.control import load_kit
    from server.service import is_healthy

    _report(is_healthy(load_kit(folder)))


def check_site(
    site: Annotated[Path, typer.Argument(help="A site's folder or site.toml.", show_default=False)],
) -> None:
    """Say whether this site's service runs on this machine: exit code 0 or 1, for a container."""
    from clients.node import is_healthy

    _report(is_healthy(site))


def _report(healthy: bool) -> None:
    print("healthy" if healthy else "not healthy")
    raise typer.Exit(0 if healthy else 1)


def _tell(text: str) -> None:
    print(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}", flush=True)
