"""Sites that hold CT series and NIfTI volumes: checked, prepared and trained on, whole."""

import json

import nibabel
import numpy as np
import pytest
import tomli_w
from pydicom.uid import CTImageStorage

from clients.checks import check_site
from clients.workbench import Workbench
from simulations.runner import simulate

PATIENTS = 40
SPACING = 2.5, 1.5, 1.5


@pytest.fixture(scope="module")
def sites(tmp_path_factory, write_site, write_dicom):
    """Two hospitals whose sick patients have a dense spot low in the chest.

    The first has the slices of all patients in one folder under meaningless names, and one of
    patient 3's is missing. The second has NIfTI files that run from the head.
    """
    root = tmp_path_factory.mktemp("volumes") / "sites"
    for number, name in enumerate(("bern", "basel")):
        nifti, rng = name == "basel", np.random.default_rng(number)
        subjects = range(1 + 1000 * number, 1 + 1000 * number + PATIENTS)
        files = [f"{s}.nii.gz" if nifti else f"{s}-04.dcm" for s in subjects]
        events = [(s, None, "IMAGE//CT", None, f) for s, f in zip(subjects, files, strict=True)]
        folder = write_site(
            root / name, PATIENTS, first_id=subjects[0], seed=number, more_events=events
        )
        for subject in subjects:
            volume = rng.normal(0, 60, (10, 24, 24))
            if (subject - subjects[0]) % 2:
                volume[2:4, 4:12, 12:20] += 300
            if nifti:
                _write_nifti(folder / "images" / f"{subject}.nii.gz", volume)
            else:
                _write_series(folder / "images", subject, volume, write_dicom)
        images = {"format": "nifti" if nifti else "dicom", "path": "images"}
        if not nifti:
            images["ct_window"] = [100.0, 500.0]
        document = {
            "site": {"name": name, "device": "cpu"},
            "policy": {"minimum_cell": 1, "score_bins": "fine"},
            "data": {
                "events": {"format": "meds", "path": "meds"},
                "labels": "labels.parquet",
                "images": images,
            },
        }
        (folder / "site.toml").write_text(tomli_w.dumps(document))
    return root


def _write_nifti(file, volume):
    file.parent.mkdir(exist_ok=True)
    affine = np.diag([-SPACING[2], -SPACING[1], -SPACING[0], 1])
    along = volume[::-1].transpose(2, 1, 0).astype(np.int16)
    nibabel.Nifti1Image(along, affine).to_filename(file)


def _write_series(folder, subject, volume, write_dicom):
    for i, plane in enumerate(volume.astype(np.int16)):
        if (subject, i) == (3, 5):
            continue
        write_dicom(
            folder / f"{subject}-{(7 * i + subject) % 10:02d}.dcm",
            plane,
            SOPClassUID=CTImageStorage,
            Modality="CT",
            SeriesInstanceUID=f"1.2.{subject}",
            ImagePositionPatient=[0, 0, SPACING[0] * i],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=list(SPACING[1:]),
        )


@pytest.fixture
def study(make_study):
    image = {"planes": 8, "size": 32, "width": 32, "spacing_mm": [3.0, 1.5]}
    return make_study(
        "image",
        modalities={"image": image},
        split={"fractions": {"train": 0.4, "tuning": 0.2, "held_out": 0.4}},
        training={"rounds": 4, "local_epochs": 3, "batch_size": 8},
    )


def test_check_tells_of_planes_and_spacing_and_of_what_a_study_leaves_out(sites, study):
    check = check_site(sites / "bern", study, lambda text: None)
    assert check.to_json()["counts"]["volumes"] == {
        "number": 40,
        "left out": 1,
        "planes": [9, 10],
        "apart_mm": [2.5, 2.5],
        "pixels_mm": [1.5, 1.5],
    }
    told = [one.what for one in check.findings if one.where == "volumes"]
    assert "1 of 40 volumes: slices are missing or unevenly spaced" in told
    assert "40 volumes: 9 to 10 planes, 2.5 mm apart, pixels of 1.5 mm" in told
    assert check.ready
    assert check.evidence.present == {"image": 39}
    basel = check_site(sites / "basel", None, lambda text: None).to_json()
    assert basel["counts"]["volumes"]["planes"] == [10, 10]


def test_volumes_of_both_formats_lie_alike_on_the_disk_and_teach_a_model(sites, study, tmp_path):
    dicom, nifti = (
        Workbench().cohort(str(sites / name / "site.toml"), study, None).modalities["image"]
        for name in ("bern", "basel")
    )
    assert dicom.values.shape == (40, 1, 8, 32, 32)
    assert dicom.unusable == {"image: slices are missing or unevenly spaced": 1}
    for tensor in (dicom, nifti):
        spot = tensor.values[:, 0, 1:3, 8:16, 16:24].mean((1, 2, 3))
        around = tensor.values[:, 0, 4:7, 8:24, 8:24].mean((1, 2, 3))
        sick = spot > around + 0.2
        assert sick.sum() == 20
    kept = list((sites / "bern" / "state" / "cache").glob("*/*.safetensors"))
    assert any(file.stat().st_size > 40 * 8 * 32 * 32 * 4 for file in kept)
    assert not [file for file in kept[0].parent.iterdir() if file.suffix != ".safetensors"]

    simulate(study, sites, tmp_path / "run", workers=0)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["models"]["federated"]["overall"]["auroc"]["value"] > 0.9
