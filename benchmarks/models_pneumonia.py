"""PneumoniaMNIST dealt to ten sites that differ in prevalence and in their scanners.

An image goes to a site with a probability that depends on its finding: the sites' shares of each
class are drawn from a Dirichlet distribution (Hsu, Qi and Brown, 2019). Each site shows its images
by a scanner of its own, drawn as ``kind = "scanner"`` of a shifts file draws it. Nobody is dropped,
and the publisher's splits stay.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from models_bench import DATA, STUDIES, Bench, Scores, say
from reporting import Row

from federation.study import load_study
from simulations.datasets import pneumoniamnist
from simulations.datasets.pneumoniamnist import Radiograph
from simulations.shifts.looks import ARTEFACTS, Look, show
from simulations.shifts.scanner import Scanner

SITES, ALPHA, STRENGTH, SEED = 10, 2.0, 0.8, 7
OF_POOLED = 0.97
SOURCE = DATA / "pneumoniamnist"
QUICK_IMAGES, QUICK_ROUNDS, ROUNDS = 800, 3, 12


def measure(quick: bool, folder: Path) -> list[Row]:
    """Train the federation, everybody in one place, and each site alone."""
    if not (SOURCE / pneumoniamnist.FILE).is_file():
        return [Row("models/pneumonia", None, note=f"no {SOURCE}")]
    sites = folder / f"models-pneumonia-{QUICK_IMAGES if quick else 'all'}"
    if not sites.exists():
        _write_sites(sites, QUICK_IMAGES if quick else None)
    overrides = [
        "evaluation={every=0, subgroups=[]}",
        f"training.rounds={QUICK_ROUNDS if quick else ROUNDS}",
    ]
    study = load_study(STUDIES / "pneumonia.toml", overrides)
    with Bench.of(sites) as bench:
        cohorts = bench.cohorts(study)
        federated = Scores.of(bench.train(study), cohorts)
        say(f"pneumonia: federated {federated.told()}")
        pooled = Scores.of(bench.train(study.plain(), pooled=True), cohorts)
        say(f"pneumonia: pooled {pooled.told()}")
        local = Scores.joined(
            [
                Scores.of(bench.train(study.plain(), only=site), {site: cohort})
                for site, cohort in cohorts.items()
            ]
        )
        prevalence = [float(one.patients.labels.mean()) for one in cohorts.values()]
    share = (federated.auroc - 0.5) / (pooled.auroc - 0.5)
    told = f"{len(cohorts)} sites, prevalence {min(prevalence):.2f} to {max(prevalence):.2f}"
    return [
        Row(
            "models/pneumonia/of_pooled",
            share,
            OF_POOLED,
            holds=None if quick else share >= OF_POOLED,
            note="of AUROC above 0.5; at least",
        ),
        *(
            Row(
                f"models/pneumonia/{name}/auroc",
                one.auroc,
                note=f"{one.told()}; mean of the sites {one.mean_of_sites:.3f}; {told}",
            )
            for name, one in (("federated", federated), ("pooled", pooled), ("local", local))
        ),
    ]


def _write_sites(out: Path, most: int | None) -> None:
    kept, _ = pneumoniamnist._unique(pneumoniamnist._read(SOURCE / pneumoniamnist.FILE))
    rng = np.random.default_rng(SEED)
    if most is not None:
        kept = [kept[i] for i in np.sort(rng.permutation(len(kept))[:most])]
    shares = rng.dirichlet([ALPHA] * SITES, 2)
    at = [int(rng.choice(SITES, p=shares[int(one.pneumonia)])) for one in kept]
    for number in range(SITES):
        look = _look(rng)
        mine = [one for one, site in zip(kept, at, strict=True) if site == number]
        shown = [_shown(one, look) for one in mine]
        pneumoniamnist._write_site(out / f"site-{number:02d}", shown, (number + 1) * 100_000)


def _look(rng: np.random.Generator) -> Look:
    section, normal = Scanner(kind="scanner"), rng.standard_normal(5)
    return Look(
        gamma=float(np.exp(STRENGTH * section.gamma * normal[0])),
        noise=float(STRENGTH * section.noise * abs(normal[1])),
        blur=float(STRENGTH * section.blur * abs(normal[2])),
        contrast=float(np.exp(STRENGTH * section.contrast * normal[3])),
        artefact=ARTEFACTS[int(rng.integers(len(ARTEFACTS)))],
        artefact_depth=float(STRENGTH * section.artefact),
    )


def _shown(one: Radiograph, look: Look) -> Radiograph:
    rng = np.random.default_rng(int.from_bytes(one.digest[:8], "big"))
    changed = show(one.pixels / 255.0, look, rng)
    return replace(one, pixels=np.round(255 * changed).astype(np.uint8))
