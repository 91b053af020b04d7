"""Sites that are not MEDS: at strength 0 the same patients are read, and shifts act on them."""

import json
from collections.abc import Mapping
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clients.cohort import read_patients
from clients.images.read import read_image
from clients.site import load_site
from federation.errors import UserError
from federation.study import SplitSection
from federation.tasks import BinaryTask, MultilabelTask, SurvivalTask
from simulations.shifts.looks import Look
from simulations.shifts.pixels import rewrite
from simulations.shifts.reshape import reshape

SITE = """\
[site]
name = "{name}"

[data]
labels = "labels.csv"
subgroups = ["sex"]
images = {{ format = "png", path = "films" }}

[data.events]
format = "tables"
path = "tables"
[[data.events.tables]]
file = "labs.csv"
subject = "patient"
time = "taken"
code = "LAB//{{test}}"
value = "result"
[[data.events.tables]]
file = "films.csv"
subject = "patient"
time = "taken"
code = "IMAGE//DX"
text = "file"
[[data.events.tables]]
file = "patients.csv"
subject = "patient"
static = true
columns.sex = {{ code = "GENDER", kind = "category", categories = {{ F = "F", M = "M" }} }}
"""
RULE = """\
[data.labels]
index = ["LAB//SODIUM"]
outcome = ["LAB//DEATH"]
horizon_hours = 240
"""
BINARY = BinaryTask(label="x")
FINDINGS = MultilabelTask(label="x", labels=("sepsis", "oedema"))


def write_tables_site(folder, name, seed, rule=""):
    """Write a site of CSV tables with text identifiers, PNG films and labels of several kinds."""
    rng = np.random.default_rng(seed)
    for part in ("tables", "films"):
        (folder / part).mkdir(parents=True)
    site = SITE.format(name=name)
    if rule:
        site = site.replace('labels = "labels.csv"\n', "") + rule
    (folder / "site.toml").write_text(site)
    names = [f"{name}-{k:03}" for k in range(60)]
    start = pd.Timestamp("2024-01-01")
    hours = {"SODIUM": (0,), "CRP": (1, 9)}
    rows = [
        (name, start + pd.Timedelta(hours=hour), test, rng.gamma(2, 9))
        for name in names
        for test in hours
        for hour in hours[test]
    ]
    rows += [(name, start + pd.Timedelta(hours=30), "DEATH", 1) for name in names[::3]]
    _write(folder / "tables/labs.csv", rows, "taken", "test", "result")
    for k in range(12):
        film = rng.integers(0, 200, (24, 24)).astype(np.uint16 if k % 2 else np.uint8)
        Image.fromarray(film).save(folder / f"films/{k}.png")
    films = [(name, start, f"{k}.png") for k, name in enumerate(names[:12])]
    _write(folder / "tables/films.csv", films, "taken", "file")
    _write(
        folder / "tables/patients.csv", zip(names, rng.choice(["F", "M"], 60), strict=True), "sex"
    )
    labels = pd.DataFrame({"subject_id": names, "prediction_time": start + pd.Timedelta(days=1)})
    labels["boolean_value"] = rng.random(60) < 0.4
    labels["float_value"] = rng.exponential(30, 60).round(2)
    labels["sepsis"] = rng.choice(["1", "0", "-1", ""], 60)
    labels["oedema"] = rng.choice(["1", "0"], 60)
    labels.loc[0, "subject_id"] = names[1]  # contradictory, and one without a label
    labels.loc[0, "boolean_value"] = not labels.loc[1, "boolean_value"]
    labels.loc[[0, 1], "oedema"] = ["0", "1"]
    labels.to_csv(folder / "labels.csv", index=False)
    return folder


def _write(file, rows, *columns):
    pd.DataFrame(rows, columns=["patient", *columns]).to_csv(file, index=False)


@pytest.fixture
def sites(tmp_path):
    for k, name in enumerate(("aarau", "bern")):
        write_tables_site(tmp_path / "sites" / name, name, k)
    return tmp_path / "sites"


def same(one, other):
    """Whether two sets of patients are equal in all but how many rows were left out."""
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, pd.DataFrame):
            pd.testing.assert_frame_equal(a, b)
        elif field.name in ("splits", "subgroups"):
            assert all(np.array_equal(a[name], b[name]) for name in a)
        elif not isinstance(a, Mapping):
            np.testing.assert_array_equal(a, b)
    return True


