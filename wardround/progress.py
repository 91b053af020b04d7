"""What a run shows while it goes on: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console
from rich.live import Live
from rich.text import Text

from federation.messages import FEDERATED
from federation.study import Study
from server.coordinator import Progress
from server.course import RoundRecord
from server.task import Heard

FOLLOWED = {"auroc": "AUROC", "c_index": "c-index", "mean": "mean of the tasks"}
"""What is told of a round, of what was measured."""

EVERY_SECONDS = 10.0
"""Between two plain lines within a round."""
MOST_FAILURES = 10
"""Failures of a round that are told in full; the others are counted."""


@contextmanager
def shown(
    console: Console, study: Study, clock: Callable[[], float] = time.monotonic
) -> Iterator[Progress]:
    """Show a run's progress, and at the end its throughput.

    Args:
        console: where; whether it is a terminal decides between a live line and plain ones.
        study: whose comparators count in the time that is left.
        clock: seconds.
    """
    display = _Display(console, trained_models(study), clock)
    live = Live(get_renderable=display.live_line, console=console, transient=True)
    with live if console.is_terminal else nullcontext():
        yield Progress(display.tell, display.heard, display.round_done)
        if display.work.rounds:
            display.tell(str(display.work))


def trained_models(study: Study) -> int:
    """Return how many models are trained by rounds: the federated one and its comparators.

    Without each site in turn there are as many as there are sites, at least those that are needed.
    """
    baselines, modalities = study.evaluation.baselines, len(study.modalities.names)
    single = modalities if "single_modality" in baselines and modalities > 1 else 0
    left_out = study.strategy.minimum_sites if "leave_one_out" in baselines else 0
    simplest = "logistic_regression" in baselines and study.modalities.ehr is not None
    return 1 + ("local" in baselines) + ("pooled" in baselines) + single + left_out + simplest


@dataclass(frozen=True)
class Work:
    """What the training rounds of the federated model did.

    Attributes:
        rounds: how many.
        sites: usable updates, over all rounds.
        patients: training patients behind them, over all rounds.
        seconds: from asking the sites to the last answer, over all rounds.
    """

    rounds: int = 0
    sites: int = 0
    patients: int = 0
    seconds: float = 0.0

    def with_round(self, record: RoundRecord) -> Work:
        """Add a line of rounds.jsonl."""
        return Work(
            self.rounds + 1,
            self.sites + len(record["sites"]),
            self.patients + sum(site["patients"] for site in record["sites"].values()),
            self.seconds + record["seconds"],
        )

    def __str__(self) -> str:
        """Say it, with the throughput.

        >>> print(Work(20, 12_000, 960_000, 31.2))
        20 rounds, 12,000 site-rounds and 960,000 patients trained in 31.2 s: 385 sites/s, \
