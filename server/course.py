"""Where a model stands in its rounds: its weights, and all that the next round follows from."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from federation.bodies import TrainBody
from federation.collect import UpdateList, UpdateSum, round_sum
from federation.compression import bytes_of
from federation.layout import Layout
from federation.messages import TRAIN, Instruction, Reply, with_counted
from federation.models.build import FlatModel, Vector
from federation.strategies.asynchronous import FedBuff
from server.central import CentralPrivacy
from server.exchange import Answer, encode, size
from server.outstanding import Outstanding
from server.participation import Known, participants
from server.screening import screen_round
from server.selection import Selection
from server.strategies import Gathered, rule_of
from server.task import Heard, Task

RoundRecord = dict[str, Any]
"""One line of rounds.jsonl."""

RULE, SELECTION, LOSS, OUTSTANDING = "rule/", "selection/", "loss/", "outstanding/"
COUNTED = "counted/"


@dataclass(frozen=True)
class Standing:
    """All that the rounds to come follow from.

    Attributes:
        weights: the model after a round.
        state: what strategy, selection and participation keep beside it, by name.
        clip: norm to which central privacy has adapted; None for the study's.
    """

    weights: Vector
    state: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    clip: float | None = None


@dataclass
class Round:
    """What a round brought.

    Attributes:
        record: its line of rounds.jsonl.
        told: what each site with a usable update said, by site.
        updates: the usable updates.
    """

    record: RoundRecord
    told: dict[str, TrainBody]
    updates: UpdateSum | UpdateList


class Course:
    """Takes a model from round to round.

    Args:
        task: the model to train.
        model: has its parts, and its initial weights.
        standing: how things stood after the last round; None for the beginning.

    Attributes:
        weights: the model after the last round.
        shown: the model to measure: ``weights``, or their moving average.
        selection: which round's model is kept.
    """

    def __init__(self, task: Task, model: FlatModel, standing: Standing | None = None):
        self._task, self._model = task, model
        study = task.study
        self.weights = self.shown = model.weights()
        self.selection = Selection(study)
        self._rule = rule_of(study.strategy, Layout.of(study.strategy, model.parts))
        self._known = Known(task.sizes)
        self._counted: dict[str, int] = {}
        self._outstanding: Outstanding | None = None
        if isinstance(study.strategy, FedBuff):
            self._outstanding = Outstanding(
                task.exchange, task.model, study.strategy.oldest, task.deadline
            )
        self._central: CentralPrivacy | None = None
        if study.privacy.mechanism == "central":
            clip = standing.clip if standing else None
            self._central = CentralPrivacy(study, task.model, task.exchange.simulated, clip)
        if standing is not None:
            self._restore(standing)

    def asked(self, connected: Mapping[str, int], round_: int) -> Mapping[str, int]:
        """Return the nodes that a round asks: of those drawn, the ones that owe no answer."""
        drawn = participants(self._task.study, connected, round_, self._known)
        busy = self._outstanding.waiting if self._outstanding else ()
        return {site: node for site, node in drawn.items() if site not in busy}

    def train(self, nodes: Mapping[str, int], round_: int) -> Round:
        """Let sites train, and collect their updates."""
        task, began = self._task, time.perf_counter()
        instruction = self._instruction(nodes, round_)
        instructions = task.addressed(self._in_step(encode(instruction, nodes)))
        updates = self._collector(nodes, round_)
        found = Round(_empty_record(round_, nodes), {}, updates)
        received = 0
        size_of_update = Layout.of(task.study.strategy, self._model.parts).size
        travels = bytes_of(size_of_update, task.study.strategy.compression)
        for answer, asked_in in self._answers(instructions, nodes, round_):
            received += answer.received
            problem = self._take(answer, found, round_ - asked_in)
            if not problem:
                received += travels  # also where a host sent the sum instead
            self._tell(answer.site, problem, found, len(nodes))
            del answer
            if self._full(found):
                break
        if isinstance(updates, UpdateList):
            left_out, problem = screen_round(updates, task, self.weights, round_)
            for site, why in left_out.items():
                found.record["rejected"][site] = why
                del found.told[site]
            if problem:
                found.record["screening"] = problem
            if task.study.strategy.needs == "sum":
                found.updates = self._summed(updates, found, nodes, round_)
        self._complete(found, nodes)
        found.record["seconds"] = round(time.perf_counter() - began, 3)
        found.record["bytes"] = {"sent": _sent(instructions.values()), "received": received}
        return found

    def step(self, found: Round, connected: int) -> None:
        """Make the next model of a round's updates."""
        updates = found.updates
        total = updates.total if isinstance(updates, UpdateSum) else None
        kept = updates.updates if isinstance(updates, UpdateList) else ()
        if self._central:
            assert total is not None
            found.record["central"] = self._central.release(total, found.record["round"])
        gathered = Gathered(found.told, connected, total, kept)
        self.weights = self._rule.next_weights(self.weights, gathered)
        self._rule.note(found.told)
        self._counted |= {site: int(found.record["round"]) for site in found.told}
        if self._rule.notes:
            found.record["strategy"] = dict(self._rule.notes)
        self._known.losses |= {s: b.loss for s, b in found.told.items() if b.loss is not None}
        self.shown = self.selection.average(self.weights)

    def standing(self) -> Standing:
        """Return what the next round follows from."""
        state = {f"{RULE}{name}": array for name, array in self._rule.state().items()}
        state |= {f"{SELECTION}{name}": array for name, array in self.selection.state().items()}
        if self._task.study.strategy.participation.kind == "power_of_choice":
            state |= {f"{LOSS}{site}": np.array(x) for site, x in self._known.losses.items()}
        if self._task.study.strategy.in_step:
            state |= {f"{COUNTED}{site}": np.array(r) for site, r in self._counted.items()}
        if self._outstanding is not None:
            owed = self._outstanding.state()
            state |= {f"{OUTSTANDING}{name}": array for name, array in owed.items()}
        return Standing(self.weights, state, self._central.clip if self._central else None)

    def _restore(self, standing: Standing) -> None:
        self.weights = self.shown = standing.weights
        self._rule.restore(_under(RULE, standing.state))
        self.selection.restore(_under(SELECTION, standing.state))
        self.shown = self.selection.averaged(self.weights)
        if self._outstanding is not None:
            self._outstanding.restore(_under(OUTSTANDING, standing.state))
        counted = _under(COUNTED, standing.state)
        self._counted = {site: int(round_) for site, round_ in counted.items()}
        losses = _under(LOSS, standing.state)
        self._known.losses = {site: float(loss) for site, loss in losses.items()}

    def _instruction(self, nodes: Mapping[str, int], round_: int) -> Instruction:
        instruction = self._task.instruction(self.weights, round_)
        instruction = replace(instruction, control=self._rule.control)
        if not instruction.fold:
            return instruction
        # Only a host that sums has to know these.
        return replace(instruction, clip=self._clip, factors=self._rule.factors(nodes))

    def _in_step(self, instructions: dict[str, RecordDict]) -> dict[str, RecordDict]:
        """Tell sites which of their updates counted, where they must know."""
        if not self._task.study.strategy.in_step or not instructions:
            return instructions
        counted = {site: self._counted.get(site, 0) for site in instructions}
        if self._task.exchange.simulated:  # one message for all sites of a host
            one = with_counted(next(iter(instructions.values())), counted)
            return dict.fromkeys(instructions, one)
        return {s: with_counted(one, {s: counted[s]}) for s, one in instructions.items()}

    def _collector(self, nodes: Mapping[str, int], round_: int) -> UpdateSum | UpdateList:
        strategy = self._task.study.strategy
        if not strategy.sums:
            return UpdateList(self._model.parts, strategy)
        return self._sum(nodes, round_)

    def _sum(self, nodes: Mapping[str, int], round_: int) -> UpdateSum:
        instruction = self._task.instruction(self.weights, round_)
        factors = self._rule.factors(nodes)
        return round_sum(replace(instruction, clip=self._clip, factors=factors), self._model)

    def _summed(
        self, updates: UpdateList, found: Round, nodes: Mapping[str, int], round_: int
    ) -> UpdateSum:
        """Add up what screening has left, for a strategy that needs no more than the sum."""
        total = self._sum(nodes, round_)
        for one in updates.updates:
            reply = Reply("ok", found.told[one.site], update=one.update)
            if problem := total.take(reply, one.site):
                found.record["rejected"][one.site] = problem
                del found.told[one.site]
        return total

    @property
    def _clip(self) -> float | None:
        return self._central.clip if self._central else None

    def _answers(
        self, instructions: Mapping[str, RecordDict], nodes: Mapping[str, int], round_: int
    ) -> Iterator[tuple[Answer, int]]:
        """Yield answers as they come, each with the round in which it was asked for."""
        task, outstanding = self._task, self._outstanding
        if outstanding is None:
            for answer in task.exchange.ask(TRAIN, instructions, nodes, task.deadline, str(round_)):
                yield answer, round_
                del answer  # its update may be large
            return
        yield from ((answer, round_) for answer in outstanding.given_up(round_))
        outstanding.send(instructions, nodes, round_)
        yield from outstanding.answers(round_)

    def _full(self, found: Round) -> bool:
        """Whether the round goes on without those that have not answered yet."""
        strategy = self._task.study.strategy
        return isinstance(strategy, FedBuff) and len(found.told) >= strategy.buffer

    def _take(self, answer: Answer, found: Round, age: int) -> str:
        """Take what a site answered; return why it is of no use, or nothing."""
        record, site = found.record, answer.site
        body = None if answer.reply is None or answer.failure else answer.reply.body
        if answer.reply is None or body is None:
            record["failed"][site] = answer.failure
            return answer.failure
        assert isinstance(body, TrainBody)
        if body.spent is not None:
            record["spent"][site] = body.spent.model_dump(mode="json")
        problem = self._task.doubts(site, body)
        if not problem and isinstance(found.updates, UpdateList):
            problem = found.updates.take(answer.reply, site, age)
        elif not problem:
            problem = found.updates.take(answer.reply, site)
        if problem:
            record["rejected"][site] = problem
        else:
            found.told[site] = body
        return problem

    def _tell(self, site: str, problem: str, found: Round, asked: int) -> None:
        record, task = found.record, self._task
        heard = len(found.told) + len(record["failed"]) + len(record["rejected"])
        behind = 0 if problem else patients_of(found.told[site])
        rounds = task.study.training.rounds
        task.watch(Heard(task.model, record["round"], rounds, heard, asked, site, behind, problem))

    def _complete(self, found: Round, nodes: Mapping[str, int]) -> None:
        """Bring a round's record into its final form."""
        record, task = found.record, self._task
        record["sites"] = {
            site: {"loss": body.loss, "patients": patients_of(body)}
            for site, body in sorted(found.told.items())
        }
        record["answered"] = sorted(found.told)
        record["loss"] = _mean_loss(record["sites"])
        for name in ("failed", "rejected", "spent"):
            record[name] = dict(sorted(record[name].items()))
        if task.study.privacy.mechanism != "dp_sgd":
            del record["spent"]
        if self._outstanding is not None:
            record["outstanding"] = sorted(self._outstanding.waiting)
        if task.exchange.struck is not None:
            record["faults"] = task.exchange.struck(record["asked"], record["round"], task.model)


def patients_of(body: TrainBody) -> int:
    """Return the training patients behind an update."""
    return max(body.patients.values(), default=0)


def _empty_record(round_: int, nodes: Mapping[str, int]) -> RoundRecord:
    return {
        "round": round_,
        "loss": None,
        "metrics": None,
        "site_metrics": {},
        "asked": sorted(nodes),
        "answered": [],
        "failed": {},
        "rejected": {},
        "sites": {},
        "seconds": 0.0,
        "bytes": {},
        "spent": {},
    }


def _under(prefix: str, state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {n.removeprefix(prefix): array for n, array in state.items() if n.startswith(prefix)}


def _sent(instructions: Iterable[RecordDict]) -> int:
    """Return the bytes of all instructions, of which most are one and the same."""
    same: dict[int, int] = {}
    total = 0
    for records in instructions:
        if id(records) not in same:
            same[id(records)] = size(records)
        total += same[id(records)]
    return total


def _mean_loss(sites: Mapping[str, Mapping[str, Any]]) -> float | None:
    known = [(s["loss"], s["patients"]) for _, s in sorted(sites.items()) if s["loss"] is not None]
    patients = sum(weight for _, weight in known)
    return sum(loss * weight for loss, weight in known) / patients if patients else None
