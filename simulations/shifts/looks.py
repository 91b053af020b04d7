"""How a scanner changes an image: tone, blur, noise, an artefact, the size of a pixel.

An image here is (rows, columns) float64 in [0, 1], bright where X-rays were absorbed, whichever way
round and in however many bits the file stores it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float64]

ARTEFACTS = ("grid lines", "marker", "vignette")


@dataclass(frozen=True)
class Look:
    """One scanner's way of making images; the defaults change nothing.

    Attributes:
        gamma: exponent of the tone curve.
        contrast: slope of the tone curve about middle grey.
        blur: standard deviation of a Gaussian, as a share of the image's width.
        noise: standard deviation of noise, as a share of the range of grey.
        artefact: one of ``ARTEFACTS``, or empty.
        artefact_depth: how far it changes grey, as a share of its range.
        spacing: size of a pixel as a multiple of the former; above 1 there are fewer of them.
        seed: of the noise; each image has its own by its name.
    """

    gamma: float = 1.0
    contrast: float = 1.0
    blur: float = 0.0
    noise: float = 0.0
    artefact: str = ""
    artefact_depth: float = 0.0
    spacing: float = 1.0
    seed: int = 0


def show(image: Image, look: Look, rng: np.random.Generator) -> Image:
    """Return the image as the scanner shows it: optics, resolution, noise, tone, artefact."""
    changed = image
    if look.blur > 0:
        changed = ndimage.gaussian_filter(changed, look.blur * image.shape[1], mode="nearest")
    if look.spacing != 1:
        changed = _resample(changed, look.spacing)
    if look.noise > 0:
        changed = changed + look.noise * rng.standard_normal(changed.shape)
    changed = np.clip(changed, 0, 1)
    if look.gamma != 1:
        changed = changed**look.gamma
    if look.contrast != 1:
        changed = np.clip(0.5 + look.contrast * (changed - 0.5), 0, 1)
    if look.artefact:
        changed = _with_artefact(changed, look.artefact, look.artefact_depth)
    return changed


def _resample(image: Image, spacing: float) -> Image:
    """Fewer or more pixels over the same area: areas are averaged, gaps interpolated."""
    shape = [max(8, round(side / spacing)) for side in image.shape]
    source = image
    if spacing > 1:  # without it, detail finer than the new pixels would come back as aliases
        source = ndimage.gaussian_filter(image, (spacing - 1) / 2, mode="nearest")
    rows, columns = (
        (np.arange(new) + 0.5) * old / new - 0.5
        for new, old in zip(shape, image.shape, strict=True)
    )
    grid = np.meshgrid(rows, columns, indexing="ij")
    return np.asarray(ndimage.map_coordinates(source, grid, order=1, mode="nearest"))


def _with_artefact(image: Image, artefact: str, depth: float) -> Image:
    rows, columns = image.shape
    down, across = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)[None, :]
    if artefact == "grid lines":  # of an anti-scatter grid, every eighth of the image's height
        lines = np.cos(8 * np.pi * (down + 1)) * np.ones_like(across)
        return np.asarray(np.clip(image + 0.5 * depth * lines, 0, 1))
    if artefact == "marker":  # a bright box burned into the upper corner, as of a side marker
        box = (np.abs(down + 0.8) < 0.1) & (np.abs(across + 0.8) < 0.1)
        return np.asarray(np.where(box, np.maximum(image, min(1.0, 0.4 + depth)), image))
    falloff = 1 - depth * np.clip(down**2 + across**2, 0, 2) / 2
    return np.asarray(image * falloff)
