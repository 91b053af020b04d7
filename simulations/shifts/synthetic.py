"""Synthetic hospitals with shifts: in the model they are drawn from, or in their records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clients.site import find_sites, load_site
from simulations.consortium import synthesize
from simulations.hospitals import Hospital
from simulations.outcomes import FOLLOW_LOGIT, Kind, known_kind, task_of
from simulations.shifts.kind import Place
from simulations.shifts.plan import Plan
from simulations.shifts.record import Done, write_record
from simulations.shifts.reshape import apply_plan, check_free, idle_shifts, staged

TRUTH = ("truth.json", "truth.parquet")


def synthesize_shifted(
    out: Path,
    plan: Plan,
    *,
    sites: int,
    patients: int,
    seed: int,
    image_size: int = 64,
    epsilon_per_patient: float | None = None,
    task: str = "binary",
    progress: Callable[[str], None] | None = None,
) -> list[str]:
    """Write a consortium of synthetic hospitals as ``synthesize`` does, with the plan's shifts.

    Kinds that a hospital's profile can express (quantity, case_mix and, where labels follow from
    its logit, prevalence and concept) act there, in the order of the file, before anyone is drawn,
    so truth.json describes the shifted hospitals.
    The others then act on what was recorded, as in ``reshape``. At strength 0 the site folders and
    the truth are those of ``synthesize``, byte for byte.

    Returns:
        A line for each shift that did nothing at a site, and why.

    Raises:
        UserError: as ``synthesize`` and ``reshape``.
    """
    check_free(out)
    arguments: dict[str, Any] = {
        "sites": sites,
        "patients": patients,
        "seed": seed,
        "image_size": image_size,
        "epsilon_per_patient": epsilon_per_patient,
        "task": task,
    }
    kind = known_kind(task)
    plan.check_task(task_of(kind))
    done: dict[str, list[Done]] = defaultdict(list)

    def change(hospitals: list[Hospital]) -> list[Hospital]:
        return _shifted(hospitals, plan, seed, kind, done)

    with staged(out) as folder:
        drawn, plain = (folder.parent / f"{out.name}.{what}" for what in ("drawn", "plain"))
        synthesize(drawn, **arguments, progress=progress, change=change)
        found = {file.parent.name: load_site(file) for file in find_sites(drawn)}
        originals = None
        if done:
            synthesize(plain, **arguments)
            originals = {file.parent.name: load_site(file) for file in find_sites(plain)}
        records = apply_plan(
            found,
            plan,
            folder,
            progress or (lambda _: None),
            task_of(kind),
            done_before=done,
            originals=originals,
        )
        for name in TRUTH:
            (drawn / name).rename(folder / name)
        write_record(folder, plan, records)
    return idle_shifts(records)


def _shifted(
    hospitals: list[Hospital], plan: Plan, seed: int, task: Kind, done: dict[str, list[Done]]
) -> list[Hospital]:
    """The hospitals' changed profiles; what was drawn is added to ``done``."""
    names = [hospital.name for hospital in hospitals]
    plan.check_sites(names)
    changed = []
    for index, hospital in enumerate(hospitals):
        for number, shift in enumerate(plan.shifts, start=1):
            scope, in_profile = shift.scope(hospital.name, names), shift.kind.in_profile
            if scope is None or in_profile is None:
                continue
            if shift.kind.through_logit and task not in FOLLOW_LOGIT:
                continue
            hospital, told = in_profile(shift.section, hospital, scope, Place(index, seed))
            kind = shift.section.kind
            done[hospital.name].append(Done(number, kind, "model", shift.strength, told, {}, ""))
        changed.append(hospital)
    return changed
