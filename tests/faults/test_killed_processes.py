"""Processes that die without a word in the middle of a round: a run goes on, or is resumed."""

import json
import os
import signal

import pytest
from live import PATIENCE, LiveConsortium, read, rounds, same_metrics, wardround

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("superlink")]


def test_a_run_survives_the_superlink_s_death_in_mid_round(live: LiveConsortium) -> None:
    study = live.study("superlink-dies", training__rounds=3)
    run = live.submit(study)
    live.wait_until_asked("bayview", "superlink-dies", 2)
    server = live.parties["server"]
    victim = server.program("server.superlink")
    os.kill(victim, signal.SIGKILL)
    assert live.wait_for_end(run)["exit_code"] == 0
    assert [r["answered"] for r in rounds(run)] == [["bayview", "st-elsewhere"]] * 3
    assert f"SuperLink: ended with -{signal.SIGKILL.value}" in server.said()
    assert same_metrics(run, live.simulated(study))


def test_a_killed_server_resumes_from_the_last_checkpoint_with_the_same_result(
    live: LiveConsortium,
) -> None:
    study = live.study("host-restarts", training__rounds=3)
    run = live.submit(study)
    live.wait_for_round(run, 1)
    live.wait_until_asked("bayview", "host-restarts", 2)
    live.parties["server"].kill()
    broken = rounds(run)
    assert len(broken) < 3
    assert not (run / "metrics.json").exists()
    live.parties["server"].start()
    live.wait_for_sites(["bayview", "st-elsewhere"])
    first = live.status()["run"]["run"]
    assert live.submit(study, "--resume", first) == run
    assert live.wait_for_end(run)["exit_code"] == 0
    assert [r["round"] for r in rounds(run)] == [1, 2, 3]
    assert same_metrics(run, live.simulated(study))


def test_a_killed_site_comes_back_with_its_ledger_and_the_run_goes_on(
    live: LiveConsortium,
) -> None:
    study = live.study(
        "site-dies",
        training__rounds=12,  # the server lets it in again after a minute
        privacy="{mechanism='dp_sgd', epsilon=6.0}",
        strategy__round_deadline_seconds=80,
    )
    run = live.submit(study)
    live.wait_until_asked("bayview", "site-dies", 2)
    live.parties["bayview"].kill()
    before = json.loads(wardround("ledger", live.sites / "bayview", "--json"))
    assert before["verified"]
    live.parties["bayview"].start()
    lost = live.wait_for_round(run, 2)
    assert lost["answered"] == ["st-elsewhere"]
    assert list(lost["failed"]) == ["bayview"]
    assert live.wait_for_end(run, 2 * PATIENCE)["exit_code"] == 0
    assert "bayview" in rounds(run)[-1]["answered"]
    after = json.loads(wardround("ledger", live.sites / "bayview", "--json"))
    assert after["verified"]
    assert after["lines"] > before["lines"]
    assert after["epsilon"]["rdp"] > before["epsilon"]["rdp"] > 0
    told = read(run / "privacy.json")["sites"]["bayview"]
    assert told["epsilon"]["pld"] == pytest.approx(after["epsilon"]["pld"], rel=1e-4)
    wardround("site", "log", live.sites / "bayview", "--verify")
