from __future__ import annotations

import hashlib
import json
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meds import CodeMetadataSchema, DataSchema, DatasetMetadataSchema, LabelSchema

from federation.errors import UserError
from simulations.datasets import DATASETS, ConversionReport
from simulations.datasets.uci_heart import convert

SOURCE = Path(__file__).parents[3] / "../shared/data/uci_heart_disease"
SITES = ["cleveland", "hungarian", "switzerland", "va"]
NAMES = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak",
         "slope", "ca", "thal", "num"]  # fmt: skip
CATEGORIES = {"cp", "fbs", "restecg", "exang", "slope", "thal"}
GOOD = "63.0,1.0,1.0,145.0,233.0,1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,0"

needs_uci = pytest.mark.skipif(
    not SOURCE.is_dir(), reason=f"UCI's heart-disease files are not at {SOURCE}"
)


@pytest.fixture(scope="module")
def uci(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ConversionReport]:
    out = tmp_path_factory.mktemp("uci") / "sites"
    return out, convert(SOURCE, out)


@needs_uci
def test_patients_and_prevalence_equal_the_published_table(uci):
    out, report = uci
    published = {  # SOURCE.md: rows, num > 0, male %, mean age
        "cleveland": (303, 139, 68, 54.4),
        "hungarian": (294, 106, 72, 47.8),
        "switzerland": (123, 115, 92, 55.3),
        "va": (200, 149, 97, 59.4),
    }
    assert sorted(path.name for path in out.iterdir()) == SITES
    for site in report.sites:
        table = table_of(out / site.site)
        male, age = table["sex"].mean() * 100, table["age"].mean()
        assert (len(table), int(table["num"].sum()), round(male)) == published[site.site][:3]
        assert age == pytest.approx(published[site.site][3], abs=0.0501)
        assert (site.rows, site.patients, site.positives) == (
            len(table),
            len(table),
            table["num"].sum(),
        )
        assert site.excluded == {}


@needs_uci
@pytest.mark.parametrize("site", SITES)
def test_events_give_back_the_published_table(uci, site):
    expected = published_table(SOURCE / f"processed.{site}.data")
    pd.testing.assert_frame_equal(table_of(uci[0] / site), expected, atol=1e-5)


@needs_uci
def test_missing_percentages_equal_the_published_table(uci):
    published = {  # SOURCE.md, and its caveat on chol = 0 in switzerland and va
        "cleveland": {"ca": 1, "thal": 1},
        "hungarian": {"slope": 65, "ca": 99, "thal": 90, "chol": 8},
        "switzerland": {"fbs": 61, "ca": 96, "thal": 42, "slope": 14, "chol": 100},
        "va": {"trestbps": 28, "thalach": 26, "exang": 26, "oldpeak": 28, "slope": 51, "ca": 99,
               "thal": 83, "chol": 28},
    }  # fmt: skip
    for site, columns in published.items():
        absent = table_of(uci[0] / site).isna().mean() * 100
        for column, percent in columns.items():
            assert absent[column] == pytest.approx(percent, abs=0.6), (site, column)
        others = absent.drop(list(columns))
        assert (others < 5).all(), (site, others)


@needs_uci
def test_report_counts_what_became_no_event(uci):
    for site in uci[1].sites:
        original = pd.read_csv(SOURCE / f"processed.{site.site}.data", header=None, names=NAMES)
        marked = (original == "?").sum()
        assert site.missing == marked[marked > 0].to_dict()
    sites = {site.site: site for site in uci[1].sites}
    assert {name: site.coded_missing for name, site in sites.items()} == {
        "cleveland": {},
        "hungarian": {},
        "switzerland": {"chol = 0": 123},
        "va": {"chol = 0": 49, "trestbps = 0": 1},
    }
    assert {name: site.duplicates for name, site in sites.items()} == {
        "cleveland": 0,
        "hungarian": 1,
        "switzerland": 0,
        "va": 1,
    }


@needs_uci
@pytest.mark.parametrize("site", SITES)
def test_site_holds_valid_meds(uci, site):
    meds_folder = uci[0] / site / "data/meds"
    data = pq.read_table(meds_folder / "data/0.parquet")
    codes = pq.read_table(meds_folder / "metadata/codes.parquet")
    DataSchema.validate(data)
    LabelSchema.validate(pq.read_table(uci[0] / site / "data/labels.parquet"))
    CodeMetadataSchema.validate(codes)
    DatasetMetadataSchema.validate(json.loads((meds_folder / "metadata/dataset.json").read_text()))

    assert data.schema.equals(DataSchema.schema())
    events = data.to_pandas()
    # MEDS: subjects contiguous, sorted by time, events without a time first.
    order = events.sort_values(["subject_id", "time"], na_position="first", kind="stable")
    assert order.index.equals(events.index)
    described = codes.to_pandas().set_index("code")["description"]
    assert described.index.is_unique
    assert set(events["code"]) <= set(described.index)
    assert described.str.len().gt(0).all()


