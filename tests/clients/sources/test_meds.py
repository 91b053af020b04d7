"""MEDS files as they come: types that fit are taken, others named without a value of them."""

from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clients.sources import meds
from clients.sources.subjects import SubjectIds
from federation.errors import UserError

NOON = datetime(2024, 6, 1, 12)
LOCAL = "timestamp without a time zone (the hospital's local time)"
ROW = {
    "subject_id": pa.array([1, 2]),
    "time": pa.array([NOON, None], pa.timestamp("us")),
    "code": pa.array(["A", "B"]),
}


def read_events(folder):
    return pa.Table.from_batches(meds.batches(folder)).to_pandas()


def read_labels(file):
    return meds.read_labels(file, SubjectIds(lambda: b"k" * 32))


@pytest.fixture
def written(tmp_path):
    def write(**columns):
        table = {k: v for k, v in {**ROW, **columns}.items() if v is not None}
        pq.write_table(pa.table(table), tmp_path / "events.parquet")
        return tmp_path

    return write


def test_optional_columns_may_be_missing(written):
    events = read_events(written())
    assert events["code"].tolist() == ["A", "B"]
    assert events["numeric_value"].isna().all()
    assert events["subject_id"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "columns",
    [
        {"subject_id": pa.array([1, 2], pa.int32())},
        {"subject_id": pa.array([1, 2], pa.uint64())},
        {"time": pa.array([NOON, None], pa.timestamp("ns"))},
        {"time": pa.array([NOON.isoformat(), None])},
        {"time": pa.array([NOON.isoformat(), None]).dictionary_encode()},
        {"time": pa.array([NOON.date(), None], pa.date32())},
        {"code": pa.array(["A", "B"]).dictionary_encode()},
        {"code": pa.array(["A", "B"], pa.large_string())},
        {"numeric_value": pa.array([1.5, None], pa.float64())},
        {"numeric_value": pa.array([1, None], pa.int64())},
        {"text_value": pa.array(["x", None], pa.large_string())},
    ],
)
def test_types_that_fit_are_taken(written, columns):
    events = read_events(written(**columns))
    assert events["subject_id"].tolist() == [1, 2]
    assert events["code"].tolist() == ["A", "B"]
    assert events["time"].dt.date.tolist()[0] == NOON.date()


@pytest.mark.parametrize(
    ("columns", "field", "words"),
    [
        ({"code": None}, "code", "the column is missing"),
        ({"time": None, "code": None}, "time, code", "The file has: subject_id"),
        ({"subject_id": pa.array(["Jane", "Doe"])}, "subject_id", "expected int64, found string"),
        ({"time": pa.array(["Jane", "Doe"])}, "time", f"expected {LOCAL}, found string"),
        ({"time": pa.array(["2024-06-01T12:00:00Z", None])}, "time", f"expected {LOCAL}"),
        (
            {"time": pa.array([NOON, None], pa.timestamp("us", tz="Europe/Zurich"))},
            "time",
            f"expected {LOCAL}, found timestamp[us, tz=Europe/Zurich]",
        ),
        ({"time": pa.array([1717243200, None])}, "time", f"expected {LOCAL}, found int64"),
        ({"time": pa.array([1.5, None])}, "time", f"expected {LOCAL}, found double"),
        ({"time": pa.array([1717243200, None])}, "time", "Convert the column"),
        ({"numeric_value": pa.array(["Jane", "Doe"])}, "numeric_value", "expected float"),
        ({"subject_id": pa.array([1.5, 2.0])}, "subject_id", "expected int64, found double"),
        ({"subject_id": pa.array([1, None])}, "subject_id", "1 rows have none"),
        ({"code": pa.array(["Jane", None])}, "code", "1 rows have none"),
    ],
)
def test_wrong_columns_are_named_without_their_values(written, columns, field, words):
    folder = written(**columns)
    with pytest.raises(UserError) as caught:
        read_events(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert field in message
    assert words in message
    assert "Jane" not in message


def test_folder_without_files_is_explained(tmp_path):
    with pytest.raises(UserError, match=r"no \.parquet file was found"):
        read_events(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet", b"PAR1" + b"\0" * 100])
def test_damaged_file_is_named(tmp_path, content):
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.parquet: not a readable parquet file"):
        read_events(tmp_path)
    with pytest.raises(UserError, match=r"x\.parquet: not a readable parquet file"):
        read_labels(tmp_path / "x.parquet")


def test_truncated_and_corrupted_files_are_named(written, tmp_path):
    file = written() / "events.parquet"
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:4] + b"\xff" * 40 + whole[44:]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"events\.parquet: not a readable parquet file"):
            read_events(tmp_path)


def test_labels_without_a_value_column_are_explained(tmp_path):
    file = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"subject_id": [1], "label": [1]}), file)
    with pytest.raises(UserError, match="neither boolean_value nor integer_value") as caught:
        read_labels(file)
    assert "The file has: subject_id, label." in str(caught.value)


def test_event_without_a_code_names_its_shard(written, tmp_path):
    (written() / "events.parquet").rename(tmp_path / "0.parquet")
    (written(code=pa.array(["A", None])) / "events.parquet").rename(tmp_path / "1.parquet")
    with pytest.raises(UserError, match=r"1\.parquet: code: 1 rows have none"):
        read_events(tmp_path)


def test_column_that_is_there_twice_is_named(written, tmp_path):
    table = pq.read_table(written() / "events.parquet")
    pq.write_table(table.append_column("code", table["code"]), tmp_path / "events.parquet")
    with pytest.raises(UserError, match=r"events\.parquet: code: more than one column"):
        read_events(tmp_path)


def test_value_that_is_nan_is_told_from_no_value(written):
    events = read_events(written(numeric_value=pa.array([float("nan"), None])))
    assert events["numeric_value"].tolist()[0] == float("inf")
    assert events["numeric_value"].isna().tolist() == [False, True]


def labels_file(folder, **columns):
    times = pa.array([NOON] * 3, pa.timestamp("us"))
    table = {"subject_id": pa.array([1, 2, 3]), "prediction_time": times, **columns}
    pq.write_table(pa.table(table), folder / "labels.parquet")
    return folder / "labels.parquet"


@pytest.mark.parametrize("values", [[0, 1, 2], [0.0, 1.0, 0.5], ["true", "false", "true"]])
def test_boolean_values_of_another_type_are_refused(tmp_path, values):
    with pytest.raises(UserError, match=r"labels\.parquet: boolean_value: expected bool") as caught:
        read_labels(labels_file(tmp_path, boolean_value=pa.array(values)))
    assert "name it integer_value" in str(caught.value)


@pytest.mark.parametrize(
    "times",
    [pa.array([NOON] * 3, pa.timestamp("us", tz="UTC")), pa.array([1717243200000] * 3)],
)
def test_prediction_times_with_a_zone_or_as_numbers_are_refused(tmp_path, times):
    file = labels_file(tmp_path, prediction_time=times, boolean_value=pa.array([True] * 3))
    with pytest.raises(UserError) as caught:
        read_labels(file)
    assert f"{file}: prediction_time: expected {LOCAL}" in str(caught.value)


def test_values_of_one_row_that_differ_are_contradictory(tmp_path):
    file = labels_file(
        tmp_path,
        boolean_value=pa.array([True, True, None]),
        integer_value=pa.array([1, 0, 1]),
    )
    assert read_labels(file)["contradictory"].tolist() == [False, True, False]
