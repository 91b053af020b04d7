"""What the models are worth: fusion, federation, and the real data that are open.

    .venv/bin/python benchmarks/models.py [--quick] [--json FILE] [--only PART] [--cache DIR]

Parts: ``synthetic`` (each fusion beside single modalities, the best possible, and pooled patients),
``robustness`` (each fusion with half of the images gone, trained several times), ``eicu``
(mortality by hospital group, out of fold), ``pneumonia`` (ten sites with label and scanner shift),
``hannover`` (image, laboratory values, both), ``recalibration`` (overconfident models before and
after), ``several`` (three tasks on one trunk beside each of them alone), ``cost`` (what a step of
each encoder takes). The figures of the first five are of raw scores, so that no binning stands
between models that are compared.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import nullcontext
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import models_cost
import models_eicu
import models_hannover
import models_pneumonia
import models_recalibration
import models_robustness
import models_several
import models_synthetic
from reporting import parser, publish

PARTS = {
    "synthetic": models_synthetic.measure,
    "robustness": models_robustness.measure,
    "eicu": models_eicu.measure,
    "pneumonia": models_pneumonia.measure,
    "hannover": models_hannover.measure,
    "recalibration": models_recalibration.measure,
    "several": models_several.measure,
    "cost": models_cost.measure,
}


def main() -> None:
    """Measure, print, and write."""
    options = parser(__doc__)
    options.add_argument("--only", choices=PARTS, help="measure one part alone")
    options.add_argument("--cache", type=Path, metavar="DIR", help="keep the sites here")
    arguments = options.parse_args()
    rows = []
    with nullcontext(arguments.cache) if arguments.cache else tempfile.TemporaryDirectory() as at:
        for name, measure in PARTS.items():
            if arguments.only in (None, name):
                rows += measure(arguments.quick, Path(at))
    publish(rows, arguments.json)


if __name__ == "__main__":
    main()
