"""The synthetic consortium: its files, its honesty about itself, and that it can be learned."""

from __future__ import annotations

import hashlib
import json
import tomllib
from datetime import datetime
from itertools import combinations, pairwise
from pathlib import Path

import meds
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pydicom
import pytest
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from federation.errors import UserError
from simulations.consortium import synthesize
from simulations.hospitals import draw_hospitals

Floats = NDArray[np.float64]
COLUMNS = ["subject_id", "time", "code", "numeric_value", "text_value"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small") / "sites"
    synthesize(out, sites=3, patients=40, seed=11, image_size=32)
    return out


def test_same_arguments_write_the_same_bytes(small: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "again", sites=3, patients=40, seed=11, image_size=32)
    first, second = _digests(small), _digests(tmp_path / "again")
    assert len(first) > 90
    assert first == second


def test_another_seed_writes_other_patients(small: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "other", sites=1, patients=40, seed=12, image_size=32)
    name = "st-elsewhere/data/labels.parquet"
    assert (small / name).read_bytes() != (tmp_path / "other" / name).read_bytes()


def test_a_hospital_does_not_change_when_others_join(small: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "two", sites=2, patients=40, seed=11, image_size=32)
    for name in ("st-elsewhere", "bayview"):
        assert _digests(small / name) == _digests(tmp_path / "two" / name)


def test_tables_follow_the_meds_schemas(small: Path) -> None:
    for site in _sites(small):
        events = pq.read_table(site / "data/meds/data/0.parquet")
        meds.DataSchema.validate(events)
        meds.LabelSchema.validate(pq.read_table(site / "data/labels.parquet"))
        codes = pq.read_table(site / "data/meds" / meds.code_metadata_filepath)
        meds.CodeMetadataSchema.validate(codes)
        about = json.loads((site / "data/meds" / meds.dataset_metadata_filepath).read_text())
        meds.DatasetMetadataSchema.validate(about)
        assert set(events["code"].to_pylist()) <= set(codes["code"].to_pylist())


def test_events_are_sorted_by_subject_and_time_with_static_ones_first(small: Path) -> None:
    for site in _sites(small):
        table = pq.read_table(site / "data/meds/data/0.parquet").to_pydict()
        keys = [
            (who, when or datetime.min)
            for who, when in zip(table["subject_id"], table["time"], strict=True)
        ]
        assert keys == sorted(keys)


def test_every_radiograph_decodes_and_agrees_with_its_event(small: Path) -> None:
    for site in _sites(small):
        events = _events(site)
        images = events[events.code == "IMAGE//DX"].set_index("text_value")
        files = sorted((site / "data/dicom").iterdir())
        assert sorted(images.index) == [f.name for f in files]
        for file in files:
            header = pydicom.dcmread(file)
            event = images.loc[file.name]
            assert header.pixel_array.shape == (32, 32)
            assert header.pixel_array.max() < 2**header.BitsStored
            assert header.PatientID == str(event.subject_id)
            assert header.StudyDate + header.StudyTime == f"{event.time:%Y%m%d%H%M%S}"


def test_hospitals_store_their_images_differently(tmp_path: Path) -> None:
    synthesize(tmp_path / "six", sites=6, patients=5, seed=1, image_size=16)
    headers = [
        pydicom.dcmread(next((site / "data/dicom").iterdir())) for site in _sites(tmp_path / "six")
    ]
    assert {h.PhotometricInterpretation for h in headers} == {"MONOCHROME1", "MONOCHROME2"}
    assert len({h.BitsStored for h in headers}) >= 3
    assert len({(h.RescaleSlope, h.RescaleIntercept) for h in headers}) >= 3


def test_no_patient_is_in_two_sites_and_every_one_has_a_label(small: Path) -> None:
    people = [set(_labels(site).subject_id) for site in _sites(small)]
    assert all(not a & b for a, b in combinations(people, 2))
    assert sum(map(len, people)) == 3 * 40
    for site, here in zip(_sites(small), people, strict=True):
        assert set(_events(site).subject_id) == here


def test_the_truth_reports_what_the_files_hold(small: Path) -> None:
    truth = json.loads((small / "truth.json").read_text())
    for site in _sites(small):
        told = truth["sites"][site.name]["realised"]
        labels, seen = _labels(site), _before_prediction(site)
        n = len(labels)
        assert told["patients"] == n
        assert told["prevalence"] == pytest.approx(labels.boolean_value.mean())
        for field, code in (("image_missing", "IMAGE//DX"), ("note_missing", "NOTE//ADMISSION")):
            assert told[field] == pytest.approx(1 - (seen.code == code).sum() / n)
        for code, missing in told["lab_missing"].items():
            assert missing == pytest.approx(1 - seen[seen.code == code].subject_id.nunique() / n)
        assert told["events_after_prediction"] == len(_events(site)) - len(seen)


def test_prevalence_and_missing_rates_are_near_the_profile(tmp_path: Path) -> None:
    synthesize(tmp_path / "large", sites=2, patients=1500, seed=3, image_size=16)
    for site in json.loads((tmp_path / "large/truth.json").read_text())["sites"].values():
        for name in ("prevalence", "image_missing", "note_missing"):
            assert site["realised"][name] == pytest.approx(site["profile"][name], abs=0.04)
        best = site["best_auroc"]
        assert best["generated"] == pytest.approx(best["expected"], abs=0.04)


def test_the_best_auroc_is_that_of_the_true_logit(small: Path) -> None:
    truth = json.loads((small / "truth.json").read_text())
    told = pd.read_parquet(small / "truth.parquet")
    labels = pd.concat([_labels(site) for site in _sites(small)])
    both = told.merge(labels, on="subject_id")
    best = roc_auc_score(both.boolean_value, both.logit)
    assert truth["best_auroc"]["generated"] == pytest.approx(best, abs=1e-4)


def test_events_after_the_prediction_give_the_outcome_away(small: Path) -> None:
    for site in _sites(small):
        events, labels = _events(site), _labels(site).set_index("subject_id")
        moved = events[events.code == "ICU_TRANSFER"]
        assert len(moved)
        assert labels.boolean_value[moved.subject_id].all()
        assert not _before_prediction(site).code.isin(["ICU_TRANSFER", "NOTE//DISCHARGE"]).any()


def test_site_file_names_what_is_there(small: Path) -> None:
    for site in _sites(small):
        told = tomllib.loads((site / "site.toml").read_text())
        assert told["site"] == {"name": site.name, "device": "cpu", "state": "state"}
        for path in ("events", "images"):
            assert (site / told["data"][path]["path"]).is_dir()
        assert (site / told["data"]["labels"]).is_file()
        assert len(bytes.fromhex((site / "state/patient.key").read_text())) == 32


def test_hundreds_of_hospitals_are_distinct_and_share_out_the_patients() -> None:
    hospitals = draw_hospitals(300, 50, seed=5)
    assert len({h.name for h in hospitals}) == 300
    assert sum(h.size for h in hospitals) == 300 * 50
    assert all(30 <= h.size <= 75 for h in hospitals)
    assert len({h.size for h in hospitals}) > 20


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"sites": 0}, "--sites"), ({"patients": 0}, "--patients"), ({"seed": -1}, "--seed")],
)
def test_a_number_out_of_range_is_the_users_error(
    tmp_path: Path, changed: dict[str, int], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        synthesize(tmp_path / "new", **({"sites": 1, "patients": 2, "seed": 0} | changed))
    assert not (tmp_path / "new").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="empty folder"):
        synthesize(tmp_path, sites=1, patients=2, seed=0)
    assert [f.name for f in tmp_path.iterdir()] == ["mine.txt"]


