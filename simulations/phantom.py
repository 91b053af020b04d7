"""Chest radiographs that never were: anatomy, findings, scanner, DICOM.

A radiograph is the Beer-Lambert law: detector = exp(-sum of attenuation along the ray). The
anatomy is a set of thickness maps on [-1, 1] x [-1, 1] (x to the patient's left, y downwards); a
finding fills lung air with water, or widens the heart. Images are rendered in stacks, because at
64 pixels a stack costs little more than one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

Image = NDArray[np.float32]

# Texture of the lungs: grid points across the image, and how much each scale weighs.
_TEXTURE_SCALES = ((5, 0.10), (11, 0.10), (23, 0.08))


@dataclass(frozen=True)
class Findings:
    """What is wrong in a chest, each from 0 (absent) to 1 (gross)."""

    consolidation: float = 0.0
    effusion: float = 0.0
    cardiomegaly: float = 0.0
    oedema: float = 0.0


@dataclass(frozen=True)
class Chest:
    """One person's anatomy and position, as the numbers that `render` needs."""

    findings: Findings
    shape: _Shape
    texture: NDArray[np.float32]


@dataclass(frozen=True)
class Scanner:
    """How a hospital's equipment turns attenuation into stored pixels."""

    manufacturer: str
    model: str
    computed: bool  # computed radiography (CR), not digital (DX)
    photometric: str  # MONOCHROME1 | MONOCHROME2
    bits: int
    gamma: float
    gain: float
    blur: float  # as a part of the image's width
    photons: float
    slope: float = 1.0
    intercept: float = 0.0


# Manufacturers are invented: no conclusion about a real one should come from noise drawn here.
SCANNERS = (
    Scanner("Northlight Imaging", "DR-200", False, "MONOCHROME2", 12, 1.0, 1.0, 0.008, 6000),
    Scanner("Ostara Medical", "CR Lite", True, "MONOCHROME1", 10, 1.3, 1.1, 0.014, 2500, 4, -64),
    Scanner("Radiant Systems", "Plana", False, "MONOCHROME1", 14, 0.85, 1.0, 0.010, 4000),
    Scanner("Northlight Imaging", "DR-110", False, "MONOCHROME2", 14, 0.9, 0.95, 0.009, 5000),
    Scanner("Vesper Health", "CR 7", True, "MONOCHROME2", 12, 1.15, 1.05, 0.012, 3000, 0.25, 1024),
    Scanner("Radiant Systems", "Plana XL", False, "MONOCHROME2", 15, 1.1, 1.0, 0.007, 8000),
)


@dataclass(frozen=True)
class Study:
    """What the header of one radiograph says, besides the equipment."""

    patient_id: str
    name: str
    sex: str
    birth: datetime
    taken: datetime
    institution: str
    portable: bool


def draw_chest(
    rng: np.random.Generator,
    findings: Findings,
    *,
    female: bool = False,
    age: float = 60.0,
    bmi: float = 26.0,
    portable: bool = False,
) -> Chest:
    """Draw a person's build, position and the places of the findings.

    >>> chest = draw_chest(np.random.default_rng(0), Findings(effusion=0.8), portable=True)
    >>> render([chest], 64).shape
    (1, 64, 64)
    """
    e = rng.standard_normal(9)
    side = rng.choice([-1.0, 1.0], 3)
    place = rng.uniform(-1.0, 1.0, 4)
    shape = _Shape(
        turn=0.03 * e[0] * (1.6 if portable else 1.0),
        shift_x=0.03 * e[1],
        shift_y=0.04 * e[2],
        scale_x=1 + 0.035 * e[3],
        scale_y=1 + 0.04 * e[4],
        diaphragm=(0.43 if portable else 0.50) + 0.035 * e[5],
        heart=(1.08 if portable else 1.0) * (1 + 0.03 * e[6]),
        fat=(bmi - 26.0) / 10.0,
        bone=1.0 - 0.006 * (age - 60.0),
        breast=(0.16 + 0.02 * e[7]) * female,
        line=float(rng.random() < (0.5 if portable else 0.1)),
        blob_x=side[0] * (0.40 + 0.10 * place[0]),
        blob_y=0.02 + 0.30 * place[1],
        second=float(rng.random() < 0.4),
        second_x=side[1] * (0.40 + 0.10 * place[2]),
        second_y=0.02 + 0.30 * place[3],
        fluid_side=side[2],
        haze=1 + 0.1 * e[8],
    )
    grid = rng.standard_normal(sum(k * k for k, _ in _TEXTURE_SCALES), dtype=np.float32)
    return Chest(findings, shape, grid)


