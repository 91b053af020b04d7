"""The round loop: send, train locally, aggregate, evaluate; the same for every strategy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from federation.collect import UpdateSum
from federation.messages import (
    EVALUATE,
    FEDERATED,
    TRAIN,
    EvaluateBody,
    Instruction,
    TrainBody,
)
from federation.metrics.summary import merge
from federation.models.build import Vector, build_model
from federation.reduce import Part
from federation.study import Split, Study
from federation.vocabulary import Vocabulary
from server.evaluator import SiteEvaluation, headline
from server.exchange import UNREADABLE, Answer, Exchange, encode, size
from server.strategies import STRATEGIES, Strategy

REFUSED = "refused by the site's policy"
NOT_CONNECTED = "not connected"

RoundRecord = dict[str, Any]
"""One line of rounds.jsonl."""


@dataclass(frozen=True)
class Task:
    """One model to train by rounds: the federated one, or a comparator.

    Attributes:
        exchange: reaches the sites.
        study: the resolved study.
        vocabulary: places of the EHR codes.
        model: the model's name in the run.
        only: the nodes that take part; None for all that are connected in each round.
        quorum: fewest updates of a round that counts; None for the study's.
        measured: whether rounds are evaluated on the tuning split.
        patience: by how much the study's deadline is longer for this model.
    """

    exchange: Exchange
    study: Study
    vocabulary: Vocabulary | None
    model: str = FEDERATED
    only: Mapping[str, int] | None = None
    quorum: int | None = None
    measured: bool = True
    patience: float = 1.0

    def nodes(self) -> Mapping[str, int]:
        """Return the nodes to ask now."""
        return self.exchange.sites() if self.only is None else self.only

    @property
    def minimum(self) -> int:
        """Fewest updates of a round that counts."""
        return self.study.strategy.minimum_sites if self.quorum is None else self.quorum

    @property
    def deadline(self) -> float:
        """Seconds that the sites have to answer."""
        return self.study.strategy.round_deadline_seconds * self.patience

    def instruction(self, weights: Vector, round_: int, split: Split | None = None) -> Instruction:
        """Return the instruction to train, or to evaluate a split."""
        fold = self.exchange.simulated and split is None
        fold = fold and STRATEGIES[self.study.strategy.name].needs == "sum"
        return Instruction(
            self.study, self.model, round_, self.vocabulary, weights, split=split, fold=fold
        )


@dataclass
class RoundsResult:
    """How the rounds ended.

    Attributes:
        weights: the last model that counted.
        rounds: how many rounds counted.
        lost_quorum: why the rounds ended early; empty if they did not.
        refusals: sites that refused by policy in the last round.
    """

    weights: Vector
    rounds: int
    lost_quorum: str = ""
    refusals: list[str] = field(default_factory=list)


def run_rounds(
    task: Task,
    weights: Vector | None = None,
    start: int = 1,
    on_round: Callable[[RoundRecord, Vector], None] = lambda record, weights: None,
) -> RoundsResult:
    """Train by rounds until the study's number is reached or the quorum is lost.

    Args:
        task: the model to train.
        weights: the model after round ``start - 1``; None for the study's initial one.
        start: the first round to run.
        on_round: told of each round that was tried, and of the model after it.
    """
    study = task.study
    model = build_model(study, task.vocabulary)
    strategy: Strategy = STRATEGIES[study.strategy.name]()
    result = RoundsResult(model.weights() if weights is None else weights, start - 1)
    known: set[str] = set()
    for round_ in range(start, study.training.rounds + 1):
        record, total = _train_round(task, result.weights, round_, model.parts)
        _note_absent(record, known)
        arrived = len(record["answered"])
        if arrived < task.minimum:
            why = record["failed"] | record["rejected"]
            reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(why.items()))
            result.lost_quorum = (
                f"round {round_}: {arrived} of {len(record['asked'])} sites sent a usable update, "
                f"{task.minimum} are needed ({reasons})"
            )
            result.refusals = [s for s, why in record["failed"].items() if why == REFUSED]
            on_round(record, result.weights)
            return result
        result.weights = strategy.next_weights(result.weights, total.total)
        result.rounds = round_
        every = study.evaluation.every
        if task.measured and every and round_ % every == 0:
            _measure(task, result.weights, round_, record)
        on_round(record, result.weights)
    return result


def evaluate(
    task: Task, weights: Vector, split: Split, round_: int = 0
) -> tuple[list[SiteEvaluation], dict[str, str]]:
    """Let the sites score a split.

    Returns:
        What each site sent, by site; and why the others sent nothing.
    """
    nodes = task.nodes()
    instructions = encode(task.instruction(weights, round_, split), nodes)
    evaluations, failed = [], {}
    for answer in task.exchange.ask(EVALUATE, instructions, nodes, task.deadline, str(round_)):
        try:
            evaluations.append(_evaluation(answer))
        except ValueError as error:
            failed[answer.site] = str(error)
    return sorted(evaluations, key=lambda e: e.site), dict(sorted(failed.items()))


def _train_round(
    task: Task, weights: Vector, round_: int, parts: Sequence[Part]
) -> tuple[RoundRecord, UpdateSum]:
    began = time.perf_counter()
    nodes = task.nodes()
    instructions = encode(task.instruction(weights, round_), nodes)
    updates = UpdateSum(parts, task.study.strategy)
    failed: dict[str, str] = {}
    rejected: dict[str, str] = {}
    sites: dict[str, dict[str, Any]] = {}
    received = 0
    for answer in task.exchange.ask(TRAIN, instructions, nodes, task.deadline, str(round_)):
        received += answer.received
        if answer.failure or answer.reply is None:
            failed[answer.site] = answer.failure
            continue
        reason = updates.take(answer.reply)
        if reason:
            rejected[answer.site] = reason
            continue
        assert isinstance(answer.reply.body, TrainBody)
        body = answer.reply.body
        received += weights.nbytes  # also where a simulation's host sent the sum instead
        sites[answer.site] = {"loss": body.loss, "patients": max(body.patients.values())}
    record: RoundRecord = {
        "round": round_,
        "loss": _mean_loss(sites),
        "metrics": None,
        "site_metrics": {},
        "asked": sorted(nodes),
        "answered": sorted(sites),
        "failed": dict(sorted(failed.items())),
        "rejected": dict(sorted(rejected.items())),
        "sites": dict(sorted(sites.items())),
        "seconds": round(time.perf_counter() - began, 3),
        "bytes": {
            "sent": sum(size(records) for records in instructions.values()),
            "received": received,
        },
    }
    return record, updates


def _note_absent(record: RoundRecord, known: set[str]) -> None:
    """Record sites that took part before and are not connected now; a grid names only others."""
    absent = known - set(record["asked"])
    known.update(record["asked"])
    record["asked"] = sorted({*record["asked"], *absent})
    record["failed"] |= dict.fromkeys(sorted(absent), NOT_CONNECTED)


def _measure(task: Task, weights: Vector, round_: int, record: RoundRecord) -> None:
    """Add what the tuning split says to a round's record."""
    evaluations, _ = evaluate(task, weights, "tuning", round_)
    seen = {e.site: e.cells[""] for e in evaluations if "" in e.cells}
    if seen:
        record["metrics"] = headline(merge(seen.values()))
        record["site_metrics"] = {site: headline(cell) for site, cell in seen.items()}


def _evaluation(answer: Answer) -> SiteEvaluation:
    """Read a site's summaries, which are not trusted.

    Raises:
        ValueError: with the reason why there are none.
    """
    if answer.failure or answer.reply is None:
        raise ValueError(answer.failure)
    assert isinstance(answer.reply.body, EvaluateBody)
    body = answer.reply.body
    try:
        return SiteEvaluation(answer.site, body.summaries(), dict(body.withheld))
    except ValueError:
        raise ValueError(UNREADABLE) from None


def _mean_loss(sites: Mapping[str, Mapping[str, Any]]) -> float | None:
    known = [(s["loss"], s["patients"]) for _, s in sorted(sites.items()) if s["loss"] is not None]
    patients = sum(weight for _, weight in known)
    return sum(loss * weight for loss, weight in known) / patients if patients else None
