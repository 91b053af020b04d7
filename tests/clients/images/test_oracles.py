"""Stored and shown pixels of real files against other decoders: DCMTK, and GDCM's own tool."""

import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from clients.images.dicom import read_dicom
from clients.images.dicom_frame import decode_frame, opened
from clients.images.picture import UnreadableImage, View

SAMPLES = Path(__file__).parents[4] / "shared" / "data" / "dicom_samples"
PYDICOM = Path(pydicom.__file__).parent / "data"
OTHERS = {
    # By the name of the transfer syntax; the first that fits.
    "JPEG 2000": ["gdcmconv", "--raw"],
    "JPEG-LS": ["dcmdjpls"],
    "JPEG": ["dcmdjpeg"],
    "RLE": ["dcmdrle"],
    "": ["dcmconv", "+te"],
}
DIFFERENT_ON_PURPOSE = {
    # The stored bits are signed: ours are extended, DCMTK leaves the bits beside them as they are.
    "mlut_18.dcm",
    # Precision and sign of codestream and header differ; pydicom documents that GDCM ignores it.
    "J2K_pixelrep_mismatch.dcm",
    # 32 bits as 16-bit words in big endian: pydicom and DCMTK swap differently; ours equals the
    # little-endian copy of the same file, which the next test shows.
    "rtdose_expb.dcm",
    "rtdose_expb_1frame.dcm",
}
pytestmark = [
    pytest.mark.skipif(shutil.which("dcmdjpeg") is None, reason="Debian's dcmtk is not installed"),
    pytest.mark.filterwarnings("ignore"),
]


def files():
    found = [p for p in PYDICOM.rglob("*.dcm")] + [p for p in SAMPLES.rglob("*.dcm")]
    return sorted(p for p in found if p.name not in DIFFERENT_ON_PURPOSE)


def stored(path):
    """The last frame's stored values as ours, or None where the file is refused."""
    try:
        with opened(path, []) as file:
            return decode_frame(file, file.frames - 1)[0], file.syntax.name
    except (UnreadableImage, ValueError):
        return None, None


def stored_elsewhere(path, syntax, target):
    """The same of the other decoder, or None where it cannot say."""
    tool = next(tool for name, tool in OTHERS.items() if syntax.startswith(name))
    if shutil.which(tool[0]) is None:
        return None
    subprocess.run([*tool, path, target], capture_output=True, timeout=60)
    if not target.exists():
        return None
    data = pydicom.dcmread(target)
    if data.BitsAllocated == 1 or "422" in data.PhotometricInterpretation:
        return None
    sign = "i" if data.PixelRepresentation else "u"
    values = np.frombuffer(data.PixelData, f"<{sign}{data.BitsAllocated // 8}")
    frames, colours = int(data.get("NumberOfFrames") or 1), int(data.SamplesPerPixel)
    values = values[: frames * data.Rows * data.Columns * colours]
    if colours == 1:
        return values.reshape(frames, data.Rows, data.Columns)[-1]
    if data.PlanarConfiguration:
        return values.reshape(frames, colours, data.Rows, data.Columns)[-1].transpose(1, 2, 0)
    return values.reshape(frames, data.Rows, data.Columns, colours)[-1]


def test_stored_values_are_those_of_an_independent_decoder(tmp_path):
    compared = {}
    for number, path in enumerate(files()):
        ours, syntax = stored(path)
        if ours is None:
            continue
        theirs = stored_elsewhere(path, syntax, tmp_path / f"{number}.dcm")
        if theirs is not None:
            np.testing.assert_array_equal(ours, theirs, err_msg=path.name)
            compared[syntax] = compared.get(syntax, 0) + 1
    assert sum(compared.values()) >= 60
    assert len(compared) >= 10, compared


def test_big_endian_copy_holds_the_same_values():
    for name in ("rtdose", "rtdose_1frame", "liver_1frame"):
        other = {"rtdose": "rtdose_expb", "rtdose_1frame": "rtdose_expb_1frame"}.get(
            name, "liver_expb_1frame"
        )
        one, two = (stored(PYDICOM / "test_files" / f"{n}.dcm")[0] for n in (name, other))
        np.testing.assert_array_equal(one, two)


def shown_elsewhere(path, target):
    """DCMTK's picture in [0, 1] under the file's own window or table."""
    data = pydicom.dcmread(path, stop_before_pixels=True)
    if data.file_meta.TransferSyntaxUID.name.startswith("JPEG 2000"):
        subprocess.run(["gdcmconv", "--raw", path, target], capture_output=True, timeout=60)
        path = target
    window = ["+Wi", "1"] if "WindowCenter" in data else ["+Wl", "1"]
    picture = target.with_suffix(".png")
    command = ["dcmj2pnm", "-O", "+on", *window, path, picture]
    subprocess.run(command, capture_output=True, timeout=60)
    if not picture.exists():
        return None
    return np.asarray(Image.open(picture).convert("L"), float) / 255


def test_windows_and_tables_show_what_dcmtk_shows(tmp_path):
    compared = 0
    for number, path in enumerate(files()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                data = pydicom.dcmread(path, stop_before_pixels=True)
                ours = read_dicom(path, View(slice=0.0))
            except Exception:
                continue
        if data.get("SamplesPerPixel") != 1 or not (
            {"WindowCenter", "VOILUTSequence"} & {*dir(data)}
        ):
            continue
        theirs = shown_elsewhere(path, tmp_path / f"{number}.dcm")
        if theirs is None or theirs.shape != ours.shape:
            continue
        assert np.percentile(np.abs(theirs - ours), 99) < 0.01, path.name
        compared += 1
    assert compared >= 15
