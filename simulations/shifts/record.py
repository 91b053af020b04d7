"""shifts.json: what was drawn and done at each site, and how far apart the sites are since."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulations.shifts.measure import distances
from simulations.shifts.plan import Plan
from simulations.shifts.pools import Pool, pool, pools_of_others
from simulations.shifts.summary import Summary

RECORD = "shifts.json"


@dataclass(frozen=True)
class Done:
    """What one shift did at one site.

    Attributes:
        number: its place in the file, from 1.
        kind: its kind.
        on: ``records`` or, of synthetic hospitals, ``model``.
        strength: its own times the file's.
        drawn: the site's parameters.
        touched: what was changed or taken away, counted.
        note: why it did nothing, where it did nothing.
    """

    number: int
    kind: str
    on: str
    strength: float
    drawn: Mapping[str, Any]
    touched: Mapping[str, int]
    note: str


@dataclass(frozen=True)
class SiteRecord:
    """One site's part of the record."""

    done: Sequence[Done]
    images: Mapping[str, int]
    before: Summary
    after: Summary


def write_record(folder: Path, plan: Plan, sites: Mapping[str, SiteRecord]) -> None:
    """Write shifts.json.

    Each site is measured before and after the shifts against all other sites of that time, and
    ``moved`` after against before.
    """
    shifts = [
        {"number": number, **shift.section.model_dump(mode="json"), "effective": shift.strength}
        for number, shift in enumerate(plan.shifts, start=1)
    ]
    names = sorted(sites)
    moments = ([sites[name].before for name in names], [sites[name].after for name in names])
    rest = zip(*map(pools_of_others, moments), strict=True)
    document = {
        "schema": "wardround.shifts/2",
        "seed": plan.seed,
        "strength": plan.strength,
        "shifts": shifts,
        "sites": {
            name: _site(sites[name], *others) for name, others in zip(names, rest, strict=True)
        },
    }
    text = json.dumps(document, indent=1, allow_nan=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def copy_record(sites: Path, run: Path) -> None:
    """Copy the record of a folder of sites into a run folder, if it has one."""
    if (sites / RECORD).is_file():
        shutil.copyfile(sites / RECORD, run / RECORD)


def _site(one: SiteRecord, others_before: Pool, others_after: Pool) -> dict[str, Any]:
    return {
        "shifts": [
            {
                "number": done.number,
                "kind": done.kind,
                "on": done.on,
                "strength": done.strength,
                "drawn": done.drawn,
                "touched": done.touched,
                "note": done.note,
            }
            for done in one.done
        ],
        "images": one.images,
        "before": distances(one.before, others_before),
        "after": distances(one.after, others_after),
        "moved": distances(one.after, pool([one.before])),
    }
