"""Builds the run folder of an imaginary study, with all that a report must survive."""

import json

import numpy as np

from federation.metrics.summary import ScoreSummary, merge
from federation.metrics.suppression import withheld_cells
from federation.metrics.threshold import Threshold
from server.evaluator import (
    evaluate_local_models,
    evaluate_model,
    headline,
    metrics_document,
)
from server.operating import Operating
from server.site_evaluation import SiteEvaluation

AT_HALF = Operating(Threshold(0.5), told={"rule": "fixed", "value": 0.5})
SITES = {
    "cleveland": (303, 1.7, 0.45),
    "hungarian": (261, 1.5, 0.38),
    "long-beach": (130, 0.8, 0.70),
    "st-elsewhere": (420, 1.4, 0.30),
    "switzerland": (96, 0.9, 1.0),
    "zurich-cantonal": (31, 1.0, 0.5),
}
ROUNDS = 12

STUDY = """
[study]
name = "heart-disease"
seed = 42
fingerprint = "9f2c41d07a6be1538c02"

[task]
kind = "binary"
label = "heart_disease"

[modalities.ehr]
encoder = "transformer"

[modalities.image]
encoder = "resnet10"
size = 64

[training]
rounds = 12
local_epochs = 1
batch_size = 32
optimizer = { name = "adamw", lr = 0.001 }

[strategy]
name = "fedavg"
minimum_sites = 2

[privacy]
mechanism = "none"

[evaluation]
subgroups = ["sex", "age_band"]
baselines = ["local", "pooled"]
"""


def write_run_folder(run, seed=0):
    """A run at six hospitals: one withheld whole, one with one class, small cells, failures."""
    run.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    held_out = {site: _patients(rng, site) for site in SITES}
    federated = [_evaluation(site, held_out[site], 1.0) for site in SITES]
    pooled = [_evaluation(site, held_out[site], 1.06) for site in SITES]
    trained = {
        site: [_evaluation(b, held_out[b], 0.9 if site == b else 0.6, rng) for b in SITES]
        for site in SITES
        if site != "zurich-cantonal"
    }
    local, cross_site = evaluate_local_models(trained, AT_HALF)
    models = {
        "federated": evaluate_model(federated, AT_HALF),
        "pooled": evaluate_model(pooled, AT_HALF),
        "local": local,
    }
    document = metrics_document("heart-disease", "9f2c41d07a6be1538c02", 42, models, cross_site)
    _write(run / "metrics.json", document)
    sent = {"federated": _sent(federated), "pooled": _sent(pooled)}
    _write(run / "summaries.json", {"models": sent})
    _write(run / "environment.json", _environment())
    _write(run / "privacy.json", {"mechanism": "none", "sites": {}})
    _write(run / "sites.json", _sites(rng))
    _write(
        run / "warnings.json",
        ["Round 7 was aggregated from 4 of 6 hospitals.", "zurich-cantonal was withheld whole."],
    )
    (run / "study.toml").write_text(STUDY, encoding="utf-8")
    lines = [json.dumps(one) for one in _rounds(rng, federated)]
    (run / "rounds.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return run


def _patients(rng, site):
    patients, separation, prevalence = SITES[site]
    n = patients // 4
    labels = (rng.random(n) < prevalence).astype(int)
    z = rng.normal(size=n) + separation * labels - 0.6 + 0.3 * rng.normal()
    sex = rng.choice(["female", "male", "unknown"], n, p=[0.4, 0.56, 0.04])
    age = rng.choice(["under 50", "50-64", "65+"], n, p=[0.3, 0.45, 0.25])
    return z, labels, {"sex": sex, "age_band": age}


def _evaluation(site, patients, quality, rng=None):
    z, labels, attributes = patients
    noise = 0 if rng is None else rng.normal(size=len(z)) * (1 - quality) * 1.5
    scores = 1 / (1 + np.exp(-(quality * z + noise)))
    levels = {
        name: {level: int((values == level).sum()) for level in np.unique(values)}
        for name, values in attributes.items()
    }
    withheld = withheld_cells(len(labels), levels, 10)
    if "" in withheld:
        return SiteEvaluation(site, {}, withheld)
    cells = {"": ScoreSummary.from_scores(scores, labels).merged(10)}
    for name, values in attributes.items():
        for level in levels[name]:
            if f"{name}={level}" not in withheld:
                chosen = values == level
                one = ScoreSummary.from_scores(scores[chosen], labels[chosen])
                cells[f"{name}={level}"] = one.merged(10)
    return SiteEvaluation(site, cells, withheld)


def _sent(evaluations):
    return {
        "sites": {
            one.site: {
                "cells": {name: summary.to_json() for name, summary in one.cells.items()},
                "withheld": dict(one.withheld),
            }
            for one in evaluations
        }
    }


def _rounds(rng, evaluations):
    final = headline(merge(one.cells[""] for one in evaluations if "" in one.cells))
    for number in range(1, ROUNDS + 1):
        share = 1 - np.exp(-number / 3)
        failed = {7: {"hungarian": "no answer within 600 s", "long-beach": "out of memory"}}
        rejected = {9: {"st-elsewhere": "update not finite"}}
        gone = {**failed.get(number, {}), **rejected.get(number, {})}
        answered = [site for site in SITES if site not in gone]
        yield {
            "round": number,
            "loss": round(0.69 - 0.24 * share + 0.01 * rng.normal(), 4),
            "metrics": {
                "auroc": round(0.5 + (final["auroc"] - 0.5) * share + 0.006 * rng.normal(), 4),
                "auprc": round(final["auprc"] * (0.6 + 0.4 * share), 4),
                "brier": round(0.25 - (0.25 - final["brier"]) * share, 4),
            },
            "site_metrics": {
                one.site: {"auroc": round(0.5 + (value - 0.5) * share + 0.015 * rng.normal(), 4)}
                for one in evaluations
                if "" in one.cells and (value := headline(one.cells[""])["auroc"]) is not None
            },
            "asked": list(SITES),
            "answered": answered,
            "failed": failed.get(number, {}),
            "rejected": rejected.get(number, {}),
            "seconds": round(8 + rng.random(), 2),
            "bytes": {"sent": 6 * 1_840_000, "received": len(answered) * 1_840_000},
            "sites": {
                site: {"loss": 0.5, "patients": SITES[site][0] // 2, "seconds": 3.1}
                for site in answered
            },
        }


def _sites(rng):
    described = {}
    for site, (patients, _, _) in SITES.items():
        described[site] = {
            "patients": {
                "train": patients // 2,
                "tuning": patients // 4,
                "held_out": patients // 4,
            },
            "modalities": {"ehr": patients, "image": int(patients * rng.uniform(0.3, 0.9))},
            "excluded": {"no label": "<10", "unreadable image": int(rng.integers(10, 40))},
            "notices": {},
        }
    described["hungarian"]["excluded"] = {}
    described["switzerland"]["notices"] = {"later prediction times, not used": 12}
    return described


def _environment():
    return {
        "wardround": "0.1.0",
        "python": "3.11.9",
        "torch": "2.13.0",
        "flwr": "1.41.0",
        "device": "cpu",
        "git_commit": "4c0ffee1d2",
        "grid": "ray",
        "workers": 2,
        "seconds": 103.4,
    }


def _write(path, document):
    path.write_text(json.dumps(document, allow_nan=False), encoding="utf-8")
