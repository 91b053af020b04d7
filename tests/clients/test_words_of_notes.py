"""Notes become hashed words, and a negated word is another word."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clients.cohort import Patients
from clients.notes import text_tensor, words_of
from federation.modalities import NEGATIONS, TextSection
from federation.models.words import PIECES
from federation.vocabulary import bucket_of


def cohort_of(notes, patients):
    """Notes of (row, hours before, text)."""
    frame = pd.DataFrame(notes, columns=["row", "hours_before", "text_value"])
    frame = frame.sort_values(["row", "hours_before"], ascending=[True, False])
    frame = frame.assign(code="NOTE//RADIOLOGY", numeric_value=math.nan).reset_index(drop=True)
    frame["code"] = frame["code"].astype("category")
    rows = np.arange(patients)
    return Patients(
        rows, np.zeros(patients, np.float32), frame, {"train": rows}, {}, {}, {}, rows / 1.0, rows
    )


def words(note, negations=NEGATIONS):
    return [pieces[0] for pieces in words_of(note, negations)]


def test_notes_are_read_newest_first_and_cut_at_the_limit():
    notes = [(0, 9.0, "Old words here"), (0, 2.0, "New."), (1, 1.0, "a b c d e f")]
    section = TextSection(buckets=4096, max_tokens=3)
    found = text_tensor(cohort_of(notes, 3), section, True)
    assert found.values.shape == (3, 3, PIECES)
    expected = [[1 + bucket_of(word, 4096) for word in of_one] for of_one in ("abc",)]
    assert found.values[1, :, 0].tolist() == expected[0]
    assert found.values[0, :, 0].tolist() == [
        1 + bucket_of(word, 4096) for word in ("new", "old", "words")
    ]
    assert not found.values[2].any()
    assert found.present.tolist() == [True, True, False]
    assert found.unusable == {"note: cut at the study's max_tokens": 2}


@pytest.mark.parametrize("text", ["", "...", "\n\t", "—", None])
def test_note_without_a_word_is_no_note(text):
    found = text_tensor(cohort_of([(0, 1.0, text)], 1), TextSection(), True)
    assert not found.present.any()
    assert not found.values.any()


@pytest.mark.parametrize("text", [None, "A note."])
def test_notes_not_offered_are_not_read_and_offered_ones_that_are_not_there_counted(text):
    cohort = cohort_of([(1, 1.0, text)], 3)
    nothing = {"note: offered, but no event holds one": 3}
    assert text_tensor(cohort, TextSection(), True).unusable == ({} if text else nothing)
    found = text_tensor(cohort, TextSection(), False)
    assert not found.present.any()
    assert found.unusable == {}


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        ("Pneumonia.", ["pneumonia"]),
        ("No evidence of pneumonia.", ["no", "no evidence", "no of", "no pneumonia"]),
        ("No fever. Pneumonia", ["no", "no fever", "pneumonia"]),
        ("No fever\npneumonia", ["no", "no fever", "pneumonia"]),
        ("denies pain but has fever", ["denies", "no pain", "but", "has", "fever"]),
        ("no a b c d e f", ["no", "no a", "no b", "no c", "no d", "no e", "f"]),
        ("not without pain", ["not", "no without", "no pain"]),
        ("Größe 3", ["größe", "3"]),
    ],
)
def test_a_negation_reaches_five_words_or_to_the_end_of_what_is_said(note, expected):
    assert words(note) == expected


def test_negations_are_the_study_s():
    assert words("kein Erguss") == ["kein", "erguss"]
    assert words("kein Erguss", {"kein"}) == ["kein", "no erguss"]


def test_inflections_and_misspellings_share_pieces():
    (one,), (other,), (strange,) = (
        list(words_of(word, ())) for word in ("pneumonia", "pneumonias", "fracture")
    )
    assert len({*one} & {*other} - {""}) >= 2
    assert not {*one} & {*strange} - {""}


@given(st.text(max_size=60), st.integers(1, 8))
def test_any_text_at_all_makes_words_in_range(text, limit):
    section = TextSection(buckets=16, max_tokens=limit)
    found = text_tensor(cohort_of([(0, 1.0, text)], 1), section, True)
    assert found.values.shape == (1, limit, PIECES)
    assert 0 <= found.values.min() <= found.values.max() <= 16
    assert bool(found.present[0]) == bool(found.values.any())


def encoded(*notes):
    section = TextSection(width=8, buckets=4096, max_tokens=32)
    torch.manual_seed(0)
    encoder = section.chosen.build(section)
    cohort = cohort_of([(i, 1.0, note) for i, note in enumerate(notes)], len(notes))
    return encoder(text_tensor(cohort, section, True).values)


def test_encoder_tells_what_is_from_what_is_not():
    there, not_there, far = encoded(
        "pneumonia on the left", "no pneumonia on the left", "no sign of any pneumonia here"
    )
    assert (there - not_there).abs().max() > 1e-3
    assert (there - far).abs().max() > 1e-3


def test_encoder_s_words_have_no_order_but_pairs_and_padding_counts_for_nothing():
    section = TextSection(width=8, buckets=64, max_tokens=8)
    torch.manual_seed(0)
    encoder = section.chosen.build(section)
    x = torch.randint(1, 65, (1, 5, PIECES))
    padded = torch.cat([x, torch.zeros(1, 3, PIECES, dtype=torch.long)], 1)
    torch.testing.assert_close(encoder(padded), encoder(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(encoder(x.flip(1)), encoder(x), rtol=1e-5, atol=1e-6)
