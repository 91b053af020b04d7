"""The round loop: send, train locally, aggregate, evaluate; the same for every strategy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import RecordDict

from federation.bodies import REFUSALS, EvaluateBody, TrainBody
from federation.collect import UpdateSum
from federation.messages import EVALUATE, FEDERATED, TRAIN, Instruction, with_witness
from federation.metrics.summary import merge
from federation.models.build import Vector, build_model
from federation.reduce import Part
from federation.study import Split, Study
from federation.vocabulary import Vocabulary
from server.central import CentralPrivacy
from server.evaluator import SiteEvaluation, headline
from server.exchange import UNREADABLE, Answer, Exchange, encode, size
from server.participation import participants
from server.strategies import STRATEGIES, Strategy
from server.witness import Witness

NOT_CONNECTED = "not connected"
UNPAID = "no word of what the update cost its patients"

RoundRecord = dict[str, Any]
"""One line of rounds.jsonl."""


@dataclass(frozen=True)
class Heard:
    """An answer in a round, for whoever watches.

    Attributes:
        model: the model that is trained.
        round: of ``rounds``.
        rounds: how many the study has.
        heard: how many sites have answered.
        asked: how many were asked.
        site: the one that answered, or did not in time.
        patients: training patients behind its update.
        problem: why there is no usable update; empty if there is one.
    """

    model: str
    round: int
    rounds: int
    heard: int
    asked: int
    site: str
    patients: int
    problem: str


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
        run: id of the run, by which the sites' ledgers tell runs apart.
        witness: what is known of the sites' ledgers; None in a simulation with ledgers of its own.
        watch: told of every answer in a training round.
    """

    exchange: Exchange
    study: Study
    vocabulary: Vocabulary | None
    model: str = FEDERATED
    only: Mapping[str, int] | None = None
    quorum: int | None = None
    measured: bool = True
    patience: float = 1.0
    run: str = ""
    witness: Witness | None = None
    watch: Callable[[Heard], None] = lambda heard: None

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
        # A host's sum cannot be taken apart where a site's ledger turns out to have gone back.
        fold = self.exchange.simulated and split is None and self.witness is None
        fold = fold and STRATEGIES[self.study.strategy.name].needs == "sum"
        return Instruction(
            self.study,
            self.model,
            round_,
            self.vocabulary,
            weights,
            split=split,
            fold=fold,
            run=self.run,
        )

    def addressed(self, instructions: Mapping[str, RecordDict]) -> dict[str, RecordDict]:
        """Tell each site what was witnessed of its ledger."""
        if self.witness is None or self.study.privacy.mechanism != "dp_sgd":
            return dict(instructions)
        heads = {site: self.witness.of(site) for site in instructions}
        return {
            site: records if (head := heads[site]) is None else with_witness(records, head)
            for site, records in instructions.items()
        }

    def doubts(self, site: str, body: TrainBody) -> str:
        """Note the head of a site's ledger; return why its reply is not to be used."""
        if self.study.privacy.mechanism != "dp_sgd":
            return ""
        if body.spent is None:
            return UNPAID
        return "" if self.witness is None else self.witness.note(site, body.spent.ledger)


@dataclass
class RoundsResult:
    """How the rounds ended.

    Attributes:
        weights: the last model that counted.
        rounds: how many rounds counted.
        lost_quorum: why the rounds ended early; empty if they did not.
        refusals: sites that refused by policy or for their budget in the last round.
        spent: the last that each site said of its patients' privacy.
    """

    weights: Vector
    rounds: int
    lost_quorum: str = ""
    refusals: list[str] = field(default_factory=list)
    spent: dict[str, dict[str, Any]] = field(default_factory=dict)


