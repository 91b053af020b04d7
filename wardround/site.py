"""The group ``wardround site``: what an engineer does at a hospital. Each command has its file."""

from __future__ import annotations

import typer

site = typer.Typer(
    name="site",
    help="A hospital's own data: what is there, what it may be used for, copies without names.",
    no_args_is_help=True,
)


def register(cli: typer.Typer) -> None:
    """Add this group."""
    cli.add_typer(site)
