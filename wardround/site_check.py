"""``wardround site check``: whether a hospital's data is ready, and what to fix if it is not."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clients.checks import Check, Finding

COLOURS = {"blocker": "bold red", "warning": "yellow", "note": "dim"}


def register(group: typer.Typer) -> None:
    """Add this command to the group ``site``."""
    group.command()(check)


def check(
    site: Annotated[
        Path, typer.Argument(help="A site's folder or its site.toml.", show_default=False)
    ],
    study: Annotated[
        Path | None, typer.Option(help="Check against this study too; nothing is spent or sent.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The page; check.html in the state folder if left out."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Look for what would keep a site's data from being used, or make its use unsafe.

    The report stays at the site. Ends with READY (0), or BLOCKED with what to fix (2).
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from clients.checks import check_site
    from clients.checks.page import write_page
    from federation.study import load_study

    asked = None if study is None else load_study(study)
    found = check_site(site, asked, _tell)
    page = write_page(found, out)
    if as_json:
        print(json.dumps(found.to_json() | {"page": str(page)}, indent=1, allow_nan=False))
    else:
        _show(found)
        print(f"page: {page} (for this site alone)")
        print(found.verdict)
    if not found.ready:
        raise typer.Exit(2)


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


def _show(found: Check) -> None:
    from clients.checks.tables import overview

    for name, value in overview(found):
        print(f"{name}: {value}")
    if not found.findings:
        print("nothing found")
        return
    if sys.stdout.isatty():
        _show_table(found.findings)
        return
    for one in found.findings:
        print(f"{one.severity}: {one.topic}: {one.where}: {one.what}\n  {one.remedy}")


def _show_table(findings: tuple[Finding, ...]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(
        Column("", no_wrap=True),
        Column("where", ratio=2, overflow="fold"),
        Column("what was found", ratio=4),
        Column("what to do", ratio=3),
        box=SIMPLE_HEAD,
        padding=(0, 1),
    )
    for one in findings:
        head = Text(one.severity, style=COLOURS[one.severity])
        table.add_row(head, Text(one.where), Text(one.what), Text(one.remedy))
    Console().print(table)
