"""What docs/metrics.md says that merged bins cost is what they cost."""

import re
from pathlib import Path

import numpy as np
import pytest

from federation.metrics.calibration import brier, calibration_slope, expected_calibration_error
from federation.metrics.decisions import rate
from federation.metrics.discrimination import auprc, auroc, sensitivity_at_specificity
from federation.metrics.summary import ScoreSummary

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
METRICS = {
    "auroc": auroc,
    "auprc": auprc,
    "brier": brier,
    "ece": expected_calibration_error,
    "calibration_slope": calibration_slope,
    "sensitivity_at_90_specificity": sensitivity_at_specificity,
    "alert_rate at 0.3": lambda one: rate("alert_rate", one.confusion(0.3)),
    "alert_rate at 0.5": lambda one: rate("alert_rate", one.confusion(0.5)),
}


def stated():
    """The page's table: metric -> patients -> loss."""
    table = PAGE.read_text().split("| metric | 60")[1].split("\n\n")[0]
    sizes = [60, *(int(one) for one in re.findall(r"\d+", table.splitlines()[0]))]
    found = {}
    for row in table.splitlines()[2:]:
        name, *losses = (part.strip().replace("`", "") for part in row.strip("| ").split("|"))
        found[name] = dict(zip(sizes, map(float, losses), strict=True))
    return found


@pytest.mark.parametrize("patients", [60, 100, 300, 1000])
def test_merged_bins_cost_no_more_than_the_page_states_and_not_much_less(simulated, patients):
    rng = np.random.default_rng(patients)
    errors = {name: [] for name in METRICS}
    for _ in range(60):
        fine = ScoreSummary.from_scores(*simulated(rng, patients))
        pair = fine, fine.merged(10)
        for name, metric in METRICS.items():
            exact, coarse = (metric(one).value for one in pair)
            if exact is not None and coarse is not None:
                errors[name].append(abs(exact - coarse))
    table = stated()
    assert table.keys() == METRICS.keys()
    for name, found in errors.items():
        loss = table[name][patients]
        assert np.mean(found) <= loss + 1e-12, name
        assert np.mean(found) >= loss / 3 or loss <= 0.001, name
