"""Each thing that is wrong with a site is found, where it is; a site that is well is READY."""

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clients.checks import check_site
from clients.checks.page import render
from clients.ledger import site_ledger
from clients.site import load_site
from federation.study import load_study
from simulations.datasets.uci_heart import convert

ROOT = Path(__file__).parents[3]
UCI = ROOT / "../shared/data/uci_heart_disease"
NOON = datetime(2024, 6, 1, 12)
HOUR = timedelta(hours=1)
SECRET = "Zimmerblatt"


def quiet(text):
    pass


def found(folder, study=None):
    return check_site(folder, study, quiet)


def told(check, severity, topic):
    return [one for one in check.findings if (one.severity, one.topic) == (severity, topic)]


@pytest.fixture
def site(tmp_path, write_site):
    """Write a site of 100 patients with something added to it or changed."""

    def write(**more):
        return write_site(tmp_path / "bern", 100, key="5" * 64, **more)

    return write


def test_site_that_is_well_is_ready_for_a_study_without_any_blocker_or_warning(site, make_study):
    folder = site(images=True, notes=True)
    study = make_study("ehr", "image", "text")
    check = found(folder, study)
    assert check.verdict == "READY", check.findings
    assert [one for one in check.findings if one.severity == "warning"] == []
    assert check.evidence.present == {"ehr": 100, "image": 100, "text": 100}
    statuses = {one.kind: one.status for one in check.evidence.steps}
    assert statuses == {
        "query.describe": "ok",
        "train": "ok",
        "evaluate tuning": "ok",
        "evaluate held_out": "ok",
    }


def every(code, value, when=NOON - 2 * HOUR, subjects=range(1, 101)):
    return [(s, when, code, float(value(s)) if value else None, None) for s in subjects]


def sick(subject):
    return (subject - 1) % 2  # as the default rows have it