@needs_uci
def test_subject_ids_are_unique_over_the_hospitals(uci):
    ids = [pd.read_parquet(uci[0] / site / "data/labels.parquet")["subject_id"] for site in SITES]
    assert pd.concat(ids).is_unique


@needs_uci
@pytest.mark.parametrize("site", SITES)
def test_every_event_is_known_at_prediction_time(uci, site):
    events = pd.read_parquet(uci[0] / site / "data/meds/data/0.parquet")
    labels = pd.read_parquet(uci[0] / site / "data/labels.parquet")
    assert set(labels["prediction_time"]) == {pd.Timestamp("2000-01-01")}
    measured = events[events["code"].str.startswith("HEART//")]
    assert set(measured["time"]) == {pd.Timestamp("1999-12-31 23:00")}
    assert set(events.loc[events["time"].isna(), "code"]) <= {"GENDER//M", "GENDER//F"}


def test_values_of_one_row_become_the_documented_codes(tmp_path):
    convert(source_folder(tmp_path, va=f"60,0,4,0,0,1,2,?,0,-.5,3,2,7,4\n{GOOD}\n"), tmp_path / "o")
    events = pd.read_parquet(tmp_path / "o/va/data/meds/data/0.parquet")
    first = events[events["subject_id"] == events["subject_id"].min()]
    values = first.set_index("code")["numeric_value"]
    assert values.dropna().to_dict() == {"HEART//OLDPEAK": -0.5, "HEART//CA": 2.0}
    assert sorted(values.index[values.isna()]) == [
        "GENDER//F",
        "HEART//CP//4",
        "HEART//EXANG//0",
        "HEART//FBS//1",
        "HEART//RESTECG//2",
        "HEART//SLOPE//3",
        "HEART//THAL//7",
        "MEDS_BIRTH",
    ]
    labels = pd.read_parquet(tmp_path / "o/va/data/labels.parquet")
    assert labels["boolean_value"].tolist() == [True, False]


def optional(values: st.SearchStrategy[float]) -> st.SearchStrategy[float | None]:
    return st.none() | values


