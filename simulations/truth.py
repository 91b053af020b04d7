"""What is true of the synthetic hospitals, beside their folders: truth.json and truth.parquet."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from meds.schema import death_code

from simulations.hospitals import (
    AGE_CENTRE,
    DIAGNOSES,
    EFFECTS,
    ETHNICITIES,
    FINDING_NOISE,
    FINDING_SLOPE,
    FINDING_THRESHOLDS,
    LABS,
    LACTATE_MORE_MISSING,
    LESS_MISSING,
    NOTE_STRENGTH,
    OWN,
    OXIMETER_BIAS,
    SHARED,
    TREND,
    URGENCY,
    VITALS,
    Floats,
    Hospital,
    Person,
    draw_latents,
    random_stream,
    sigmoid,
    signal,
)
from simulations.notes import STYLES
from simulations.records import AFTERMATH


def write_truth(
    out: Path,
    hospitals: list[Hospital],
    people: list[list[Person]],
    realised: list[dict[str, Any]],
    arguments: dict[str, int],
) -> None:
    """Write truth.parquet, the latents of every patient, and truth.json, no patient's values.

    Args:
        out: folder that holds the hospitals' folders.
        hospitals: their profiles, in order.
        people: patients of each hospital.
        realised: what `write_site` counted at each.
        arguments: of `synthesize`, all that its output depends on.
    """
    latents = [_latents(h, group) for h, group in zip(hospitals, people, strict=True)]
    pq.write_table(pa.concat_tables(latents), out / "truth.parquet")
    curves = [_risk_curve(h, index, arguments["seed"]) for index, h in enumerate(hospitals)]
    truth = _truth(hospitals, people, realised, curves) | {"arguments": arguments}
    (out / "truth.json").write_text(json.dumps(truth, indent=2) + "\n")


def _latents(hospital: Hospital, people: list[Person]) -> pa.Table:
    return pa.table(
        {
            "subject_id": pa.array([p.subject_id for p in people], pa.int64()),
            "site": pa.array([hospital.name] * len(people), pa.string()),
            **{
                k: pa.array([getattr(p, k) for p in people], pa.float64())
                for k in ("logit", *"abc")
            },
        }
    )


def _risk_curve(hospital: Hospital, index: int, seed: int) -> tuple[Floats, Floats]:
    """Expected positives and negatives by logit, on a fine grid, from a large sample.

    Each draw counts as its risk to the one side and the rest to the other, instead of as a drawn
    outcome: the same expectation with less noise.
    """
    sample = draw_latents(random_stream(seed, index, "oracle"), hospital, _MONTE_CARLO)
    logit = hospital.offset + signal(*sample, hospital.effects)
    risk = sigmoid(logit)
    cell = np.clip(((logit + 25) * 80).astype(int), 0, 3999)
    positive = np.bincount(cell, risk, 4000) / _MONTE_CARLO
    return positive, np.bincount(cell, minlength=4000) / _MONTE_CARLO - positive


_MONTE_CARLO = 100_000  # draws per hospital


def _truth(
    hospitals: list[Hospital],
    people: list[list[Person]],
    realised: list[dict[str, Any]],
    curves: list[tuple[Floats, Floats]],
) -> dict[str, Any]:
    """What truth.json holds: the model, the profiles and summaries, no patient's values."""
    everyone = [p for group in people for p in group]
    weighted = (
        np.asarray(sum(h.size * c[side] for h, c in zip(hospitals, curves, strict=True)))
        for side in (0, 1)
    )
    positive, negative = weighted
    total = len(everyone)
    return {
        "schema": "wardround.truth/1",
        "outcome": {
            "label": "in-hospital deterioration after the prediction time",
            "effects": asdict(EFFECTS),
            "age_centre": AGE_CENTRE,
            "latents": {"shared": SHARED, "own": OWN},
        },
        "records": {
            "findings": {
                "thresholds": FINDING_THRESHOLDS,
                "slope": FINDING_SLOPE,
                "noise": FINDING_NOISE,
            },
            "measurements": {m.code: asdict(m) for m in (*VITALS, *LABS)},
            "oximeter_bias": OXIMETER_BIAS,
            "diagnoses": {code: {"history": w or 0.0, "base": b} for code, _, w, b in DIAGNOSES},
            "note_strength": NOTE_STRENGTH,
            "trend": TREND,
            "urgency": URGENCY,
            "less_missing": LESS_MISSING,
            "lactate_more_missing": LACTATE_MORE_MISSING,
        },
        "after_prediction": {
            "note": "Events after prediction_time follow from the outcome and leak it to a reader "
            "that does not cut there.",
            "codes": [
                "ICU_TRANSFER",
                death_code,
                "HOSPITAL_DISCHARGE",
                "NOTE//DISCHARGE",
                *(code for code, _ in AFTERMATH),
                *(m.code for m in (*VITALS, LABS[0])),
            ],
        },
        "best_auroc": _best_auroc(everyone, (positive, negative)),
        "realised": {
            "patients": total,
            "prevalence": sum(p.deteriorates for p in everyone) / total,
            "image_missing": sum(r["image_missing"] * r["patients"] for r in realised) / total,
            "note_missing": sum(r["note_missing"] * r["patients"] for r in realised) / total,
        },
        "sites": {
            h.name: {
                "profile": _profile(h),
                "realised": r,
                "best_auroc": _best_auroc(group, curve),
            }
            for h, group, r, curve in zip(hospitals, people, realised, curves, strict=True)
        },
    }


def _best_auroc(people: list[Person], curve: tuple[Floats, Floats]) -> dict[str, float | None]:
    y = np.array([p.deteriorates for p in sorted(people, key=lambda p: p.logit)], dtype=float)
    return {"generated": _auroc(y, 1 - y), "expected": _auroc(*curve)}


def _auroc(positive: Floats, negative: Floats) -> float | None:
    """Area under the curve from counts by ascending score; ties count a half."""
    if positive.sum() == 0 or negative.sum() == 0:
        return None
    below = np.cumsum(negative) - 0.5 * negative
    return round(float((positive * below).sum() / (positive.sum() * negative.sum())), 5)


def _profile(hospital: Hospital) -> dict[str, Any]:
    profile = asdict(hospital)
    return profile | {
        "ethnicity": dict(zip(ETHNICITIES, hospital.ethnicity, strict=True)),
        "styles": dict(zip(STYLES, hospital.styles, strict=True)),
    }
