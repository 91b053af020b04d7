"""Where the trials of a sweep run: hospitals as they are, or with the shifts of each setting."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.site import find_sites, load_site
from federation.errors import UserError
from federation.tasks import Task
from federation.validation import nearest, read_toml
from simulations.consortium import synthesize
from simulations.shifts.plan import Plan as Shifts
from simulations.shifts.plan import load_shifts
from simulations.shifts.record import RECORD
from simulations.shifts.reshape import reshape
from simulations.shifts.synthetic import synthesize_shifted
from simulations.sweeps.settings import make_slug

FILE, STRENGTH = "shifts.file", "shifts.strength"
SHIFT_KEYS = (FILE, STRENGTH)
"""The grid keys that choose hospitals; all others are the study's."""
TRUTH = "truth.json"


@dataclass(frozen=True)
class Population:
    """The hospitals of a setting.

    Attributes:
        name: of their folder, where there are several.
        shifts: what was done to them; None if they are as they are.
        text: the content of the shifts file and what its strengths are multiplied by, canonical.
    """

    name: str = ""
    shifts: Shifts | None = None
    text: str = ""


def is_study_key(key: str) -> bool:
    """Whether a grid key is the study's."""
    return not key.startswith("shifts.")


def check_shift_keys(file: Path, grid: Mapping[str, Sequence[Any]], shifts: str | None) -> None:
    """Check the grid's lists that choose hospitals.

    Args:
        file: the sweep file.
        grid: all of its lists.
        shifts: the shifts file of ``[sites]``.

    Raises:
        UserError: naming the key that is wrong.
    """
    for key, values in grid.items():
        if is_study_key(key):
            continue
        field = f"grid.{key}"
        if key not in SHIFT_KEYS:
            guess = nearest(key, SHIFT_KEYS)
            hint = f'Did you mean "{guess}"? ' if guess else ""
            known = " and ".join(SHIFT_KEYS)
            raise UserError(file, "not known", field=field, remedy=f"{hint}There are {known}.")
        if key == STRENGTH:
            for value in values:
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise UserError(file, f"expected numbers from 0 to 1: {value}", field=field)
                if not 0 <= value <= 1:
                    raise UserError(file, f"{value} is not between 0 and 1", field=field)
        elif not all(isinstance(value, str) for value in values):
            raise UserError(file, "expected paths of shifts files", field=field)
    if STRENGTH in grid and FILE not in grid and shifts is None:
        raise UserError(
            file,
            "there are no shifts to make stronger or weaker",
            field=f"grid.{STRENGTH}",
            remedy='Name a shifts file: shifts = "FILE" under [sites] or in sites.synthetic.',
        )


def choose_population(file: Path, shifts: str | None, values: Mapping[str, Any]) -> Population:
    """Return the hospitals of a setting.

    Args:
        file: the sweep file, to which shifts files are relative.
        shifts: the shifts file of ``[sites]``.
        values: of the setting.

    Raises:
        UserError: if the shifts file cannot be used.
    """
    name = values.get(FILE, shifts)
    if name is None:
        return Population()
    where, strength = file.parent / name, float(values.get(STRENGTH, 1))
    chosen = {key: values[key] for key in SHIFT_KEYS if key in values}
    text = json.dumps([read_toml(where), strength], sort_keys=True, default=str)
    return Population(
        make_slug(chosen, chosen) or "shifted", load_shifts(where).scaled(strength), text
    )


def write_population(
    population: Population,
    folder: Path,
    source: Path | None,
    synthetic: Mapping[str, Any],
    task: Task,
    tell: Callable[[str], None],
) -> None:
    """Write the hospitals of a setting, unless they are there.

    Args:
        population: which.
        folder: to make.
        source: sites to apply the shifts to; None for synthetic ones.
        synthetic: arguments of ``synthesize``, but for the kind of task.
        task: of the trials.
        tell: told of each site, and of shifts that found nothing to act on.

    Raises:
        UserError: if the shifts cannot be applied to the sites.
    """
    shifts = population.shifts
    if (folder / (TRUTH if shifts is None else RECORD)).is_file():  # written last
        return
    shutil.rmtree(folder, ignore_errors=True)
    if shifts is None:
        synthesize(folder, **synthetic, task=task.kind, progress=tell)
        return
    for stale in folder.parent.glob(f".{folder.name}.*"):  # of a sweep that was killed
        shutil.rmtree(stale, ignore_errors=True)
    tell(f"sites: {population.name}")
    if source is None:
        idle = synthesize_shifted(folder, shifts, **synthetic, task=task.kind, progress=tell)
    else:
        for file in find_sites(source):  # with one key, patients stay in their splits
            load_site(file).patient_key()
        idle = reshape(source, shifts, folder, tell, task)
    for line in idle:
        tell(f"warning: {population.name}: {line}")
