"""Synthetic hospitals: what each would hold, on disk, with a known truth behind it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from federation.errors import UserError
from simulations.hospitals import SITE_STRIDE, Hospital, draw_hospitals, draw_people
from simulations.outcomes import known_kind
from simulations.records import write_site
from simulations.truth import write_truth


def synthesize(
    out: Path,
    *,
    sites: int,
    patients: int,
    seed: int,
    image_size: int = 64,
    epsilon_per_patient: float | None = None,
    progress: Callable[[str], None] | None = None,
    change: Callable[[list[Hospital]], list[Hospital]] | None = None,
    task: str = "binary",
) -> None:
    """Write a consortium of synthetic hospitals.

    The same arguments give the same bytes. A hospital's patients depend on the seed, its place in
    the order and `patients`, not on how many hospitals follow it.

    Args:
        out: folder to fill; must be empty or absent.
        sites: how many hospitals.
        patients: patients per hospital on average; sizes differ, the total is sites * patients.
        seed: of everything.
        image_size: height and width of the radiographs in pixels.
        epsilon_per_patient: privacy cap of every site file; None leaves the default.
        progress: called with one line per hospital.
        change: applied to the hospitals' profiles before their patients are drawn.
        task: the kind of labels, one of `simulations.outcomes.KINDS`.

    Raises:
        UserError: if `out` is in use, or a number or the task is not possible.
    """
    kind = known_kind(task)
    _check(
        out,
        sites=sites,
        patients=patients,
        seed=seed,
        image_size=image_size,
        epsilon_per_patient=epsilon_per_patient,
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(out, f"cannot be made: {error.strerror}") from None
    hospitals = draw_hospitals(sites, patients, seed)
    if change:
        hospitals = change(hospitals)
    everyone, realised = [], []
    for index, hospital in enumerate(hospitals):
        if progress:
            progress(f"{hospital.name}: {hospital.size} patients ({index + 1} of {sites})")
        people = draw_people(hospital, index, seed)
        folder = out / hospital.name
        realised.append(
            write_site(folder, hospital, people, index, seed, image_size, epsilon_per_patient, kind)
        )
        everyone.append(people)
    arguments = {"sites": sites, "patients": patients, "seed": seed, "image_size": image_size}
    write_truth(out, hospitals, everyone, realised, arguments)


def _check(
    out: Path,
    *,
    sites: int,
    patients: int,
    seed: int,
    image_size: int,
    epsilon_per_patient: float | None,
) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            out, "is in use: expected a new or empty folder", remedy="Give another folder."
        )
    limits = {
        "--sites": (sites, 1, 10_000),
        "--patients": (patients, 1, SITE_STRIDE // 2 - 1),
        "--seed": (seed, 0, 2**63 - 1),
        "--image-size": (image_size, 16, 2048),
    }
    if epsilon_per_patient is not None and not 0 < epsilon_per_patient < math.inf:
        raise UserError("--epsilon-per-patient", f"{epsilon_per_patient:g} is not above 0")
    for option, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise UserError(option, f"{value} is not between {low} and {high}")