def render(chests: Sequence[Chest], size: int) -> Image:
    """Attenuation along every ray.

    Args:
        chests: whom to render.
        size: height and width in pixels.

    Returns:
        (chests, size, size) float32, at least 0; bone is high and air is low.
    """
    s = _columns([c.shape for c in chests])
    f = _columns([c.findings for c in chests])
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    grid_x, grid_y = axis[None, None, :] - s["shift_x"], axis[None, :, None] - s["shift_y"]
    x = (grid_x * np.cos(s["turn"]) + grid_y * np.sin(s["turn"])) / s["scale_x"]
    y = (grid_y * np.cos(s["turn"]) - grid_x * np.sin(s["turn"])) / s["scale_y"]
    across = np.abs(x)
    texture = _texture(np.stack([c.texture for c in chests]), size)

    body = _oval(x, y, 0, 0.45, 0.99 + 0.06 * s["fat"], 1.65, blunt=True)
    neck = _oval(x, y, 0, -1.0, 0.24, 0.45)
    arms = _oval(across, y, 0.95, -0.72, 0.34, 0.40)
    tissue = (1.5 + 0.35 * s["fat"]) * body + 0.35 * neck + 0.35 * arms

    floor = s["diaphragm"] - 0.06 * (x < 0) + 1.1 * np.square(across - 0.38)
    air = _oval(across, y, 0.42, 0.06, 0.40, 0.92) * _step(floor - y, 28)
    size_of_heart = s["heart"] * (1 + 0.45 * f["cardiomegaly"])
    left = 0.11 + 0.09 * f["cardiomegaly"]
    heart = _oval(x, y, left, 0.30, 0.30 * size_of_heart, 0.27 * np.sqrt(size_of_heart), tilt=0.45)
    air *= 1 - 0.9 * np.sqrt(heart)

    # How much of the air is water instead: each finding on its own, then as independent layers.
    radius = 0.11 + 0.13 * f["consolidation"]
    blob = _bell(x - s["blob_x"], y - s["blob_y"], radius)
    blob = np.maximum(blob, s["second"] * _bell(x - s["second_x"], y - s["second_y"], radius))
    consolidated = np.clip(0.95 * f["consolidation"] * blob * (1 + 0.5 * texture), 0, 0.95)
    level = floor + 0.10 - 0.62 * f["effusion"] - 0.6 * np.square(across - 0.30)
    fluid = 0.95 * _step(y - level, 24) * (x * s["fluid_side"] > 0)
    hilum = _bell(across - 0.22, y - 0.02, 0.30)
    wet = np.clip(f["oedema"] * s["haze"] * (0.16 + 0.62 * hilum) * (1 + 0.8 * texture), 0, 0.9)
    dry = (1 - consolidated) * (1 - fluid) * (1 - wet)
    vessels = air * (0.10 + 0.35 * hilum) * (0.45 + texture)

    # Bones repeat: a von Mises bump in the phase is a rib, or a vertebra, at every turn.
    phase = (y - 0.40 * across * np.sqrt(across) + 0.06) / 0.165
    ribs = np.exp(7 * (np.cos(2 * np.pi * phase) - 1)) * (across < 0.78) * (across > 0.08)
    ribs *= np.clip(1.1 - across, 0, 1) * _step(0.75 - y, 10)
    spine = np.exp(-np.square(across / 0.085)) * (0.75 + 0.25 * np.cos(2 * np.pi * y / 0.15))
    collar = np.exp(-np.square((y + 0.68 - 0.20 * across) / 0.035)) * (across < 0.75)
    bone = s["bone"] * (0.30 * ribs + 0.26 * spine + 0.24 * collar)

    middle = 0.35 * _oval(x, y, 0.02, -0.2, 0.17, 1.0) + 0.25 * _bell(x - 0.13, y + 0.27, 0.08)
    breasts = s["breast"] * _oval(across, y, 0.42, 0.36, 0.30, 0.26)
    line = s["line"] * np.exp(-np.square((x + 0.26 - 0.22 * np.square(y + 0.8)) / 0.02))
    line *= (y > -0.9) & (y < 0.12)
    total = tissue + 0.30 * heart + middle + bone + breasts + 0.3 * line + 0.5 * vessels
    return np.asarray(np.maximum(total - 1.25 * air * dry, 0), dtype=np.float32)