30,769 patients/s
        """
        told = (
            f"{self.rounds:,} round{'' if self.rounds == 1 else 's'}, {self.sites:,} site-rounds "
            f"and {self.patients:,} patients trained in {self.seconds:.1f} s"
        )
        if not self.seconds:
            return told
        sites, patients = self.sites / self.seconds, self.patients / self.seconds
        return f"{told}: {_rate(sites)} sites/s, {_rate(patients)} patients/s"


class _Display:
    """Follows the rounds of one model after another; an answer costs it about a microsecond."""

    def __init__(self, console: Console, models: int, clock: Callable[[], float]):
        self._console, self._models, self._clock = console, models, clock
        self._plain = not console.is_terminal
        self._began = self._said = self._idle = clock()
        self._round: _Round | None = None
        self._model = _Model("", 0, 0.0, 0)
        self.work = Work()

    def tell(self, text: str) -> None:
        """Say what begins."""
        self._round = None
        self._print(text)
        self._idle = self._clock()

    def heard(self, heard: Heard) -> None:
        """Count an answer, and say why where it is of no use."""
        name = _title(heard.model)
        now = self._round
        if now is None or now.heard.round != heard.round or self._model.name != name:
            now = self._round = _Round(heard, self._idle)
            if self._model.name != name or not self._model.number:
                number = self._model.number + 1
                self._model = _Model(name, number, self._idle, heard.round)
        now.heard = heard
        now.patients += heard.patients
        if heard.problem:
            self._failed(now)
        last = heard.heard == heard.asked
        if last:
            self._idle = now.ended = self._clock()
            if now.failures > MOST_FAILURES:
                self._print(f"{self._place(heard)}: {now.failures - MOST_FAILURES} more failed")
        # A comparator's rounds end without a line of their own.
        if self._plain and (name or not last) and self._clock() - self._said >= EVERY_SECONDS:
            self._print(self.line())

    def round_done(self, record: RoundRecord, rounds: int) -> None:
        """Say what came of a round of the federated model."""
        self.work = self.work.with_round(record)
        metrics = record["metrics"] or {}
        parts = [f"round {record['round']}/{rounds}"]
        if record["loss"] is not None:
            parts.append(f"loss {record['loss']:.4f}")
        for key, what in FOLLOWED.items():
            if metrics.get(key) is not None:
                parts.append(f"tuning {what} {metrics[key]:.3f}")
        parts.append(f"{len(record['answered']):,}/{len(record['asked']):,} sites")
        if useless := len(record["failed"] | record["rejected"]):
            parts.append(f"{useless:,} without a usable update")
        self._print(", ".join(parts))
        self._idle = self._clock()

    def live_line(self) -> Text:
        """Return the line as a terminal shows it."""
        return Text(self.line(), no_wrap=True, overflow="ellipsis")

    def line(self) -> str:
        """Say how far the round is; empty outside of one."""
        now = self._round
        if now is None:
            return ""
        heard = now.heard
        until = self._clock() if now.ended is None else now.ended
        parts = [self._place(heard), f"{heard.heard:,} of {heard.asked:,} sites"]
        if until > now.began:
            parts.append(f"{_rate(now.patients / (until - now.began))} patients/s")
        left = timedelta(seconds=round(self._seconds_left(heard)))
        return ", ".join([*parts, f"about {left} left"])

    def _seconds_left(self, heard: Heard) -> float:
        """Rounds left, of all models, at the pace of the present one."""
        model, part = self._model, heard.heard / heard.asked
        done = heard.round - model.first_round + part
        others = max(self._models - model.number, 0) * heard.rounds
        left = heard.rounds - heard.round + 1 - part + others
        return (self._clock() - model.began) / done * left

    def _failed(self, now: _Round) -> None:
        now.failures += 1
        if now.failures <= MOST_FAILURES:
            self._print(f"{self._place(now.heard)}: {now.heard.site}: {now.heard.problem}")

    def _place(self, heard: Heard) -> str:
        name = self._model.name
        return f"{f'comparator: {name}, ' if name else ''}round {heard.round}/{heard.rounds}"

    def _print(self, text: str) -> None:
        self._said = self._clock()
        self._console.print(f"[{self._said - self._began:6.1f} s] {text}", markup=False)


@dataclass
class _Round:
    """The round that goes on, or ended last.

    Attributes:
        heard: the last answer.
        began: when its sites could begin.
        ended: when the last answer came.
    """

    heard: Heard
    began: float
    patients: int = 0
    failures: int = 0
    ended: float | None = None


@dataclass(frozen=True)
class _Model:
    """The model that is trained: which of the run's, and its first round here."""

    name: str
    number: int
    began: float
    first_round: int


def _title(model: str) -> str:
    """Name a comparator as the run's other lines do; the federated model has no need of one."""
    if model == FEDERATED:
        return ""
    kind, _, of = model.partition(":")
    return {"local": "each site alone", "only": f"{of} alone"}.get(kind, kind)


def _rate(value: float) -> str:
    """Write a rate, of slow ones the first decimal too.

    >>> _rate(30769.2), _rate(0.34)
    ('30,769', '0.3')
    """
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
