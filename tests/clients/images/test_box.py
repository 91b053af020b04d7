"""Volumes fitted into a box: nothing moves, turns or changes its brightness on the way."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.images.box import Box, Grid, Levels, MeasuredBox
from clients.images.picture import UnreadableImage, resize

BOX = (1, 8, 32, 32)


def fitted(volume, shape=BOX, spacing=(1.0, 1.0, 1.0), spacing_mm=None, **more):
    box = Box(Grid(volume.shape, spacing, **more), shape, spacing_mm)
    for place, plane in enumerate(volume):
        box.add(place, [plane.astype(np.float32)])
    return box.values[0]


def test_volume_of_the_boxes_own_size_stays_as_it_is():
    volume = np.random.default_rng(0).random((8, 32, 32), np.float32)
    np.testing.assert_allclose(fitted(volume), volume, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 20, 10), (8, 32, 64), (8, 200, 100)])
def test_planes_are_fitted_as_pictures_are(shape):
    volume = np.random.default_rng(1).random(shape, np.float32)
    expected = np.stack([resize(plane, 32) for plane in volume])
    np.testing.assert_allclose(fitted(volume), expected, atol=2e-3)


SIDES = st.integers(8, 40)
STEPS = st.floats(0.3, 6)


@settings(max_examples=40, deadline=None)
@given(st.tuples(SIDES, SIDES, SIDES), st.tuples(STEPS, STEPS, STEPS))
def test_one_brightness_stays_one_and_what_lies_outside_is_black(shape, spacing):
    found = fitted(np.ones(shape), spacing=spacing)
    assert set(np.unique(found.round(5))) <= {0, 1}
    tall, wide = shape[1] * spacing[1], shape[2] * spacing[2]
    share = min(tall, wide) / max(tall, wide)
    assert abs((found > 0).mean() - share) <= 1.01 / 32


@settings(max_examples=40, deadline=None)
@given(st.tuples(SIDES, SIDES, SIDES), st.tuples(STEPS, STEPS, STEPS), st.integers(0, 2))
def test_distances_are_kept_in_millimetres(shape, spacing, axis):
    """A ramp of one unit a millimetre is one in the box, around the same middle."""
    places = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    ramp = np.broadcast_to(places[axis].reshape([-1 if i == axis else 1 for i in range(3)]), shape)
    found = fitted(ramp, spacing=spacing, spacing_mm=(2.0, 1.5))
    pitch = (2.0, 1.5, 1.5)[axis]
    expected = (np.arange(BOX[1 + axis]) - (BOX[1 + axis] - 1) / 2) * pitch
    # Near its ends the filter sees one side of the ramp alone.
    inner = np.abs(expected) < abs(places[axis][0]) - max(pitch, spacing[axis])
    line = np.moveaxis(found, axis, 0)
    middle = [side // 2 for side in line.shape[1:]]
    np.testing.assert_allclose(
        line[inner, middle[0], middle[1]], expected[inner], atol=0.08 * pitch
    )


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("turned", [(False, True, False), (True, True, True)])
def test_stored_axes_are_turned_to_those_of_the_patient(axes, turned):
    patient = np.random.default_rng(2).random((8, 32, 32), np.float32)
    stored = np.transpose(patient, axes)
    for place, back in enumerate(turned):
        stored = np.flip(stored, place) if back else stored
    np.testing.assert_allclose(fitted(stored, axes=axes, reversed=turned), patient, atol=1e-6)


def test_planes_may_come_in_any_order():
    volume = np.random.default_rng(3).random((20, 40, 30), np.float32)
    box = Box(Grid(volume.shape, (1.0, 1.0, 1.0)), BOX)
    for place in (7, 3, *set(range(20)) - {7, 3}):
        box.add(place, [volume[place]])
    np.testing.assert_allclose(box.values[0], fitted(volume), atol=1e-6)


def test_contrast_is_of_the_whole_volume_and_of_what_is_shown():
    volume = np.random.default_rng(4).normal(100, 20, (8, 32, 32))
    volume[3] += 500
    shown = np.ones(volume.shape, bool)
    shown[:, :4] = False
    hidden = np.where(shown, volume, -2000)
    box = MeasuredBox(Grid(volume.shape, (1.0, 1.0, 1.0)), (3, *BOX[1:]))
    for place, plane in enumerate(hidden):
        box.add(place, plane, shown[place])
    low, high = np.percentile(volume[shown], [0.5, 99.5])
    expected = np.where(shown, np.clip((volume - low) / (high - low), 0, 1), 0)
    found = box.values()
    assert found.shape == (3, *BOX[1:])
    np.testing.assert_allclose(found[2], expected, atol=1e-4)
    inverted = np.where(shown, 1 - np.clip((volume - low) / (high - low), 0, 1), 0)
    np.testing.assert_allclose(box.values(inverted=True)[0], inverted, atol=1e-4)


def test_percentiles_of_a_large_volume_rest_on_an_even_part_of_it():
    grid = Grid((32, 600, 600), (1.0, 1.0, 1.0))
    levels = Levels(grid)
    values = np.linspace(0, 1, 600 * 600).reshape(600, 600)
    for _ in range(32):
        levels.add(values, np.ones(values.shape, bool))
    assert sum(map(len, levels._seen)) < 2**21
    np.testing.assert_allclose(levels.low_and_high(), (0.005, 0.995), atol=0.005)


def test_unknown_spacing_cannot_be_asked_for_in_millimetres():
    with pytest.raises(UnreadableImage, match="where they lie"):
        Box(Grid((8, 8, 8), (0.0, 1.0, 1.0)), BOX, (1.0, 1.0))


def test_volume_of_too_many_voxels_is_refused_before_one_is_read():
    with pytest.raises(UnreadableImage, match="too large"):
        Box(Grid((65_536, 4096, 4096), (1.0, 1.0, 1.0)), BOX)
