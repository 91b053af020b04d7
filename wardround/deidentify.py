"""The command that copies a site's images and notes without identifiers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def register(site: typer.Typer) -> None:
    """Add the command to its group."""
    site.command()(deidentify)


def deidentify(
    site: Annotated[
        Path, typer.Argument(help="A site's folder or its site.toml.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the copies; new or empty.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Copy DICOM files and notes without identifiers; the report stays in the site's state folder.

    Follows the Basic Application Level Confidentiality Profile of DICOM PS3.15. Files whose pixels
    may show text are refused unless the site file says where. Notes lose obvious identifiers only.
    """
    from clients.deidentify.folder import REPORT, deidentify_site
    from clients.site import load_site

    opened = load_site(site)
    report = deidentify_site(opened, out, lambda text: print(text, file=sys.stderr))
    if as_json:
        print(json.dumps(report.counts(), indent=1))
        return
    print(f"images copied: {report.copied}, of these with pixels blanked: {report.blanked}")
    for what, count in sorted(report.attributes.items()):
        print(f"  attributes, {what}: {count}")
    for reason, count in sorted(report.refused.items()):
        print(f"images refused, {reason}: {count}")
    for kind, count in sorted(report.notes.items()):
        print(f"notes {kind}: {count}" if kind == "copied" else f"  replaced, {kind}: {count}")
    print(f"report: {opened.state / REPORT}")
    print(out)
