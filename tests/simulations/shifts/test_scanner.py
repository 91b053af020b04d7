"""A site's scanner: what is drawn, and what that does to an image."""

import numpy as np
import pytest
from scipy import ndimage

from simulations.shifts import scanner
from simulations.shifts.looks import ARTEFACTS, Look, show
from simulations.shifts.scanner import Scanner


@pytest.fixture(scope="module")
def image():
    return ndimage.gaussian_filter(np.random.default_rng(0).random((48, 40)), 2)


def rng():
    return np.random.default_rng(1)


def test_default_look_changes_nothing(image):
    assert np.array_equal(show(image, Look(), rng()), image)


def test_gamma_and_contrast_are_the_closed_forms(image):
    assert show(image, Look(gamma=1.7), rng()) == pytest.approx(image**1.7)
    flatter = show(image, Look(contrast=0.5), rng())
    assert flatter == pytest.approx(0.25 + image / 2)


def test_blur_lowers_differences_and_noise_has_its_standard_deviation(image):
    blurred = show(image, Look(blur=0.05), rng())
    assert np.abs(np.diff(blurred)).mean() < 0.7 * np.abs(np.diff(image)).mean()
    assert blurred.mean() == pytest.approx(image.mean(), abs=0.01)
    noise = show(np.full((100, 100), 0.5), Look(noise=0.05), rng()) - 0.5
    assert noise.std() == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize("spacing", [0.5, 0.8, 1.25, 2.0])
def test_other_pixel_size_keeps_the_picture(spacing):
    rows, columns = np.mgrid[0:1:80j, 0:1:60j]
    smooth = 0.2 + 0.5 * rows + 0.2 * columns
    resampled = show(smooth, Look(spacing=spacing), rng())
    assert resampled.shape == (round(80 / spacing), round(60 / spacing))
    assert resampled.mean() == pytest.approx(smooth.mean(), abs=1e-3)
    assert resampled[-1, -1] > resampled[0, -1] > resampled[0, 0]


def test_larger_pixels_average_what_they_cover():
    noise = 0.5 + 0.1 * np.random.default_rng(0).standard_normal((200, 200))
    averaged = show(np.clip(noise, 0, 1), Look(spacing=2.0), rng())
    assert 0.3 < averaged.std() / noise.std() < 0.6  # a mean of four would have 0.5


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_artefacts_change_grey_by_at_most_their_depth(image, artefact):
    changed = show(image, Look(artefact=artefact, artefact_depth=0.3), rng())
    assert 0.02 < np.abs(changed - image).max() <= (0.7 if artefact == "marker" else 0.3)
    assert (changed.min(), changed.max()) >= (0, 0)
    assert changed.max() <= 1


def test_each_site_draws_its_own_scanner_and_strength_scales_its_logarithms(make_tables, scope):
    tables = make_tables(10, images=True)
    shift = Scanner(kind="scanner")
    full, half = (scanner.apply(shift, tables, scope(s)).drawn for s in (1.0, 0.5))
    other = scanner.apply(shift, tables, scope(1.0, 0, "b")).drawn
    for name in ("gamma", "contrast", "spacing"):
        assert np.log(half[name]) == pytest.approx(np.log(full[name]) / 2, abs=1e-5)
        assert full[name] != other[name]
    for name in ("noise", "blur", "artefact_depth"):
        assert half[name] == pytest.approx(full[name] / 2, abs=1e-5)


def test_parts_left_out_stay_as_they_were(make_tables, scope):
    tables = make_tables(10, images=True)
    drawn = scanner.apply(Scanner(kind="scanner", parts=("tone",)), tables, scope()).drawn
    assert drawn.pop("gamma") != 1
    assert drawn == {
        "contrast": 1.0,
        "blur": 0.0,
        "noise": 0.0,
        "artefact": "",
        "artefact_depth": 0.0,
        "spacing": 1.0,
    }


def test_site_without_images_is_reported(make_tables, scope):
    effect = scanner.apply(Scanner(kind="scanner"), make_tables(10), scope())
    assert effect.note == "no images"
    assert effect.tables.looks == ()