def run_rounds(
    task: Task,
    weights: Vector | None = None,
    start: int = 1,
    on_round: Callable[[RoundRecord, Vector], None] = lambda record, weights: None,
    clip: float | None = None,
) -> RoundsResult:
    """Train by rounds until the study's number is reached or the quorum is lost.

    Args:
        task: the model to train.
        weights: the model after round ``start - 1``; None for the study's initial one.
        start: the first round to run.
        on_round: told of each round that was tried, and of the model after it.
        clip: norm that central privacy had adapted to before ``start``; None for the study's.
    """
    study = task.study
    central = None
    if study.privacy.mechanism == "central":
        central = CentralPrivacy(study, task.model, task.exchange.simulated, clip)
    model = build_model(study, task.vocabulary)
    strategy: Strategy = STRATEGIES[study.strategy.name]()
    result = RoundsResult(model.weights() if weights is None else weights, start - 1)
    known: set[str] = set()
    for round_ in range(start, study.training.rounds + 1):
        norm = central.clip if central else None
        connected = task.nodes()
        nodes = connected if task.only is not None else participants(study, connected, round_)
        record, total = _train_round(task, result.weights, round_, nodes, model.parts, norm)
        if task.exchange.members is None:
            _note_absent(record, known, set(connected))
        result.spent |= record.get("spent", {})
        arrived = len(record["answered"])
        if arrived < task.minimum:
            why = record["failed"] | record["rejected"]
            reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(why.items()))
            result.lost_quorum = (
                f"round {round_}: {arrived} of {len(record['asked'])} sites sent a usable update, "
                f"{task.minimum} are needed ({reasons})"
            )
            result.refusals = [s for s, why in record["failed"].items() if why in REFUSALS]
            on_round(record, result.weights)
            return result
        if central:
            record["central"] = central.release(total.total, round_)
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
    task: Task,
    weights: Vector,
    round_: int,
    nodes: Mapping[str, int],
    parts: Sequence[Part],
    clip: float | None,
) -> tuple[RoundRecord, UpdateSum]:
    began = time.perf_counter()
    instruction = task.instruction(weights, round_)
    if instruction.fold:  # only a host that sums has to know
        instruction = replace(instruction, clip=clip)
    instructions = task.addressed(encode(instruction, nodes))
    updates = UpdateSum(parts, task.study.strategy, clip)
    failed: dict[str, str] = {}
    rejected: dict[str, str] = {}
    sites: dict[str, dict[str, Any]] = {}
    spent: dict[str, dict[str, Any]] = {}
    received = 0
    for answer in task.exchange.ask(TRAIN, instructions, nodes, task.deadline, str(round_)):
        received += answer.received
        body = None if answer.reply is None or answer.failure else answer.reply.body
        if answer.reply is None or body is None:
            problem = failed[answer.site] = answer.failure
        else:
            assert isinstance(body, TrainBody)
            if body.spent is not None:
                spent[answer.site] = body.spent.model_dump(mode="json")
            problem = task.doubts(answer.site, body) or updates.take(answer.reply)
            if problem:
                rejected[answer.site] = problem
            else:
                received += weights.nbytes  # also where a simulation's host sent the sum instead
                patients = max(body.patients.values())
                sites[answer.site] = {"loss": body.loss, "patients": patients}
        heard = len(sites) + len(failed) + len(rejected)
        behind = 0 if problem else sites[answer.site]["patients"]
        rounds = task.study.training.rounds
        task.watch(
            Heard(task.model, round_, rounds, heard, len(nodes), answer.site, behind, problem)
        )
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
            "sent": _sent(instructions.values()),
            "received": received,
        },
    }
    if task.study.privacy.mechanism == "dp_sgd":
        record["spent"] = dict(sorted(spent.items()))
    if task.exchange.struck is not None:
        record["faults"] = task.exchange.struck(record["asked"], round_, task.model)
    return record, updates


def _sent(instructions: Iterable[RecordDict]) -> int:
    """Return the bytes of all instructions, of which most are one and the same."""
    same: dict[int, int] = {}
    total = 0
    for records in instructions:
        if id(records) not in same:
            same[id(records)] = size(records)
        total += same[id(records)]
    return total


def _note_absent(record: RoundRecord, known: set[str], connected: set[str]) -> None:
    """Record sites that were there before and are not connected now; a grid names only others."""
    absent = known - connected
    known.update(connected)
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
