"""One DICOM file to a copy without identifiers, checked before it is kept."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, ExplicitVRLittleEndian

from clients.deidentify.burned_in import (
    BurnedIn,
    HoldsText,
    Rectangle,
    blanked,
    text_in_pixels,
)
from clients.deidentify.check import LeftBehind, check_copy
from clients.deidentify.profile import Done, Profile, identifying_words
from clients.deidentify.secret import Secret
from clients.images.codestream import without_text
from clients.images.dicom import read_dicom
from clients.images.dicom_frame import decode_frame, opened, stored_bits
from clients.images.paths import inside
from clients.images.picture import MOST_PIXELS, Refusal, UnreadableImage, View
from clients.images.settings import Region
from federation.errors import UserError

METHOD = "Wardround: PS3.15 2026c Basic Application Level Confidentiality Profile"
OPTIONS = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
)
CLEANED = ("113101", "Clean Pixel Data Option")
MOST_BYTES = 2**30
"""Of a file, which is read whole."""
MOST_BLANKED = 8 * MOST_PIXELS
"""Values of one file, over its frames, that are decoded to be blanked."""

Outcome = (
    Refusal
    | BurnedIn
    | Literal[
        "a header that cannot be read",
        "the copy failed its check",
        "another file has the same UID",
    ]
)


@dataclass(frozen=True)
class Copied:
    """What became of one file.

    Attributes:
        refused: why there is no copy; None if there is one.
        patient: the PatientID as it was, for what else is known of the patient; "" if none.
        names: words of the names of persons in the header, in lower case. They stay at the site.
        done: what was done, counted by attribute.
        blanked: whether pixels were.
    """

    refused: Outcome | None
    patient: str = ""
    names: frozenset[str] = frozenset()
    done: Counter[Done] = field(default_factory=Counter)
    blanked: bool = False


def deidentify_image(
    file: str, folder: Path, out: Path, secret: Secret, regions: Sequence[Region]
) -> Copied:
    """Write a copy of a file, named by pseudonyms, below ``out``, or say why there is none.

    Raises:
        UserError: if the disk is full, or ``out`` cannot be written.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote the values of tags
        try:
            return _copied(inside(folder, file), out, secret, regions)
        except UnreadableImage as error:
            return Copied(error.reason)
        except HoldsText as error:
            return Copied(error.reason)
        except LeftBehind:
            return Copied("the copy failed its check")
        except OSError as error:
            raise UserError(out, f"cannot be written: {error.strerror}") from None
        except Exception:  # damaged headers raise anything at all, and may quote themselves
            return Copied("a header that cannot be read")


def _copied(path: Path, out: Path, secret: Secret, regions: Sequence[Region]) -> Copied:
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        raise UnreadableImage("too large to be decoded")
    # First the bounded reader: what follows reads the whole file, and would inflate any bomb.
    read_dicom(path, View(slice=0.0))
    original, dataset = pydicom.dcmread(path), pydicom.dcmread(path)
    rectangles, kept = text_in_pixels(original, regions)
    patient = str(original.get("PatientID") or original.get("StudyInstanceUID") or path.name)
    words = frozenset(identifying_words(original))
    profile = Profile(secret, secret.shift(patient), words)
    profile.apply(dataset)
    if rectangles:
        _blank(path, dataset, rectangles, kept)
    else:
        _clean_pixels(dataset, original.file_meta.TransferSyntaxUID)
    dataset.PatientID = dataset.PatientName = secret.patient(patient)
    _say_so(dataset, bool(rectangles))
    dataset.file_meta = _meta(dataset, original, bool(rectangles))
    dataset.preamble = b"\0" * 128
    target = out / str(dataset.PatientID) / _short(dataset.get("SeriesInstanceUID"))
    target.mkdir(parents=True, exist_ok=True)
    copy = target / f"{_short(dataset.SOPInstanceUID)}.dcm"
    draft = copy.with_name(f".{copy.name}.{os.getpid()}")
    try:
        os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return Copied("another file has the same UID")
    try:
        dataset.save_as(draft, enforce_file_format=True)
        check_copy(draft, original, words)
    except BaseException:
        copy.unlink()
        draft.unlink(missing_ok=True)
        raise
    draft.replace(copy)
    names = frozenset(identifying_words(original, names_only=True))
    return Copied(None, patient, names, profile.done, bool(rectangles))