def test_one_patient_is_enough(tmp_path: Path) -> None:
    synthesize(tmp_path / "one", sites=1, patients=1, seed=0, image_size=16)
    assert len(_labels(tmp_path / "one/st-elsewhere")) == 1


# --- The gate ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_modality_can_be_learned_and_adds_to_the_others(tmp_path: Path) -> None:
    synthesize(tmp_path / "six", sites=6, patients=300, seed=7)
    found = measure(tmp_path / "six")
    singles = (found["ehr"], found["image"], found["notes"])
    assert found["oracle"] > found["all"] > max(singles), found
    assert min(singles) > 0.65, found
    assert found["all"] - found["without image"] >= 0.02, found
    assert found["all"] - found["without notes"] >= 0.02, found


def measure(out: Path) -> dict[str, float]:
    """Cross-validated AUROC by modality, from the files alone; every patient is held out once.

    A single modality is judged on the patients who have it, the combinations on all.
    """
    sites = _sites(out)
    labels = pd.concat([_labels(site) for site in sites]).set_index("subject_id")
    who, y = labels.index, labels.boolean_value.to_numpy().astype(int)
    seen = pd.concat([_before_prediction(site) for site in sites])
    oracle = pd.read_parquet(out / "truth.parquet").set_index("subject_id").logit[who]

    notes = seen[seen.code == "NOTE//ADMISSION"].set_index("subject_id").text_value.reindex(who)
    images = pd.concat([_images(site) for site in sites]).reindex(who)
    has_note, has_image = notes.notna().to_numpy(), images.notna().to_numpy()
    pixels = np.stack(images[has_image])
    text = HashingVectorizer(n_features=4096, ngram_range=(1, 3), alternate_sign=False, norm=None)

    logits = {"ehr": _out_of_fold(_ehr_features(seen, who), y, _tabular)}
    logits["notes"] = np.zeros(len(y))
    logits["notes"][has_note] = _out_of_fold(text.transform(notes[has_note]), y[has_note], _linear)
    logits["image"] = np.zeros(len(y))
    logits["image"][has_image] = _out_of_fold(pixels, y[has_image], _network)
    present = {"notes": has_note, "image": has_image, "ehr": np.ones(len(y), bool)}

    def fused(*names: str) -> float:
        x = np.column_stack([column for n in names for column in (logits[n], present[n])])
        model = make_pipeline(StandardScaler(), LogisticRegression())
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        scores = cross_val_predict(model, x, y, cv=folds, method="decision_function")
        return float(roc_auc_score(y, scores))

    return {
        **{n: float(roc_auc_score(y[present[n]], z[present[n]])) for n, z in logits.items()},
        "without image": fused("ehr", "notes"),
        "without notes": fused("ehr", "image"),
        "without ehr": fused("notes", "image"),
        "all": fused("ehr", "image", "notes"),
        "oracle": float(roc_auc_score(y, oracle)),
    }


