"""Letting sites score a model on a split of their patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import RecordDict

from federation.bodies import EvaluateBody
from federation.messages import EVALUATE, EXISTING_SCORE, Instruction
from federation.metrics.summary import ScoreSummary
from federation.models.build import Vector
from federation.study import Split, Study
from federation.subgroups import WHOLE_SITE
from server.exchange import UNREADABLE, Answer, encode
from server.site_evaluation import Paired, SiteEvaluation
from server.task import Task

Found = tuple[list[SiteEvaluation[Any]], dict[str, str]]


@dataclass(frozen=True)
class Scored:
    """What the sites sent of a finished model.

    Attributes:
        held_out: on the held-out split, by site.
        tuning: on the tuning split, by which its threshold is chosen and its risks recalibrated;
            empty if the study asks for neither.
        failed: why the other sites sent nothing of the held-out split.
        ours: whether a run trained it; a score that the sites hold already stays as it is.
    """

    held_out: list[SiteEvaluation[Any]]
    tuning: list[SiteEvaluation[Any]]
    failed: dict[str, str]
    ours: bool = True


def scored_finished(task: Task, weights: Vector, shared: bool = False) -> Scored:
    """Let the sites score a finished model on both splits that were not trained on."""
    held_out, failed = evaluate(task, weights, "held_out", shared=shared)
    tuning: list[SiteEvaluation[Any]] = []
    if task.study.evaluation.goes_by_tuning:
        tuning, _ = evaluate(task, weights, "tuning", shared=shared)
    return Scored(held_out, tuning, failed)


def existing_score(task: Task) -> Scored:
    """Let the sites measure the score that they hold already, on both splits."""
    nodes = task.nodes()

    def asked(split: Split) -> Found:
        instruction = Instruction(task.study, model=EXISTING_SCORE, split=split, run=task.run)
        return _collected(task, encode(instruction, nodes), nodes, 0)

    held_out, failed = asked("held_out")
    fixed = task.study.evaluation.threshold.rule == "fixed"
    return Scored(held_out, [] if fixed else asked("tuning")[0], failed, ours=False)


def evaluate(
    task: Task, weights: Vector, split: Split, round_: int = 0, shared: bool = False
) -> Found:
    """Let the sites score a split.

    Args:
        task: the model.
        weights: the coordinator's, after some round.
        split: which patients.
        round_: the round; 0 for the finished model.
        shared: whether to score these very weights where sites use models of their own.

    Returns:
        What each site sent, by site; and why the others sent nothing.
    """
    nodes = task.nodes()
    instruction = replace(task.instruction(weights, round_, split), shared=shared)
    return _collected(task, encode(instruction, nodes), nodes, round_)


def evaluate_each(task: Task, instructions: Mapping[str, Instruction]) -> Found:
    """Let each site score what it is told, as ``evaluate``."""
    nodes = {site: node for site, node in task.nodes().items() if site in instructions}
    encoded = {site: instructions[site].to_records() for site in nodes}
    return _collected(task, encoded, nodes, 0)


def _collected(
    task: Task, instructions: Mapping[str, RecordDict], nodes: Mapping[str, int], round_: int
) -> Found:
    evaluations, failed = [], {}
    for answer in task.exchange.ask(EVALUATE, instructions, nodes, task.deadline, str(round_)):
        try:
            evaluations.append(read_evaluation(answer, task.study))
        except ValueError as error:
            failed[answer.site] = str(error)
    return sorted(evaluations, key=lambda e: e.site), dict(sorted(failed.items()))


def read_evaluation(answer: Answer, study: Study) -> SiteEvaluation[Any]:
    """Read a site's summaries, which are not trusted.

    Raises:
        ValueError: with the reason why there are none.
    """
    if answer.failure or answer.reply is None:
        raise ValueError(answer.failure)
    assert isinstance(answer.reply.body, EvaluateBody)
    body = answer.reply.body
    try:
        if unasked := body.unasked(study):
            raise ValueError(unasked)
        if body.noise is not None:
            withheld = dict(body.withheld)
            noised = body.noised()
            return SiteEvaluation(answer.site, {}, withheld, noised=noised, noise=body.noise)
        cells, paired = body.summaries(), None
        if not all(study.task.explains(cell) for cell in cells.values()):
            raise ValueError("a summary of another task")
        if body.paired is not None:
            paired = Paired(body.paired.summary(), body.paired.correlation)
            whole = cells[WHOLE_SITE]
            if not isinstance(whole, ScoreSummary):
                raise ValueError("two models are compared on a yes-or-no outcome alone")
            if (whole.n, whole.positives) != (paired.reference.n, paired.reference.positives):
                raise ValueError("two models were scored on different patients")
        return SiteEvaluation(answer.site, cells, dict(body.withheld), paired, body.inputs)
    except ValueError:
        raise ValueError(UNREADABLE) from None
