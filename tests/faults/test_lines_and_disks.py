"""A line that is cut or slow, a disk that is full: the others go on, and the site comes back."""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w
from link import HOST, netem, relay, why_no_netem
from live import SITES, LiveConsortium, rounds, same_metrics, settings_of, standing_in, wardround

from server.exchange import LOST, NO_REPLY
from server.rounds import NOT_CONNECTED

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("superlink")]

UNREACHABLE = (NO_REPLY, LOST, NOT_CONNECTED)
"""Whichever comes first: the deadline, Flower's word that the node is gone, or a round without."""


def rerouted(live: LiveConsortium, name: str, address: str) -> object:
    """Let a site reach the coordinator elsewhere."""
    file = live.kits / "sites" / name / "connection.toml"
    changed = {**settings_of(file), "address": address}
    return standing_in(file, lambda _: tomli_w.dumps(changed))


def test_a_site_out_of_reach_past_the_deadline_is_done_without_and_taken_back(
    live: LiveConsortium,
) -> None:
    site = live.parties["bayview"]
    with relay(live.port) as line, rerouted(live, "bayview", f"127.0.0.1:{line.port}"):
        site.stop()
        site.start()
        live.wait_for_sites(SITES)
        study = live.study("line-is-cut", training__rounds=4, strategy__round_deadline_seconds=45)
        run = live.submit(study)
        live.wait_for_round(run, 1)
        line.dead = True
        live.wait(lambda: any(r["failed"] for r in rounds(run)), "a round without the site")
        line.dead = False
        assert live.wait_for_end(run)["exit_code"] == 0
        missed = next(r for r in rounds(run) if r["failed"])
        assert missed["answered"] == ["st-elsewhere"]
        assert missed["failed"].keys() == {"bayview"}
        assert missed["failed"]["bayview"] in UNREACHABLE
        live.wait_for_sites(SITES)
        site.stop()


def run_over_a_slow_line(live: LiveConsortium, name: str) -> None:
    live.wait_for_sites(SITES)
    study = live.study(name, training__rounds=2)
    run = live.submit(study)
    assert live.wait_for_end(run)["exit_code"] == 0
    assert [r["answered"] for r in rounds(run)] == [SITES] * 2
    assert same_metrics(run, live.simulated(study))


def test_a_slow_and_lossy_line_changes_nothing_but_the_time(live: LiveConsortium) -> None:
    site = live.parties["bayview"]
    with relay(live.port) as line, rerouted(live, "bayview", f"127.0.0.1:{line.port}"):
        line.slow = True
        site.stop()
        site.start()
        run_over_a_slow_line(live, "slow-relay")
        assert line.passed > 20_000
        site.stop()


def test_a_slow_line_of_the_kernel_changes_nothing_but_the_time(live: LiveConsortium) -> None:
    if reason := why_no_netem():
        pytest.skip(reason)
    site = live.parties["bayview"]
    site.stop()
    with netem() as inside, rerouted(live, "bayview", f"{HOST}:{live.port}"):
        far = live.add("bayview", prefix=inside)
        far.start()
        run_over_a_slow_line(live, "slow-netem")
        far.stop()
    live.add("bayview")


@pytest.fixture
def small_disk(live: LiveConsortium) -> Iterator[Path]:
    """A site whose state lies on a disk of a few megabytes."""
    site, state = live.parties["bayview"], live.sites / "bayview/state"
    site.stop()
    kept = state.with_name("state-before")
    state.rename(kept)
    state.mkdir(mode=0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m,mode=0700", "tmpfs", str(state)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        state.rmdir()
        kept.rename(state)
        pytest.skip(f"no small disk can be mounted: {mounted.stderr.strip()}")
    try:
        shutil.copytree(kept, state, dirs_exist_ok=True)
        site.start()
        yield state
    finally:
        site.stop()
        subprocess.run(["umount", str(state)], check=True)
        state.rmdir()
        kept.rename(state)


def test_a_site_with_a_full_disk_answers_nothing_and_is_whole_when_there_is_room_again(
    live: LiveConsortium, small_disk: Path
) -> None:
    live.wait_for_sites(SITES)
    filler = small_disk / "filler"
    fill(filler)
    study = live.study("disk-is-full", training__rounds=40)
    run = live.submit(study)
    full = live.wait_for_round(run, 1)
    assert full["answered"] == ["st-elsewhere"]
    assert full["failed"] == {"bayview": "the site's files need attention"}
    which = r"(audit\.jsonl|answers\.sqlite): cannot be .*(No space left on device|disk is full)"
    assert re.search(which, live.parties["bayview"].said())
    filler.unlink()
    live.wait(lambda: "bayview" in rounds(run)[-1]["answered"], "the site to train again")
    wardround("stop", "--server", live.kit)
    wardround("site", "log", live.sites / "bayview", "--verify")
    assert json_lines_are_whole(small_disk / "audit.jsonl")


def fill(file: Path) -> None:
    """Write a file until its disk is full."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as opened:
        while opened.write(b"\0" * 4096):
            pass


def json_lines_are_whole(file: Path) -> bool:
    """Whether a log ends with a whole line."""
    return file.read_bytes().endswith(b"}\n")
