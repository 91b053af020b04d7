"""The coordinator remembers the heads of the sites' ledgers, beyond a run."""

import pytest

from federation.bodies import LedgerHead
from federation.errors import UserError
from server.witness import WENT_BACK, Witness


def head(length, letter="a"):
    return LedgerHead(length=length, hash=letter * 64)


def test_a_head_is_remembered_over_runs(tmp_path):
    Witness(tmp_path / "witness.json").note("bern", head(3))
    again = Witness(tmp_path / "witness.json")
    assert again.of("bern") == head(3)
    assert again.of("basel") is None


@pytest.mark.parametrize("restored", [head(2), head(3, "b"), head(0)])
def test_a_ledger_that_is_shorter_or_another_is_not_believed(tmp_path, restored):
    witness = Witness(tmp_path / "witness.json")
    assert witness.note("bern", head(3)) == ""
    assert witness.note("bern", restored) == WENT_BACK
    assert witness.of("bern") == head(3)
    assert witness.note("bern", head(3)) == ""
    assert witness.note("bern", head(4, "c")) == ""


@pytest.mark.parametrize("text", ["{", "[]", '{"bern": {"length": -1, "hash": "x"}}'])
def test_a_damaged_file_is_not_taken_for_an_empty_one(tmp_path, text):
    file = tmp_path / "witness.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"witness\.json: .*damaged"):
        Witness(file)


def test_runs_at_the_same_time_forget_no_site_of_each_other(tmp_path):
    first, second = (Witness(tmp_path / "witness.json") for _ in range(2))
    first.note("bern", head(3))
    second.note("basel", head(5))
    first.note("bern", head(4, "b"))
    again = Witness(tmp_path / "witness.json")
    assert (again.of("bern"), again.of("basel")) == (head(4, "b"), head(5))
    assert second.note("bern", head(3)) == WENT_BACK
