"""Counts with noise: how a model does, told so that no single patient's being there can be seen.

A patient is in one of 2 x 16 counts of the site, and in one of as many of each attribute of the
subgroups. Each count has discrete Gaussian noise, and may come out below 0: it is left as it is
until sites are added up, for clipping before that would add patients who are not there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from federation.metrics.discrimination import auroc_of
from federation.metrics.estimate import FEWEST_EVENTS, Estimate, Z, logit_interval
from federation.metrics.grid import Floats, logit
from federation.metrics.summary import Counts
from federation.metrics.threshold import Rule, Threshold

GRID = "noised16/1"
COARSE_THRESHOLDS = (
    *(0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.25),
    *(0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
)
"""Where decisions can be judged: the edges between the bins."""
EDGES: Floats = np.array([0.0, *COARSE_THRESHOLDS, 1.0])
SCORES: Floats = (EDGES[:-1] + EDGES[1:]) / 2
BINS = len(SCORES)
_SQUARES: Floats = SCORES**2 + np.diff(EDGES) ** 2 / 12
"""Mean of p squared in a bin, if its scores are spread evenly."""
_LOGITS: Floats = logit(SCORES)

REPLICATES = 400
_LARGEST, _LARGEST_VARIANCE = 2**31, 1e12
"""Of what a site sends; sums of sites may be larger."""
NOISE_HIDES = "hidden by the noise"
NOT_TOLD = "not told with noise"
TOO_NOISY = "no interval: too much noise"


@dataclass(frozen=True, eq=False)
class NoisedSummary:
    """Patients of one cell by label and score bin, with noise.

    Args:
        counts: (2, BINS) int64, some perhaps below 0.
        variance: of the noise of each count; sites' variances add.
    """

    counts: Counts
    variance: float

    def __post_init__(self) -> None:
        counts = np.array(self.counts)
        if counts.shape != (2, BINS) or not np.issubdtype(counts.dtype, np.integer):
            raise ValueError(f"counts must be whole numbers of shape (2, {BINS})")
        if not 0 < self.variance < np.inf:
            raise ValueError("the variance is out of range")
        object.__setattr__(self, "counts", counts.astype(np.int64))

    @property
    def n(self) -> int:
        """Number of patients, with noise."""
        return int(self.counts.sum())

    @property
    def positives(self) -> int:
        """Number of patients with label 1, with noise."""
        return int(self.counts[1].sum())

    def to_json(self) -> dict[str, Any]:
        """Exact both ways."""
        negatives, positives = self.counts.tolist()
        return {
            "grid": GRID,
            "negatives": negatives,
            "positives": positives,
            "variance": self.variance,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> NoisedSummary:
        """Read what ``to_json`` wrote; what a site sends is checked, not trusted.

        Raises:
            ValueError: if a part is missing or cannot be.
        """
        expected = {"grid", "negatives", "positives", "variance"}
        if not isinstance(document, Mapping) or document.keys() != expected:
            raise ValueError("not a noised summary")
        rows = [document["negatives"], document["positives"]]
        whole = all(isinstance(row, list) and all(type(n) is int for n in row) for row in rows)
        variance = document["variance"]
        if document["grid"] != GRID or not whole or isinstance(variance, bool | str):
            raise ValueError("not a noised summary")
        if {len(row) for row in rows} != {BINS}:
            raise ValueError(f"expected {BINS} bins")
        largest = max(abs(n) for row in rows for n in row)
        if largest > _LARGEST or not 0 < variance < _LARGEST_VARIANCE:
            raise ValueError("counts or their variance are out of range")
        return cls(np.array(rows, np.int64), float(variance))


def noised_counts(scores: Floats, labels: Floats) -> Counts:
    """Count patients by label and coarse bin, without noise: (2, BINS)."""
    bins = np.clip(np.searchsorted(EDGES, scores, side="right") - 1, 0, BINS - 1)
    flat = np.bincount(labels.astype(np.int64) * BINS + bins, minlength=2 * BINS)
    return flat.reshape(2, BINS).astype(np.int64)


def together(summaries: Iterable[NoisedSummary]) -> NoisedSummary:
    """Add the summaries of several sites, at least one."""
    parts = list(summaries)
    counts = np.sum([one.counts for one in parts], axis=0)
    return NoisedSummary(counts, float(sum(one.variance for one in parts)))


def estimates(summary: NoisedSummary) -> dict[str, Estimate]:
    """AUROC, Brier score and calibration in the large, with intervals that allow for the noise.

    The intervals come of replicates: patients drawn anew, and noise drawn anew. AUPRC and the
    calibration slope are not told: the noise biases them by as much as they vary.
    """
    table = summary.counts[None].astype(np.float64)
    if reason := _hidden(summary):
        return dict.fromkeys(_METRICS, Estimate.undefined(reason))
    replicates = _replicates(summary)
    found = {}
    for name, metric in _METRICS.items():
        value = float(metric(table)[0])
        if not np.isfinite(value):
            found[name] = Estimate.undefined(NOISE_HIDES)
            continue
        drawn = metric(replicates)
        drawn = drawn[np.isfinite(drawn)]
        if len(drawn) < 0.9 * REPLICATES:
            found[name] = Estimate(value, reason=TOO_NOISY)
            continue
        found[name] = _bounded(name, value, drawn)
    return found


def rates(summary: NoisedSummary, threshold: float) -> dict[str, Estimate]:
    """Sensitivity, specificity, PPV, NPV and alert rate at one of ``COARSE_THRESHOLDS``."""
    reason = _hidden(summary)
    if reason:
        return dict.fromkeys(_RATES, Estimate.undefined(reason))
    first = COARSE_THRESHOLDS.index(threshold) + 1
    table = summary.counts[None].astype(np.float64)
    replicates = _replicates(summary)
    found = {}
    for name in _RATES:
        value = float(_rate(name, table, first)[0])
        drawn = _rate(name, replicates, first)
        drawn = drawn[np.isfinite(drawn)]
        if not 0 <= value <= 1 or len(drawn) < 0.9 * REPLICATES:
            found[name] = Estimate.undefined(NOISE_HIDES)
            continue
        half = Z * float(drawn.std(ddof=1))
        found[name] = Estimate(value).between(max(value - half, 0.0), min(value + half, 1.0))
    return found


def choose(summary: NoisedSummary, rule: Rule, value: float | None) -> Threshold:
    """Choose a threshold among the edges, as ``threshold.choose_threshold``."""
    if rule == "fixed":
        return Threshold(value)
    if reason := _hidden(summary):
        return Threshold(None, reason)
    clean = _clipped(summary.counts[None].astype(np.float64))[0]
    shares = clean[:, ::-1].cumsum(axis=1)[:, ::-1] / clean.sum(axis=1, keepdims=True)
    false, true = shares[:, 1:]
    if rule == "youden":
        return Threshold(COARSE_THRESHOLDS[int((true - false).argmax())])
    assert value is not None
    kept = np.flatnonzero(true >= value)
    if not len(kept):
        return Threshold(None, "no threshold keeps the sensitivity")
    return Threshold(COARSE_THRESHOLDS[int(kept[-1])])


def _hidden(summary: NoisedSummary) -> str:
    """Why nothing can be told; empty if something can."""
    deviation = float(np.sqrt(BINS * summary.variance))
    few = min(summary.positives, summary.n - summary.positives)
    return NOISE_HIDES if few < max(FEWEST_EVENTS, 2 * deviation) else ""


def _replicates(summary: NoisedSummary) -> Floats:
    """Tables of patients and noise drawn anew: (REPLICATES, 2, BINS); the same for the same."""
    digest = hashlib.sha256(np.ascontiguousarray(summary.counts, "<i8").tobytes()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:16], "little"))
    clean = _clipped(summary.counts[None].astype(np.float64))[0].ravel()
    drawn = generator.multinomial(round(clean.sum()), clean / clean.sum(), REPLICATES)
    noise = generator.normal(scale=np.sqrt(summary.variance), size=drawn.shape)
    tables: Floats = (drawn + noise).reshape(REPLICATES, 2, BINS)
    return tables


def _clipped(tables: Floats) -> Floats:
    """Nothing below 0, and the totals of the classes as they were: (..., 2, BINS)."""
    kept = np.maximum(tables, 0.0)
    totals = np.maximum(tables.sum(axis=-1, keepdims=True), 0.0)
    held = kept.sum(axis=-1, keepdims=True)
    return np.asarray(kept * totals / np.where(held > 0, held, 1.0))


def _bounded(name: str, value: float, drawn: Floats) -> Estimate:
    variance = float(drawn.var(ddof=1))
    if name == "calibration_intercept":
        half = Z * float(np.sqrt(variance))
        return Estimate(value).between(value - half, value + half, variance)
    value = min(max(value, 0.0), 1.0)
    low, high = logit_interval(np.array([value]), np.array([variance]), Z)
    if not np.isfinite(low[0]):
        return Estimate(value, reason=TOO_NOISY)
    return Estimate(value).between(float(low[0]), float(high[0]), variance)


def _brier(tables: Floats) -> Floats:
    lost = tables[:, 0] @ _SQUARES + tables[:, 1] @ (1 - 2 * SCORES + _SQUARES)
    return np.asarray(lost / tables.sum(axis=(1, 2)))


def _intercept(tables: Floats) -> Floats:
    patients, shift = tables.sum(axis=1), np.zeros(len(tables))
    for _ in range(60):
        risk = 1 / (1 + np.exp(-(shift[:, None] + _LOGITS)))
        missed = tables[:, 1].sum(axis=-1) - (patients * risk).sum(axis=-1)
        weight = (patients * risk * (1 - risk)).sum(axis=-1)
        shift += np.clip(missed / np.where(weight > 0, weight, np.nan), -1.0, 1.0)
    return shift


_METRICS = {
    "auroc": auroc_of,
    "brier": _brier,
    "calibration_intercept": _intercept,
}

_RATES = ("sensitivity", "specificity", "ppv", "npv", "alert_rate")


def _rate(name: str, tables: Floats, first: int) -> Floats:
    fp, tp = tables[:, 0, first:].sum(axis=-1), tables[:, 1, first:].sum(axis=-1)
    negatives, positives = tables[:, 0].sum(axis=-1), tables[:, 1].sum(axis=-1)
    above, below = {
        "sensitivity": (tp, positives),
        "specificity": (negatives - fp, negatives),
        "ppv": (tp, tp + fp),
        "npv": (negatives - fp, negatives - fp + positives - tp),
        "alert_rate": (tp + fp, negatives + positives),
    }[name]
    return np.asarray(above / np.where(below > 0, below, np.nan))
