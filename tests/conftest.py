"""What many tests need: small site folders, DICOM files and studies, written in milliseconds."""

import hashlib
import os
from datetime import datetime, timedelta
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
from hypothesis import HealthCheck, settings

from clients.pseudonyms import pseudonyms
from clients.site import load_site
from federation.study import Study

settings.register_profile(
    "wardround", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("wardround")

SHARED = Path(__file__).parents[2] / "shared" / "data"
MIMIC = SHARED / "mimic_iv_demo_meds_0.0.1"

MIMIC_SITE = """
[site]
name = "mimic"
device = "cpu"
[data]
events = { format = "meds", path = "meds" }
labels = "labels.parquet"
"""

START = datetime(2024, 1, 1)
EVENT_TYPES = {
    "subject_id": pa.int64(),
    "time": pa.timestamp("us"),
    "code": pa.string(),
    "numeric_value": pa.float32(),
    "text_value": pa.string(),
}


def _write_table(file, rows, types):
    """Write rows of tuples as parquet."""
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in types]
    arrays = [pa.array(c, kind) for c, kind in zip(columns, types.values(), strict=True)]
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays, names=list(types)), file)
    return file


def _write_events(folder, rows):
    """Write (subject_id, time, code, numeric_value, text_value) as a MEDS dataset."""
    return _write_table(folder / "data" / "0.parquet", rows, EVENT_TYPES)


def _write_labels(file, rows):
    """Write (subject_id, prediction_time, boolean_value) in the MEDS label schema."""
    types = {
        "subject_id": pa.int64(),
        "prediction_time": pa.timestamp("us"),
        "boolean_value": pa.bool_(),
    }
    return _write_table(file, rows, types)


