"""How often the 95% intervals of metrics hold: sites are drawn whose true figures are known.

Each case has about 50 events or more, and as many patients without. The truth is that of two
million patients of the same model. A full run takes some minutes; a quick one has few of the
replicates, and goals that allow for their chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from reporting import Row, parser, publish

from federation.metrics.decisions import at_threshold
from federation.metrics.estimate import Estimate
from federation.metrics.intervals import bootstrapped, delong, resample
from federation.metrics.summary import ScoreSummary
from federation.metrics.utility import net_benefit

REPLICATES, QUICK = 4000, 300
THRESHOLD = 0.3
DECISIONS = (0.1, 0.3, 0.5)
NAMES = (
    *("auroc", "auprc", "brier", "calibration_slope", "calibration_intercept"),
    *("sensitivity_at_90_specificity", "specificity_at_90_sensitivity"),
    *("sensitivity", "specificity", "ppv", "npv", "alert_rate", "f1"),
    *(f"net_benefit_at_{at}" for at in DECISIONS),
)


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
    truth = estimates(case.draw(generator, 2_000_000), generator, 2)
    held = dict.fromkeys(NAMES, 0)
    for _ in range(replicates):
        found = estimates(case.draw(generator, case.patients), generator, 500)
        for name in NAMES:
            held[name] += holds(found[name], truth[name].value)
    chance = 3 * math.sqrt(0.05 * 0.95 / replicates)
    tolerance = 0.02 if replicates == REPLICATES else round(0.02 + chance, 3)
    note = f"{case.patients} patients, {replicates} replicates"
    return [
        Row.near(f"coverage/{case.name}/{name}", count / replicates, 0.95, tolerance, note)
        for name, count in held.items()
    ]


def estimates(
    summary: ScoreSummary, generator: np.random.Generator, replicates: int
) -> dict[str, Estimate]:
    """Every metric that has an interval."""
    benefits = {
        f"net_benefit_at_{one.threshold}": one.estimate for one in net_benefit(summary, DECISIONS)
    }
    return {
        "auroc": delong(summary),
        **bootstrapped(summary, resample(summary, generator, replicates)),
        **at_threshold(summary.confusion(THRESHOLD), THRESHOLD),
        **benefits,
    }


def holds(found: Estimate, truth: float | None) -> bool:
    """Whether an interval holds the truth; one that is not there does not."""
    if found.low is None or found.high is None or truth is None:
        return False
    return found.low <= truth <= found.high


if __name__ == "__main__":
    main()
