"""Applies the shifts of a file to a folder of sites, real or synthetic, and writes new ones."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients.cohort import SPLITS
from clients.pseudonyms import pseudonyms, split_places
from clients.site import Site, find_sites, load_site
from federation.errors import UserError
from federation.study import Fractions
from federation.tasks import Task
from simulations.shifts.as_meds import as_meds, is_meds
from simulations.shifts.measure import share_of
from simulations.shifts.outcomes import YES_OR_NO, untrainable
from simulations.shifts.plan import Plan
from simulations.shifts.record import Done, SiteRecord, write_record
from simulations.shifts.site_folder import LEFT, write_site
from simulations.shifts.summary import Summary, summarise
from simulations.shifts.tables import SiteTables, read_tables

Progress = Callable[[str], None]


def reshape(
    sites: Path,
    plan: Plan,
    out: Path,
    progress: Progress | None = None,
    task: Task = YES_OR_NO,
) -> list[str]:
    """Write every site anew as the plan says, and ``out/shifts.json``.

    Equal sites and plans write equal bytes; where no shift acts, the files are those of the site.
    What is not MEDS is written as MEDS, of which a study reads the same patients.
    Sites are read and written one after another. Nothing appears under ``out`` unless all went
    well.

    Args:
        sites: a folder with one folder per site.
        plan: the shifts.
        out: folder to make; must be empty or absent, and not among the sites.
        progress: called with one line per site.
        task: says how the sites' labels are read.

    Returns:
        A line for each shift that did nothing at a site, and why.

    Raises:
        UserError: if a site cannot be read, the plan does not fit the sites or the task, ``out`` is
            in use, or a site would be left without patients or without two different labels.
    """
    plan.check_task(task)
    found = _named(sites)
    plan.check_sites(site.name for site in found.values())
    check_free(out, sites)
    tell = progress or (lambda _: None)
    with staged(out) as folder:
        drafts = folder.parent / f"{out.name}.meds"
        for place, site in found.items():
            if not is_meds(site):
                found[place], left_out = as_meds(site, task, drafts / place)
                tell(f"{site.name}: written as MEDS{f' ({left_out})' if left_out else ''}")
        records = apply_plan(found, plan, folder, tell, task)
        write_record(folder, plan, records)
    return idle_shifts(records)


def apply_plan(
    sites: Mapping[str, Site],
    plan: Plan,
    folder: Path,
    progress: Progress,
    task: Task,
    *,
    done_before: Mapping[str, Sequence[Done]] | None = None,
    originals: Mapping[str, Site] | None = None,
) -> dict[str, SiteRecord]:
    """Shift and write every site into a folder.

    Args:
        sites: by the name of the folder to write.
        plan: the shifts.
        folder: to write into.
        progress: called with one line per site.
        task: says how labels are read.
        done_before: by site, what was already done by number; these shifts are not applied again.
        originals: by folder name, the site to measure as it was before, where that is another.

    Returns:
        The record of each site, by its name.
    """
    names = sorted(site.name for site in sites.values())
    records = {}
    for position, (place, site) in enumerate(sites.items(), start=1):
        before = read_tables(site, task)
        if before.patients.empty:
            raise UserError(
                site.labels or site.file,
                f'no subject has events and a label of task.kind = "{task.kind}"',
                remedy="Labels of another kind are read as --study says.",
            )
        original = (originals or {}).get(place)
        as_it_was = before if original is None else read_tables(original, task)
        done = list((done_before or {}).get(site.name, ()))
        after, applied = _shifted(before, plan, names, {one.number for one in done})
        done = sorted([*done, *applied], key=lambda one: one.number)
        if done:
            check_usable(as_it_was, after, plan)
        try:
            images = write_site(before, after, folder / place)
        except OSError as error:
            why = error.strerror or "unknown"
            raise UserError(folder / place, f"cannot be written: {why}") from None
        first = last = summarise(as_it_was, (original or site).images)
        if original is not None or after is not before:
            last = summarise(after, load_site(folder / place).images)
        records[site.name] = SiteRecord(done, images, first, last)
        progress(
            f"{site.name}: {first.patients} -> {last.patients} patients, prevalence "
            f"{_shares(first, last)} ({position} of {len(sites)})"
        )
    return records


def idle_shifts(records: Mapping[str, SiteRecord]) -> list[str]:
    """A line for each shift that did nothing where it should act, and for images left alone."""
    idle: dict[tuple[int, str, str], list[str]] = defaultdict(list)
    for name, record in sorted(records.items()):
        for one in record.done:
            if one.note:
                idle[one.number, one.kind, one.note].append(name)
    images = [
        f"{name}: {count} images {what}"
        for name, record in sorted(records.items())
        for what, count in record.images.items()
        if what.startswith(LEFT)
    ]
    return images + [
        f"shift {number} ({kind}) did nothing at {', '.join(names)}: {note}"
        for (number, kind, note), names in sorted(idle.items())
    ]


def check_free(out: Path, sites: Path | None = None) -> None:
    """Check that ``out`` can be written and does not lie among the sites, nor they in it.

    Raises:
        UserError: if it is in use.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            out, "is in use: expected a new or empty folder", remedy="Give another folder."
        )
    if sites is not None and out.resolve().is_relative_to(sites.resolve()):
        raise UserError(out, f"lies among the sites of {sites}", remedy="Give a folder elsewhere.")


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that becomes it at the end, or vanishes with an error."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UserError(out, f"cannot be made: {error.strerror}") from None
    try:
        folder = scratch / out.name
        folder.mkdir()
        yield folder
        if out.exists():
            out.rmdir()
        folder.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _named(folder: Path) -> dict[str, Site]:
    """The sites by the name of their folder; their own names differ too."""
    found: dict[str, Site] = {}
    for file in find_sites(folder):
        site = load_site(file)
        twin = next((other for other in found.values() if other.name == site.name), None)
        if twin is not None:
            raise UserError(
                file, f'"{site.name}" is also the name of {twin.file}', field="site.name"
            )
        _check_all_told(site)
        found[file.parent.name] = site
    return found


