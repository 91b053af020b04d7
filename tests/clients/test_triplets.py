"""Events as they came: what a transformer reads of each patient."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients import features
from clients.cohort import Patients
from clients.triplets import CUT, event_tensor
from clients.workbench import Workbench
from federation.modalities import EhrSection
from federation.models.encoders.transformer import EventTransformer
from federation.models.triplets import Triplets
from federation.vocabulary import agreed_vocabulary

CODES = ("LAB//A", "LAB//B", "ICD10CM//J18.9//X", "HR", "IMAGE//CR", "MEDS_BIRTH")


def cohort_of(rows, patients):
    """Rows of (row, hours_before, code, numeric_value), oldest first within a patient."""
    frame = pd.DataFrame(rows, columns=["row", "hours_before", "code", "numeric_value"])
    frame = frame.astype({"row": np.int64, "hours_before": float, "numeric_value": float})
    frame = frame.sort_values(
        ["row", "hours_before"], ascending=[True, False], na_position="first", kind="stable"
    ).reset_index(drop=True)
    frame["code"] = frame["code"].astype("category")
    each = np.arange(patients)
    return Patients(
        each, np.zeros(patients, np.float32), frame, {"train": each}, {}, {}, {}, each / 1.0, each
    )


def slow_events(patients, section, vocabulary):
    """The definition, one patient and one event at a time: [(hours, value, places)]."""
    found = []
    for row in range(len(patients)):
        static, timed = [], []
        for event in patients.events[patients.events["row"] == row].itertuples():
            places, _ = vocabulary.places_of(event.code)
            if not places:
                continue
            value = event.numeric_value
            if not math.isnan(value):
                scale = vocabulary.scales.get(event.code)
                value = math.asinh(value) / 3 if scale is None else (value - 75) / 25
                value = min(max(value, -10.0), 10.0)
            told = (event.hours_before, value, tuple(p + 1 for p in places[-4:]))
            if math.isnan(event.hours_before):
                static.append(told)
            elif section.window_hours is None or event.hours_before <= section.window_hours:
                timed.append(told)
        found.append([*reversed(static), *reversed(timed)])
    return found


events = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.one_of(st.just(math.nan), st.integers(0, 100).map(float)),
        st.sampled_from(CODES),
        st.one_of(st.just(math.nan), st.floats(-1e3, 1e3, width=32)),
    ),
    max_size=40,
)
sections = st.builds(
    EhrSection,
    encoder=st.just("transformer"),
    max_events=st.sampled_from([8, 64]),
    buckets=st.sampled_from([2, 64]),
    codes=st.sampled_from([(), ("LAB//A",)]),
    reference_ranges=st.sampled_from([{}, {"HR": (50.0, 100.0)}]),
    window_hours=st.sampled_from([None, 24.0]),
)


@settings(max_examples=80)
@given(events, sections)
def test_events_equal_their_definition_one_by_one(rows, section):
    patients, vocabulary = cohort_of(rows, 4), agreed_vocabulary(section)
    found = event_tensor(patients, section, vocabulary)
    expected = slow_events(patients, section, vocabulary)
    assert found.present.tolist() == [bool(of_one) for of_one in expected]
    cut = sum(len(of_one) > section.max_events for of_one in expected)
    assert found.unusable == ({CUT: cut} if cut else {})
    told = Triplets.of(found.values)
    for row, of_one in enumerate(expected):
        kept = of_one[: section.max_events]
        assert told.there[row].tolist() == [True] * len(kept) + [False] * (
            section.max_events - len(kept)
        )
        for i, (hours, value, places) in enumerate(kept):
            assert told.timed[row, i] == (not math.isnan(hours))
            assert told.hours[row, i] == (0 if math.isnan(hours) else hours)
            assert told.valued[row, i] == (not math.isnan(value))
            expected_value = 0.0 if math.isnan(value) else value
            assert told.value[row, i] == pytest.approx(expected_value, rel=1e-5, abs=1e-6)
            pieces = told.pieces[row, i].tolist()
            assert pieces == [*places, *[0] * (len(pieces) - len(places))]


def test_events_do_not_depend_on_the_portions_in_which_they_are_read(monkeypatch):
    rng = np.random.default_rng(0)
    rows = [
        (int(rng.integers(9)), float(rng.integers(50)), CODES[rng.integers(4)], float(rng.normal()))
        for _ in range(150)
    ]
    section = EhrSection(encoder="transformer", max_events=8, buckets=16)
    whole = event_tensor(cohort_of(rows, 9), section, agreed_vocabulary(section))
    for limit in (1, 7, 60):
        monkeypatch.setattr(features, "EVENTS_AT_ONCE", limit)
        part = event_tensor(cohort_of(rows, 9), section, agreed_vocabulary(section))
        assert part.values.equal(whole.values)
        assert part.unusable == whole.unusable


def encoder_of(section):
    torch.manual_seed(0)
    return section.chosen.build(section, agreed_vocabulary(section).places)


def test_older_events_than_fit_change_nothing_and_newer_do():
    section = EhrSection(encoder="transformer", max_events=8, buckets=16, width=8)
    vocabulary, encoder = agreed_vocabulary(section), encoder_of(section)
    newest = [(0, float(h), "LAB//A", 1.0) for h in range(8)]

    def encoded(*more):
        return encoder(event_tensor(cohort_of([*newest, *more], 1), section, vocabulary).values)

    assert torch.equal(encoded((0, 90.0, "LAB//B", 5.0)), encoded())
    assert not torch.equal(encoded((0, 0.5, "LAB//B", 5.0)), encoded())


def test_that_something_was_not_measured_remains_visible():
    section = EhrSection(encoder="transformer", max_events=8, buckets=64, width=8)
    vocabulary, encoder = agreed_vocabulary(section), encoder_of(section)

    def encoded(*rows):
        return encoder(event_tensor(cohort_of(rows, 1), section, vocabulary).values)

    asked = encoded((0, 3.0, "LAB//A", 0.0), (0, 2.0, "LAB//B", 0.0))
    for other in (
        encoded((0, 3.0, "LAB//A", 0.0)),  # nobody asked for B
        encoded((0, 3.0, "LAB//A", 0.0), (0, 2.0, "LAB//B", math.nan)),  # no result of B
        encoded((0, 3.0, "LAB//A", 0.0), (0, 2.5, "LAB//B", 0.0)),  # at another time
        encoded((0, 3.0, "LAB//A", 0.0), (0, math.nan, "LAB//B", 0.0)),  # at no time
    ):
        assert (other - asked).abs().max() > 1e-4


def test_padding_of_others_does_not_change_a_patient():
    section = EhrSection(encoder="transformer", max_events=64, buckets=16, width=8)
    encoder = encoder_of(section)
    assert isinstance(encoder, EventTransformer)
    rows = [(0, 2.0, "LAB//A", 1.0), *((1, float(h), "HR", 70.0) for h in range(60))]
    values = event_tensor(cohort_of(rows, 2), section, agreed_vocabulary(section)).values
    torch.testing.assert_close(encoder(values)[:1], encoder(values[:1]), rtol=1e-5, atol=1e-6)


def test_site_prepares_the_same_tensor_once_for_all_widths_and_depths(
    tmp_path, write_site, make_study
):
    folder = write_site(tmp_path / "site", 40)
    bench, file = Workbench(), str(folder / "site.toml")
    ehr = {"encoder": "transformer", "max_events": 16, "buckets": 8}

    def tensor(**more):
        study = make_study(modalities={"ehr": {**ehr, **more}})
        return bench.cohort(file, study, agreed_vocabulary(study.modalities.ehr)).modalities["ehr"]

    first = tensor()
    assert first.values.shape == (40, 16, 8)
    kept = len(list((folder / "state" / "cache").rglob("*.safetensors")))
    assert torch.equal(tensor(width=32, layers=1).values, first.values)
    assert len(list((folder / "state" / "cache").rglob("*.safetensors"))) == kept
    assert tensor(max_events=8).values.shape == (40, 8, 8)