def expose(attenuation: Image, scanner: Scanner, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Image one chest: blur, scatter, photon noise, tone curve, stored bits.

    Args:
        attenuation: (size, size) from `render`.
        scanner: the equipment.
        rng: of this exposure.

    Returns:
        (size, size) uint16; dark is dense where the scanner stores MONOCHROME1.
    """
    size = attenuation.shape[0]
    beam = np.exp(-scanner.gain * attenuation)
    focus, veil = _blur(size, scanner.blur), _blur(size, 0.2)
    beam = focus @ beam @ focus.T + 0.05 * (veil @ beam @ veil.T)
    noise = rng.standard_normal(beam.shape, dtype=np.float32)
    beam = np.maximum(beam + np.sqrt(beam / scanner.photons) * noise, 1e-4)
    density = -np.log(beam)
    low, high = np.percentile(density, [0.5, 99.5])
    tone = np.clip((density - low) / (high - low), 0.0, 1.0) ** scanner.gamma
    top = 2**scanner.bits - 1
    stored = np.rint(top * (0.04 + 0.92 * tone))
    if scanner.photometric == "MONOCHROME1":
        stored = top - stored
    return np.asarray(stored, dtype=np.uint16)


def write_dicom(path: Path, pixels: NDArray[np.uint16], scanner: Scanner, study: Study) -> None:
    """Write one radiograph as an uncompressed DICOM file."""
    storage = (
        ComputedRadiographyImageStorage
        if scanner.computed
        else DigitalXRayImageStorageForPresentation
    )
    uids = {k: generate_uid(entropy_srcs=[k, study.patient_id, str(study.taken)]) for k in "123"}
    top = 2**scanner.bits - 1
    # A DX image may not rescale and says how its grey levels are meant; a CR image may, and does
    # not (PS3.3 C.8.11.3 and C.8.1).
    dx_only: dict[str, Any] = {
        "PresentationIntentType": "FOR PRESENTATION",
        "PixelIntensityRelationship": "LOG",
        "PixelIntensityRelationshipSign": 1 if scanner.photometric == "MONOCHROME1" else -1,
        "PresentationLUTShape": "INVERSE" if scanner.photometric == "MONOCHROME1" else "IDENTITY",
        "ImageLaterality": "U",
        "LossyImageCompression": "00",
    }
    elements: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["DERIVED", "PRIMARY"],
        "SOPClassUID": storage,
        "SOPInstanceUID": uids["1"],
        "StudyInstanceUID": uids["2"],
        "SeriesInstanceUID": uids["3"],
        "StudyDate": f"{study.taken:%Y%m%d}",
        "AcquisitionDate": f"{study.taken:%Y%m%d}",
        "ContentDate": f"{study.taken:%Y%m%d}",
        "StudyTime": f"{study.taken:%H%M%S}",
        "AcquisitionTime": f"{study.taken:%H%M%S}",
        "ContentTime": f"{study.taken:%H%M%S}",
        "AccessionNumber": f"A{study.patient_id}",
        "Modality": "CR" if scanner.computed else "DX",
        "Manufacturer": scanner.manufacturer,
        "ManufacturerModelName": scanner.model,
        "InstitutionName": study.institution,
        "ReferringPhysicianName": "",
        "PatientName": study.name,
        "PatientID": study.patient_id,
        "PatientBirthDate": f"{study.birth:%Y%m%d}",
        "PatientSex": study.sex,
        "PatientAge": f"{(study.taken - study.birth).days // 365.25:03.0f}Y",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "AP" if study.portable else "PA",
        "PatientOrientation": ["L", "F"],
        "KVP": 90 if study.portable else 120,
        "StudyID": "1",
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "ImagerPixelSpacing": [round(360 / pixels.shape[0], 4)] * 2,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": scanner.photometric,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 16,
        "BitsStored": scanner.bits,
        "HighBit": scanner.bits - 1,
        "PixelRepresentation": 0,
        "BurnedInAnnotation": "NO",
        "WindowCenter": scanner.slope * top / 2 + scanner.intercept,
        "WindowWidth": scanner.slope * top,
        "RescaleIntercept": scanner.intercept,
        "RescaleSlope": scanner.slope,
        "RescaleType": "US",
        "PixelData": pixels.astype("<u2").tobytes(),
    } | ({} if scanner.computed else dx_only)
    file = Dataset()
    for keyword, value in elements.items():
        setattr(file, keyword, value)
    file["PixelData"].VR = "OW"
    file.file_meta = FileMetaDataset()
    file.file_meta.MediaStorageSOPClassUID = storage
    file.file_meta.MediaStorageSOPInstanceUID = uids["1"]
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    dcmwrite(path, file, enforce_file_format=True)


@dataclass(frozen=True)
class _Shape:
    turn: float
    shift_x: float
    shift_y: float
    scale_x: float
    scale_y: float
    diaphragm: float
    heart: float
    fat: float
    bone: float
    breast: float
    line: float
    blob_x: float
    blob_y: float
    second: float
    second_x: float
    second_y: float
    fluid_side: float
    haze: float


def _columns(rows: Sequence[Any]) -> dict[str, Image]:
    """Dataclasses of numbers -> one (rows, 1, 1) array per field."""
    table = np.array([astuple(row) for row in rows], dtype=np.float32)
    return {f.name: table[:, i, None, None] for i, f in enumerate(fields(rows[0]))}


def _oval(
    x: Any, y: Any, cx: Any, cy: Any, rx: Any, ry: Any, *, tilt: float = 0.0, blunt: bool = False
) -> Any:
    """Thickness of an ellipsoid, 1 at its centre, 0 outside; `blunt` squares its outline."""
    dx, dy = x - cx, y - cy
    if tilt:
        dx, dy = dx * np.cos(tilt) + dy * np.sin(tilt), dy * np.cos(tilt) - dx * np.sin(tilt)
    u, v = np.square(dx / rx), np.square(dy / ry)
    if blunt:
        u, v = np.square(u), np.square(v)
    return np.sqrt(np.maximum(1 - u - v, 0))


def _bell(dx: Any, dy: Any, radius: Any) -> Any:
    return np.exp(-(np.square(dx) + np.square(dy)) / (2 * np.square(radius)))


def _step(distance: Any, sharpness: float) -> Any:
    """0 to 1 across an edge."""
    return 0.5 + 0.5 * np.tanh(0.5 * sharpness * distance)


def _texture(grids: NDArray[np.float32], size: int) -> Image:
    """Sum of smooth noise at several scales: (images, grid points) -> (images, size, size)."""
    total = np.zeros((len(grids), size, size), dtype=np.float32)
    start = 0
    for k, weight in _TEXTURE_SCALES:
        up = _interpolation(size, k)
        total += weight * (up @ grids[:, start : start + k * k].reshape(-1, k, k) @ up.T)
        start += k * k
    return total * 3


def _interpolation(size: int, k: int) -> Image:
    """(size, k) weights that carry k grid points smoothly onto size pixels."""
    distance = np.linspace(0, k - 1, size)[:, None] - np.arange(k)[None, :]
    near = np.clip(1 - np.abs(distance), 0, None)
    return np.asarray(near * near * (3 - 2 * near), dtype=np.float32)


def _blur(size: int, width: float) -> Image:
    """(size, size) matrix of a Gaussian blur whose sigma is `width` of the image."""
    i = np.arange(size)
    weights = np.exp(-0.5 * ((i[:, None] - i[None, :]) / (width * size)) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)
