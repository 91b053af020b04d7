"""What evaluation costs: all intervals of 1,000 sites with 40 subgroups, and its share of a round.

The sites have 1,000 held-out patients each, in fine bins, divided four ways by ten attributes. The
share is of a round of examples/studies/synthetic.toml, six hospitals, in process: rounds with an
evaluation by turns with rounds without, on the same cohorts. A quick run has a tenth of the sites.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from reporting import Row, parser, publish

from federation.metrics.summary import ScoreSummary
from federation.metrics.threshold import Threshold
from federation.study import Study, load_study
from federation.vocabulary import agreed_vocabulary
from server.evaluator import evaluate_model
from server.exchange import Exchange
from server.operating import Operating
from server.rounds import run_rounds
from server.site_evaluation import SiteEvaluation
from server.task import Task
from simulations.consortium import synthesize
from simulations.grids import LocalGrid

SITES, PATIENTS, ATTRIBUTES, LEVELS = 1000, 1000, 10, 4
GOAL_SECONDS, GOAL_SHARE = 10.0, 0.1
STUDY = Path(__file__).resolve().parents[1] / "examples/studies/synthetic.toml"


def main() -> None:
    """Measure, print, and write."""
    options = parser(__doc__).parse_args()
    publish([intervals(options.quick), share_of_a_round(options.quick)], options.json)


def intervals(quick: bool) -> Row:
    """Time from the summaries of all sites to every metric of every cell."""
    sites = SITES // 10 if quick else SITES
    generator = np.random.default_rng(1)
    sent = [_evaluation(f"site-{site:04d}", generator) for site in range(sites)]
    began = time.perf_counter()
    found = evaluate_model(sent, Operating(Threshold(0.2)))
    seconds = time.perf_counter() - began
    assert len(found["site_subgroups"]) == sites
    note = f"{sites} sites, {ATTRIBUTES * LEVELS} subgroups, {PATIENTS} patients each"
    holds = None if quick else seconds <= GOAL_SECONDS
    return Row("evaluation/intervals/seconds", seconds, GOAL_SECONDS, 0.0, holds, note)


def share_of_a_round(quick: bool) -> Row:
    """What an evaluation in each round adds to the rounds' time."""
    turns = 3 if quick else 10
    with tempfile.TemporaryDirectory() as text:
        synthesize(Path(text), sites=6, patients=300, seed=7)
        files = {file.parent.name: file for file in sorted(Path(text).glob("*/site.toml"))}
        grid = LocalGrid(files)
        try:
            grid.use_ledgers(Path(text, "ledgers"))
            studies = [_study(every) for every in (1, 0)]
            for study in studies:
                assert not any(one.error for one in grid.inspect(study))
            seconds = [[_rounds(grid, study) for study in studies] for _ in range(turns + 1)][1:]
        finally:
            grid.close()
    with_, without = (statistics.median(part) for part in zip(*seconds, strict=True))
    note = f"two rounds {with_:.3g} s with, {without:.3g} s without; {turns} turns"
    share = with_ / without - 1
    holds = None if quick else share <= GOAL_SHARE
    return Row("evaluation/share_of_a_round", share, GOAL_SHARE, 0.0, holds, note)


def _evaluation(site: str, generator: np.random.Generator) -> SiteEvaluation:
    labels = (generator.random(PATIENTS) < 0.2).astype(int)
    logits = generator.normal(size=PATIENTS) + 1.2 * labels - 1.5
    scores = 1 / (1 + np.exp(-logits))
    cells = {"": ScoreSummary.from_scores(scores, labels)}
    for attribute in range(ATTRIBUTES):
        levels = generator.integers(0, LEVELS, PATIENTS)
        for level in range(LEVELS):
            inside = levels == level
            summary = ScoreSummary.from_scores(scores[inside], labels[inside])
            cells[f"attribute-{attribute}={level}"] = summary
    return SiteEvaluation(site, cells, {})


def _study(every: int) -> Study:
    return load_study(STUDY, ["training.rounds=2", f"evaluation.every={every}"])


def _rounds(grid: LocalGrid, study: Study) -> float:
    section = study.modalities.ehr
    vocabulary = None if section is None else agreed_vocabulary(section)
    exchange = Exchange(grid, simulated=True, pooled_node=grid.pooled_node, members=grid.members)
    began = time.perf_counter()
    result = run_rounds(Task(exchange, study, vocabulary))
    assert not result.lost_quorum, result.lost_quorum
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
