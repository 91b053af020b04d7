"""Published open data, as its publisher ships it, turned into hospital site folders.

>>> print(DATASETS["uci-heart"].description)
UCI Heart Disease (1988): coronary disease in 920 patients of four hospitals, 13 features
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path


@dataclass(frozen=True)
class SiteReport:
    """What became of one hospital's file.

    Args:
        site: name of the site and of its folder.
        rows: rows read.
        patients: patients written, each with a label.
        positives: those of them whose label is true.
        excluded: rows that became no patient, by reason.
        missing: values the file marks as missing, by column; they became no event.
        coded_missing: values that stand for "missing" (such as ``chol = 0``); no event either.
        duplicates: rows equal to an earlier row of the file; they are kept.
    """

    site: str
    rows: int
    patients: int
    positives: int
    excluded: Mapping[str, int]
    missing: Mapping[str, int]
    coded_missing: Mapping[str, int]
    duplicates: int


@dataclass(frozen=True)
class ConversionReport:
    """What a converter read and wrote, site by site."""

    dataset: str
    sites: tuple[SiteReport, ...]


@dataclass(frozen=True)
class Dataset:
    """A published dataset: one line for people, and ``convert(source, out)``."""

    description: str
    convert: Callable[[Path, Path], ConversionReport]


def _converter(module: str) -> Callable[[Path, Path], ConversionReport]:
    def convert(source: Path, out: Path) -> ConversionReport:
        # Imported when called: listing the datasets must not load pyarrow.
        found = import_module(f"simulations.datasets.{module}")
        report: ConversionReport = found.convert(source, out)
        return report

    return convert


DATASETS: dict[str, Dataset] = {
    "uci-heart": Dataset(
        "UCI Heart Disease (1988): coronary disease in 920 patients of four hospitals, 13 features",
        _converter("uci_heart"),
    ),
    "eicu-demo": Dataset(
        "eICU demo 2.0.1: death in hospital of ICU patients, 186 hospitals in 13 sites",
        _converter("eicu_demo"),
    ),
    "hannover-cxr": Dataset(
        "COVID-19 Image Repository of Hannover: intensive care or death, radiographs and values",
        _converter("hannover_cxr"),
    ),
    "pneumoniamnist": Dataset(
        "PneumoniaMNIST: pneumonia in 28 x 28 radiographs of children, dealt to five sites",
        _converter("pneumoniamnist"),
    ),
    "mimic-demo": Dataset(
        "MIMIC-IV demo in MEDS 0.0.1: death in hospital of 100 patients of one hospital",
        _converter("mimic_demo"),
    ),
}