def _check_all_told(site: Site) -> None:
    data = site.settings.data
    for name, section in (("images", data.images), ("notes", data.notes)):
        if section is not None and section.link is not None:
            raise UserError(
                site.file,
                "files that a rule ties to patients cannot be reshaped, only those of events",
                field=f"data.{name}.link",
                remedy="Give events that name the files, or notes as events.",
            )
    if data.exclude is not None:
        raise UserError(
            site.file,
            "patients of whom only a list tells that they are left out cannot be reshaped",
            field="data.exclude",
            remedy="Take their events and labels out of the site's files.",
        )


def _shifted(
    tables: SiteTables, plan: Plan, names: Sequence[str], already: set[int]
) -> tuple[SiteTables, list[Done]]:
    done = []
    for number, shift in enumerate(plan.shifts, start=1):
        scope = shift.scope(tables.site.name, names)
        if scope is None or number in already:
            continue
        effect = shift.kind.apply(shift.section, tables, scope)
        tables = effect.tables
        done.append(
            Done(
                number,
                shift.section.kind,
                "records",
                shift.strength,
                effect.drawn,
                effect.touched,
                effect.note,
            )
        )
        if tables.patients.empty:
            break
    return tables, done


def check_usable(before: SiteTables, after: SiteTables, plan: Plan) -> None:
    """Refuse shifts that leave a site on which nobody could train, and somebody could before.

    Raises:
        UserError: naming the site and what is left of it.
    """
    remedy = "Lower the strength, or name other sites for the shift."
    name = after.site.name
    if after.patients.empty:
        raise UserError(plan.file, f"{name} would be left without any patient", remedy=remedy)
    for what, among in (("", _everyone), (" in training", _training)):
        rows = among(after)
        why = untrainable(after, rows)
        if why and not untrainable(before, among(before)):
            raise UserError(
                plan.file,
                f"{name} would be left with {int(rows.sum())} patients{what}, {why}",
                remedy=remedy,
            )


def _everyone(tables: SiteTables) -> NDArray[np.bool_]:
    return np.ones(len(tables.patients), bool)


def _training(tables: SiteTables) -> NDArray[np.bool_]:
    """(patients,) who trains: as the site's splits say, else by its key at the usual fractions."""
    subjects = tables.patients["subject_id"].to_numpy()
    if tables.splits is not None:
        return np.array([tables.splits.get(int(s)) == SPLITS[0] for s in subjects])
    if not (tables.site.state / "patient.key").is_file():
        return np.ones(len(subjects), bool)
    return split_places(pseudonyms(subjects, tables.site.patient_key())) < Fractions().train


def _shares(first: Summary, last: Summary) -> str:
    """Say the prevalence of each outcome before and after; without a name of a single one."""
    moved = [
        (name, share_of(first.outcomes[name]), share_of(last.outcomes[name]))
        for name in first.outcomes
    ]
    if len(moved) == 1:
        moved = [("", *moved[0][1:])]
    return ", ".join(f"{name} {a:.3f} -> {b:.3f}".strip() for name, a, b in moved)
