"""From a site's events to tensors: seconds, peak memory, and how soon a prepared cohort is open.

The MIMIC demo's 916,166 events as ``wardround dataset mimic-demo`` writes them; synthetic MEDS
sites of 5, 10 and 20 million events, for memory and linearity (quick: 1 and 2 million).
Each figure is of a process of its own.

    .venv/bin/python benchmarks/data.py [--quick] [--json FILE] [--cache DIR]
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from reporting import Row, parser, publish

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
MIMIC_SECONDS, PEAK_MB, OPEN_SECONDS = 20.0, 4096.0, 1.0
LINEAR = 1.3
"""Processor seconds an event of the largest site over those of the smallest; others work beside."""
EVENTS_A_PATIENT = 1000
SHARD = 500_000
STUDY = """\
[study]
name = "prepared"
[task]
label = "sick"
[modalities.ehr]
encoder = "linear"
vocabulary = "hashed"
buckets = 256
"""
SITE = """\
[site]
name = "{name}"
device = "cpu"
[data]
events = {{ format = "meds", path = "meds" }}
labels = "labels.parquet"
"""


def main() -> None:
    """Measure, print, and write."""
    options = parser(__doc__)
    options.add_argument("--cache", type=Path, metavar="DIR", help="write the sites here")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.cache) as scratch:
        rows = mimic(Path(scratch)) + synthetic(Path(scratch), arguments.quick)
    publish(rows, arguments.json)


def mimic(scratch: Path) -> list[Row]:
    """Measure the MIMIC demo."""
    source = DATA / "mimic_iv_demo_meds_0.0.1"
    if not source.is_dir():
        return [Row("data/mimic/seconds", None, MIMIC_SECONDS, note=f"no {source}")]
    command = ["dataset", "mimic-demo", "--source", str(source), "--out", str(scratch / "mimic")]
    subprocess.run([sys.executable, "-m", "wardround", *command], cwd=ROOT, check=True)
    study = scratch / "mimic.toml"
    study.write_text(STUDY.replace("sick", "in_hospital_death"))
    site = scratch / "mimic" / "mimic-demo"
    first, again = prepared(site, study), prepared(site, study)
    return [
        _at_most("data/mimic/seconds", first["seconds"], MIMIC_SECONDS, "916,166 events"),
        Row("data/mimic/peak_mb", first["peak_mb"]),
        _at_most("data/mimic/open_seconds", again["seconds"], OPEN_SECONDS, "memory-mapped"),
    ]


def synthetic(scratch: Path, quick: bool) -> list[Row]:
    """Measure synthetic sites of growing size."""
    study = scratch / "synthetic.toml"
    study.write_text(STUDY)
    millions = (1, 2) if quick else (5, 10, 20)
    rows, pace = [], {}
    for size in millions:
        site = write_site(scratch / f"synthetic-{size}", size * 1_000_000)
        first, again = prepared(site, study), prepared(site, study)
        assert first["hash"] == again["hash"]
        name, note = f"data/{size}m", f"{first['patients']:,} patients"
        pace[size] = first["cpu_seconds"] / size
        rows.append(Row(f"{name}/seconds", first["seconds"], note=note))
        full = not quick and size == millions[-1]
        goal, opened = first["peak_mb"], again["seconds"]
        rows.append(
            _at_most(f"{name}/peak_mb", goal, PEAK_MB) if full else Row(f"{name}/peak_mb", goal)
        )
        rows.append(_at_most(f"{name}/open_seconds", opened, OPEN_SECONDS))
        shutil.rmtree(site)
    ratio = pace[millions[-1]] / pace[millions[0]]
    note = f"processor seconds a million events: {pace[millions[0]]:.2f}, {pace[millions[-1]]:.2f}"
    holds = None if quick else ratio <= LINEAR
    return [*rows, Row("data/linear", ratio, 1.0, LINEAR - 1, holds, note)]


def prepared(site: Path, study: Path) -> dict[str, Any]:
    """Prepare a site's cohort in a process of its own."""
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("data_prepare.py")), str(site), str(study)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def write_site(folder: Path, events: int) -> Path:
    """Write a site of patients with a thousand events each, in shards as an export has them."""
    rng = np.random.default_rng(events)
    (folder / "meds" / "data").mkdir(parents=True)
    codes = pa.array([f"LAB//{i:04d}//unit" for i in range(2000)])
    start = np.datetime64("2020-01-01", "us").astype(np.int64)
    patients = events // EVENTS_A_PATIENT
    for number, first in enumerate(range(0, events, SHARD)):
        count = min(SHARD, events - first)
        subject = (first + np.arange(count)) // EVENTS_A_PATIENT + 1
        minutes = np.sort(
            rng.integers(0, 60 * 24 * 30, (count // EVENTS_A_PATIENT, EVENTS_A_PATIENT))
        )
        code = rng.zipf(1.3, count) % len(codes)
        table = {
            "subject_id": pa.array(subject),
            "time": pa.array(start + minutes.ravel() * 60_000_000).cast(pa.timestamp("us")),
            "code": codes.take(pa.array(code)),
            "numeric_value": pa.array(rng.normal(size=count).astype(np.float32)),
            "text_value": pa.nulls(count, pa.large_string()),
        }
        pq.write_table(pa.table(table), folder / "meds" / "data" / f"{number}.parquet")
    labels = {
        "subject_id": pa.array(np.arange(1, patients + 1)),
        "prediction_time": pa.array(np.full(patients, start + 28 * 86_400_000_000)).cast(
            pa.timestamp("us")
        ),
        "boolean_value": pa.array(rng.random(patients) < 0.3),
    }
    pq.write_table(pa.table(labels), folder / "labels.parquet")
    (folder / "site.toml").write_text(SITE.format(name=folder.name))
    return folder


def _at_most(name: str, measured: float, goal: float, note: str = "") -> Row:
    return Row(name, measured, goal, None, measured <= goal, note)


if __name__ == "__main__":
    main()
