"""The report shows what a simulation made go wrong, and nothing where nothing was."""

import json

import pytest
from run_folder import write_run_folder

from federation.errors import UserError
from server.report.documents import Round
from server.report.page import render
from server.report.run_folder import read_run_folder
from server.report.sections.faults import faults_table

ROUNDS = [
    Round(round=1, faults={"dropped": ["bern"], "delays": {"basel": 3.2, "genf": 0.71}}),
    Round(round=2),
    Round(
        round=3,
        faults={
            "dropped": ["bern", "genf"],
            "delays": {"basel": 1200.4},
            "corrupted": {"basel": "nan"},
            "hostile": {"zug": "sign_flip"},
            "skewed": {"zug": -1500.0},
        },
    ),
    Round(round=4, faults={"corrupted": {"basel": "bits"}, "hostile": {"zug": "sign_flip"}}),
]


def test_table_counts_rounds_by_hospital_and_kind():
    table = faults_table(ROUNDS)
    assert table.columns == [
        "Hospital",
        "Dropped out",
        "Delayed",
        "Damaged",
        "Hostile",
        "Clock wrong",
    ]
    cells = {row[0].text: [(td.text, td.note) for td in row[1:]] for row in table.rows}
    none = ("0", "")
    assert cells == {
        "basel": [none, ("2", "up to 1,200 s"), ("2", "bits 1, nan 1"), none, none],
        "bern": [("2", ""), none, none, none, none],
        "genf": [("1", ""), ("1", "up to 0.71 s"), none, none, none],
        "zug": [none, none, none, ("2", "sign_flip 2"), ("1", "up to −1,500 s")],
    }


def test_table_is_empty_for_a_run_without_faults():
    assert faults_table([Round(round=1), Round(round=2)]).rows == []


@pytest.fixture
def run(tmp_path):
    return write_run_folder(tmp_path / "run")


def set_faults(run, faults):
    first, *others = (run / "rounds.jsonl").read_text().splitlines()
    line = json.dumps({**json.loads(first), "faults": faults})
    (run / "rounds.jsonl").write_text("\n".join([line, *others]))


def test_report_has_the_table_only_where_faults_struck(run):
    assert "Faults that were simulated" not in render(read_run_folder(run))
    set_faults(run, {"lost": ["hungarian"]})
    page = render(read_run_folder(run))
    assert "Faults that were simulated" in page
    assert "Reply lost" in page


def test_first_screen_says_that_the_run_was_made_to_suffer_faults(run):
    words = "The run was made to suffer faults"
    assert words not in render(read_run_folder(run))
    with (run / "study.toml").open("a") as file:
        file.write("\n[simulation.faults.crash]\nprobability = 0.1\n")
    assert words in render(read_run_folder(run))


def test_faults_that_are_none_are_refused_with_their_place(run):
    set_faults(run, {"lost": 3})
    with pytest.raises(UserError, match=r"0\.faults\.lost"):
        read_run_folder(run)
