"""How often the 95% intervals of metrics hold: sites are drawn whose true figures are known.

Each case has about 50 events or more, and as many patients without. The truth is that of two
million patients of the same model. A quick run has few of the replicates, and goals that
allow for their chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from reporting import Row, parser, publish

from federation.metrics.calibration import briers, intercepts, slopes
from federation.metrics.column import Column
from federation.metrics.decisions import Decisions, decided
from federation.metrics.intervals import auprcs, aurocs, curve_ends
from federation.metrics.stack import Stack, stacks
from federation.metrics.summary import ScoreSummary
from federation.metrics.utility import benefit_curves

REPLICATES, QUICK = 4000, 300
THRESHOLD = 0.3
DECISIONS = (0.1, 0.3, 0.5)
CURVE_ENDS = ("sensitivity_at_90_specificity", "specificity_at_90_sensitivity")
"""Their intervals are meant to be wide enough, and are somewhat wider."""


@dataclass(frozen=True)
class Case:
    """Scores of a site: logits are normal, those of the events further up."""

    name: str
    patients: int
    separation: float
    prevalence: float

    def draw(self, generator: np.random.Generator, patients: int) -> ScoreSummary:
        """Draw the scores of so many patients."""
        labels = (generator.random(patients) < self.prevalence).astype(int)
        logits = generator.normal(size=patients) + self.separation * labels - 1.1
        return ScoreSummary.from_scores(1 / (1 + np.exp(-logits)), labels)


CASES = (
    Case("fair", 150, 1.2, 0.35),
    Case("rare", 500, 1.2, 0.1),
    Case("good", 110, 2.2, 0.5),
)


def main() -> None:
    """Draw, count and publish."""
    options = parser(__doc__).parse_args()
    replicates = QUICK if options.quick else REPLICATES
    rows = [row for case in CASES for row in coverage(case, replicates)]
    publish(rows, options.json)


def coverage(case: Case, replicates: int) -> list[Row]:
    """One row for each metric of a case."""
    generator = np.random.default_rng(np.random.SeedSequence(entropy=(26, len(case.name))))
    truth = {
        name: float(column.value[0])
        for name, column in estimates([case.draw(generator, 2_000_000)])[0].items()
    }
    held = dict.fromkeys(truth, 0)
    drawn = [case.draw(generator, case.patients) for _ in range(replicates)]
    for columns in estimates(drawn):
        for name, column in columns.items():
            held[name] += int(holds(column, truth[name]).sum())
    chance = 3 * math.sqrt(0.05 * 0.95 / replicates)
    tolerance = 0.02 if replicates == REPLICATES else round(0.02 + chance, 3)
    note = f"{case.patients} patients, {replicates} replicates"
    return [
        _row(f"coverage/{case.name}/{name}", count / replicates, tolerance, note, name)
        for name, count in held.items()
    ]


def _row(title: str, measured: float, tolerance: float, note: str, name: str) -> Row:
    if name not in CURVE_ENDS:
        return Row.near(title, measured, 0.95, tolerance, note)
    least = 0.95 - tolerance
    return Row(title, measured, 0.95, tolerance, measured >= least, f"{note}; at least {least:g}")


def estimates(summaries: Sequence[ScoreSummary]) -> list[dict[str, Column]]:
    """Every metric that has an interval, of all summaries in stacks."""
    return [
        {
            "auroc": aurocs(stack),
            "auprc": auprcs(stack),
            "brier": briers(stack),
            "calibration_slope": slopes(stack),
            "calibration_intercept": intercepts(stack),
            **vars(curve_ends(stack)),
            **_decided(stack, [summaries[place] for place in places]),
        }
        for places, stack in stacks(summaries)
    ]


def _decided(stack: Stack, summaries: Sequence[ScoreSummary]) -> dict[str, Column]:
    rates = decided(
        Decisions.of(one.confusion(THRESHOLD) for one in summaries),
        np.full(len(summaries), THRESHOLD),
    )
    names = ("sensitivity", "specificity", "ppv", "npv", "alert_rate", "f1")
    return {
        **{name: rates[name] for name in names},
        **{f"net_benefit_at_{at}": benefit_curves(stack, [at]).benefit for at in DECISIONS},
    }


def holds(found: Column, truth: float) -> NDArray[np.bool_]:
    """Whether intervals hold the truth; one that is not there does not."""
    return (found.low <= truth) & (truth <= found.high)


if __name__ == "__main__":
    main()
