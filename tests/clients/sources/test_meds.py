"""MEDS files as they come: types that fit are taken, others named without a value of them."""

from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clients.sources.meds import read_events, read_labels
from federation.errors import UserError

NOON = datetime(2024, 6, 1, 12)
ROW = {
    "subject_id": pa.array([1, 2]),
    "time": pa.array([NOON, None], pa.timestamp("us")),
    "code": pa.array(["A", "B"]),
}


@pytest.fixture
def written(tmp_path):
    def write(**columns):
        table = {k: v for k, v in {**ROW, **columns}.items() if v is not None}
        pq.write_table(pa.table(table), tmp_path / "events.parquet")
        return tmp_path

    return write


def test_optional_columns_may_be_missing(written):
    events, others = read_events(written(), pa.array([1]))
    assert events["code"].tolist() == ["A"]
    assert events["numeric_value"].isna().all()
    assert others == 1


@pytest.mark.parametrize(
    "columns",
    [
        {"subject_id": pa.array([1, 2], pa.int32())},
        {"subject_id": pa.array([1, 2], pa.uint64())},
        {"time": pa.array([NOON, None], pa.timestamp("ns"))},
        {"time": pa.array([NOON, None], pa.timestamp("us", tz="UTC"))},
        {"time": pa.array([NOON.date(), None], pa.date32())},
        {"code": pa.array(["A", "B"]).dictionary_encode()},
        {"code": pa.array(["A", "B"], pa.large_string())},
        {"numeric_value": pa.array([1.5, None], pa.float64())},
        {"numeric_value": pa.array([1, None], pa.int64())},
        {"text_value": pa.array(["x", None], pa.large_string())},
    ],
)
def test_types_that_fit_are_taken(written, columns):
    events, _ = read_events(written(**columns), pa.array([1, 2]))
    assert events["subject_id"].tolist() == [1, 2]
    assert events["code"].tolist() == ["A", "B"]
    assert events["time"].dt.date.tolist()[0] == NOON.date()


@pytest.mark.parametrize(
    ("columns", "field", "words"),
    [
        ({"code": None}, "code", "the column is missing"),
        ({"time": None, "code": None}, "time, code", "The file has: subject_id"),
        ({"subject_id": pa.array(["Jane", "Doe"])}, "subject_id", "expected int64, found string"),
        ({"time": pa.array(["Jane", "Doe"])}, "time", "expected timestamp[us], found string"),
        ({"numeric_value": pa.array(["Jane", "Doe"])}, "numeric_value", "expected float"),
        ({"subject_id": pa.array([1.5, 2.0])}, "subject_id", "expected int64, found double"),
        ({"subject_id": pa.array([1, None])}, "subject_id", "1 rows have none"),
        ({"code": pa.array(["Jane", None])}, "code", "1 rows have none"),
    ],
)
def test_wrong_columns_are_named_without_their_values(written, columns, field, words):
    folder = written(**columns)
    with pytest.raises(UserError) as caught:
        read_events(folder, pa.array([1, 2]))
    message = str(caught.value)
    assert str(folder) in message
    assert field in message
    assert words in message
    assert "Jane" not in message


def test_folder_without_files_is_explained(tmp_path):
    with pytest.raises(UserError, match=r"no \.parquet file was found"):
        read_events(tmp_path, pa.array([1]))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet", b"PAR1" + b"\0" * 100])
def test_damaged_file_is_named(tmp_path, content):
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.parquet: not a readable parquet file"):
        read_events(tmp_path, pa.array([1]))
    with pytest.raises(UserError, match=r"x\.parquet: not a readable parquet file"):
        read_labels(tmp_path / "x.parquet")


def test_truncated_and_corrupted_files_are_named(written, tmp_path):
    file = written() / "events.parquet"
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:4] + b"\xff" * 40 + whole[44:]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"events\.parquet: not a readable parquet file"):
            read_events(tmp_path, pa.array([1, 2]))


def test_labels_without_a_value_column_are_explained(tmp_path):
    file = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"subject_id": [1], "label": [1]}), file)
    with pytest.raises(UserError, match="neither boolean_value nor integer_value") as caught:
        read_labels(file)
    assert "The file has: subject_id, label." in str(caught.value)
