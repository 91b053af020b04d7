"""Coding practice: other names, the same facts."""

from simulations.shifts import coding
from simulations.shifts.coding import Coding


def test_facts_and_their_number_stay_and_only_codes_change(make_tables, scope):
    tables = make_tables(30)
    effect = coding.apply(Coding(kind="coding", share=1.0), tables, scope())
    before, after = tables.events, effect.tables.events
    rest = ["subject_id", "time", "numeric_value", "file", "row"]
    assert after[rest].equals(before[rest])
    renamed = effect.drawn["codes"]
    assert set(renamed) == {"LAB//A", "LAB//B", "LAB//CRP", "VITAL//C"}
    assert after["code"].astype(str).tolist() == [renamed.get(c, c) for c in before["code"]]
    assert all(new.startswith("LOCAL-A//") for new in renamed.values())
    assert effect.touched == {"codes": 4, "events": 30 * 15}


def test_stronger_shift_renames_the_codes_of_a_weaker_one_too(make_tables, scope):
    tables = make_tables(10, extra=[(1, None, f"X//{k}", 1.0, None) for k in range(80)])
    drawn = [
        set(coding.apply(Coding(kind="coding"), tables, scope(s)).drawn["codes"])
        for s in (0.3, 0.6, 1.0)
    ]
    assert drawn[0] < drawn[1] < drawn[2]
    assert 25 < len(drawn[2]) < 60


def test_given_equivalents_go_before_the_style(make_tables, scope):
    shift = Coding(kind="coding", share=1.0, style="coarse", equivalents={"LAB//A": "LOINC//1-8"})
    effect = coding.apply(shift, make_tables(10), scope())
    assert effect.drawn["codes"] == {"LAB//A": "LOINC//1-8"}


def test_two_codings_in_a_row_remember_the_codes_on_disk(make_tables, scope):
    tables = make_tables(10)
    first = Coding(kind="coding", share=1.0, style="coarse", equivalents={"LAB//A": "M//1"})
    second = Coding(
        kind="coding", share=1.0, style="coarse", equivalents={"M//1": "N//1", "LAB//B": "N//1"}
    )
    after = coding.apply(first, tables, scope()).tables
    after = coding.apply(second, after, scope()).tables
    on_disk = {code: new for code, new in after.recoded.items() if code in tables.codes()}
    assert on_disk == {"LAB//A": "N//1", "LAB//B": "N//1"}
    assert after.codes(["N//", "M//", "LAB//A", "LAB//B"]) == ["N//1"]
