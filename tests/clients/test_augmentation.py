"""Views of training patients: what was asked for and no more, each patient by itself."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

from clients.augmentation import Draws, augmented, image_views
from clients.fits import PlainFit
from clients.training import batches, shorten, train_alone
from clients.workbench import Workbench
from federation.augmentation import ImageAugmentSection
from federation.randomness import torch_generator
from federation.study import Study
from federation.vocabulary import agreed_vocabulary

SUBJECTS = np.array([3, 11, 12, 70_000, 2**61])
STRONG = {"rotation": 20.0, "shift": 0.1, "zoom": 0.1, "contrast": 0.3, "noise": 0.1}


def smooth(*shape, seed=0):
    """Made-up films with nothing at the edge, (patients, 1, *shape)."""
    rng = np.random.default_rng(seed)
    films = ndimage.gaussian_filter(rng.random((len(SUBJECTS), 1, *shape)), (0, 0, 3, 3)[: 2 + 2])
    films = films / films.max()
    border = np.zeros(shape)
    border[tuple(slice(side // 4, -(side // 4)) for side in shape)] = 1
    return torch.from_numpy((films * ndimage.gaussian_filter(border, 2)).astype(np.float32))


def views(images, step=5, subjects=SUBJECTS, **options):
    return image_views(images, ImageAugmentSection(**options), Draws(step, subjects))


def test_nothing_asked_changes_no_bit(make_study):
    study = make_study("ehr", "image", "text")
    assert not study.modalities.augmented
    values = {"ehr": torch.rand(5, 12), "image": smooth(32, 32), "text": torch.ones(5, 4)}
    seen = augmented(values, study, Draws(1, SUBJECTS))
    assert all(torch.equal(seen[name], values[name]) for name in values)


def test_a_shift_is_what_scipy_shifts():
    images = smooth(40, 40)
    drawn = Draws(5, SUBJECTS)
    for _ in range(2):
        drawn.uniform()  # the turn and the zoom, of nothing
    across, down = (40 * drawn.within(0.2).numpy() for _ in range(2))
    found = views(images, shift=0.2)
    for i in range(len(SUBJECTS)):
        expected = ndimage.shift(images[i, 0].numpy(), (-down[i], -across[i]), order=1)
        np.testing.assert_allclose(found[i, 0].numpy(), expected, atol=1e-4)
    assert len({round(float(shift), 4) for shift in across}) == len(SUBJECTS)


def test_a_turn_is_what_scipy_turns():
    images = smooth(41, 41)
    drawn = Draws(5, SUBJECTS)
    degrees = drawn.within(30.0).numpy()
    found = views(images, rotation=30.0)
    for i in range(len(SUBJECTS)):
        expected = ndimage.rotate(images[i, 0].numpy(), degrees[i], reshape=False, order=1)
        np.testing.assert_allclose(found[i, 0].numpy(), expected, atol=1e-3)
    assert abs(degrees).max() > 5


def test_films_are_mirrored_only_where_asked_and_then_exactly():
    images = smooth(32, 32)
    found = views(images, left_right=True)
    kinds = set()
    for film, seen in zip(images, found, strict=True):
        same, mirror = (float((seen - one).abs().max()) for one in (film, film.flip(-1)))
        assert min(same, mirror) < 1e-5
        kinds.add(same < mirror)
    assert kinds == {True, False}
    left = torch.zeros(5, 1, 32, 32)
    left[..., 8:24, 4:12] = 1
    for seen in views(left, rotation=20.0, shift=0.1, zoom=0.1):
        assert seen[..., :16].sum() > 10 * seen[..., 16:].sum()


def test_volumes_turn_within_their_planes():
    volumes = torch.zeros(5, 1, 8, 32, 32)
    for plane in range(8):
        volumes[:, :, plane, 10:22, 10:22] = (plane + 1) / 8
    found = views(volumes, rotation=20.0)
    np.testing.assert_allclose(found[:, 0, :, 16, 16], volumes[:, 0, :, 16, 16], atol=1e-5)
    assert not torch.allclose(found, volumes)


def test_brightness_contrast_and_noise_stay_within_what_was_asked():
    images = torch.full((5, 1, 32, 32), 0.5)
    brighter = views(images, brightness=0.2)
    assert 0.05 < (brighter - 0.5).abs().max() <= 0.2
    assert torch.equal(brighter.flatten(1).std(1), torch.zeros(5))
    noisy = views(images, noise=0.1)
    assert 0.01 < noisy.flatten(1).std(1).max() < 0.11
    strong = views(smooth(32, 32), **STRONG)
    assert strong.min() >= 0 and strong.max() <= 1


def test_a_view_depends_on_the_step_and_the_patient_and_on_nobody_else():
    images = smooth(32, 32)
    whole = views(images, **STRONG)
    order = [3, 0, 4]
    some = views(images[order], subjects=SUBJECTS[order], **STRONG)
    assert torch.equal(some, whole[order])
    assert not torch.equal(views(images, step=6, **STRONG), whole)
    alike = views(images[:1].expand(5, -1, -1, -1).contiguous(), **STRONG)
    assert all((alike[0] - other).abs().max() > 0.01 for other in alike[1:])


@pytest.fixture
def records(make_study):
    def records(encoder="mlp", **augment):
        document = make_study("ehr").to_dict()
        ehr = {"encoder": encoder, "width": 8, "augment": augment}
        document["modalities"]["ehr"] |= ehr
        return Study.model_validate(document)

    return records


def test_a_code_is_dropped_as_a_whole_and_as_one_that_was_never_recorded(records):
    study = records(dropout=0.4)
    width = len(study.modalities.ehr.aggregates)
    values = torch.rand(5, 200 * width) + 0.1
    seen = augmented({"ehr": values}, study, Draws(2, SUBJECTS))["ehr"]
    places, before = seen.view(5, 200, width), values.view(5, 200, width)
    gone = (places == 0).all(-1)
    assert torch.equal(places[~gone], before[~gone])
    assert 0.3 < gone.float().mean() < 0.5
    assert not torch.equal(gone[0], gone[1])


def test_times_of_codes_move_by_the_hours_at_most_and_absent_ones_stay_absent(records):
    study = records(jitter_hours=6.0)
    names = study.modalities.ehr.aggregates
    values = torch.rand(5, 50, len(names))
    values[:, ::2] = 0
    seen = augmented({"ehr": values.flatten(1)}, study, Draws(2, SUBJECTS))["ehr"]
    seen = seen.view(values.shape)
    place = names.index("since")
    others = [i for i in range(len(names)) if i != place]
    assert torch.equal(seen[..., others], values[..., others])
    assert not seen[:, ::2].any()
    hours = -24 * torch.log(seen[:, 1::2, place] / values[:, 1::2, place])
    free = seen[:, 1::2, place] < 1
    assert hours[free].abs().max() <= 6.001
    assert hours[free].std() > 1


def test_events_are_dropped_and_moved_and_padding_stays_at_the_end(records):
    study = records("transformer", dropout=0.3, jitter_hours=2.0)
    values = torch.zeros(5, 40, 8)
    values[:, :30, 0] = torch.arange(30.0)
    values[:, :30, 1] = 1
    values[:, 0, :2] = 0  # a fact without a time
    values[:, :30, 4] = torch.arange(1.0, 31.0)
    seen = augmented({"ehr": values}, study, Draws(2, SUBJECTS))["ehr"]
    for patient in seen:
        there = patient[:, 4] != 0
        assert 10 < there.sum() < 30
        assert there[: there.sum()].all()
        codes = patient[there, 4]
        assert (codes.diff() > 0).all()
        moved = patient[there, 0] - (codes - 1) * patient[there, 1]
        assert moved.abs().max() <= 2
        assert (patient[there, 0] >= 0).all()
        assert not patient[~there].any()


@pytest.fixture
def fit(tmp_path, write_site, make_study):
    def fit(**sections):
        image = {"size": 32, "width": 8, "augment": sections.pop("augment", {})}
        study = make_study("image", modalities={"image": image}, **sections)
        labels = [(k, None, k % 5 == 0) for k in range(1, 41)]
        if not (tmp_path / "site").exists():
            write_site(tmp_path / "site", 40, images=True)
        bench = Workbench()
        cohort = bench.cohort(str(tmp_path / "site"), study, None)
        rare = torch.tensor([float(label) for _, _, label in labels])
        cohort = dataclasses.replace(cohort, labels=rare)
        model = bench.model(study, None)
        draws = lambda: torch_generator(1, "here")  # noqa: E731
        return PlainFit(model, model.weights(), cohort, study, study.training, draws)

    return fit


def test_training_repeats_with_the_seed_and_sees_other_patients_than_without(fit):
    plain, strong = fit(), fit(augment=STRONG)
    first, second = train_alone(strong).weights, train_alone(strong).weights
    assert np.array_equal(first, second)
    assert not np.array_equal(first, train_alone(plain).weights)


def test_balanced_passes_draw_each_class_alike(fit):
    one = fit(training={"sampling": "balanced", "batch_size": 8, "local_epochs": 40})
    drawn = torch.cat(list(batches(one, one.generator())))
    assert len(drawn) == 40 * len(one.rows)
    assert set(drawn.tolist()) == set(one.rows.tolist())
    assert 0.45 < one.cohort.labels[drawn].mean() < 0.55
    assert one.cohort.labels[one.rows].mean() < 0.35
    plain = fit(training={"batch_size": 8, "local_epochs": 1})
    assert sorted(torch.cat(list(batches(plain, plain.generator()))).tolist()) == sorted(
        plain.rows.tolist()
    )


def test_a_long_gradient_is_shortened_and_a_short_one_stays():
    gradients = [torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4]), torch.zeros(2)]
    shorten(gradients, 1.0)
    torch.testing.assert_close(gradients[0], torch.tensor([0.6, 0.8]))
    assert gradients[1].tolist() == pytest.approx([0.3, 0.4])
    assert gradients[2].tolist() == [0, 0]


def test_a_bounded_step_moves_no_further_than_the_bound(fit):
    sgd = {"name": "sgd", "lr": 1.0}
    training = {"local_steps": 1, "batch_size": 16, "max_grad_norm": 0.01, "optimizer": sgd}
    one = fit(training=training)
    moved = train_alone(one).weights - one.start
    assert np.linalg.norm(moved) == pytest.approx(0.01, rel=1e-3)


def test_places_of_the_vocabulary_are_as_many_as_the_model_takes(records):
    study = records(dropout=0.1)
    vocabulary = agreed_vocabulary(study.modalities.ehr)
    width = vocabulary.places * len(study.modalities.ehr.aggregates)
    seen = augmented({"ehr": torch.ones(5, width)}, study, Draws(0, SUBJECTS))["ehr"]
    assert seen.shape == (5, width)
