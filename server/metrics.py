"""What the coordinator's service tells Prometheus: sites, rounds, bytes, failures; of no patient.

Everything is read from the files that runs leave, at each scrape: nothing is counted twice when a
process is restarted, and a run's coordinator need not be asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from server.certificates import server_names
from server.control import Kit, registered
from server.submitted import Submission, ended, rounds_of, submissions

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
STATES = ("running", "finished", "failed")
SECONDS = (5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Upper bounds of the histogram of rounds' durations."""


def exposition(kit: Kit, online: set[str]) -> str:
    """Return the metrics in Prometheus' text format.

    Args:
        kit: the server's.
        online: ids of the nodes that are connected.
    """
    registry = CollectorRegistry()
    registry.register(_Service(kit, online))
    return generate_latest(registry).decode()


class _Service(Collector):
    """Reads a server's files."""

    def __init__(self, kit: Kit, online: set[str]):
        self._kit, self._online = kit, online

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        sites = registered(self._kit)
        yield _by_site(
            GaugeMetricFamily(
                "wardround_site_online", "1 if a registered site is connected", labels=["site"]
            ),
            {site: int(one["node"] in self._online) for site, one in sites.items()},
        )
        _, until = server_names(self._kit.folder / "server.crt")
        yield GaugeMetricFamily(
            "wardround_certificate_expires_timestamp_seconds",
            "When the server's certificate ends",
            until.timestamp(),
        )
        runs = _latest(submissions(self._kit))
        yield from _of_runs(runs)
        yield from _of_rounds([record for run in runs for record in rounds_of(run)])


def _of_runs(runs: list[Submission]) -> Iterator[Metric]:
    counts = Counter(_state(run) for run in runs)
    totals = GaugeMetricFamily("wardround_runs", "Submitted runs by state", labels=["state"])
    for state in STATES:
        totals.add_metric([state], counts[state])
    yield totals
    if not runs:
        return
    last = runs[-1]
    state_of_last = GaugeMetricFamily(
        "wardround_last_run_state", "1 for the state of the last run", labels=["study", "state"]
    )
    for state in STATES:
        state_of_last.add_metric([last.study, state], int(_state(last) == state))
    yield state_of_last
    rounds = rounds_of(last)
    yield GaugeMetricFamily(
        "wardround_last_run_round",
        "Last round of the last run that was tried",
        rounds[-1]["round"] if rounds else 0,
    )


def _of_rounds(rounds: list[dict[str, Any]]) -> Iterator[Metric]:
    seconds = [float(record["seconds"]) for record in rounds]
    duration = HistogramMetricFamily("wardround_round_duration_seconds", "Duration of rounds")
    bounds = [(str(bound), sum(one <= bound for one in seconds)) for bound in SECONDS]
    duration.add_metric([], [*bounds, ("+Inf", len(seconds))], sum(seconds))
    yield duration
    carried = CounterMetricFamily(
        "wardround_message_bytes", "Content of the rounds' messages", labels=["direction"]
    )
    for direction in ("sent", "received"):
        total = sum(record["bytes"].get(direction, 0) for record in rounds)
        carried.add_metric([direction], total)
    yield carried
    yield _by_site(
        CounterMetricFamily("wardround_answers", "Updates that were used", labels=["site"]),
        Counter(site for record in rounds for site in record["answered"]),
    )
    failures = CounterMetricFamily(
        "wardround_failures",
        "Rounds in which a site sent no usable update, by reason",
        labels=["site", "reason"],
    )
    reasons = Counter(
        reason
        for record in rounds
        for reason in (*record["failed"].items(), *record["rejected"].items())
    )
    for (site, reason), count in sorted(reasons.items()):
        failures.add_metric([site, reason], count)
    yield failures


def _by_site(
    family: GaugeMetricFamily | CounterMetricFamily, counts: Mapping[str, int]
) -> GaugeMetricFamily | CounterMetricFamily:
    for site, count in sorted(counts.items()):
        family.add_metric([site], count)
    return family


def _state(run: Submission) -> str:
    end = ended(run)
    if end is None:
        return "running"
    return "failed" if end["exit_code"] else "finished"


def _latest(runs: list[Submission]) -> list[Submission]:
    """Return each run folder's last submission: a resumed run goes on in the same."""
    by_folder: dict[str, Submission] = {}
    for run in runs:
        by_folder.pop(run.folder, None)
        by_folder[run.folder] = run
    return list(by_folder.values())