ROWS = st.lists(
    st.tuples(
        optional(st.integers(1, 110)),
        optional(st.sampled_from([0, 1])),
        optional(st.sampled_from([1, 2, 3, 4])),
        optional(st.integers(60, 250) | st.just(0)),
        optional(st.integers(80, 700) | st.just(0)),
        optional(st.sampled_from([0, 1])),
        optional(st.sampled_from([0, 1, 2])),
        optional(st.integers(50, 220)),
        optional(st.sampled_from([0, 1])),
        optional(st.integers(-40, 90).map(lambda tenths: tenths / 10)),
        optional(st.sampled_from([1, 2, 3])),
        optional(st.sampled_from([0, 1, 2, 3])),
        optional(st.sampled_from([3, 6, 7])),
        st.sampled_from([0, 1, 2, 3, 4]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=20, deadline=None)
@given(rows=ROWS, ending=st.sampled_from(["\n", "\r\n"]), decimals=st.booleans())
def test_any_table_in_the_format_comes_back_from_its_events(rows, ending, decimals):
    def field(value):
        return "?" if value is None else str(float(value) if decimals else value)

    text = "".join(",".join(map(field, row)) + ending for row in rows)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = source_folder(folder, switzerland=text)
        report = convert(source, folder / "out")
        expected = published_table(source / "processed.switzerland.data")
        pd.testing.assert_frame_equal(
            table_of(folder / "out/switzerland"), expected, atol=1e-5, check_dtype=False
        )
    site = report.sites[2]
    assert site.rows == site.patients == len(rows)
    assert site.duplicates == len(rows) - len(set(rows))


def test_row_without_a_diagnosis_is_excluded_and_counted(tmp_path):
    unknown = GOOD.rpartition(",")[0] + ",?"
    source = source_folder(tmp_path, hungarian=f"{unknown}\n{GOOD}\n")
    site = convert(source, tmp_path / "out").sites[1]
    assert (site.rows, site.patients, dict(site.excluded)) == (2, 1, {"no diagnosis": 1})
    events = pd.read_parquet(tmp_path / "out/hungarian/data/meds/data/0.parquet")
    labels = pd.read_parquet(tmp_path / "out/hungarian/data/labels.parquet")
    assert set(events["subject_id"]) == set(labels["subject_id"])
    assert len(labels) == 1


def test_file_in_which_no_row_has_a_diagnosis_gives_empty_valid_tables(tmp_path):
    unknown = GOOD.rpartition(",")[0] + ",?"
    convert(source_folder(tmp_path, hungarian=f"{unknown}\n"), tmp_path / "out")
    labels = pq.read_table(tmp_path / "out/hungarian/data/labels.parquet")
    LabelSchema.validate(labels)
    assert labels.num_rows == 0


def test_site_file_states_the_data_and_the_policy(tmp_path):
    convert(source_folder(tmp_path), tmp_path / "out")
    for name in SITES:
        site = tomllib.loads((tmp_path / "out" / name / "site.toml").read_text())
        assert site == {
            "site": {"name": name, "device": "cpu", "state": "state"},
            "data": {
                "events": {"format": "meds", "path": "data/meds"},
                "labels": "data/labels.parquet",
                "subgroups": ["sex", "age_band"],
            },
            "policy": {
                "minimum_cell": 10,
                "score_bins": "fine",
                "require_privacy": False,
            },
        }
        for path in (site["data"]["labels"], site["data"]["events"]["path"], "state"):
            assert (tmp_path / "out" / name / path).exists()


def test_patient_keys_follow_from_the_site_name(tmp_path):
    convert(source_folder(tmp_path), tmp_path / "out")
    for site in SITES:
        key = tmp_path / "out" / site / "state/patient.key"
        assert key.read_text() == hashlib.sha256(f"uci-heart/{site}".encode()).hexdigest()
        assert key.stat().st_mode & 0o077 == 0


def test_converting_twice_gives_the_same_bytes(tmp_path):
    source = source_folder(tmp_path)
    contents = []
    for out in (tmp_path / "first", tmp_path / "second"):
        convert(source, out)
        files = [path for path in sorted(out.rglob("*")) if path.is_file()]
        contents.append({path.relative_to(out): path.read_bytes() for path in files})
    assert len(contents[0]) == 4 * 6
    assert contents[0] == contents[1]


def test_registry_converts_by_name(tmp_path):
    report = DATASETS["uci-heart"].convert(source_folder(tmp_path), tmp_path / "out")
    assert report.dataset == "uci-heart"
    assert [site.site for site in report.sites] == SITES
    assert all("\n" not in dataset.description for dataset in DATASETS.values())


def changed(column: str, field: str) -> str:
    """A good line, then a line with one field changed."""
    fields = GOOD.split(",")
    fields[NAMES.index(column)] = field
    return f"{GOOD}\n{','.join(fields)}\n"


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("", "", "is empty; expected one line per patient"),
        ("\n", "", "is empty; expected one line per patient"),
        (f"{GOOD}\n63,1\n", "line 2", "has 2 fields; expected 14, separated by commas: age, sex"),
        (f"{GOOD},1\n", "line 1", "has 15 fields; expected 14"),
        (f"{GOOD}\n\n{GOOD}\n", "line 2", "has 1 fields; expected 14"),
        (",".join(NAMES) + "\n", "line 1, column 1 (age)", "have no header line: remove it"),
        (changed("chol", ""), "line 2, column 5 (chol)", "is not a number; expected a number from"),
        (changed("oldpeak", "nan"), "line 2, column 10 (oldpeak)", "is not a number"),
        (changed("thalach", "inf"), "line 2, column 8 (thalach)", "is not a number"),
        (changed("thalach", "1_50"), "line 2, column 8 (thalach)", "is not a number"),
        (changed("trestbps", "-9"), "line 2, column 4 (trestbps)", 'from 20 to 400, 0 or "?"'),
        (changed("oldpeak", "-9.0"), "line 2, column 10 (oldpeak)", 'from -5 to 15 or "?"'),
        (changed("thalach", "0"), "line 2, column 8 (thalach)", 'from 20 to 300 or "?"'),
        (changed("age", "190"), "line 2, column 1 (age)", 'a number from 0 to 120 or "?"'),
        (changed("ca", "1.5"), "line 2, column 12 (ca)", 'a whole number from 0 to 3 or "?"'),
        (changed("ca", "4"), "line 2, column 12 (ca)", 'a whole number from 0 to 3 or "?"'),
        (changed("sex", "2"), "line 2, column 2 (sex)", 'expected one of 0, 1 or "?"'),
        (changed("cp", "0"), "line 2, column 3 (cp)", 'expected one of 1, 2, 3, 4 or "?"'),
        (changed("restecg", "1.5"), "line 2, column 7 (restecg)", 'one of 0, 1, 2 or "?"'),
        (changed("thal", "5"), "line 2, column 13 (thal)", 'expected one of 3, 6, 7 or "?"'),
        (changed("num", "5"), "line 2, column 14 (num)", 'one of 0, 1, 2, 3, 4 or "?"'),
        (changed("slope", "steep"), "line 2, column 11 (slope)", 'is not a number; expected one'),
        (changed("slope", "\xe9"), "line 2, column 11", "a byte that is not plain text"),
    ],
)  # fmt: skip
def test_bad_line_is_refused_with_its_place_and_nothing_is_written(tmp_path, text, place, expected):
    source = source_folder(tmp_path, va=text)
    with pytest.raises(UserError) as caught:
        convert(source, tmp_path / "out")
    message = str(caught.value)
    file = source / "processed.va.data"
    assert message.startswith(f"{file}: {place}: " if place else f"{file}: is empty")
    assert expected in message
    assert not (tmp_path / "out").exists()


