"""What sites have been asked and have not answered yet, over the rounds of one model."""

from __future__ import annotations

import heapq
import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from federation.bodies import TrainBody
from federation.messages import TRAIN, Reply
from server.exchange import POLL_SECONDS, Answer, Exchange

CLOCK, PENDING, TOLD, UPDATE = "clock", "pending/", "/told", "/update"
TOO_OLD = "no reply within as many rounds as an update may be old"


class Late(NamedTuple):
    """An answer that arrives at a time of a simulation's own clock.

    Of two at one time, the one that was asked first comes first.
    """

    at: float
    round: int
    site: str
    answer: Answer


class Outstanding:
    """Asks sites without waiting for them; their answers come in later rounds too.

    In a simulation an answer is there at once, and is held back for as long as the study's
    stragglers are late, by a clock of its own: what comes when depends on the study alone.

    Args:
        exchange: reaches the sites.
        model: the model's name in the run.
        oldest: after how many rounds an answer is not waited for any more.
        seconds: how long a round waits.
    """

    def __init__(self, exchange: Exchange, model: str, oldest: int, seconds: float):
        self._exchange, self._model = exchange, model
        self._oldest, self._seconds = oldest, seconds
        self._clock = 0.0
        self._late: list[Late] = []
        self._sent: dict[str, tuple[str, int]] = {}
        self._arrived: deque[tuple[Answer, int]] = deque()

    @property
    def waiting(self) -> set[str]:
        """The sites that were asked and whose answers have not been given out."""
        held = {late.site for late in self._late} | {answer.site for answer, _ in self._arrived}
        return held | {site for site, _ in self._sent.values()}

    def send(
        self, instructions: Mapping[str, RecordDict], nodes: Mapping[str, int], round_: int
    ) -> None:
        """Ask sites."""
        exchange = self._exchange
        if not exchange.simulated:
            seconds = self._seconds * (self._oldest + 1)
            sent = exchange.push(TRAIN, instructions, nodes, seconds, str(round_))
            self._sent |= {message: (site, round_) for message, site in sent.items()}
            return
        for answer in exchange.ask(TRAIN, instructions, nodes, self._seconds, str(round_)):
            delay = exchange.delay(answer.site, round_, self._model)
            heapq.heappush(self._late, Late(self._clock + delay, round_, answer.site, answer))

    def answers(self, round_: int) -> Iterator[tuple[Answer, int]]:
        """Yield answers as they come, each with the round in which it was asked for.

        Ends when the round's time is over, or nothing is outstanding.
        """
        if self._exchange.simulated:
            end = self._clock + self._seconds
            while self._late and self._late[0].at <= end:
                late = heapq.heappop(self._late)
                self._clock = max(self._clock, late.at)
                yield late.answer, late.round
            if self._late:  # the round was over before the next one came
                self._clock = end
            return
        end = time.monotonic() + self._seconds
        while self._sent or self._arrived:
            if not self._arrived:
                self._pull(end)
            if not self._arrived:
                return
            yield self._arrived.popleft()

    def given_up(self, round_: int) -> list[Answer]:
        """Return answers, without a reply, of sites that are not waited for any more."""
        last = round_ - self._oldest
        old = {site for site, sent in self._sent.values() if sent < last}
        old |= {late.site for late in self._late if late.round < last}
        self._sent = {m: (site, sent) for m, (site, sent) in self._sent.items() if sent >= last}
        self._late = [late for late in self._late if late.round >= last]
        heapq.heapify(self._late)
        return [Answer(site, None, TOO_OLD) for site in sorted(old)]

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what a simulation's next round follows from."""
        kept: dict[str, NDArray[Any]] = {CLOCK: np.array(self._clock)}
        for late in self._late:
            answer, reply = late.answer, late.answer.reply
            told = {
                "at": late.at,
                "round": late.round,
                "failure": answer.failure,
                "status": reply.status if reply else None,
                "body": reply.body.model_dump(mode="json") if reply and reply.body else None,
                "received": answer.received,
            }
            name = f"{PENDING}{late.site}"
            kept[f"{name}{TOLD}"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
            if reply is not None and reply.update is not None:
                kept[f"{name}{UPDATE}"] = reply.update
        return kept

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on where ``state`` was returned."""
        self._clock = float(state[CLOCK])
        told = {n.removesuffix(TOLD): a for n, a in state.items() if n.endswith(TOLD)}
        self._late = [_late(n, json.loads(a.tobytes()), state) for n, a in told.items()]
        heapq.heapify(self._late)

    def _pull(self, end: float) -> None:
        """Wait until an answer is there, or the time is over."""
        while True:
            last = time.monotonic() >= end  # one more pull for what came during the last sleep
            for message, answer in self._exchange.pull(TRAIN, self._names(), self._seconds):
                _, sent = self._sent.pop(message)
                self._arrived.append((answer, sent))
            if self._arrived or last:
                return
            time.sleep(POLL_SECONDS)

    def _names(self) -> dict[str, str]:
        return {message: site for message, (site, _) in self._sent.items()}


def _late(name: str, told: Mapping[str, Any], state: Mapping[str, NDArray[Any]]) -> Late:
    site, reply = name.removeprefix(PENDING), None
    if told["status"] is not None:
        body = None if told["body"] is None else TrainBody.model_validate(told["body"])
        reply = Reply(told["status"], body, update=state.get(f"{name}{UPDATE}"))
    answer = Answer(site, reply, told["failure"], told["received"])
    return Late(told["at"], told["round"], site, answer)
