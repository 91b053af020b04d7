"""One pass over the events counts what pandas counts, however they are cut into batches."""

from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.checks.scan import scan_events
from clients.site import load_site
from clients.sources.registry import site_events
from clients.sources.schema import EVENT_COLUMNS

NOON = datetime(2024, 6, 1, 12)
DAY = timedelta(days=1)
CODES = ["LAB//A", "LAB//B", "ICD//C", "MEDS_DEATH"]
ROWS = st.lists(
    st.tuples(
        st.integers(1, 6),
        st.one_of(st.none(), st.integers(-50, 50).map(lambda d: NOON + d * DAY)),
        st.sampled_from(CODES),
        st.one_of(st.none(), st.floats(-1e6, 1e6, width=32)),
        st.none(),
    ),
    min_size=1,
    max_size=60,
)


def batches(rows, size=10_000):
    columns = zip(*rows, strict=True)
    arrays = [
        pa.array(list(c), kind) for c, kind in zip(columns, EVENT_COLUMNS.values(), strict=True)
    ]
    return pa.table(arrays, names=list(EVENT_COLUMNS)).to_batches(size)


@given(ROWS, st.integers(1, 20))
def test_counts_are_those_of_pandas_in_batches_of_any_size(rows, size):
    scan = scan_events(batches(rows, size))
    frame = pd.DataFrame(rows, columns=list(EVENT_COLUMNS))
    frame["time"] = pd.to_datetime(frame["time"])
    by_code = frame.groupby("code")
    assert scan.events == len(frame)
    assert set(scan.subjects.tolist()) == set(frame["subject_id"])
    assert dict(zip(scan.codes, scan.counts.tolist(), strict=True)) == by_code.size().to_dict()
    holders = by_code["subject_id"].nunique().to_dict()
    assert dict(zip(scan.codes, scan.patients.tolist(), strict=True)) == holders
    valued = by_code["numeric_value"].count().to_dict()
    assert dict(zip(scan.codes, scan.valued.tolist(), strict=True)) == valued
    totals = {scan.codes[i]: int(h.sum()) for i, h in scan.histograms.items()}
    assert totals == {code: n for code, n in valued.items() if n}
    timed = frame["time"].dropna()
    assert scan.untimed == len(frame) - len(timed)
    assert scan.span == (None if timed.empty else (timed.min(), timed.max()))
    assert sum(scan.months.values()) == len(timed)
    death = frame[frame["code"] == "MEDS_DEATH"].groupby("subject_id")["time"].min()
    last = frame.groupby("subject_id")["time"].max().reindex(death.index)
    assert scan.after_death == int((last > death + DAY).sum())


def test_holder_of_a_code_that_one_subject_has_is_that_subject():
    rows = [(s, NOON, c, None, None) for s, c in ((7, "A"), (8, "A"), (8, "B"), (9, "C"))]
    scan = scan_events(batches(rows))
    alone = {
        scan.codes[i]: scan.subjects[scan.holder[i]] for i in np.flatnonzero(scan.patients == 1)
    }
    assert alone == {"B": 8, "C": 9}


def test_one_person_under_two_numbers_is_found_whatever_the_order_of_the_rows():
    rows = [(s, NOON - h * DAY, "LAB//A", h / 3, None) for s in (1, 2, 3) for h in range(5)]
    rows = [r for r in rows if r[0] != 3] + [
        (3, NOON - h * DAY, "LAB//A", h / 4, None) for h in range(5)
    ]
    order = np.random.default_rng(0).permutation(len(rows))
    assert scan_events(batches([rows[i] for i in order], 4)).alike == (2,)


def test_events_before_birth_are_counted_by_subject_wherever_the_birth_stands():
    rows = [(1, NOON - 9 * DAY, "A", None, None), (1, NOON, "MEDS_BIRTH", None, None)]
    rows += [(2, NOON, "MEDS_BIRTH", None, None), (2, NOON + DAY, "A", None, None)]
    assert scan_events(batches(rows, 1)).before_birth == 1


def test_scan_of_the_mimic_demo_agrees_with_its_files(mimic_site):
    scan = scan_events(site_events(load_site(mimic_site)))
    assert (scan.events, len(scan.subjects), scan.born) == (916_166, 100, 100)
    assert scan.texts.found == {}, "the demo is de-identified"


@pytest.mark.parametrize("text", ["Mr. Jones", "seen 2024-03-01", "MRN 1234567"])
def test_identifiers_in_texts_are_counted_by_code(text):
    rows = [(s, NOON, "NOTE//X", None, f"{text}, well") for s in (1, 1, 2)]
    rows += [(3, NOON, "NOTE//X", None, "no fever, lungs clear"), (4, NOON, "LAB//A", 1.0, None)]
    found = scan_events(batches(rows, 2)).texts
    assert [(code, count) for (_, code), count in found.found.items()] == [("NOTE//X", 3)]


def test_file_names_with_their_own_patient_s_number_are_counted():
    files = {10_001: "a-10001.dcm", 10_002: "a-10001.dcm", 10_003: "b.dcm"}
    rows = [(s, NOON, "IMAGE//CR", None, name) for s, name in files.items()]
    assert scan_events(batches(rows, 2)).texts.files == 1
