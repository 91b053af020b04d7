"""Published open data, as its publisher ships it, turned into hospital site folders.

>>> print(DATASETS["uci-heart"].description)
UCI Heart Disease (1988): coronary disease in 920 patients of four hospitals, 13 features
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


def _uci_heart(source: Path, out: Path) -> ConversionReport:
    # Imported when called: listing the datasets must not load pyarrow.
    from simulations.datasets.uci_heart import convert

    return convert(source, out)


DATASETS: dict[str, Dataset] = {
    "uci-heart": Dataset(
        "UCI Heart Disease (1988): coronary disease in 920 patients of four hospitals, 13 features",
        _uci_heart,
    ),
}
