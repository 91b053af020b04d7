"""The chest phantom: findings that can be seen, and files that read as a scanner's would."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.pixels.processing import apply_modality_lut

from simulations.phantom import (
    SCANNERS,
    Chest,
    Findings,
    Image,
    Scanner,
    Study,
    draw_chest,
    expose,
    render,
    write_dicom,
)

STUDY = Study(
    patient_id="10000001",
    name="Merrowdale^Juno",
    sex="F",
    birth=datetime(1950, 6, 1),
    taken=datetime(2023, 3, 4, 5, 6),
    institution="st-elsewhere",
    portable=False,
)


def _chest(seed: int, findings: Findings | None = None) -> Chest:
    return draw_chest(np.random.default_rng(seed), findings or Findings())


def _decoded(path: Path, scanner: Scanner, chest: Chest, size: int = 64) -> NDArray[np.float64]:
    """Write and read back; dense is bright, as a viewer shows it, on a scale from 0 to 1."""
    pixels = expose(render([chest], size)[0], scanner, np.random.default_rng(5))
    write_dicom(path, pixels, scanner, STUDY)
    file = pydicom.dcmread(path)
    shown = apply_modality_lut(file.pixel_array, file).astype(float)
    shown = (shown - float(file.WindowCenter)) / float(file.WindowWidth) + 0.5
    return 1 - shown if file.PhotometricInterpretation == "MONOCHROME1" else shown


@pytest.mark.parametrize("scanner", SCANNERS, ids=lambda s: s.model)
def test_photometric_variants_invert_to_the_same_anatomy(scanner: Scanner, tmp_path: Path) -> None:
    chest = _chest(3, Findings(effusion=0.7))
    shown = {
        kind: _decoded(tmp_path / f"{kind}.dcm", replace(scanner, photometric=kind), chest)
        for kind in ("MONOCHROME1", "MONOCHROME2")
    }
    np.testing.assert_allclose(shown["MONOCHROME1"], shown["MONOCHROME2"], atol=1e-9)


def test_scanners_agree_on_the_anatomy_and_not_on_the_pixels(tmp_path: Path) -> None:
    chest = _chest(4, Findings(consolidation=0.8))
    shown = [_decoded(tmp_path / f"{i}.dcm", s, chest) for i, s in enumerate(SCANNERS)]
    for other in shown[1:]:
        assert np.corrcoef(shown[0].ravel(), other.ravel())[0, 1] > 0.97
        assert np.abs(shown[0] - other).max() > 0.02


@pytest.mark.parametrize("scanner", SCANNERS, ids=lambda s: s.model)
def test_header_describes_the_pixels_and_the_patient(scanner: Scanner, tmp_path: Path) -> None:
    shown = _decoded(tmp_path / "x.dcm", scanner, _chest(1), size=48)
    assert 0 <= shown.min() < 0.1
    assert 0.9 < shown.max() <= 1
    file = pydicom.dcmread(tmp_path / "x.dcm")
    assert not file.file_meta.TransferSyntaxUID.is_compressed
    assert file.pixel_array.shape == (48, 48)
    assert file.pixel_array.max() < 2**scanner.bits
    assert (file.BitsAllocated, file.BitsStored, file.HighBit) == (
        16,
        scanner.bits,
        scanner.bits - 1,
    )
    assert (file.RescaleSlope, file.RescaleIntercept) == (scanner.slope, scanner.intercept)
    assert (file.PatientID, file.PatientAge) == ("10000001", "072Y")
    assert file.Modality == ("CR" if scanner.computed else "DX")
    if file.Modality == "DX":
        assert file.RescaleSlope == 1


@pytest.mark.parametrize("name", ["consolidation", "effusion", "cardiomegaly", "oedema"])
def test_a_finding_stands_out_of_the_noise_and_grows(name: str) -> None:
    def image(severity: float, noise: int) -> NDArray[np.float64]:
        chest = _chest(8, Findings(**{name: severity}))
        return expose(render([chest], 64)[0], SCANNERS[1], np.random.default_rng(noise)) / 1023.0

    def gap(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return float(np.sqrt(np.mean(np.square(a - b))))

    well = image(0.0, 0)
    noise = gap(well, image(0.0, 1))
    assert gap(well, image(1.0, 0)) > gap(well, image(0.5, 0)) > noise


def test_consolidation_and_effusion_add_water_to_the_lungs_only() -> None:
    well, ill = render([_chest(8), _chest(8, Findings(consolidation=0.9, effusion=0.9))], 64)
    added = ill - well
    assert added.min() > -1e-5
    assert added[:, :4].max() < 0.01
    assert added.max() > 0.5


def test_effusion_fills_one_side_from_below() -> None:
    well, ill = render([_chest(2), _chest(2, Findings(effusion=0.6))], 64)
    added = ill - well
    left, right = added[:, 32:].sum(), added[:, :32].sum()
    assert max(left, right) > 50 * min(left, right)
    assert added[32:].sum() > 4 * added[:32].sum()


def test_an_image_does_not_depend_on_those_rendered_with_it() -> None:
    chests = [_chest(i, Findings(oedema=i / 10)) for i in range(7)]
    together = render(chests, 64)
    for i, chest in enumerate(chests):
        np.testing.assert_array_equal(render([chest], 64)[0], together[i])


def test_size_changes_the_resolution_and_not_the_anatomy() -> None:
    chest = _chest(6, Findings(cardiomegaly=0.6, consolidation=0.5))
    small, large = render([chest], 64)[0], render([chest], 256)[0]
    assert _correlation(small, large.reshape(64, 4, 64, 4).mean(axis=(1, 3))) > 0.99


def _correlation(a: Image, b: Image) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
