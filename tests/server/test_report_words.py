"""Every number that the report shows is explained to a clinician, in the report and in docs."""

import re
from pathlib import Path

import pytest
from run_folder import write_run_folder

from server.report.first_screen import facts
from server.report.glossary import GLOSSARY
from server.report.run_folder import read_run_folder
from server.report.sections import SECTIONS
from server.report.text import METRICS, MODALITIES

PAGE = Path(__file__).parents[2] / "docs/reading-the-report.md"

PLAIN = {
    *("Hospital", "Subgroup", "Patients of", "Model", "Hospitals", "What", "Value", "Setting"),
    *("Lowest", "Highest", "Round", "Asked", "Answered", "Failed", "Rejected", "Reason"),
    *("Seconds", "Sent", "Received", "Training", "Tuning", "Held out", "Noticed", "Trained at"),
    *("All accountants", "Rate", "Noise", "Steps", "Rounds", "Use", "Under ε", "How"),
    *("Window", "Input"),
}
"""Columns that are no metric: names, counts of rounds, and what the table's note explains."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run_folder(write_run_folder(tmp_path_factory.mktemp("run")))


def test_every_column_has_its_entry_or_is_a_plain_word(run):
    tables = [
        table
        for section in SECTIONS
        if (shown := section(run)) is not None
        for table in shown.tables
    ]
    columns = {column for table in tables for column in table.columns}
    named = {*run.sites, "All hospitals", *(f"With {one}" for one in MODALITIES.values())}
    levels = {column for column in columns if re.match(r"(sex|age band|ethnicity): ", column)}
    places = {column for column in columns if re.fullmatch(r"(at )?0\.\d+", column)}
    aurocs = {column for column in columns if column.startswith("AUROC, ")}
    unexplained = columns - PLAIN - named - levels - places - aurocs - set(GLOSSARY)
    assert not unexplained
    assert set(METRICS.values()) <= columns
    assert len(tables) > 12


def test_every_number_of_the_first_screen_has_its_entry(run):
    for fact in facts(run)[1:]:
        name = "ε" if fact.name == "Privacy" else fact.name.split(",")[0]
        assert name in GLOSSARY


def test_page_for_clinicians_says_the_same_as_the_report():
    text = " ".join(PAGE.read_text().split())
    for name, meaning in GLOSSARY.items():
        assert f"| {name} | {meaning} |" in text


def test_every_entry_is_two_sentences():
    for name, meaning in GLOSSARY.items():
        sentences = re.split(r"\. (?=[A-Z0-9])", meaning.removesuffix("."))
        assert len(sentences) == 2, name
