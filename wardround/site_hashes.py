"""``wardround site hashes``: a site's part of the search for patients of several hospitals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(site: typer.Typer) -> None:
    """Add the command to the group ``wardround site``."""
    site.command()(hashes)


def hashes(
    site: Annotated[Path, typer.Argument(help="The site file, or the folder that holds it.")],
    out: Annotated[Path, typer.Option(help="File to write, one hash a line.")],
) -> None:
    """Hash all patients under the key that the sites share, to find those treated at several.

    For the other sites alone: whoever has the key can try identifiers.
    """
    from clients.exclusion import patient_hashes
    from clients.site import load_site
    from federation.errors import UserError

    found = patient_hashes(load_site(site))
    try:
        out.write_text("".join(f"{one}\n" for one in found), encoding="ascii")
    except OSError as error:
        raise UserError(out, f"cannot be written: {error.strerror}") from None
    print(f"{len(found)} hashes: {out}")