def _write_dicom(file, pixels, *, bits=None, photometric="MONOCHROME2", **tags):
    """Write a single- or multi-frame image as a real DICOM file.

    ``pixels``: (rows, columns) or (frames, rows, columns) whole numbers; signed types are kept.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

    pixels = np.ascontiguousarray(pixels)
    meta = FileMetaDataset()
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(file)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID = ComputedRadiographyImageStorage
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = photometric
    data.Rows, data.Columns = pixels.shape[-2:]
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored = bits or data.BitsAllocated
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    if pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    data.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    meta.MediaStorageSOPClassUID = data.SOPClassUID
    file.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(file, enforce_file_format=True)
    return file


def _default_rows(patients, first_id, seed, images, notes, folder):
    """Events and labels of patients whose laboratory value, image and note tell of the label."""
    rng = np.random.default_rng(seed)
    events, labels = [], []
    for subject in range(first_id, first_id + patients):
        sick = bool((subject - first_id) % 2)
        when = START + timedelta(days=int(rng.integers(1, 300)), minutes=subject)
        born = when - timedelta(days=int(rng.integers(20 * 365, 90 * 365)))
        events.append((subject, born, "MEDS_BIRTH", None, None))
        sex = "GENDER//F" if rng.random() < 0.5 else "GENDER//M"
        events.append((subject, None, sex, None, None))
        for hours in (40, 20, 2):
            value = float(rng.normal(6 if sick else 5))
            events.append((subject, when - timedelta(hours=hours), "LAB//CRP", value, None))
        if images:
            pixels = rng.integers(0, 80, (32, 32), np.uint8)
            pixels[8:24, 8:24] += 100 if sick else 0
            _write_dicom(folder / "dicom" / f"{subject}.dcm", pixels)
            at = when - timedelta(hours=3)
            events.append((subject, at, "IMAGE//CR", None, f"{subject}.dcm"))
        if notes:
            text = "Dense opacity on the left." if sick else "No opacity. Clear lungs."
            at = when - timedelta(hours=1)
            events.append((subject, at, "NOTE//RADIOLOGY", None, text))
        labels.append((subject, when, sick))
    return events, labels


def _write_site(
    folder,
    patients=60,
    *,
    first_id=1,
    seed=0,
    images=False,
    notes=False,
    events=None,
    labels=None,
    more_events=(),
    splits=None,
    subgroups=("sex", "age_band"),
    policy=None,
    key="",
):
    """Write a site folder; return it.

    ``events`` and ``labels`` replace the default rows, ``more_events`` come on top; ``splits``
    is written as the site's subject splits. The patient ``key``, in hexadecimal, follows from
    the folder's name where none is given, so that no split is a matter of luck; with None the site
    draws its own.
    """
    folder = Path(folder)
    default_events, default_labels = _default_rows(patients, first_id, seed, images, notes, folder)
    chosen = [*(default_events if events is None else events), *more_events]
    _write_events(folder / "meds", chosen)
    _write_labels(folder / "labels.parquet", default_labels if labels is None else labels)
    if splits is not None:
        types = {"subject_id": pa.int64(), "split": pa.string()}
        _write_table(folder / "meds/metadata/subject_splits.parquet", list(splits.items()), types)
    data = {
        "events": {"format": "meds", "path": "meds"},
        "labels": "labels.parquet",
        "subgroups": list(subgroups),
    }
    if images:
        (folder / "dicom").mkdir(exist_ok=True)
        data["images"] = {"format": "dicom", "path": "dicom"}
    if notes:
        data["notes"] = {"format": "meds"}
    document = {"site": {"name": folder.name, "device": "cpu"}, "data": data}
    if policy:
        document["policy"] = policy
    (folder / "site.toml").write_text(tomli_w.dumps(document))
    if key is not None:
        (folder / "state").mkdir(mode=0o700, exist_ok=True)
        file = folder / "state" / "patient.key"
        file.write_text(key or hashlib.sha256(folder.name.encode()).hexdigest())
        file.chmod(0o600)
    return folder


def _identified(folder, hashed):
    """Return whom pseudonyms of a site stand for, in their order."""
    site = load_site(Path(folder))
    subjects = pq.read_table(site.labels)["subject_id"].unique().to_numpy()
    known = pseudonyms(subjects, site.patient_key()).tolist()
    names = dict(zip(known, subjects.tolist(), strict=True))
    return [names[one] for one in hashed.tolist()]


def _study_document(*modalities, **sections):
    """A small study as nested dictionaries; ``sections`` replace or add to tables."""
    known = {
        "ehr": {"width": 8, "buckets": 8, "reference_ranges": {"LAB//CRP": [0.0, 10.0]}},
        "image": {"width": 8, "size": 32},
        "text": {"width": 8, "buckets": 64, "max_tokens": 16},
    }
    document = {
        "study": {"name": "small"},
        "task": {"label": "sick"},
        "modalities": {name: dict(known[name]) for name in modalities or ("ehr",)},
        "training": {"rounds": 2, "batch_size": 16},
    }
    for name, table in sections.items():
        document[name] = {**document.get(name, {}), **table}
    return document


@pytest.fixture(scope="session")
def write_table():
    return _write_table


@pytest.fixture(scope="session")
def write_events():
    return _write_events


@pytest.fixture(scope="session")
def write_labels():
    return _write_labels


@pytest.fixture(scope="session")
def write_dicom():
    return _write_dicom


@pytest.fixture(scope="session")
def write_site():
    return _write_site


@pytest.fixture(scope="session")
def identified():
    return _identified


@pytest.fixture(scope="session")
def study_document():
    return _study_document


@pytest.fixture(scope="session")
def make_study():
    """Return a builder of small studies: modalities by name, then tables to change."""
    return lambda *modalities, **sections: Study.model_validate(
        _study_document(*modalities, **sections)
    )


@pytest.fixture
def write_study(tmp_path):
    """Return a builder of small study files."""

    def write(*modalities, **sections):
        file = tmp_path / "study.toml"
        file.write_text(tomli_w.dumps(_study_document(*modalities, **sections)))
        return file

    return write


@pytest.fixture(scope="session")
def mimic_site(tmp_path_factory):
    """A site of the MIMIC-IV demo's events; the label is a death in hospital after day one."""
    if not MIMIC.is_dir():
        pytest.skip(f"the MIMIC-IV demo in MEDS is not there ({MIMIC})")
    folder = tmp_path_factory.mktemp("mimic")
    (folder / "meds").symlink_to(MIMIC)
    (folder / "site.toml").write_text(MIMIC_SITE)
    files = sorted(MIMIC.glob("data/*/*.parquet"))
    events = pd.concat(
        [pq.read_table(f, columns=["subject_id", "time", "code"]).to_pandas() for f in files]
    )
    admitted = events[events["code"].str.startswith("HOSPITAL_ADMISSION")]
    died = events.loc[events["code"] == "HOSPITAL_DISCHARGE//DIED", "subject_id"].unique()
    labels = admitted.groupby("subject_id")["time"].min().reset_index(name="prediction_time")
    labels["prediction_time"] += np.timedelta64(24, "h")
    labels["prediction_time"] = labels["prediction_time"].astype("datetime64[us]")
    labels["boolean_value"] = labels["subject_id"].isin(died)
    labels.to_parquet(folder / "labels.parquet", index=False)
    return folder
