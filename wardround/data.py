"""Commands that write site folders."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def register(cli: typer.Typer) -> None:
    """Add this group's commands."""
    cli.command()(synthesize)
    cli.command()(reshape)
    cli.command()(dataset)


def synthesize(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
    sites: Annotated[int, typer.Option(help="Number of hospitals.")] = 6,
    patients: Annotated[int, typer.Option(help="Patients a hospital, on average.")] = 300,
    seed: Annotated[int, typer.Option(help="Equal seeds write equal files.")] = 7,
    epsilon_per_patient: Annotated[
        float | None, typer.Option(help="Privacy cap in the site files; 8 if it is left away.")
    ] = None,
    shifts: Annotated[
        Path | None, typer.Option(help="A file of distribution shifts between the hospitals.")
    ] = None,
    task: Annotated[
        str,
        typer.Option(help="Kind of labels: binary, multiclass, multilabel, survival or several."),
    ] = "binary",
) -> None:
    """Write synthetic hospitals: MEDS events, DICOM images, notes, labels, known truth."""
    from simulations.consortium import synthesize as write
    from simulations.shifts.plan import load_shifts
    from simulations.shifts.synthetic import synthesize_shifted

    arguments: dict[str, Any] = {
        "sites": sites,
        "patients": patients,
        "seed": seed,
        "epsilon_per_patient": epsilon_per_patient,
        "task": task,
        "progress": _tell,
    }
    if shifts is None:
        write(out, **arguments)
    else:
        _warn(synthesize_shifted(out, load_shifts(shifts), **arguments))
    print(out)


def reshape(
    sites: Annotated[Path, typer.Argument(help="A folder with one folder per site.")],
    shifts: Annotated[Path, typer.Option(help="A file of distribution shifts.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    study: Annotated[
        Path | None, typer.Option(help="Read labels as this study does; else as yes or no.")
    ] = None,
) -> None:
    """Apply distribution shifts to site folders, real or synthetic; writes new ones."""
    from federation.study import load_study
    from simulations.shifts.outcomes import YES_OR_NO
    from simulations.shifts.plan import load_shifts
    from simulations.shifts.reshape import reshape as write

    task = YES_OR_NO if study is None else load_study(study, (), None).task
    _warn(write(sites, load_shifts(shifts), out, _tell, task))
    print(out)


def dataset(
    name: Annotated[
        str,
        typer.Argument(
            help="uci-heart, eicu-demo, hannover-cxr, pneumoniamnist or mimic-demo",
            show_default=False,
        ),
    ],
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


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


def _warn(lines: list[str]) -> None:
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)
