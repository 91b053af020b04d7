"""Commands that write site folders."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(cli: typer.Typer) -> None:
    """Add this group's commands."""
    cli.command()(synthesize)
    cli.command()(dataset)


def synthesize(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
    sites: Annotated[int, typer.Option(help="Number of hospitals.")] = 6,
    patients: Annotated[int, typer.Option(help="Patients a hospital, on average.")] = 300,
    seed: Annotated[int, typer.Option(help="Equal seeds write equal files.")] = 7,
    epsilon_per_patient: Annotated[
        float | None, typer.Option(help="Privacy cap in the site files; 8 if it is left away.")
    ] = None,
) -> None:
    """Write synthetic hospitals: MEDS events, DICOM images, notes, labels, known truth."""
    from simulations.consortium import synthesize as write

    write(
        out,
        sites=sites,
        patients=patients,
        seed=seed,
        epsilon_per_patient=epsilon_per_patient,
        progress=lambda text: print(text, file=sys.stderr),
    )
    print(out)


def dataset(
    name: Annotated[str, typer.Argument(help="uci-heart", show_default=False)],
    source: Annotated[Path, typer.Option(help="The publisher's files.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
) -> None:
    """Turn published open data, as its publisher ships it, into site folders."""
    from federation.errors import UserError
    from federation.validation import nearest
    from simulations.datasets import DATASETS

    if name not in DATASETS:
        guess = nearest(name, DATASETS)
        hint = f'Did you mean "{guess}"? ' if guess else ""
        raise UserError(
            "dataset", f'"{name}" is not known', remedy=f"{hint}Known: {', '.join(DATASETS)}."
        )
    report = DATASETS[name].convert(source, out)
    for site in report.sites:
        counted = {
            **site.excluded,
            **{f"{k} (a coded missing)": n for k, n in site.coded_missing.items()},
        }
        if site.duplicates:
            counted["rows equal to an earlier one, kept"] = site.duplicates
        told = "".join(f", {reason}: {count}" for reason, count in counted.items())
        print(f"{site.site}: {site.patients} patients of {site.rows} rows{told}")
    print(out)
