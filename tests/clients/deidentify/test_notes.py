"""Notes lose obvious identifiers, keep measurements, and say what was replaced."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.deidentify.notes import without_identifiers

OBVIOUS = [
    ("MRN: 0012345", "0012345"),
    ("SSN 123-45-6789", "6789"),
    ("born 3/4/1944", "1944"),
    ("on 2024-01-31 at noon", "2024"),
    ("on 2024-01-31T10:15", "10:15"),
    ("on 31.01.2024", "31.01"),
    ("on 31 Jan 2024", "Jan"),
    ("on January 31st, 2024", "31st"),
    ("am 5. März 2024", "März"),
    ("20240131", "20240131"),
    ("call 617-555-0132", "0132"),
    ("call (617) 555-0132", "0132"),
    ("+49 30 1234567", "1234567"),
    ("pager: 5512", "5512"),
    ("Fax 030 / 445566", "445566"),
    ("mail jane.roe@hospital.org", "roe"),
    ("see www.hospital.org/jane", "jane"),
    ("seen by Dr. Jane Roe", "Roe"),
    ("Herr Dr. Müller", "Müller"),
    ("Mrs Smith is well", "Smith"),
    ("Signed by: Roe, Jane", "Jane"),
    ("Patient Name: Doe, John", "Doe"),
    ("John Doe, MD", "Doe"),
    ("[**Known lastname 123**] came", "lastname"),
    ("at 12 Main Street", "Main"),
    ("Müllerstraße 12", "Müller"),
    ("a 97-year-old man", "97"),
    ("AB1234567", "1234567"),
]
HARMLESS = [
    "BP 120/80, HR 72, T 36.6, SpO2 95-98%, CRP 12.5.",
    "Aspirin 100 mg, 1-0-1, for 14 days. L3-L4 and T12 normal.",
    "No opacity. Clear lungs. May be discharged.",
    "A 47-year-old man, 5/5 strength, pain 3/10.",
]


@pytest.mark.parametrize(("text", "gone"), OBVIOUS)
def test_obvious_identifier_is_replaced_and_counted(text, gone):
    cleaned, done = without_identifiers(text)
    assert gone not in cleaned
    assert sum(done.values()) == cleaned.count("[")


@pytest.mark.parametrize("text", HARMLESS)
def test_measurements_and_plain_words_stay(text):
    assert without_identifiers(text) == (text, {})


def test_known_words_are_found_anywhere_in_any_case_but_not_within_words():
    cleaned, done = without_identifiers("DOE came; Doe's wife. Doecyclin.", {"doe"})
    assert cleaned == "[NAME] came; [NAME]'s wife. Doecyclin."
    assert done == {"NAME": 2}


@given(st.text(max_size=200))
def test_any_text_comes_out_and_a_second_pass_finds_no_number_the_first_missed(text):
    cleaned, _ = without_identifiers(text)
    assert without_identifiers(cleaned)[1].keys() <= {"NAME", "DATE", "ADDRESS", "PHONE", "ID"}
