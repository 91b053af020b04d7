"""The report's section on distribution shifts: there where shifts.json is, and safe to open."""

import json
import re

import pytest
from run_folder import write_run_folder

from federation.errors import UserError
from server.report import write_report


def distances(**known):
    return {
        "patients": 100,
        "outcomes": {
            "outcome": {
                "known": 100,
                "positives": 20,
                "prevalence": {"value": 0.2, "low": 0.133, "high": 0.289},
                "gap": 0.011,
            }
        },
        "prevalence_gap": 0.011,
        "total_variation": {"age_band": 0.1, "sex": 0.02, "ethnicity": None, "codes": 0.3},
        "values": 0.4,
        "values_by_code": {"LAB//CRP": 0.4},
        "dependence": 0.05,
        "image_intensity": None,
        "image_texture": None,
        **known,
    }


def done(kind, **more):
    return {"number": 1, "kind": kind, "on": "records", "drawn": {}, "touched": {}, **more}


RECORD = {
    "schema": "wardround.shifts/2",
    "seed": 7,
    "strength": 1.0,
    "shifts": [
        {"number": 1, "kind": "label_noise", "strength": 0.5, "sites": ["bern"], "effective": 0.5,
         "rate": 0.2, "errors": "both"},
    ],
    "sites": {
        "aarau": {
            "shifts": [done("scanner", note="no images")],
            "images": {},
            "before": distances(),
            "after": distances(),
        },
        "bern": {
            "shifts": [done("label_noise", touched={"labels changed": 17}, drawn={"rate": 0.153})],
            "images": {"rewritten": 31},
            "before": distances(prevalence_gap=0.03),
            "after": distances(prevalence_gap=0.071, patients=64),
        },
    },
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    return write_run_folder(tmp_path / "run")


def test_run_without_shifts_has_no_such_section(run):
    page = write_report(run).read_text()
    assert "distribution-shifts" not in page
    assert 'id="shifts"' not in page


def test_section_tells_what_was_asked_done_and_realised(run):
    (run / "shifts.json").write_text(json.dumps(RECORD))
    page = write_report(run).read_text()
    start = page.index('id="distribution-shifts"')
    section = page[start : page.index("</section>", start)]
    text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", section))
    for words in (
        "1. label noise 0.5 bern rate: 0.2; errors: both",
        "nothing: no images",
        "labels changed: 17",
        "rate: 0.153",
        "rewritten: 31",
        "64 before 100",
        "0.200 0.133 to 0.289; before 0.200",
        "0.400 before 0.400",
    ):
        assert words in text, words
    spec = json.loads(re.search(r'data-plot="shifts">(.*?)</script>', page)[1])
    before, after = spec["data"]
    gaps = [x for x, y in zip(after["x"], after["y"], strict=True) if y.startswith("Prevalence")]
    assert gaps == [0.011, 0.071]
    assert "Image grey, Wasserstein" not in after["y"]
    assert len(before["x"]) == len(after["x"]) == 12


def test_names_from_the_record_cannot_become_markup(run):
    record = json.loads(json.dumps(RECORD).replace("aarau", "<b>x</b>"))
    (run / "shifts.json").write_text(json.dumps(record))
    page = write_report(run).read_text()
    assert "<b>x</b>" not in page


def test_broken_record_is_named(run):
    (run / "shifts.json").write_text("{}")
    with pytest.raises(UserError, match=r"shifts.json: seed: Field required"):
        write_report(run)
