"""The command that turns a consortium file into a start kit for every party."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(cli: typer.Typer) -> None:
    """Add this group's commands."""
    cli.command()(provision)


def provision(
    consortium: Annotated[Path, typer.Argument(help="A consortium file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="New, or of this consortium.", show_default=False)],
    renew: Annotated[
        list[str] | None,
        typer.Option(help="Give this site, or `server`, a new key.", show_default=False),
    ] = None,
    revoke: Annotated[
        list[str] | None,
        typer.Option(help="Register this site no more.", show_default=False),
    ] = None,
) -> None:
    """Write certificates, keys and one start kit per party; again later, only what is missing."""
    from server.consortium import SERVER, load_consortium
    from server.provision import provision as write

    done = write(load_consortium(consortium), out, tuple(renew or ()), tuple(revoke or ()))
    for party in done.made:
        kit = out / SERVER if party == SERVER else out / "sites" / party
        print(f"{party}: start kit written to {kit}")
    for party in done.kept:
        print(f"{party}: left as it was")
    for site in done.revoked:
        print(f"{site}: revoked")
    for site in done.unlisted:
        print(f"{site}: registered, but not in the consortium file; --revoke {site} ends that")
    print(
        f"Give each hospital its folder under {out / 'sites'} over a channel you trust, then "
        f"delete it here.\nKeep {out / 'authority'} offline: whoever has its ca.key can pose as "
        "the server."
    )
