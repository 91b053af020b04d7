"""``wardround ledger`` verifies, recomputes, says what epsilon covers, and writes nothing."""

import json
import math
import shutil
import sqlite3
import sys
from dataclasses import asdict

import pytest

from clients.ledger import Ledger, Line, commitment_to, site_ledger
from clients.site import load_site
from federation.privacy.accounting import Segment, epsilons
from federation.privacy.filter import RdpFilter
from wardround.__main__ import main

RUN, OTHER = "ab" * 8, "cd" * 8


def line(number=1, **changes):
    fields = {
        "kind": "segment",
        "run": RUN,
        "study": "heart",
        "fingerprint": "f" * 64,
        "model": "federated",
        "round": number,
        "request": "0" * 64,
        "patients": 183,
        "sampling_rate": 0.125,
        "noise_multiplier": 1.5,
        "steps": 8,
        "seeded": False,
    }
    return Line(**{**fields, **changes})


def unprotected(**changes):
    spends = {"sampling_rate": 0.0, "noise_multiplier": 0.0, "steps": 0}
    return line(kind="unprotected", **spends, **changes)


@pytest.fixture
def wardround(monkeypatch, capsys):
    """Return a function: arguments -> exit code, stdout, stderr of the command in this process."""

    def run(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["wardround", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            main()
        out, err = capsys.readouterr()
        return leaving.value.code or 0, out, err

    return run


@pytest.fixture
def site(tmp_path, write_site):
    policy = {"epsilon_per_patient": 6.0, "delta": 1e-4}
    return load_site(write_site(tmp_path / "bern", 4, policy=policy, key=None))


@pytest.fixture
def spent(site):
    """A site that spent on two models of a run and, in another run, without protection."""
    ledger = site_ledger(site, durable=False)
    for number in (1, 2, 3):
        ledger.append(line(number))
        ledger.append(line(number, model="local:bern", steps=4))
    ledger.append(unprotected(run=OTHER, study="other"))
    ledger.close()
    return site


@pytest.fixture
def bare(tmp_path):
    """Return a writer of a ledger file without a site."""

    def write(*lines):
        path = tmp_path / "ledgers" / "bern.sqlite"
        ledger = Ledger(path, "bern", commitment_to(b"k" * 32), durable=False)
        for one in lines:
            ledger.append(one)
        ledger.close()
        return path

    return write


def as_json(result):
    code, out, err = result
    assert code == 0, err

    def forbidden(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(out, parse_constant=forbidden)


def test_json_recomputes_epsilon_and_the_cap_from_the_lines(wardround, spent):
    told = as_json(wardround("ledger", spent.file.parent, "--json"))
    segments = [Segment(0.125, 1.5, steps) for steps in (8, 4) * 3]
    assert told["epsilon"] == pytest.approx(epsilons(segments, 1e-4))
    cap = RdpFilter(6.0, 1e-4)
    assert told["cap"] == pytest.approx(
        {
            "epsilon": 6.0,
            "delta": 1e-4,
            "order": cap.order,
            "spent": cap.epsilon_spent(segments),
            "left": 6.0 - cap.epsilon_spent(segments),
            "share": cap.rdp(segments) / cap.budget,
        }
    )
    assert (told["site"], told["lines"], told["unprotected"]) == ("bern", 7, 1)
    assert (told["verified"], told["seeded"], told["reasons"]) == (True, False, {})
    assert (told["adjacency"], told["unit"]) == ("add or remove one patient", "patient")
    head = site_ledger(spent, writable=False).head()
    assert told["head"] == asdict(head) and head.length == 7
    rows = [(g["study"], g["run"], g["model"], g["rounds"], g["steps"]) for g in told["segments"]]
    assert rows == [
        ("heart", RUN, "federated", 3, 24),
        ("heart", RUN, "local:bern", 3, 12),
    ]
    assert (told["segments"][0]["patients"], told["segments"][0]["sampling_rate"]) == (183, 0.125)


def test_settings_that_changed_on_the_way_stand_in_rows_of_their_own(wardround, bare):
    path = bare(line(1), line(2, noise_multiplier=2.0), line(2, noise_multiplier=2.0), line(3))
    rows = as_json(wardround("ledger", path, "--json"))["segments"]
    shown = [(row["noise_multiplier"], row["rounds"], row["steps"]) for row in rows]
    assert shown == [(1.5, 2, 16), (2.0, 1, 16)]


def test_text_says_what_epsilon_is_of_and_what_it_leaves_out(wardround, spent):
    for given in (spent.file, spent.file.parent):
        code, out, _ = wardround("ledger", given)
        assert code == 0
        for words in (
            "bern: 7 lines, verified",
            "head: 7 ",
            "at delta 0.0001: pld ",
            "unit: patient; neighbouring data sets: add or remove one patient",
            "of 6 spent at delta 0.0001",
            "fits without differential privacy at this site: 1; epsilon does not cover these",
        ):
            assert words in out
        assert "simulation" not in out
        table = [text.split() for text in out.splitlines()[-3:]]
        assert table == [
            ["study", "run", "model", "rounds", "patients", "q", "noise", "steps"],
            ["heart", RUN[:8], "federated", "3", "183", "0.125", "1.5", "24"],
            ["heart", RUN[:8], "local:bern", "3", "183", "0.125", "1.5", "12"],
        ]


def test_lines_shows_every_line(wardround, spent):
    code, out, _ = wardround("ledger", spent.file, "--lines")
    assert code == 0
    rows = [text.split() for text in out.splitlines()[-7:]]
    assert [row[0] for row in rows] == list("1234567")
    assert rows[-1][2:] == ["other", OTHER[:8], "federated", "1", "183", "-", "none", "-"]
    told = as_json(wardround("ledger", spent.file, "--lines", "--json"))
    entries = site_ledger(spent, writable=False).entries()
    assert [row["hash"] for row in told["entries"]] == [entry.hash for entry in entries]
    assert told["entries"][6] | asdict(entries[6].line) == told["entries"][6]


def test_table_on_a_terminal_holds_the_same(wardround, bare, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path = bare(line(1, study="[red]x", model="a\x1b[2Jb"))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    code, out, _ = wardround("ledger", path)
    assert code == 0
    assert "[red]x" in out and "a?[2Jb" in out and "0.125" in out
    assert "\x1b[2J" not in out


def test_seeded_noise_is_said_to_protect_nobody(wardround, bare):
    path = bare(line(1), line(2, seeded=True))
    out = wardround("ledger", path)[1]
    assert "seed: a simulation, which protects nobody" in out
    assert out.count("(seeded)") == 1
    assert as_json(wardround("ledger", path, "--json"))["seeded"] is True


def test_ledger_file_alone_has_no_cap_and_takes_a_delta(wardround, bare):
    path = bare(line(1))
    told = as_json(wardround("ledger", path, "--json"))
    assert (told["site"], told["cap"], told["delta"]) == ("bern", None, 1e-5)
    finer = as_json(wardround("ledger", path, "--json", "--delta", "1e-7"))
    assert finer["delta"] == 1e-7
    assert finer["epsilon"]["pld"] > told["epsilon"]["pld"]
    assert "cap" not in wardround("ledger", path)[1]


def test_delta_changes_the_epsilon_of_a_site_but_not_its_cap(wardround, spent):
    told = as_json(wardround("ledger", spent.file, "--json"))
    finer = as_json(wardround("ledger", spent.file, "--json", "--delta", "1e-7"))
    assert finer["epsilon"]["rdp"] > told["epsilon"]["rdp"]
    assert finer["cap"] == told["cap"]


def test_site_that_spent_nothing_has_no_ledger_and_gets_none(wardround, site):
    told = as_json(wardround("ledger", site.file, "--json"))
    assert (told["lines"], told["head"], told["segments"]) == (0, None, [])
    assert set(told["epsilon"].values()) == {0.0}
    assert (told["cap"]["spent"], told["cap"]["left"]) == (0.0, 6.0)
    code, out, _ = wardround("ledger", site.file)
    assert code == 0 and "bern: no ledger yet" in out
    assert not site.state.exists()


def test_infinite_epsilon_is_null_with_a_reason(wardround, bare):
    told = as_json(wardround("ledger", bare(line(1, noise_multiplier=1e-200)), "--json"))
    assert told["epsilon"] == {"pld": None, "rdp": None, "prv": None}
    assert set(told["reasons"]) == {"pld", "rdp", "prv"}
    assert "infinite" in told["reasons"]["pld"]
    assert "infinite" in wardround("ledger", bare())[1]


def test_infinite_spending_leaves_nothing_of_the_cap(wardround, site):
    site_ledger(site, durable=False).append(line(1, noise_multiplier=1e-200))
    cap = as_json(wardround("ledger", site.file, "--json"))["cap"]
    assert (cap["spent"], cap["left"], cap["share"]) == (None, 0.0, None)
    assert "epsilon infinite of 6 spent" in wardround("ledger", site.file)[1]


def test_ledger_in_use_is_shown_and_left_as_it_is(wardround, spent):
    ledger = site_ledger(spent, durable=False)
    file = spent.state / "ledger.sqlite"
    before = file.read_bytes()
    shown = []
    ledger.append(line(4), lambda _: shown.append(wardround("ledger", spent.file, "--json")))
    assert as_json(shown[0])["lines"] == 7
    assert file.read_bytes()[: len(before)] != before, "the line went in afterwards"
    assert as_json(wardround("ledger", spent.file, "--json"))["lines"] == 8


def broken(path):
    db = sqlite3.connect(path)
    (trigger,) = db.execute(
        "SELECT sql FROM sqlite_master WHERE name = 'entries_update'"
    ).fetchone()
    db.execute("DROP TRIGGER entries_update")
    with db:
        db.execute("UPDATE entries SET entry = replace(entry, '\"steps\":8', '\"steps\":1')")
    db.execute(trigger)
    db.close()


def refused(result, *words):
    code, out, err = result
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_broken_chain_ends_in_one_message(wardround, bare):
    path = bare(line(1), line(2))
    broken(path)
    refused(wardround("ledger", path), str(path), "broken at line 1", "restore")
    refused(wardround("ledger", path, "--json"), "line 1")


def test_lost_patient_key_is_not_drawn_anew(wardround, spent):
    key = spent.state / "patient.key"
    key.unlink()
    refused(wardround("ledger", spent.file), "patient.key", "missing", "backup")
    assert not key.exists()


def test_journal_without_its_ledger_is_not_taken_for_a_site_that_spent_nothing(wardround, spent):
    file = spent.state / "ledger.sqlite"
    file.rename(spent.state / "ledger.sqlite-journal")
    refused(wardround("ledger", spent.file), "ledger.sqlite", "journal")


def test_ledger_of_another_site_is_refused(wardround, spent, tmp_path, write_site):
    other = load_site(write_site(tmp_path / "aarau", 4, key=None))
    shutil.copytree(spent.state, other.state)
    refused(wardround("ledger", other.file), '"bern"', '"aarau"')


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["none.sqlite"], ["none.sqlite", "no such file"]),
        (["none"], ["none", "no such file"]),
        (["."], ["site.toml", "no such file"]),
        (["folder.sqlite"], ["folder.sqlite", "folder"]),
        (["text.sqlite"], ["text.sqlite", "not the file of a ledger"]),
        (["text.sqlite", "--delta", "1"], ["--delta", "between 0 and 1"]),
        (["text.sqlite", "--delta", "nan"], ["--delta", "between 0 and 1"]),
    ],
)
def test_what_is_no_ledger_is_named(wardround, tmp_path, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.sqlite").mkdir()
    (tmp_path / "text.sqlite").write_text("not a ledger, although its name says so. " * 40)
    refused(wardround("ledger", *given), *words)


def test_epsilon_of_many_lines_is_found_in_seconds(wardround, bare):
    told = as_json(wardround("ledger", bare(*map(line, range(1, 501))), "--json"))
    assert told["segments"][0]["steps"] == 4000
    assert math.isfinite(told["epsilon"]["pld"])