def test_refusal_does_not_repeat_the_value_of_a_field(tmp_path):
    source = source_folder(tmp_path, va=changed("chol", "98765"))
    with pytest.raises(UserError) as caught:
        convert(source, tmp_path / "out")
    assert "98765" not in str(caught.value).replace(str(tmp_path), "")


def test_all_missing_files_are_named(tmp_path):
    source = source_folder(tmp_path)
    (source / "processed.va.data").unlink()
    (source / "processed.hungarian.data").unlink()
    with pytest.raises(UserError, match=r"has no processed\.hungarian\.data, processed\.va\.data"):
        convert(source, tmp_path / "out")


def test_missing_source_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent: is not a folder that can be read"):
        convert(tmp_path / "absent", tmp_path / "out")


def test_folder_in_the_place_of_a_file_is_refused(tmp_path):
    source = source_folder(tmp_path)
    (source / "processed.va.data").unlink()
    (source / "processed.va.data").mkdir()
    with pytest.raises(UserError, match=r"processed\.va\.data: cannot be read"):
        convert(source, tmp_path / "out")


def test_output_folder_that_is_not_empty_is_left_alone(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="out: is not empty"):
        convert(source_folder(tmp_path), out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_empty_output_folder_is_used(tmp_path):
    (tmp_path / "out").mkdir()
    convert(source_folder(tmp_path), tmp_path / "out")
    assert (tmp_path / "out/va/site.toml").is_file()


def test_file_as_output_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    source = source_folder(tmp_path)
    with pytest.raises(UserError, match="out: is not a folder that can be written to"):
        convert(source, tmp_path / "out")
    with pytest.raises(UserError, match="below"):
        convert(source, tmp_path / "out" / "below")


def source_folder(parent: Path, **texts: str) -> Path:
    """The four files, each one good line unless its text is given."""
    source = parent / "source"
    source.mkdir()
    for site in SITES:
        text = texts.get(site, f"{GOOD}\n")
        (source / f"processed.{site}.data").write_bytes(text.encode("latin-1"))
    return source


def published_table(file: Path) -> pd.DataFrame:
    """UCI's table read by pandas alone: the oracle."""
    table = pd.read_csv(file, header=None, names=NAMES, na_values="?").astype(float)
    table["chol"] = table["chol"].replace(0, np.nan)
    table["trestbps"] = table["trestbps"].replace(0, np.nan)
    table["num"] = (table["num"] > 0).astype(float)
    return table


def table_of(site: Path) -> pd.DataFrame:
    """UCI's table from a site's events and labels, ``num`` as 0 or 1, age to within a day."""
    labels = pd.read_parquet(site / "data/labels.parquet").set_index("subject_id")
    events = pd.read_parquet(site / "data/meds/data/0.parquet")
    rows: dict[int, dict[str, float]] = {subject: {} for subject in labels.index}
    for event in events.itertuples():
        row = rows[event.subject_id]
        kind, *rest = event.code.split("//")
        if event.code == "MEDS_BIRTH":
            age = labels.loc[event.subject_id, "prediction_time"] - event.time
            name, value = "age", round(age / pd.Timedelta(days=365.25) * 365) / 365
        elif kind == "GENDER":
            name, value = "sex", {"F": 0, "M": 1}[rest[0]]
        elif (name := rest[0].lower()) in CATEGORIES:
            assert np.isnan(event.numeric_value)
            value = int(rest[1])
        else:
            assert len(rest) == 1
            value = event.numeric_value
        assert name not in row, f"{name} twice for one patient"
        row[name] = value
    table = pd.DataFrame(list(rows.values()), columns=NAMES[:-1]).astype(float)
    return table.assign(num=labels["boolean_value"].astype(float).to_numpy())
