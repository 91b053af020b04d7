"""The command that brings a site's images from its PACS."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(site: typer.Typer) -> None:
    """Add the command to its group."""
    site.command()(pull)


def pull(
    site: Annotated[
        Path, typer.Argument(help="A site's folder or its site.toml.", show_default=False)
    ],
) -> None:
    """Bring the images that data.images.pacs asks for from the PACS to the image folder."""
    from clients.images.pacs import REPORT, pull_images
    from clients.site import load_site

    opened = load_site(site)
    pulled = pull_images(opened, lambda text: print(text, file=sys.stderr))
    print(f"studies: {pulled.studies}")
    print(f"images pulled: {pulled.images}")
    print(f"images that were there already: {pulled.present}")
    for reason, count in sorted(pulled.failed.items()):
        print(f"images that failed, {reason}: {count}")
    print(f"report: {opened.state / REPORT}")
    print(opened.images)
