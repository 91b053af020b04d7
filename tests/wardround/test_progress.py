"""What a run shows: a live line or plain ones, failures as they come, the throughput."""

import io
import re
import sys
import time

import pytest
from rich.console import Console

from federation.messages import FEDERATED
from server.task import Heard
from wardround import run
from wardround.__main__ import main
from wardround.progress import MOST_FAILURES, Work, shown, trained_models


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def show(clock, make_study):
    """Return a function: play -> the lines that a console of 120 columns was given."""

    def show(play, terminal=False, **evaluation):
        text = io.StringIO()
        console = Console(file=text, force_terminal=terminal, width=120, highlight=False)
        study = make_study("ehr", "text", evaluation=evaluation)
        with shown(console, study, clock) as progress:
            play(progress)
        return text.getvalue().splitlines()

    return show


def heard(count, asked=10, *, round=1, rounds=4, model=FEDERATED, patients=50, problem=""):
    behind = 0 if problem else patients
    return Heard(model, round, rounds, count, asked, f"site-{count}", behind, problem)


def record(round=1, sites=10, patients=50, seconds=2.0, failed=()):
    names = [f"site-{k}" for k in range(sites)]
    return {
        "round": round,
        "loss": 0.5,
        "metrics": {"auroc": 0.75},
        "asked": [*names, *failed],
        "answered": names,
        "failed": dict.fromkeys(failed, "lost"),
        "rejected": {},
        "sites": {name: {"loss": 0.5, "patients": patients} for name in names},
        "seconds": seconds,
    }


def untimed(lines):
    return [re.sub(r"^\[ *[\d.]+ s\] ", "", line) for line in lines]


def test_throughput_is_work_by_the_time_of_the_training_rounds():
    work = Work().with_round(record(1, 10, 50, 2.0)).with_round(record(2, 30, 20, 3.0))
    assert work == Work(2, 40, 1100, 5.0)
    assert str(work) == (
        "2 rounds, 40 site-rounds and 1,100 patients trained in 5.0 s: 8.0 sites/s, 220 patients/s"
    )
    assert "/s" not in str(Work().with_round(record(seconds=0.0)))


def test_plain_lines_come_at_most_every_ten_seconds_and_at_the_end_of_each_round(show, clock):
    def play(progress):
        for count in range(1, 10):
            clock.now += 4
            progress.heard(heard(count))
        clock.now += 4
        progress.heard(heard(10))
        progress.round_done(record(seconds=40.0), 4)

    assert untimed(show(play)) == [
        "round 1/4, 3 of 10 sites, 12 patients/s, about 0:02:28 left",
        "round 1/4, 6 of 10 sites, 12 patients/s, about 0:02:16 left",
        "round 1/4, 9 of 10 sites, 12 patients/s, about 0:02:04 left",
        "round 1/4, loss 0.5000, tuning AUROC 0.750, 10/10 sites",
        "1 round, 10 site-rounds and 500 patients trained in 40.0 s: 0.2 sites/s, 12 patients/s",
    ]


def test_time_left_counts_the_comparators_that_are_yet_to_be_trained(show, clock, make_study):
    def play(progress):
        clock.now += 20
        progress.heard(heard(5))  # half a round in 20 s, 3.5 are left of this model
        for round_ in range(1, 5):
            progress.heard(heard(10, round=round_))
        progress.tell("comparator: each site alone")
        clock.now += 15
        progress.heard(heard(5, model="local:site-5"))
        progress.tell("comparator: pooled")
        clock.now += 30
        progress.heard(heard(1, 1, model="pooled"))

    study = make_study(evaluation={"baselines": ["local", "pooled", "single_modality"]})
    assert trained_models(study) == 3  # one modality alone is the study itself
    lines = untimed(show(play, baselines=["local", "pooled"]))
    assert lines[0].endswith(f"about 0:0{(20 * 7 + 40 * 8) // 60}:40 left")
    assert lines[2] == (
        "comparator: each site alone, round 1/4, 5 of 10 sites, 3.3 patients/s, about 0:03:45 left"
    )
    assert lines[4] == (
        "comparator: pooled, round 1/4, 1 of 1 sites, 1.7 patients/s, about 0:01:30 left"
    )


def test_failures_are_told_as_they_come_ten_a_round_and_then_counted(show):
    def play(progress):
        for round_ in (1, 2):
            for count in range(1, 15):
                progress.heard(heard(count, 14, round=round_, problem="no reply"))
            progress.round_done(record(round_, 0, failed=[f"site-{k}" for k in range(14)]), 4)

    lines = untimed(show(play))
    told = [f"round 1/4: site-{k}: no reply" for k in range(1, MOST_FAILURES + 1)]
    assert lines[:10] == told
    assert lines[10] == "round 1/4: 4 more failed"
    assert lines[11].endswith("0/14 sites, 14 without a usable update")
    assert lines[12] == "round 2/4: site-1: no reply"


def test_terminal_has_one_live_line_below_what_is_told(show, clock):
    shown_lines = []

    def play(progress):
        display = progress.heard.__self__
        for count in range(1, 10):
            clock.now += 30
            progress.heard(heard(count, problem="crashed" if count == 2 else ""))
            shown_lines.append(str(display.live_line()))
        progress.tell("evaluation")
        shown_lines.append(str(display.live_line()))

    printed = " ".join(show(play, terminal=True))
    assert shown_lines[3] == "round 1/4, 4 of 10 sites, 1.2 patients/s, about 0:18:00 left"
    assert shown_lines[-1] == ""
    assert "round 1/4: site-2: crashed" in printed


def test_an_answer_costs_microseconds(show):
    def play(progress):
        answers = [heard(count, 50_000) for count in range(1, 50_000)]
        began = time.process_time()
        for one in answers:
            progress.heard(one)
        spent.append((time.process_time() - began) / len(answers))

    spent = []
    show(play)
    assert spent[0] < 2e-5  # 1e-6 on an idle machine


def test_simulate_ends_with_its_throughput_and_its_first_warnings(
    tmp_path, write_site, write_study, monkeypatch, capsys
):
    for k in range(3):
        write_site(tmp_path / "sites" / f"s{k}", 40, seed=k, first_id=1000 * k + 1)
    monkeypatch.setattr(run, "MOST_WARNINGS", 1)
    study = write_study(training={"batch_size": 100}, evaluation={"baselines": ["local"]})
    out = tmp_path / "run"
    arguments = ["simulate", study, "--sites", tmp_path / "sites", "--out", out, "--workers", 0]
    monkeypatch.setattr(sys, "argv", ["wardround", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    printed, told = capsys.readouterr()
    lines = untimed(told.splitlines())
    (work,) = [line for line in lines if "site-rounds" in line]
    assert re.fullmatch(
        r"2 rounds, 6 site-rounds and \d+ patients trained in [\d.]+ s: [\d,.]+ sites/s, "
        r"[\d,.]+ patients/s",
        work,
    )
    assert sum("round " in line and "/2, loss" in line for line in lines) == 2
    assert lines[-2].startswith("warning: s0 has ")
    assert re.fullmatch(
        rf"warning: and \d+ more in {re.escape(str(out / 'warnings.json'))}", lines[-1]
    )
    assert printed.splitlines()[-1] == str(out)
