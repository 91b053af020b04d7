"""A site summed up in a few thousand numbers, so that only one site's records are in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clients.images.picture import UnreadableImage
from clients.images.read import read_image
from simulations.shifts.attributes import attributes
from simulations.shifts.kind import Floats
from simulations.shifts.outcomes import outcomes
from simulations.shifts.tables import SiteTables

CATEGORIES = ("age_band", "sex", "ethnicity", "codes")
POINTS = 500
"""Quantiles kept of each code's values."""
IMAGES = 100
"""Images looked at, evenly over a site's file names."""
IMAGE_SIZE = 64
BINS = 256


@dataclass(frozen=True)
class Summary:
    """A site, or one site at one moment, summed up.

    Attributes:
        outcomes: by outcome, of how many patients it is known, and how many have it.
        counts: patients by level of each attribute; events until the prediction by code, under
            ``codes``.
        values: by code with numbers, how many there are until the prediction, and ``POINTS``
            quantiles.
        moments: by code and outcome, (n, sum x, sum x^2, sum y, sum xy) of last values x and of
            whether the patients have the outcome, y.
        images: (BINS,) counts of grey and of differences between neighbouring pixels.
    """

    patients: int
    outcomes: Mapping[str, tuple[int, int]]
    counts: Mapping[str, Counter[str]]
    values: Mapping[str, tuple[int, Floats]]
    moments: Mapping[tuple[str, str], Floats]
    images: Mapping[str, Floats]


def summarise(tables: SiteTables, images: Path | None) -> Summary:
    """Sum up a site.

    Args:
        tables: what it holds.
        images: its image folder, as it is or as it was written.
    """
    patients, past = tables.patients, tables.past
    has = outcomes(tables)
    who = attributes(tables)
    events = past[past["code"].isin(tables.codes())]
    counts = {name: Counter(map(str, who[name])) for name in CATEGORIES if name != "codes"}
    counts["codes"] = Counter(events["code"].astype(str))
    numbers = events[np.isfinite(events["numeric_value"])]
    values, moments = {}, {}
    levels = np.linspace(0, 1, POINTS)
    for code, rows in numbers.groupby("code", observed=True):
        given = rows["numeric_value"].to_numpy(np.float64)
        values[str(code)] = (len(given), np.quantile(given, levels))
        last = rows.drop_duplicates("patient", keep="last")
        for name, column in has.items():
            x, y = last["numeric_value"].to_numpy(np.float64), column[last["patient"]]
            x, y = x[~np.isnan(y)], y[~np.isnan(y)]
            moments[str(code), name] = np.array(
                [len(x), x.sum(), (x * x).sum(), y.sum(), (x * y).sum()]
            )
    return Summary(
        patients=len(patients),
        outcomes={
            name: (int((~np.isnan(column)).sum()), int(np.nansum(column)))
            for name, column in has.items()
        },
        counts=counts,
        values=values,
        moments=moments,
        images=_images(tables, images) if images is not None else {},
    )


def _images(tables: SiteTables, folder: Path) -> dict[str, Floats]:
    names = sorted(set(tables.events["path"].dropna()))
    every = max(1, -(-len(names) // IMAGES))
    section = tables.site.settings.data.images
    kind = "dicom" if section is None else section.format
    intensity, texture = np.zeros(BINS), np.zeros(BINS)
    for name in names[::every]:
        try:
            (image,) = read_image(folder / name, (1, IMAGE_SIZE, IMAGE_SIZE), kind=kind)
        except UnreadableImage:
            continue
        intensity += _histogram(image)
        texture += _histogram(np.abs(np.diff(image, axis=1)))
    return {"intensity": intensity, "texture": texture} if intensity.any() else {}


def _histogram(values: Any) -> Floats:
    return np.histogram(values, BINS, (0, 1))[0].astype(np.float64)
