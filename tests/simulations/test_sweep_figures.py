"""What a sweep compares where a study predicts classes, findings or times."""

import csv
import json

import pytest
import tomli_w

from federation.errors import UserError
from simulations.sweeps.plan import load_plan
from simulations.sweeps.runner import run_sweep

TASKS = {
    "multiclass": {"classes": ["stable", "deteriorates", "critical"]},
    "survival": {"intervals": [60, 180, 365]},
}


def write_sweep(folder, kind):
    task = {"kind": kind, "label": "x", **TASKS.get(kind, {})}
    if kind == "several":
        tasks = {name: {"kind": name, "label": name, **keys} for name, keys in TASKS.items()}
        task = {"kind": kind, "tasks": tasks}
    study = {
        "study": {"name": "grades"},
        "task": task,
        "modalities": {"ehr": {"encoder": "linear", "buckets": 16}},
        "fusion": {"kind": "late"},
        "training": {"rounds": 1},
        "evaluation": {"baselines": []},
    }
    (folder / "study.toml").write_text(tomli_w.dumps(study))
    document = {
        "sweep": {"name": "s", "study": "study.toml", "seeds": 1},
        "sites": {"synthetic": {"sites": 2, "patients": 80, "seed": 1, "image_size": 16}},
        "grid": {"training.batch_size": [8, 16]},
    }
    (folder / "sweep.toml").write_text(tomli_w.dumps(document))
    return folder / "sweep.toml"


@pytest.mark.parametrize(
    ("kind", "column", "title", "place"),
    [
        ("multiclass", "auroc", "mean AUROC", lambda cell: cell["macro"]["auroc"]["value"]),
        ("survival", "c_index", "c-index", lambda cell: cell["c_index"]["value"]),
    ],
)
def test_sweep_tells_the_figures_of_its_kind_of_task(tmp_path, kind, column, title, place):
    run_sweep(write_sweep(tmp_path, kind), tmp_path / "out", workers=0)
    with (tmp_path / "out/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        metrics = (tmp_path / "out/trials" / row["trial"] / "metrics.json").read_text()
        model = json.loads(metrics)["models"]["federated"]
        assert float(row[column]) == pytest.approx(place(model["overall"]))
        sites = [place(cell) for cell in model["sites"].values() if "n" in cell]
        known = [value for value in sites if value is not None]
        assert float(row[f"worst_site_{column}"]) == pytest.approx(min(known))
    page = (tmp_path / "out/report.html").read_text()
    assert f"{title}, all hospitals" in page
    assert (" AUROC" in page) == (kind == "multiclass")


def test_settings_without_one_figure_to_compare_are_refused(tmp_path):
    with pytest.raises(UserError, match="has one for each"):
        load_plan(write_sweep(tmp_path, "several"))
