"""One site's cohort, prepared or opened again in a process of its own: what `data.py` measures.

    python benchmarks/data_prepare.py SITE STUDY

Prints one JSON object: seconds from a cold workbench to the cohort (imports are not counted), peak
memory of the process in MB, patients, and a hash of the tensor's first patients.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from pathlib import Path

from clients.workbench import Workbench
from federation.study import load_study


def main() -> None:
    """Prepare, and tell what it cost."""
    site, study_file = sys.argv[1:]
    study = load_study(Path(study_file))
    started, worked = time.perf_counter(), time.process_time()
    bench = Workbench()
    cohort = bench.cohort(site, study, bench.agreed_vocabulary(study))
    seconds = time.perf_counter() - started
    processor = time.process_time() - worked
    values = cohort.modalities["ehr"].values
    found = {
        "seconds": seconds,
        "cpu_seconds": processor,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "patients": len(cohort.patients),
        "hash": hashlib.sha256(values[:64].numpy().tobytes()).hexdigest(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
