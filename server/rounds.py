"""The round loop: send, train locally, aggregate, evaluate; the same for every strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from federation.bodies import REFUSALS
from federation.models.build import Vector
from server.course import Course, RoundRecord, Standing
from server.judges import judge_of
from server.noised import noise_told, noised_headline
from server.scoring import evaluate
from server.site_evaluation import SiteEvaluation
from server.task import Task

NOT_CONNECTED = "not connected"


@dataclass
class RoundsResult:
    """How the rounds ended.

    Attributes:
        weights: the last model that counted.
        rounds: how many rounds counted.
        kept: the round whose model ``weights`` is, where the study chooses one; else 0.
        lost_quorum: why the rounds ended early; empty if they did not.
        stopped: why they ended early of themselves; empty if they did not.
        refusals: sites that refused by policy or for their budget in the last round.
        spent: the last that each site said of its patients' privacy.
    """

    weights: Vector
    rounds: int
    kept: int = 0
    lost_quorum: str = ""
    stopped: str = ""
    refusals: list[str] = field(default_factory=list)
    spent: dict[str, dict[str, Any]] = field(default_factory=dict)


def run_rounds(
    task: Task,
    standing: Standing | None = None,
    start: int = 1,
    on_round: Callable[[RoundRecord, Standing], None] = lambda record, standing: None,
) -> RoundsResult:
    """Train by rounds until the study's number is reached, nothing improves or quorum is lost.

    Args:
        task: the model to train.
        standing: how things stood after round ``start - 1``; None for the beginning.
        start: the first round to run.
        on_round: told of each round that was tried, and how things stand after it.
    """
    study = task.study
    model = task.initial()
    course = Course(task, model, standing)
    result = RoundsResult(course.weights, start - 1)
    known: set[str] = set()
    for round_ in range(start, study.training.rounds + 1):
        if why := course.selection.ended:
            result.stopped = f"after round {round_ - 1}: {why}"
            break
        connected = task.enough()
        nodes = connected if task.only is not None else course.asked(connected, round_)
        found = course.train(nodes, round_)
        record = found.record
        if task.exchange.members is None:
            _note_absent(record, known, set(connected))
        result.spent |= record.get("spent", {})
        arrived = len(record["answered"])
        if arrived < task.minimum:
            why = record["failed"] | record["rejected"]
            reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(why.items()))
            result.lost_quorum = (
                f"round {round_}: {arrived} of {len(record['asked'])} sites sent a usable update, "
                f"{task.minimum} are needed{f' ({reasons})' if reasons else ''}"
            )
            result.refusals = [s for s, why in record["failed"].items() if why in REFUSALS]
            on_round(record, course.standing())
            break
        course.step(found, len(connected))
        result.rounds = round_
        every = study.evaluation.every
        if task.measured and every and round_ % every == 0:
            _measure(task, course.shown, round_, record)
        course.selection.see(round_, record["metrics"], course.shown)
        on_round(record, course.standing())
    result.weights = course.selection.chosen(course.shown)
    result.kept = course.selection.best_round if study.selection.keep == "best" else 0
    return result


def _note_absent(record: RoundRecord, known: set[str], connected: set[str]) -> None:
    """Record sites that were there before and are not connected now; a grid names only others."""
    absent = known - connected
    known.update(connected)
    record["asked"] = sorted({*record["asked"], *absent})
    record["failed"] |= dict.fromkeys(sorted(absent), NOT_CONNECTED)


def _measure(task: Task, weights: Vector, round_: int, record: RoundRecord) -> None:
    """Add what the tuning split says to a round's record."""
    evaluations, _ = evaluate(task, weights, "tuning", round_)
    if task.study.evaluation.noise is not None:
        _measure_noised(evaluations, record)
        return
    seen = {e.site: e.cells[""] for e in evaluations if "" in e.cells}
    if seen:
        judge, own = judge_of(task.study), task.study.strategy.personal
        record["metrics"] = judge.headline(list(seen.values()), own)
        record["site_metrics"] = {site: judge.headline([cell]) for site, cell in seen.items()}


def _measure_noised(evaluations: Sequence[SiteEvaluation], record: RoundRecord) -> None:
    told = {one.site: one.noised[""] for one in evaluations if "" in one.noised}
    record["noise"] = noise_told(evaluations)
    if told:
        record["metrics"] = noised_headline(told.values())
        record["site_metrics"] = {site: noised_headline([one]) for site, one in told.items()}