def _out_of_fold(x, y, learner) -> Floats:  # type: ignore[no-untyped-def]
    scores = np.zeros(len(y))
    for train, test in StratifiedKFold(3, shuffle=True, random_state=0).split(y, y):
        scores[test] = learner(x[train], y[train], x[test])
    return scores


def _tabular(x: Floats, y: Floats, new: Floats) -> Floats:
    middle = np.nanmean(x, axis=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=500))
    model.fit(np.where(np.isnan(x), middle, x), y)
    return np.asarray(model.decision_function(np.where(np.isnan(new), middle, new)))


def _linear(x, y, new) -> Floats:  # type: ignore[no-untyped-def]
    return np.asarray(LogisticRegression(C=0.05, max_iter=500).fit(x, y).decision_function(new))


def _network(x: Floats, y: Floats, new: Floats, passes: int = 6) -> Floats:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    widths = (1, 16, 32, 64, 64)
    layers: list[torch.nn.Module] = []
    for a, b in pairwise(widths):
        layers += [torch.nn.Conv2d(a, b, 3, 2, 1), torch.nn.GroupNorm(8, b), torch.nn.ReLU()]
    # The 4x4 map goes to the head whole: where a shadow lies is most of what it means.
    model = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(64 * 4 * 4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    inputs, targets = torch.tensor(x)[:, None].float(), torch.tensor(y).float()
    for _ in range(passes):
        for batch in torch.randperm(len(x)).split(32):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                model(inputs[batch])[:, 0], targets[batch]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return np.asarray(model(torch.tensor(new)[:, None].float())[:, 0].numpy(), dtype=float)


# --- Reading a site, independently of the clients' readers ---------------------------------------


def _sites(out: Path) -> list[Path]:
    return sorted(file.parent for file in out.glob("*/site.toml"))


def _events(site: Path) -> pd.DataFrame:
    return pd.read_parquet(site / "data/meds/data/0.parquet")


def _labels(site: Path) -> pd.DataFrame:
    return pd.read_parquet(site / "data/labels.parquet")


def _before_prediction(site: Path) -> pd.DataFrame:
    events = _events(site).merge(_labels(site), on="subject_id")
    return events[events.time.isna() | (events.time <= events.prediction_time)]


def _ehr_features(seen: pd.DataFrame, who: pd.Index) -> Floats:
    by_code = seen.groupby(["subject_id", "code"])
    parts = [by_code.size().unstack(fill_value=0)]
    parts += [by_code.numeric_value.agg(how).unstack() for how in ("mean", "last")]
    born = seen[seen.code == meds.birth_code].set_index("subject_id")
    age = ((born.prediction_time - born.time).dt.days / 365.25).rename("age")
    table = pd.concat([*(p.reindex(who) for p in parts), age.reindex(who)], axis=1)
    return table.dropna(axis=1, how="all").to_numpy(dtype=float)


def _images(site: Path) -> pd.Series:
    images = {}
    for file in (site / "data/dicom").iterdir():
        header = pydicom.dcmread(file)
        x = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
        x = -x if header.PhotometricInterpretation == "MONOCHROME1" else x
        low, high = np.percentile(x, [1, 99])
        images[int(header.PatientID)] = np.clip((x - low) / (high - low), 0, 1) - 0.5
    return pd.Series(images)


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