def _short(uid: object) -> str:
    return hashlib.sha256(str(uid).encode()).hexdigest()[:16]


def _blank(path: Path, dataset: Dataset, rectangles: list[Rectangle], kept: bool) -> None:
    """Decode all frames, blank them, and store them uncompressed."""
    frames: list[NDArray[np.generic]] = []
    with opened(path, []) as source:
        if not source.syntax.is_little_endian:  # the tables of its header would need turning too
            raise UnreadableImage("a transfer syntax that is not read")
        if source.frames * dataset.Rows * dataset.Columns * dataset.SamplesPerPixel > MOST_BLANKED:
            raise UnreadableImage("too large to be decoded")
        low = dataset.PhotometricInterpretation == "MONOCHROME1"
        for index in range(source.frames):
            values, photometric = decode_frame(source, index)
            frames.append(blanked(values, rectangles, kept, low))
    dataset.PhotometricInterpretation = photometric
    bits = 8 * frames[0].dtype.itemsize
    if dataset.BitsStored == dataset.BitsAllocated:
        dataset.BitsStored = bits
    dataset.BitsAllocated, dataset.HighBit = bits, dataset.BitsStored - 1
    if dataset.SamplesPerPixel > 1:
        dataset.PlanarConfiguration = 0
    data = b"".join(frame.astype(frame.dtype.newbyteorder("<")).tobytes() for frame in frames)
    _set_pixels(dataset, data, "OB" if bits == 8 else "OW")


def _clean_pixels(dataset: Dataset, syntax: UID) -> None:
    """Drop what stands beside the pixels: comments in codestreams, bits beside the stored ones."""
    for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if name in dataset:
            del dataset[name]
    if "PixelData" not in dataset:  # floating point
        return
    frames = int(dataset.get("NumberOfFrames") or 1)
    if syntax.is_encapsulated:
        encoded = generate_frames(dataset.PixelData, number_of_frames=frames)
        dataset.PixelData = encapsulate([without_text(frame) for frame in encoded])
        dataset["PixelData"].is_undefined_length = True
        return
    bits = int(dataset.BitsAllocated)
    values = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * frames
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        values = values // 3 * 2
    data = dataset.PixelData[: -(-values * bits // 8)]  # what is padded on is not pixels
    if bits in (8, 16, 32) and dataset.BitsStored < bits:
        sign, order = "iu"[not dataset.PixelRepresentation], "><"[syntax.is_little_endian]
        kind = f"{order}{sign}{bits // 8}"
        data = stored_bits(np.frombuffer(data, kind), dataset).astype(kind).tobytes()
        dataset.HighBit = dataset.BitsStored - 1
    _set_pixels(dataset, data, dataset["PixelData"].VR)


def _set_pixels(dataset: Dataset, data: bytes, vr: str) -> None:
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = vr
    dataset["PixelData"].is_undefined_length = False


def _say_so(dataset: Dataset, cleaned: bool) -> None:
    """Write into the copy what was done. Source: DICOM PS3.15 E.2, E.3.6."""
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = METHOD[:64]
    dataset.LongitudinalTemporalInformationModified = "MODIFIED"
    items = []
    for code, meaning in [*OPTIONS, CLEANED] if cleaned else OPTIONS:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", meaning
        items.append(item)
    dataset.DeidentificationMethodCodeSequence = items
    if cleaned:
        dataset.BurnedInAnnotation = "NO"


def _meta(dataset: Dataset, original: FileDataset, cleaned: bool) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    own = original.file_meta.TransferSyntaxUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if cleaned else own
    return meta
