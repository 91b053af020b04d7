"""Imaging equipment: each site's images come from a scanner of its own, in the DICOM pixels."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from simulations.shifts.kind import Effect, Kind, Scope, ShiftSection, rounded
from simulations.shifts.looks import ARTEFACTS, Look
from simulations.shifts.tables import SiteTables

Part = Literal["tone", "noise", "resolution", "contrast", "artefact", "spacing"]


class Scanner(ShiftSection):
    """``kind = "scanner"``: tone curve, noise, blur, contrast, artefact and pixel size by site.

    Each of the numbers below is the standard deviation between sites at strength 1.
    """

    kind: Literal["scanner"]
    parts: tuple[Part, ...] = Field(
        default=("tone", "noise", "resolution", "contrast", "artefact", "spacing"), min_length=1
    )
    gamma: float = Field(default=0.5, ge=0, le=2)
    """Of the logarithm of the tone curve's exponent."""
    noise: float = Field(default=0.06, ge=0, le=1)
    """Of the noise, as a share of the range of grey."""
    blur: float = Field(default=0.015, ge=0, le=0.2)
    """Of the blur, as a share of the image's width."""
    contrast: float = Field(default=0.4, ge=0, le=2)
    """Of the logarithm of the contrast."""
    artefact: float = Field(default=0.3, ge=0, le=1)
    """Depth of the vendor's artefact, as a share of the range of grey; its kind is drawn."""
    spacing: float = Field(default=0.3, ge=0, le=1)
    """Of the logarithm of the pixel's size."""


def apply(shift: Scanner, tables: SiteTables, scope: Scope) -> Effect:
    """Draw the site's scanner; its images are made anew when they are written."""
    images = int(tables.events["path"].notna().sum())
    if tables.site.images is None or not images:
        return Effect(tables, {}, {}, "no images")
    rng = scope.random("look")
    normal, kind = rng.standard_normal(5), ARTEFACTS[int(rng.integers(len(ARTEFACTS)))]
    strength = scope.strength
    drawn: dict[Part, dict[str, Any]] = {
        "tone": {"gamma": rounded(np.exp(strength * shift.gamma * normal[0]))},
        "noise": {"noise": rounded(strength * shift.noise * abs(normal[1]))},
        "resolution": {"blur": rounded(strength * shift.blur * abs(normal[2]))},
        "contrast": {"contrast": rounded(np.exp(strength * shift.contrast * normal[3]))},
        "artefact": {"artefact": kind, "artefact_depth": rounded(strength * shift.artefact)},
        "spacing": {"spacing": rounded(np.exp(strength * shift.spacing * normal[4]))},
    }
    look = Look(seed=int(scope.random("noise").integers(2**62)))
    for part in shift.parts:
        look = replace(look, **drawn[part])
    told = {name: value for name, value in asdict(look).items() if name != "seed"}
    return Effect(replace(tables, looks=(*tables.looks, look)), told, {"images": images})


KIND = Kind(Scanner, apply)
