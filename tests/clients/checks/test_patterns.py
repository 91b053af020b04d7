"""Obvious identifiers are seen and made unreadable; ordinary codes and phrases are left alone."""

import pyarrow as pa
import pytest

from clients.checks.patterns import PATTERNS, found_in, masked
from clients.deidentify.notes import without_identifiers

SEEN = {
    "e-mail address": ["write to j.doe@clinic.example.org", "A_B@x.ch"],
    "telephone number": [
        "tel 555-123-4567",
        "+41 44 255 11 11",
        "Phone: 0442551111",
        "(555) 123-4567",
    ],
    "record number": [
        "MRN-7731940",
        "mrn:12345",
        "Patient ID 004711",
        "SSN 123-45-6789",
        "PatNr 99881",
    ],
    "date": [
        "on 2023-11-19",
        "19.11.2023",
        "11/19/2023",
        "3 March 2021",
        "Nov 19, 2023",
        "x/20231119/y",
    ],
    "name": ["Mrs. Zimmerblatt", "patient: Quincy", "DOE^JANE", "Herr Meier", "Name=Jones"],
    "street address": ["12 Elm Street", "Bahnhofstrasse 7"],
}
LEFT = [
    "LAB//50912//mg/dL", "ICD10CM//J18.9", "LOINC//2345-7", "SNOMED//44054006",
    "NDC//00093-7180-01", "RxNorm//1049221", "MEDS_BIRTH", "DIAGNOSIS//ICD//9//5778",
    "no fever, lungs clear, BP 120/80", "1.2.840.113619.2.55.3", "follow up in 3 months",
    "LAB//228413//UNK", "HEART//CP//4",
]  # fmt: skip


@pytest.mark.parametrize("kind", SEEN)
def test_obvious_identifiers_are_seen_as_what_they_are(kind):
    assert found_in(pa.array(SEEN[kind]))[kind].tolist() == [True] * len(SEEN[kind])
    assert set(SEEN) == set(PATTERNS)


def test_codes_and_phrases_of_records_are_not_taken_for_identifiers():
    found = found_in(pa.array(LEFT))
    assert {LEFT[i] for where in found.values() for i in where.nonzero()[0]} == set()
    assert masked(LEFT) == LEFT


def test_masked_names_hold_no_identifier_any_more():
    for texts in SEEN.values():
        assert not any(where.any() for where in found_in(pa.array(masked(texts))).values())


@pytest.mark.parametrize("kind", SEEN)
def test_what_the_check_sees_a_deidentified_note_loses(kind):
    cleaned = [without_identifiers(f"Note, {text}, end.")[0] for text in SEEN[kind]]
    assert not found_in(pa.array(cleaned))[kind].any(), cleaned
    assert all(text.startswith("Note, ") and text.endswith("end.") for text in cleaned)
