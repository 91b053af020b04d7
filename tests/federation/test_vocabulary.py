"""Vocabularies: the same places at every site and on every machine."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.modalities import EhrSection
from federation.vocabulary import (
    AGE,
    CodeMoments,
    Scale,
    Vocabulary,
    agreed_vocabulary,
    bucket_of,
    fitted_vocabulary,
    pieces,
)


def test_buckets_are_a_fixed_function_of_the_text():
    # computed with hashlib once; a change would silently unlearn every trained model
    digest = hashlib.blake2b(b"ICD10CM//J18", digest_size=8).digest()
    assert bucket_of("ICD10CM//J18", 256) == int.from_bytes(digest, "big") % 256
    assert [bucket_of(t, 1000) for t in ("ICD10CM//J18", "LAB", "é")] == [249, 375, 743]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("HR", ["HR"]),
        ("ICD10CM//J18.9", ["ICD10CM", "ICD10CM//J18", "ICD10CM//J18.9"]),
        ("LAB//50912//mg/dL", ["LAB", "LAB//50912", "LAB//50912//mg/dL"]),
        ("A//1.2.3", ["A", "A//1.2", "A//1.2.3"]),
        ("A.B//C", ["A.B", "A.B//C"]),
        ("A//.5", ["A", "A//.5"]),
        ("J18.9", ["J18", "J18.9"]),
        ("", [""]),
    ],
)
def test_pieces_go_from_coarse_to_the_whole_code(code, expected):
    assert pieces(code) == expected


def test_related_codes_share_their_coarse_places():
    vocabulary = Vocabulary((), {}, 10_000)
    one, other = (set(vocabulary.places_of(f"ICD10CM//J18.{i}")[0]) for i in (1, 9))
    assert len(one) == 3
    assert len(one & other) == 2


def test_known_codes_keep_their_own_place_and_others_are_hashed_behind_them():
    vocabulary = Vocabulary(("LAB//A", "LAB//B"), {}, 16)
    assert vocabulary.places == 18
    assert vocabulary.places_of("LAB//B") == ((1,), 1)
    places, valued = vocabulary.places_of("LAB//C")
    assert min(places) >= 2
    assert max(places) < 18
    assert valued == 2 + bucket_of("LAB//C", 16)


@pytest.mark.parametrize("code", ["IMAGE//CR", "NOTE//RADIOLOGY", "MEDS_BIRTH", "MEDS_DEATH"])
def test_images_notes_birth_and_death_are_no_features(code):
    assert Vocabulary((), {}, 4).places_of(code) == ((), None)


@pytest.mark.parametrize("kind", ["hashed", "listed", "prepared"])
def test_age_is_a_feature_only_where_the_study_asks_for_it(kind):
    for age in (True, False):
        section = EhrSection(vocabulary=kind, codes=("LAB//A",), age=age)
        counted = [{"LAB//A": CodeMoments(20, 20, 1.0, 1.0)}]
        vocabulary = (
            fitted_vocabulary(section, counted)
            if kind == "prepared"
            else agreed_vocabulary(section)
        )
        assert bool(vocabulary.places_of(AGE)[0]) is age


def moments(patients, values):
    values = np.asarray(values, np.float64)
    return CodeMoments(patients, len(values), float(values.sum()), float((values**2).sum()))


@given(
    st.lists(
        st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20), min_size=1, max_size=5
    )
)
def test_merged_moments_scale_like_the_pooled_values(sites):
    counted = [{"X": moments(10, values)} for values in sites]
    vocabulary = fitted_vocabulary(EhrSection(vocabulary="prepared", age=False), counted)
    pooled = np.concatenate([np.asarray(v, np.float64) for v in sites])
    if len(pooled) < 2:
        assert vocabulary.scales == {}
        return
    scale = vocabulary.scales["X"]
    assert scale.center == pytest.approx(pooled.mean(), rel=1e-9, abs=1e-9)
    spread = pooled.std()
    if spread > 1e-3 * np.abs(pooled).max():
        assert scale.width == pytest.approx(spread, rel=1e-4)
    else:
        assert scale.width > 0


@pytest.mark.parametrize("value", [98.6, 0.1, 37.2, 1e6 + 0.1, 0.0])
def test_a_constant_value_is_not_blown_up_by_rounding(value):
    for n in (3, 10, 1000):
        scale = moments(20, np.full(n, value)).scale()
        assert scale.width == 1.0


def test_most_frequent_codes_are_kept_and_ties_go_by_name():
    counted = [
        {"B": CodeMoments(10, 0, 0, 0), "A": CodeMoments(10, 0, 0, 0)},
        {"C": CodeMoments(15, 0, 0, 0), "D": CodeMoments(10, 0, 0, 0)},
        {"D": CodeMoments(10, 0, 0, 0)},
    ]
    section = EhrSection(vocabulary="prepared", vocabulary_size=3, age=False)
    assert fitted_vocabulary(section, counted).codes == ("A", "C", "D")
    assert fitted_vocabulary(section, counted[::-1]).codes == ("A", "C", "D")


def test_reference_ranges_go_before_fitted_scales():
    section = EhrSection(vocabulary="prepared", reference_ranges={"X": (0.0, 10.0)}, age=False)
    vocabulary = fitted_vocabulary(section, [{"X": moments(20, [100.0, 200.0])}])
    assert vocabulary.scales["X"] == Scale(5.0, 5.0)


@given(
    st.lists(st.text(max_size=10), unique=True, max_size=5),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(1e-300, 1e300),
    st.integers(0, 4096),
)
def test_json_round_trip_is_exact(codes, center, width, buckets):
    vocabulary = Vocabulary(tuple(codes), {c: Scale(center, width) for c in codes}, buckets)
    assert Vocabulary.from_json(vocabulary.canonical) == vocabulary


def test_canonical_text_does_not_depend_on_the_order_of_scales():
    a, b = Scale(0.0, 1.0), Scale(1.0, 2.0)
    one = Vocabulary(("A", "B"), {"A": a, "B": b}, 0)
    other = Vocabulary(("A", "B"), {"B": b, "A": a}, 0)
    assert one.canonical == other.canonical
