"""What Prometheus is told of a server, read back by Prometheus' own parser."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.certificates import make_authority, make_server_certificate
from server.control import Kit, Settings
from server.metrics import exposition
from server.superlink import LocalOnly


@pytest.fixture
def kit(tmp_path):
    kit = Kit(tmp_path, Settings(consortium="four", port=1))
    kit.state.mkdir()
    make_authority(tmp_path / "ca.key", tmp_path / "ca.crt", "four")
    key, certificate = tmp_path / "server.key", tmp_path / "server.crt"
    make_server_certificate(tmp_path, key, certificate, ["localhost"], 30)
    known = {name: {"key": "", "node": node} for name, node in (("bern", "1"), ("graz", "2"))}
    (kit.state / "registered.json").write_text(json.dumps(known))
    return kit


def submit(kit, run, folder, rounds=(), exit_code=None):
    path = kit.runs / folder
    path.mkdir(parents=True, exist_ok=True)
    (path / "rounds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rounds))
    if exit_code is not None:
        (path / "ended.json").write_text(json.dumps({"exit_code": exit_code, "message": ""}))
    line = {"run": run, "study": "heart", "folder": str(path), "submitted": "2026-01-01T00:00:00"}
    with (kit.state / "submitted.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def a_round(number, seconds, answered, failed=None, rejected=None):
    return {
        "round": number,
        "seconds": seconds,
        "answered": answered,
        "failed": failed or {},
        "rejected": rejected or {},
        "bytes": {"sent": 100, "received": 40},
        "loss": 0.123456,
    }


def told(kit, online=("1",)):
    """All samples, as {(name, labels without spaces): value}."""
    families = text_string_to_metric_families(exposition(kit, set(online)))
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_server_without_runs_tells_of_its_sites(kit):
    found = told(kit)
    assert found["wardround_site_online", "bern"] == 1
    assert found["wardround_site_online", "graz"] == 0
    assert found["wardround_runs", "running"] == 0
    assert found["wardround_certificate_expires_timestamp_seconds",] > 1.7e9


def test_rounds_bytes_answers_and_failures_are_summed_over_runs(kit):
    missed = {"graz": "no reply before the deadline"}
    submit(
        kit, "1", "a", [a_round(1, 7.0, ["bern", "graz"]), a_round(2, 70.0, ["bern"], missed)], 0
    )
    submit(kit, "2", "b", [a_round(1, 8.0, ["bern"], rejected={"graz": "not finite"})], 3)
    submit(kit, "3", "c", [a_round(1, 9.0, ["bern", "graz"])])
    found = told(kit)
    assert found["wardround_answers_total", "bern"] == 4
    assert found["wardround_answers_total", "graz"] == 2
    assert found["wardround_failures_total", "graz", "no reply before the deadline"] == 1
    assert found["wardround_failures_total", "graz", "not finite"] == 1
    assert found["wardround_message_bytes_total", "sent"] == 400
    assert found["wardround_round_duration_seconds_count",] == 4
    assert found["wardround_round_duration_seconds_sum",] == 94.0
    assert found["wardround_round_duration_seconds_bucket", "10.0"] == 3
    states = {state: found["wardround_runs", state] for state in ("running", "finished", "failed")}
    assert states == {"running": 1, "finished": 1, "failed": 1}
    assert found["wardround_last_run_state", "heart", "running"] == 1
    assert found["wardround_last_run_round",] == 1


def test_a_run_that_was_resumed_is_one_run(kit):
    submit(kit, "1", "a", [a_round(1, 7.0, ["bern"])], 1)
    submit(kit, "2", "a", [a_round(1, 7.0, ["bern"]), a_round(2, 7.0, ["bern"])], 0)
    found = told(kit)
    assert found["wardround_runs", "finished"] == 1
    assert found["wardround_runs", "failed"] == 0
    assert found["wardround_answers_total", "bern"] == 2


def test_no_measurement_of_patients_is_told(kit):
    submit(kit, "1", "a", [a_round(1, 7.0, ["bern"])])
    assert "0.123456" not in exposition(kit, set())


@pytest.mark.parametrize(("client", "expected"), [("127.0.0.1", 200), ("192.0.2.7", 403)])
def test_only_the_server_s_own_machine_reads_them(kit, monkeypatch, client, expected):
    monkeypatch.setattr("server.superlink.online_nodes", lambda app: {"2"})
    sent = []

    async def send(message):
        sent.append(message)

    async def refused(scope, receive, send):
        raise AssertionError("Flower was asked")

    scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": [],
             "client": (client, 40000), "app": SimpleNamespace()}  # fmt: skip
    door = LocalOnly(refused, metrics=lambda online: exposition(kit, online))
    asyncio.run(door(scope, None, send))
    assert sent[0]["status"] == expected
    assert (b'wardround_site_online{site="graz"} 1.0' in sent[1]["body"]) == (expected == 200)
