"""A patient's past does not depend on how the events were cut into batches or ordered in files."""

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from clients.features import ehr_tensor
from clients.sources.schema import EVENT_SCHEMA
from clients.timeline import build_timeline
from federation.modalities import EhrSection
from federation.vocabulary import agreed_vocabulary

START = datetime(2024, 1, 1)
SUBJECTS = np.array([2, 4, 7])
PREDICTED = np.array([np.datetime64(START)] * 3, "datetime64[us]")
EVENT = st.tuples(
    st.sampled_from([1, 2, 4, 7, 9]),
    st.none() | st.integers(-40 * 365 * 24, 5),
    st.sampled_from(["LAB//A", "LAB//B", "MEDS_BIRTH", "NOTE//X"]),
    st.none() | st.floats(-5, 5, width=32),
)


def table_of(rows):
    times = [None if h is None else START + timedelta(hours=h) for _, h, _, _ in rows]
    columns = [
        pa.array([r[0] for r in rows], pa.int64()),
        pa.array(times, pa.timestamp("us")),
        pa.array([r[2] for r in rows], pa.string()),
        pa.array([r[3] for r in rows], pa.float32()),
        pa.array([f"text {i}" for i in range(len(rows))], pa.string()),
    ]
    return pa.table(columns, schema=EVENT_SCHEMA)


def built(table, size):
    return build_timeline(table.to_batches(size), SUBJECTS, PREDICTED, SUBJECTS, until=True)


@given(st.lists(EVENT, max_size=25), st.integers(1, 5))
def test_batches_of_any_size_give_the_same_timeline(rows, size):
    table = table_of(rows)
    whole, cut = built(table, 1000), built(table, size)
    assert whole.events.equals(cut.events)
    assert whole.seen.tolist() == cut.seen.tolist()
    assert whole.others == cut.others == len({r[0] for r in rows} - {2, 4, 7})
    for reason, marked in whole.notices.items():
        assert marked.tolist() == cut.notices[reason].tolist()


@given(st.lists(EVENT, max_size=25))
def test_events_are_ordered_cut_and_keep_the_text_of_notes_alone(rows):
    events = built(table_of(rows), 1000).events
    for _, own in events.groupby("row"):
        hours = own["hours_before"].to_numpy()
        timed = hours[~np.isnan(hours)]
        assert (np.diff(timed) <= 0).all()
        assert np.isnan(hours[: len(hours) - len(timed)]).all()
        assert (timed >= 0).all()
    notes = events["code"].astype(str).str.startswith("NOTE//")
    assert events["text_value"].notna().equals(notes.rename("text_value"))
    kept = sum(
        row[0] in SUBJECTS and (row[1] is None or row[1] <= 0) and row[2] == "NOTE//X"
        for row in rows
    )
    assert notes.sum() <= kept


def test_features_do_not_depend_on_the_portions_in_which_patients_are_aggregated(
    tmp_path, write_site, monkeypatch
):
    from clients import features
    from clients.cohort import read_patients
    from clients.site import load_site
    from federation.study import SplitSection
    from federation.tasks import BinaryTask

    folder = write_site(tmp_path / "site", 40)
    patients = read_patients(load_site(folder), BinaryTask(label="sick"), SplitSection())
    section = EhrSection(aggregates=["last", "mean", "count", "slope", "since", "present"])
    vocabulary = agreed_vocabulary(section)
    whole = ehr_tensor(patients, section, vocabulary)
    for limit in (1, 7, 50):
        monkeypatch.setattr(features, "EVENTS_AT_ONCE", limit)
        part = ehr_tensor(patients, section, vocabulary)
        assert part.values.equal(whole.values)
        assert part.present.equal(whole.present)
