"""Images to pictures of 224 x 224: how many a second in one process, and on all cores.

Real files of several transfer syntaxes, each copied so that there is enough to do. Processor time
is of one process, and of one of those that work side by side, by its own clock; wall clock says
nothing where other programs work beside.

    .venv/bin/python benchmarks/data_images.py [--quick] [--json FILE]
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from reporting import Row, parser, publish

from clients.images.picture import Refusal, View
from clients.images.pool import all_cores, spread
from clients.images.read import picture_or_reason

SAMPLES = Path(__file__).parents[2] / "shared" / "data" / "dicom_samples"
SIZE = 224
FILES = {
    # What is decoded, a sample of it, and how many in the full run.
    "radiograph-jpeg2000": ("pydicom_data/RG1_J2KI.dcm", 40),
    "radiograph-jpeg2000-lossless": ("pydicom_data/RG3_J2KR.dcm", 80),
    "jpeg-lossless": ("pydicom_data/JPEG-LL.dcm", 400),
    "jpeg-ls": ("dicomParser/CT1_UNC.fragmented_no_bot_jpeg_ls.80.dcm", 400),
    "rle": ("dicomParser/CT0012.not_fragmented_no_bot_rle.dcm", 400),
    "uncompressed": ("dicomParser/CT1_UNC.implicit_little_endian.dcm", 800),
}


def main() -> None:
    """Measure, print, and write."""
    arguments = parser(__doc__).parse_args()
    rows = []
    for name, (sample, number) in FILES.items():
        source = SAMPLES / sample
        if source.is_file():
            rows += measure(name, source, number // 10 if arguments.quick else number)
        else:
            rows.append(Row(f"images/{name}/a_second", None, note=f"no {source}"))
    publish(rows, arguments.json)


def measure(name: str, source: Path, number: int) -> list[Row]:
    """Decode copies of a file in this process, and on all cores."""
    with tempfile.TemporaryDirectory() as scratch:
        files = [f"{i}.dcm" for i in range(number)]
        for file in files:
            shutil.copyfile(source, Path(scratch) / file)
        work = partial(timed, folder=Path(scratch))
        list(spread(work, files[:2], all_cores()))  # starts the process that others come from
        rows, pace = [], {}
        for where, workers in (("one_process", 0), ("all_cores", all_cores())):
            began, busy = time.perf_counter(), time.process_time()
            found = list(spread(work, files, workers))
            pace[where] = number / (time.perf_counter() - began)
            busy = (time.process_time() - busy) / number
            told = [result for _, result in found if result is not None]
            assert len(told) == number
            assert all(not isinstance(picture, str) for _, picture in told)
            if workers == 0:
                rows.append(Row(f"images/{name}/processor_ms", 1e3 * busy, note=f"{number} files"))
            else:
                mine = 1e3 * sum(seconds for seconds, _ in told) / number
                beside = f"and {1e3 * busy:.2f} ms of the process that collects"
                rows.append(Row(f"images/{name}/processor_ms_side_by_side", mine, note=beside))
            rows.append(Row(f"images/{name}/{where}/a_second", pace[where]))
    ratio = pace["all_cores"] / pace["one_process"]
    return [*rows, Row(f"images/{name}/all_cores_over_one", ratio, note=f"{all_cores()} cores")]


def timed(file: str, folder: Path) -> tuple[float, NDArray[np.float32] | Refusal]:
    """Decode a file; return the processor seconds that it took too."""
    began = time.process_time()
    found = picture_or_reason(file, folder, (1, SIZE, SIZE), View(), "dicom")
    return time.process_time() - began, found


if __name__ == "__main__":
    main()
