"""The command that shows what a site has spent of its patients' privacy."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from clients.ledger import Entry, Ledger, Line
    from clients.site import PolicySection, Site
    from federation.privacy.accounting import Segment

DELTA = 1e-5
GROUP = ("kind", "study", "run", "model", "patients", "sampling_rate", "noise_multiplier", "seeded")
REASONS = {
    "prv": "this accountant failed, or was not attempted for so much spending",
    "infinite": "infinite: with so little noise nothing is bounded",
}


def register(cli: typer.Typer) -> None:
    """Add this group's commands."""
    cli.command()(ledger)


def ledger(
    site: Annotated[
        Path,
        typer.Argument(
            help="A site's folder, its site.toml, or a ledger (*.sqlite).", show_default=False
        ),
    ],
    delta: Annotated[
        float | None, typer.Option(help="Of the epsilon shown; by default the site's, or 1e-5.")
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Show every line.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Verify a site's ledger and recompute the privacy spent on its patients."""
    from clients.site import open_site
    from federation.errors import UserError

    if delta is not None and not 0 < delta < 1:
        raise UserError("--delta", f"{delta:g} is not between 0 and 1")
    is_file = site.suffix == ".sqlite" and not (site / "site.toml").exists()
    of = None if is_file else open_site(site)
    opened = _open(of, site)
    entries = opened.entries() if opened else []
    told: dict[str, Any] = {
        "site": opened.site if opened else of.name if of else None,
        "lines": len(entries),
        "head": vars(opened.head()) if opened else None,
        "verified": True,
        **spending([entry.line for entry in entries], of.policy if of else None, delta),
    }
    if lines:
        told["entries"] = [_flat(entry) for entry in entries]
    if as_json:
        print(json.dumps(told, indent=1, allow_nan=False))
        return
    print("\n".join(_summary(told)))
    _print_table([_shown(row) for row in told["entries" if lines else "segments"]])


def spending(
    lines: Sequence[Line], policy: PolicySection | None, delta: float | None
) -> dict[str, Any]:
    """Return what the lines spent, recomputed from nothing but them, as JSON has it.

    Args:
        lines: the whole history of a ledger.
        policy: the site's, which caps the spending; None where only the file is known.
        delta: of the epsilon by accountant; None takes the policy's. The cap is at the policy's.
    """
    from clients.ledger import segments_of
    from federation.privacy.accounting import ADJACENCY, epsilons

    protected = [line for line in lines if line.kind != "unprotected"]
    segments = segments_of(protected)
    delta = delta or (policy.delta if policy else DELTA)
    figures = epsilons(segments, delta)
    return {
        "segments": _grouped(protected),
        "delta": delta,
        "epsilon": {name: _finite(value) for name, value in figures.items()},
        "reasons": {
            name: REASONS["prv" if value is None else "infinite"]
            for name, value in figures.items()
            if _finite(value) is None
        },
        "cap": _cap(segments, policy) if policy else None,
        "unprotected": len(lines) - len(protected),
        "seeded": any(line.seeded for line in protected),
        "adjacency": ADJACENCY,
        "unit": "patient",
    }


def _open(of: Site | None, path: Path) -> Ledger | None:
    """Open a site's ledger, or a file; None for a site that has none yet."""
    from clients.ledger import Ledger, site_ledger
    from clients.ledger_file import LEDGER
    from federation.errors import UserError

    if of is None:
        return Ledger(path, None, None, writable=False)
    try:
        names = os.listdir(of.state)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(of.state, f"cannot be read: {error.strerror}") from None
    # A journal without its ledger is no site without a ledger: opening says so.
    return site_ledger(of, writable=False) if any(n.startswith(LEDGER) for n in names) else None


def _cap(segments: Sequence[Segment], policy: PolicySection) -> dict[str, Any]:
    from clients.budget import cap

    of_site = cap(policy)
    spent = of_site.epsilon_spent(segments)
    return {
        "epsilon": of_site.epsilon,
        "delta": of_site.delta,
        "order": of_site.order,
        "spent": _finite(spent),
        "left": max(of_site.epsilon - spent, 0.0),
        "share": _finite(of_site.rdp(segments) / of_site.budget),
    }


def _grouped(lines: Iterable[Line]) -> list[dict[str, Any]]:
    """One row per study, run and model, and per setting where one changed on the way."""
    groups: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        groups.setdefault(tuple(getattr(line, name) for name in GROUP), []).append(line)
    return [
        dict(zip(GROUP, key, strict=True))
        | {"rounds": len({x.round for x in group}), "steps": sum(x.steps for x in group)}
        for key, group in groups.items()
    ]


def _flat(entry: Entry) -> dict[str, Any]:
    fields = {name: value for name, value in vars(entry).items() if name != "line"}
    return fields | vars(entry.line)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _summary(told: Mapping[str, Any]) -> Iterator[str]:
    head, cap, site = told["head"], told["cap"], _printable(told["site"])
    if head is None:
        yield f"{site}: no ledger yet; nothing was spent on this site's patients"
    else:
        yield f"{site}: {told['lines']} lines, verified: each follows from the one before it"
        yield f"head: {head['length']} {head['hash']}"
    figures = [
        f"{name} {_number(value) if value is not None else told['reasons'][name]}"
        for name, value in told["epsilon"].items()
    ]
    yield f"epsilon, all lines together, at delta {told['delta']:g}: {'; '.join(figures)}"
    yield f"unit: {told['unit']}; neighbouring data sets: {told['adjacency']}"
    if cap:
        spent = "infinite" if cap["spent"] is None else _number(cap["spent"])
        share = "" if cap["share"] is None else f", {cap['share']:.1%} of its budget"
        yield (
            f"cap: epsilon {spent} of {cap['epsilon']:g} spent at delta {cap['delta']:g} "
            f"(Rényi filter of order {_number(cap['order'])}{share})"
        )
    if told["unprotected"]:
        yield (
            f"fits without differential privacy at this site: {told['unprotected']}; "
            "epsilon does not cover these"
        )
    if told["seeded"]:
        yield "noise was drawn from a seed: a simulation, which protects nobody"


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a group or a line by the titles of its columns; short, for a terminal is narrow."""
    shown = {}
    if "number" in row:
        shown = {"line": str(row["number"]), "written": row["written"][:16]}
    shown |= {"study": row["study"], "run": row["run"][:8], "model": row["model"]}
    counted = "rounds" if "rounds" in row else "round"
    shown |= {counted: str(row[counted]), "patients": str(row["patients"])}
    if row["steps"] == 0:
        shown |= {"q": "-", "noise": "none", "steps": "-"}
    else:
        seeded = " (seeded)" if row["seeded"] else ""
        shown |= {"q": _number(row["sampling_rate"])}
        shown |= {"noise": _number(row["noise_multiplier"]) + seeded, "steps": str(row["steps"])}
    return {title: _printable(text) for title, text in shown.items()}


def _print_table(rows: Sequence[Mapping[str, str]]) -> None:
    """Print as a table of rich on a terminal, and in plain columns elsewhere."""
    if not rows:
        return
    names = list(rows[0])
    cells = [[row[name] for name in names] for row in rows]
    if sys.stdout.isatty():
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Column, Table
        from rich.text import Text

        columns = [Column(name, overflow="fold") for name in names]
        table = Table(*columns, box=SIMPLE_HEAD, padding=0)
        for texts in cells:
            table.add_row(*map(Text, texts))
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for texts in (names, *cells):
        print("  ".join(t.ljust(w) for t, w in zip(texts, widths, strict=True)).rstrip())


def _number(value: float) -> str:
    return f"{value:.4g}"


def _printable(text: str) -> str:
    """Names came from a coordinator: none may steer the terminal."""
    return "".join(x if x.isprintable() else "?" for x in text)
