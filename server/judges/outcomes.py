"""Judging several outcomes of the same patients: classes, or findings.

Each outcome is judged as if it were the only one; beside them stand the means over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from federation.metrics.intervals import wilson_interval
from federation.metrics.outcomes import OutcomesSummary, add_agreements
from federation.metrics.summary import ScoreSummary
from federation.study import EvaluationSection
from federation.tasks import MulticlassTask, Task
from server.cells import Cell
from server.judges.base import BySite, Document, Headline, Judge
from server.judges.binary import BinaryJudge
from server.judges.joined import joined_cells, joined_marks, joined_tables, mean_of
from server.scoring import Scored
from server.site_evaluation import SiteEvaluation

AVERAGED = ("auroc", "auprc", "brier")
TOGETHER = "no interval: outcomes of the same patients hang together in a way that is not told"
OF_MODEL = ("threshold", "worst", "fairness", "between_sites", "recalibration")


class OutcomesJudge(Judge[OutcomesSummary]):
    """See `Judge`."""

    def __init__(self, task: Task, evaluation: EvaluationSection):
        super().__init__(task, evaluation)
        classes = isinstance(task, MulticlassTask)
        self._key = "classes" if classes else "labels"
        self._names: tuple[str, ...] = task.weighs
        self._each = BinaryJudge(task, evaluation)

    def headline(self, summaries: Sequence[OutcomesSummary], own: bool = False) -> Headline:
        """The means over the outcomes."""
        told = []
        for name in self._names:
            known = [one.outcomes[name] for one in summaries if name in one.outcomes]
            if known:
                told.append(self._each.headline(known, own))
        return {metric: mean_of([one[metric] for one in told]) for metric in AVERAGED}

    def model(self, tested: Scored) -> Document:
        """See `Judge`."""
        held_out = cast(Sequence[SiteEvaluation[OutcomesSummary]], tested.held_out)
        tuning = cast(Sequence[SiteEvaluation[OutcomesSummary]], tested.tuning)

        def judged(name: str) -> Document:
            seen = replace(tested, held_out=of(held_out, name), tuning=of(tuning, name))
            return self._each.model(seen)

        found = self._joined({name: judged(name) for name in self._names})
        _add_agreement(found, held_out)
        return found

    def own_models(
        self, tested: Sequence[SiteEvaluation[OutcomesSummary]], tuning: BySite[OutcomesSummary]
    ) -> Document:
        """See `Judge`."""
        found = self._joined(
            {
                name: self._each.own_models(of(tested, name), _of_each(tuning, name))
                for name in self._names
            }
        )
        _add_agreement(found, tested)
        return found

    def local_models(
        self, tested: BySite[OutcomesSummary], tuning: BySite[OutcomesSummary]
    ) -> tuple[Document, Document]:
        """See `Judge`."""
        each = {
            name: self._each.local_models(_of_each(tested, name), _of_each(tuning, name))
            for name in self._names
        }
        models = self._joined({name: model for name, (model, _) in each.items()})
        _add_agreement(models, [e for s, there in tested.items() for e in there if e.site == s])
        crossed = {name: crossed for name, (_, crossed) in each.items()}
        return models, joined_cells(crossed, self._cell)

    def joining(
        self,
        federated: Sequence[SiteEvaluation[OutcomesSummary]],
        local: BySite[OutcomesSummary],
        together: Sequence[SiteEvaluation[OutcomesSummary]],
    ) -> Document:
        """By outcome; unpaired, for sites score both models at once of one outcome alone."""
        return {
            self._key: {
                name: self._each.joining(of(federated, name), _of_each(local, name), [])
                for name in self._names
            }
        }

    def doubt(self, model: Document) -> str:
        """See `Judge`."""
        missing = [
            name
            for name, cell in model["overall"].get(self._key, {}).items()
            if "auroc" in cell and cell["auroc"]["value"] is None
        ]
        if not missing:
            return ""
        return f"The federated model has no AUROC of {', '.join(missing)}; metrics.json says why."

    def _joined(self, each: Mapping[str, Document]) -> Document:
        """One entry of the entries of all outcomes."""
        by_outcome = {
            name: {part: model[part] for part in OF_MODEL if part in model}
            for name, model in each.items()
        }
        by = "by_class" if self._key == "classes" else "by_label"
        return {**joined_tables(each, self._cell), by: by_outcome}

    def _cell(self, each: Mapping[str, Cell]) -> Cell:
        """The cells of all outcomes as one; withheld if all are, for one reason."""
        marks = joined_marks(each)
        if "suppressed" in marks:
            return marks
        return {
            "n": max(cell.get("n", 0) for cell in each.values()),
            self._key: dict(each),
            "macro": {metric: macro(each, metric) for metric in AVERAGED},
            **marks,
        }


def of(
    evaluations: Sequence[SiteEvaluation[OutcomesSummary]], outcome: str
) -> list[SiteEvaluation[ScoreSummary]]:
    """What sites sent of one outcome."""
    found = []
    for one in evaluations:
        cells = {
            name: summary.outcomes[outcome]
            for name, summary in one.cells.items()
            if outcome in summary.outcomes
        }
        withheld = dict(one.withheld)
        withheld |= {
            name: summary.withheld[outcome]
            for name, summary in one.cells.items()
            if outcome in summary.withheld
        }
        found.append(SiteEvaluation(one.site, cells, withheld))
    return found


def macro(each: Mapping[str, Cell], metric: str) -> Cell:
    """The mean of a metric over the outcomes that have it."""
    values = {name: (cell.get(metric) or {}).get("value") for name, cell in each.items()}
    undefined = [name for name, value in values.items() if value is None]
    mean = mean_of(list(values.values()))
    return {
        "value": None if mean is None else round(mean, 6),
        "low": None,
        "high": None,
        "reason": "no outcome has it" if mean is None else TOGETHER,
        "of": len(values) - len(undefined),
        **({"undefined_at": undefined} if undefined else {}),
    }


def _of_each(
    by_site: BySite[OutcomesSummary], outcome: str
) -> dict[str, list[SiteEvaluation[ScoreSummary]]]:
    return {site: of(evaluations, outcome) for site, evaluations in by_site.items()}


def _add_agreement(model: Document, sent: Sequence[SiteEvaluation[OutcomesSummary]]) -> None:
    """Add how the likeliest class agrees with the true one, at each site and overall."""
    by_site = {
        one.site: one.cells[""].agreement for one in sent if "" in one.cells and not one.reason("")
    }
    total = add_agreements(by_site[site] for site in sorted(by_site))
    for cell, agreement in (
        (model["overall"], total),
        *((model["sites"][site], agreement) for site, agreement in by_site.items()),
    ):
        if agreement is None or "suppressed" in cell:
            continue
        n = int(agreement.counts.sum())
        share = agreement.correct / n if n else 0.0
        low, high = wilson_interval(share, max(n, 1))
        rounded = (round(number, 6) for number in (share, low, high))
        cell["accuracy"] = dict(zip(("value", "low", "high"), rounded, strict=True))
        cell["confusion"] = {
            "true_by_predicted": agreement.counts[:, :-1].tolist(),
            "predicted_class_withheld": agreement.counts[:, -1].tolist(),
        }
