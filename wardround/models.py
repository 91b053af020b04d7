"""The command that shows the encoders, and what each takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from federation.models.registry import Encoder


def register(cli: typer.Typer) -> None:
    """Add this group's commands."""
    cli.command()(models)


def models(
    name: Annotated[
        str | None, typer.Argument(help="Show one encoder with its options.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    checksum: Annotated[
        Path | None,
        typer.Option(
            help="Print what a study says of a file or a folder of weights.", metavar="PATH"
        ),
    ] = None,
) -> None:
    """List the encoders of each modality: what they read, are, and can be told."""
    if checksum is not None:
        from federation.checksums import checksum as computed

        print(f'name = "{checksum.name}"\nsha256 = "{computed(checksum)}"')
        return
    from federation.errors import UserError
    from federation.models.registry import ENCODERS
    from federation.validation import nearest

    known = {encoder for encoders in ENCODERS.values() for encoder in encoders}
    if name is not None and name not in known:
        guess = nearest(name, known)
        raise UserError(
            "wardround models",
            f'"{name}" is not an encoder',
            remedy=f'Did you mean "{guess}"?' if guess else "`wardround models` lists them.",
        )
    told = [
        described(modality, key, encoder)
        for modality, encoders in ENCODERS.items()
        for key, encoder in encoders.items()
        if name in (None, key)
    ]
    if as_json:
        print(json.dumps(told if name is None else told[0], indent=1))
    elif name is None:
        _print_table(told)
    else:
        _print_one(told[0])


def described(modality: str, name: str, encoder: Encoder) -> dict[str, Any]:
    """Return the facts of an encoder, as a document."""
    from federation.modalities import EhrSection, ImageSection, ModalitySection, TextSection

    tables: dict[str, type[ModalitySection]] = {
        "ehr": EhrSection,
        "image": ImageSection,
        "text": TextSection,
    }
    defaults = {key: field.default for key, field in tables[modality].model_fields.items()}
    return {
        "name": name,
        "modality": modality,
        "reads": encoder.reads,
        "summary": encoder.summary,
        "source": encoder.source,
        "volumes": encoder.volumes,
        "options": {key: defaults[key] for key in defaults if key in encoder.options},
    }


def _print_table(told: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("encoder", "modality", "reads", "what it is"):
        table.add_column(column, no_wrap=column != "what it is")
    for one in told:
        reads = "images, volumes" if one["volumes"] else one["reads"]
        table.add_row(one["name"], one["modality"], reads, one["summary"])
    console = Console()
    console.print(table)
    console.print(
        "A study names one for each of its modalities: [modalities.ehr] encoder = ...\n"
        "All of them train with differential privacy. `wardround models NAME` has the options.",
        highlight=False,
        markup=False,
    )


def _print_one(one: dict[str, Any]) -> None:
    source = f" ({one['source']})" if one["source"] else ""
    lines = [
        f"{one['name']}: {one['summary']}{source}",
        "",
        f"modality   {one['modality']}",
        f"reads      {'images or volumes' if one['volumes'] else one['reads']}",
    ]
    options = [f"  {name} = {json.dumps(value)}" for name, value in one["options"].items()]
    table = f"[modalities.{one['modality']}]"
    lines += ["", f"options, in {table}, with their defaults:", *options] if options else []
    print("\n".join(lines))
