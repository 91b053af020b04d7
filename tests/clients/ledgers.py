"""Ledgers to write, to check without the code under test, and to damage."""

import dataclasses
import hashlib
import json
import sqlite3

import pytest

from clients.ledger import Ledger, Line, commitment_to
from federation.errors import UserError

KEY = commitment_to(b"k" * 32)
LINE = Line(
    kind="segment",
    run="ab" * 8,
    study="heart",
    fingerprint="f" * 64,
    model="federated",
    round=1,
    request="0" * 64,
    patients=183,
    sampling_rate=0.1,
    noise_multiplier=1.1,
    steps=20,
    seeded=False,
)


def line(number=1, **changes):
    return dataclasses.replace(LINE, **{"round": number, **changes})


def opened(path, **how):
    return Ledger(path, "bern", KEY, **{"durable": False, **how})


def five_lines(path):
    """Write a ledger of five lines; return its path."""
    ledger = opened(path)
    for number in range(1, 6):
        ledger.append(line(number, steps=number))
    ledger.close()
    return path


def verify(path):
    """Check the chain without the code under test; return the entries' fields."""

    def sha256(text):
        return hashlib.sha256(text.encode()).hexdigest()

    def canonical(fields):
        def value(x):
            return repr(x) if isinstance(x, float) else json.dumps(x)

        return "{" + ",".join(f'"{k}":{value(fields[k])}' for k in sorted(fields)) + "}"

    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    ((version, site, commitment, last),) = db.execute("SELECT * FROM header")
    assert last == sha256(canonical({"format": version, "site": site, "commitment": commitment}))
    found = []
    rows = db.execute("SELECT number, entry, hash FROM entries ORDER BY number").fetchall()
    db.close()
    for expected, (number, entry, stored) in enumerate(rows, start=1):
        fields = json.loads(entry)
        assert number == expected == fields["number"]
        assert entry == canonical(fields)
        last = sha256(last + entry)
        assert stored == last
        found.append(fields)
    return found


def refused(act, *words):
    with pytest.raises(UserError) as caught:
        act()
    for word in words:
        assert word in str(caught.value)
    assert caught.value.remedy or "folder" in str(caught.value) or "no such" in str(caught.value)


def tamper(path, *statements, triggers=True):
    """Change the file past its triggers; put these back unless told not to."""
    db = sqlite3.connect(path, isolation_level=None)
    kept = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in kept:
        db.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        db.execute(statement)
    if triggers:
        for _, sql in kept:
            db.execute(sql)
    db.close()