@pytest.mark.parametrize(
    "task",
    [
        BINARY,
        FINDINGS,
        MultilabelTask(label="x", labels=("sepsis", "oedema"), blank="missing", uncertain="ones"),
        SurvivalTask(label="x", intervals=(10.0, 30.0)),
    ],
    ids=["binary", "findings", "other findings", "survival"],
)
def test_study_reads_the_same_patients_of_tables_and_of_the_meds_written(
    sites, make_plan, tmp_path, task
):
    lines = []
    plan = make_plan({"kind": "covariate"}, strength=0.0)
    reshape(sites, plan, tmp_path / "out", lines.append, task)
    assert lines[0] == "aarau: written as MEDS (contradictory labels: 1)"
    for name in ("aarau", "bern"):
        pair = (load_site(sites / name), load_site(tmp_path / "out" / name))
        before, after = (read_patients(site, task, SplitSection()) for site in pair)
        assert len(before) == 58
        assert same(before, after)
        assert pair[1].settings.data.events.format == "meds"


def test_labels_by_a_rule_are_written_with_its_prediction_times(make_plan, tmp_path):
    for k, name in enumerate(("aarau", "bern")):
        write_tables_site(tmp_path / "sites" / name, name, k, RULE)
    plan = make_plan({"kind": "covariate"}, strength=0.0)
    reshape(tmp_path / "sites", plan, tmp_path / "out")
    for name in ("aarau", "bern"):
        before, after = (
            read_patients(load_site(tmp_path / place / name), BINARY, SplitSection())
            for place in ("sites", "out")
        )
        assert before.labels.sum() == 20
        np.testing.assert_array_equal(before.labels, after.labels)
        np.testing.assert_array_equal(before.subject_ids, after.subject_ids)
        assert before.events["code"].tolist() == after.events["code"].tolist()
    with pytest.raises(UserError, match="the rule makes yes-or-no outcomes"):
        reshape(tmp_path / "sites", plan, tmp_path / "other", task=FINDINGS)


def test_given_splits_go_along(make_plan, tmp_path, write_site):
    splits = {s: ("train", "tuning", "held_out")[s % 3] for s in range(1, 41)}
    for k, name in enumerate(("aarau", "bern")):
        site = write_site(tmp_path / "sites" / name, 40, seed=k, splits=splits)
        table = pd.read_parquet(site / "labels.parquet")
        table.to_csv(site / "labels.csv", index=False)
        text = (site / "site.toml").read_text()
        (site / "site.toml").write_text(text.replace("labels.parquet", "labels.csv"))
    plan = make_plan({"kind": "covariate"}, strength=0.0)
    reshape(tmp_path / "sites", plan, tmp_path / "out")
    for name in ("aarau", "bern"):
        pair = (load_site(tmp_path / place / name) for place in ("sites", "out"))
        assert same(*(read_patients(site, BINARY, SplitSection(by="given")) for site in pair))


def test_shifts_act_on_tables_and_png_films(sites, make_plan, tmp_path):
    (sites / "bern/films/5.png").write_bytes(b"no picture")
    plan = make_plan({"kind": "covariate"}, {"kind": "scanner", "parts": ["tone", "spacing"]})
    warned = reshape(sites, plan, tmp_path / "out")
    assert warned == ["bern: 1 images left as it was: the pixels cannot be decoded"]
    record = json.loads((tmp_path / "out/shifts.json").read_text())
    for name, told in record["sites"].items():
        assert told["moved"]["values"] > 0
        assert told["moved"]["image_intensity"] > 0
        assert told["images"]["rewritten"] == (11 if name == "bern" else 12)
        spacing = told["shifts"][1]["drawn"]["spacing"]
        with Image.open(tmp_path / "out" / name / "data/images/3.png") as film:
            assert (film.mode, film.size) == ("I;16", (round(24 / spacing),) * 2)


def test_grey_of_a_png_changes_between_its_own_extremes(tmp_path):
    pixels = np.random.default_rng(0).integers(20, 220, (24, 20)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert rewrite(tmp_path / "a.png", tmp_path / "b.png", (Look(gamma=2.0),), "a", "png") == ""
    low, high = pixels.min(), pixels.max()
    expected = low + (high - low) * ((pixels - low) / (high - low)) ** 2
    (after,) = read_image(tmp_path / "b.png", (1, 24, 24), kind="png")
    assert after[:, 2:22] * 255 == pytest.approx(expected, abs=0.51)
    Image.new("RGB", (9, 9)).save(tmp_path / "c.png")
    assert rewrite(tmp_path / "c.png", tmp_path / "d.png", (Look(gamma=2.0),), "c", "png") == (
        "not a single grey frame"
    )