PLANTED = {
    "a code that only the sick have": (
        dict(more_events=every("FLAG//X", None, datetime(2020, 1, 1), range(2, 101, 2))),
        ("warning", "leakage", "FLAG//X"),
    ),
    "a value that is the label": (
        dict(more_events=every("SCORE//Y", lambda s: 3 + 4 * sick(s), datetime(2020, 1, 1))),
        ("warning", "leakage", "SCORE//Y"),
    ),
    "two units of one code": (
        dict(
            more_events=every(
                "LAB//GLUCOSE",
                lambda s: (90 + s % 13) / (18.02 if s < 31 else 1),
                datetime(2020, 1, 1),
            )
        ),
        ("warning", "values", "LAB//GLUCOSE"),
    ),
    "an e-mail address in a note": (
        dict(
            notes=True,
            more_events=[(1, datetime(2020, 1, 1), "NOTE//X", None, f"ask {SECRET}@x.org")],
        ),
        ("warning", "identifiers", "notes"),
    ),
    "an e-mail address in a code": (
        dict(more_events=[(1, datetime(2020, 1, 1), f"MAIL//{SECRET}@x.org", None, None)]),
        ("warning", "identifiers", "codes MAIL//..."),
    ),
    "a name for a code": (
        dict(
            more_events=[
                (s, datetime(2020, 1, 1), f"N//{SECRET}{s}", 1.0, None) for s in range(1, 90)
            ]
        ),
        ("warning", "identifiers", "codes N//..."),
    ),
    "one class": (
        dict(labels=[(s, NOON, True) for s in range(1, 101)]),
        ("blocker", "labels", "data.labels"),
    ),
    "few patients": (
        dict(labels=[(s, NOON, s % 2 == 0) for s in range(1, 9)]),
        ("blocker", "labels", "split train"),
    ),
    "nobody with a label": (
        dict(labels=[(10_000 + s, NOON, True) for s in range(1, 9)]),
        ("blocker", "labels", "bern/labels.parquet"),
    ),
    "events before birth": (
        dict(more_events=every("LAB//OLD", None, datetime(1890, 1, 1), range(1, 4))),
        ("warning", "events", "time"),
    ),
    "events of tomorrow": (
        dict(more_events=every("LAB//NEW", None, datetime(2990, 1, 1), range(1, 4))),
        ("warning", "events", "time"),
    ),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_what_is_wrong_is_found_where_it_is_and_hides_whose_it_is(site, kind):
    more, (severity, topic, where) = PLANTED[kind]
    check = found(site(**more))
    assert where in [one.where for one in told(check, severity, topic)], check.findings
    assert check.ready == (severity != "blocker")
    assert SECRET not in json.dumps(check.to_json()) + render(check)


def test_the_same_person_twice_and_images_with_the_same_pixels_are_found(site):
    folder = site(images=True)
    (file,) = (folder / "meds/data").iterdir()
    events = pq.read_table(file).to_pandas()
    twin = events[events["subject_id"] == 7].assign(subject_id=500)
    rows = [*events.itertuples(index=False), *twin.itertuples(index=False)]
    frame = type(events)(rows, columns=events.columns)
    frame.to_parquet(file, index=False)
    shutil.copy(folder / "dicom/3.dcm", folder / "dicom/4.dcm")
    (folder / "dicom/9.dcm").write_bytes(b"no image")
    check = found(folder)
    (people,) = told(check, "warning", "patients")
    assert people.what.startswith("2 patients in 1 group")
    unreadable, same = told(check, "warning", "images")
    assert (unreadable.where, same.where) == ("9.dcm", "3.dcm = 4.dcm")
    assert "1 of 100 files" in unreadable.what


def test_codes_of_the_study_that_nobody_has_are_named_with_what_they_may_be_called_here(
    site, make_study
):
    ranges = {"LAB//CRP": (0.0, 10.0), "LAB//LACTATE": (0.5, 2.0), "LAB//OTHER": (0.0, 1.0)}
    study = make_study(modalities={"ehr": {"width": 8, "reference_ranges": ranges}})
    lactate = every("BLOODGAS//Lactate", lambda s: 1 + s / 100, datetime(2020, 1, 1))
    check = found(site(more_events=lactate), study)
    (one,) = told(check, "warning", "codes")
    assert one.where == "LAB//LACTATE, LAB//OTHER"
    assert '"BLOODGAS//Lactate" for "LAB//LACTATE"' in one.remedy
    assert check.evidence.coverage.wanted == {"LAB//CRP": 100, "LAB//LACTATE": 0, "LAB//OTHER": 0}


REFUSALS = {
    "policy": (dict(policy={"require_privacy": True}), {}, "require_privacy"),
    "batches": (
        {},
        {"privacy": {"mechanism": "dp_sgd", "epsilon": 2.0}, "training": {"batch_size": 90}},
        "training.batch_size",
    ),
    "delta": (
        {},
        {"privacy": {"mechanism": "dp_sgd", "epsilon": 2.0, "delta": 0.01}},
        "privacy.delta",
    ),
    "budget": (
        dict(policy={"epsilon_per_patient": 0.001}),
        {"privacy": {"mechanism": "dp_sgd", "epsilon": 4.0}},
        "policy.epsilon_per_patient",
    ),
    "simulation": ({}, {"simulation": {"arrival": {"kind": "window"}}}, "simulation.arrival"),
    "few steps": (
        {},
        {"training": {"local_steps": 1, "batch_size": 3, "rounds": 1}},
        "minimum_cell",
    ),
    "split": ({}, {"split": {"by": "given"}}, "subject_splits.parquet"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_the_study_would_refuse_is_told_with_the_words_of_the_site_s_log(
    site, make_study, kind
):
    more, sections, words = REFUSALS[kind]
    check = found(site(**more), make_study(**sections))
    assert check.verdict.startswith("BLOCKED: 1 thing to fix: ")
    assert words in check.verdict
    assert "\n" not in check.verdict


def test_rehearsing_a_private_round_spends_nothing_and_knows_what_was_spent(site, make_study):
    study = make_study(privacy={"mechanism": "dp_sgd", "epsilon": 2.0})
    folder = site()
    ledger = site_ledger(load_site(folder))
    head = ledger.head()
    before = kept_in(folder / "state")
    for _ in range(2):
        check = found(folder, study)
        (train,) = (one for one in check.evidence.steps if one.kind == "train")
        assert train.body.spent.segments[0].rounds == 1, "each time as if it were the first"
    assert kept_in(folder / "state") == before
    assert ledger.head() == head


def kept_in(state):
    """Return what a state folder holds beside the cohort, which the next reader may have."""
    files = [file for file in state.rglob("*") if file.is_file()]
    return {f.name: f.read_bytes() for f in files if "cache" not in f.relative_to(state).parts}


@pytest.mark.parametrize("spoil", ["site.toml", "labels.parquet", "meds/data/0.parquet"])
def test_file_that_cannot_be_read_is_a_blocker_not_a_traceback(site, spoil):
    folder = site()
    (folder / spoil).write_bytes(b"PAR1 Zimmerblatt")
    check = found(folder)
    (one,) = [one for one in check.findings if one.severity == "blocker"]
    assert Path(spoil).name in one.where
    assert SECRET not in render(check)


def test_key_that_others_can_read_is_told(site):
    folder = site()
    (folder / "state/patient.key").chmod(0o644)
    (one,) = told(found(folder), "warning", "site")
    assert one.remedy == f"chmod 600 {folder}/state/patient.key"


@pytest.mark.skipif(not UCI.is_dir(), reason="the UCI heart disease files are not there")
def test_the_four_hospitals_of_the_heart_disease_study_are_ready_for_it(tmp_path):
    convert(UCI, tmp_path)
    study = load_study(ROOT / "examples/studies/heart-disease.toml")
    for name in ("cleveland", "hungarian", "switzerland", "va"):
        check = found(tmp_path / name, study)
        assert check.ready, check.findings
        assert check.evidence.present["ehr"] == len(check.evidence.patients)


def test_the_mimic_demo_is_ready_and_its_shifted_dates_are_noted(mimic_site):
    check = found(mimic_site)
    assert check.ready
    assert any("lie in the future" in one.what for one in told(check, "note", "events"))
    assert told(check, "warning", "identifiers") == []
    assert np.isclose(check.to_json()["counts"]["prevalence"], 0.05, atol=0.1)


def test_patients_without_what_the_site_offers_are_counted_without_a_study_too(site):
    folder = site(notes=True)
    (file,) = (folder / "meds/data").iterdir()
    events = pq.read_table(file).to_pandas()
    few = events[~(events["code"].str.startswith("NOTE//") & (events["subject_id"] > 30))]
    few.to_parquet(file, index=False)
    check = found(folder)
    assert check.evidence.present == {"text": 30}
    (one,) = told(check, "warning", "modalities")
    assert one.what == "70 patients of 100 lack it"


def test_files_that_are_nobody_s_and_identifiers_in_note_files_are_told(site):
    folder = site()
    (folder / "notes").mkdir()
    for subject in range(1, 51):
        (folder / f"notes/p{subject}.txt").write_text(f"Seen by Dr. {SECRET}, well.")
    for stranger in ("p9000.txt", "readme.txt"):
        (folder / "notes" / stranger).write_text("no patient")
    with (folder / "site.toml").open("a") as file:
        file.write(
            '[data.notes]\nformat = "files"\npath = "notes"\n[data.notes.link]\nby = "file_name"\n'
            'pattern = "p(?P<patient>[0-9]+)"\nundated = true\n'
        )
    check = found(folder)
    assert "note files" in [o.where for o in told(check, "warning", "identifiers")], check.findings
    (unlinked,) = [one for one in check.findings if one.where == "data.notes.link"]
    assert unlinked.what.startswith("2 files of notes")
    assert SECRET not in json.dumps(check.to_json()) + render(check)
