"""The site check of tasks with several outcomes, or times to one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clients.checks.check import check_site, counts
from clients.checks.tables import overview

ROWS = 60
COLUMNS = {
    "multiclass": {"integer_value": np.arange(ROWS) % 2},
    "multilabel": {"full": np.arange(ROWS) % 2, "none": np.zeros(ROWS, int)},
    "survival": {
        "float_value": np.linspace(1, 50, ROWS),
        "boolean_value": np.arange(ROWS) % 3 == 0,
    },
}
TASKS = {
    "multiclass": {"kind": "multiclass", "classes": ["low", "middle", "high"]},
    "multilabel": {"kind": "multilabel", "labels": ["full", "none"]},
    "survival": {"kind": "survival", "intervals": [10, 20, 30, 40]},
}
TOLD = {
    "multiclass": ({"classes": {"low": 30, "middle": 30, "high": 0}}, "no patient is of the class"),
    "multilabel": ({"labels": {"full": {"known": 60, "positives": 30}}}, "none of 60 patients"),
    "survival": ({"events": 20, "censored": 40}, ""),
}


@pytest.mark.parametrize("kind", TASKS)
def test_check_counts_each_outcome_and_rehearses_a_round(tmp_path, write_site, make_study, kind):
    folder = write_site(Path(tmp_path) / kind, ROWS)
    labels = pd.read_parquet(folder / "labels.parquet").drop(columns="boolean_value")
    labels.assign(**COLUMNS[kind]).to_parquet(folder / "labels.parquet")
    found = check_site(folder, make_study(task=TASKS[kind]), print)
    told, warned = TOLD[kind]
    counted = counts(found.evidence)
    for name, expected in told.items():
        known = counted[name]
        assert known == expected or expected.items() <= known.items()
    assert not [one for one in found.findings if one.severity == "blocker"]
    assert any(warned in one.what for one in found.findings)
    steps = {one.kind: one.status for one in found.evidence.steps}
    assert "evaluate held_out" in {kind.replace("-", "_") for kind in steps}
    assert steps["train"] == "ok"
    assert next(iter(told)) in dict(overview(found))
