"""What a run answers of a model card, in words; and what people answered in a file beside it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from federation.errors import UserError
from federation.validation import read_toml
from server.report.card.questions import ASKED_OF, CHAI, TRIPOD_AI
from server.report.documents import Cell, Metric
from server.report.first_screen import (
    facts,
    intended_use,
    lead,
    patients_by_split,
    privacy_fact,
    rounds,
)
from server.report.recalibration import recalibration_words
from server.report.run_folder import RunFolder
from server.report.sections.decisions import threshold_words
from server.report.sections.outcomes import recalibrated_outcomes
from server.report.sections.privacy import guarantee
from server.report.several import runs_of_tasks
from server.report.text import MODALITIES, listed, metric_text, model_name, shown, subgroup_name

ANSWERS = "model_card_answers.toml"
"""Where people write what a run cannot know, in the run folder: KEY = "text"."""


_SPLITS = {
    "patient": "by a keyed hash of the patient",
    "time": "by time, the past for training",
    "given": "as its own list says",
}


def given_answers(run: Path) -> dict[str, str]:
    """What people wrote into the run folder; nothing if there is no such file.

    Raises:
        UserError: if a key is none of the card's, or an answer is not a text.
    """
    file = run / ANSWERS
    if not file.exists():
        return {}
    keys = sorted({key for q in (*TRIPOD_AI, *sum(CHAI.values(), ())) for key in q.keys})
    document = read_toml(file)
    for key, text in document.items():
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise UserError(
                file,
                f"the model card has no such answer{hint}",
                field=key,
                remedy="model_card.json names the key of every answer.",
            )
        if not isinstance(text, str) or not text.strip():
            raise UserError(file, "expected a text that is not empty", field=key)
    return {key: text.strip() for key, text in document.items()}


def known_answers(run: RunFolder) -> dict[str, str]:
    """What follows from the run folder; an answer that does not is left out or empty."""
    study = run.study
    return {
        **_identity(run),
        **_data(run),
        **_method(study),
        **_results_of_all(run),
        "privacy": " ".join(
            [
                f"{privacy_fact(run.privacy).value}. {privacy_fact(run.privacy).note}",
                guarantee(run.privacy) if run.privacy.mechanism != "none" else "",
            ]
        ).strip(),
        "warnings": " ".join(run.warnings) or "The run raised no warning.",
    }


def who_answers(key: str) -> str:
    """Whom to ask for an answer that is not there."""
    return ASKED_OF.get(key, "the coordinator of the consortium")


def _identity(run: RunFolder) -> dict[str, str]:
    made = run.environment
    versions = {k: v for k, v in made.items() if k in ("torch", "flwr", "opacus", "dp-accounting")}
    return {
        "name": run.metrics.study,
        "version": f"Study fingerprint {run.metrics.fingerprint}, "
        f"run {made.get('run', 'unnamed')}, seed {run.metrics.seed}.",
        "title": f"Development and evaluation, at {len(run.sites)} hospitals, of a model that "
        f"predicts {_label(run)}.",
        "summary": lead(run),
        "intended_use": intended_use(run),
        "keywords": ", ".join(
            [
                _label(run),
                "federated learning",
                *(MODALITIES.get(name, name) for name in sorted(run.study.get("modalities", {}))),
            ]
        ),
        "transparency": "The run folder has the study, every round, all metrics with intervals and "
        "the privacy account; report.html shows them. The code is open.",
        "versions": f"Wardround {made.get('wardround', '?')}; {shown(versions)}.",
        "data_sharing": "No record of a patient left a hospital. The score counts from which "
        "every metric was computed are in summaries.json of the run folder.",
        "code_sharing": f"Wardround {made.get('wardround', '?')}, Apache 2.0"
        + (f", commit {commit}." if (commit := _commit(made)) else "."),
    }


def _data(run: RunFolder) -> dict[str, str]:
    patients = patients_by_split(run)
    held = [
        f"{name} {sum(n for n in told if isinstance(n, int)):,}"
        for name, told in _by_modality(run).items()
    ]
    excluded = {site: one.excluded for site, one in run.sites.items() if one.excluded}
    uncounted = [site for site, one in run.sites.items() if not one.counted]
    return {
        "data_source": f"Records of {len(run.sites)} hospitals, read and kept at each hospital.",
        "centres": f"{len(run.sites)} hospitals: {', '.join(sorted(run.sites))}.",
        "patients": f"{patients['train']:,} patients trained the model, {patients['tuning']:,} "
        f"served to follow it, {patients['held_out']:,} to measure it; the table of data has them "
        "by hospital.",
        "modalities_held": (f"Patients with each modality: {', '.join(held) or 'not told'}.")
        + (f" Not counted under differential privacy: {', '.join(uncounted)}." * bool(uncounted)),
        "excluded": "; ".join(f"{site}: {listed(one)}" for site, one in sorted(excluded.items()))
        or "No hospital reported that it left patients out.",
        "characteristics": "Under Data below: outcome and subgroups of the held-out patients, by "
        "hospital. Training patients are not described beyond their number.",
    }


def _method(study: Mapping[str, Any]) -> dict[str, str]:
    training, strategy = study.get("training", {}), study.get("strategy", {})
    modalities, loss = study.get("modalities", {}), training.get("loss", {})
    encoders = ", ".join(f"{k} by {v.get('encoder')}" for k, v in sorted(modalities.items()))
    weight = loss.get("class_weight", "none")
    split = study.get("split", {})
    return {
        "model_type": f"Encoders: {encoders}; fusion: "
        f"{study.get('fusion', {}).get('kind', 'of one modality')}.",
        "foundation_models": _began_with(modalities),
        "inputs": "; ".join(_input(name, one) for name, one in sorted(modalities.items())) + ".",
        "splits": f"Each hospital divided its own patients {_SPLITS[split.get('by', 'patient')]} "
        f"({shown(split.get('fractions', {}))}); a patient is in one split with everything known "
        "of them.",
        "scaling": "Values are scaled by the reference ranges of the study or by moments that the "
        "hospitals sent; normalisation.json and vocabulary.json of the run folder have them.",
        "missing_data": _absent(study.get("fusion", {}).get("absent", "token"))
        + " A code that a patient lacks enters as zero; the aggregate present, where the study "
        "uses it, tells the model that it is lacking.",
        "preparation": "Events after the prediction time are not used; each hospital's reader "
        "counts what it cannot use, by reason.",
        "training": f"Federated, by {strategy.get('name', '?')}, {training.get('rounds', '?')} "
        f"rounds planned; optimiser {shown(training.get('optimizer', {}))}. study.toml has every "
        "setting.",
        "imbalance": f"Class weight in the loss: {weight}."
        + " With weights, predicted risks are not those observed: see the calibration."
        * (weight != "none"),
        "mitigation": f"By the strategy {strategy.get('name')}, which raises the weight of "
        "hospitals that do worst."
        if strategy.get("name") in ("qfedavg", "afl")
        else "None in training; differences are measured, not removed.",
        "fairness_measured": "Gaps between subgroups in sensitivity, false positive rate, share "
        "called positive, calibration and AUROC, with intervals for all pairs at once.",
        "heterogeneity": "Every metric by hospital; AUROC of the average hospital by random "
        "effects where five or more can be compared.",
        "measures": "AUROC, AUPRC, Brier score, calibration slope and intercept, ECE, net benefit, "
        "rates at one threshold, with 95% intervals; docs/metrics.md defines them.",
        "predictions": "Each hospital scored its held-out patients with the final weights and sent "
        "counts by score bin.",
        "testing": "Internal and retrospective. Held-out patients of the same hospitals, whom "
        "training, stopping and the threshold did not see. No hospital outside the consortium "
        "took part.",
        "full_model": "model.safetensors, with vocabulary.json and normalisation.json, of the run "
        "folder."
        + " recalibration.json there has the line from the model's log-odds to its risks."
        * ("recalibration" in study.get("evaluation", {})),
    }


def _results_of_all(run: RunFolder) -> dict[str, str]:
    """What came of the run; of several tasks each answer task by task, where they differ."""
    each = {_label(one): _results(one) for one in runs_of_tasks(run).values()}
    if not each:
        return _results(run)
    answers = {key: {label: one[key] for label, one in each.items()} for key in _results(run)}
    return {
        key: next(iter(told.values()))
        if len(set(told.values())) == 1
        else " ".join(f"{label}: {answer}" for label, answer in told.items())
        for key, told in answers.items()
    }


def _results(run: RunFolder) -> dict[str, str]:
    model, cell = run.model, run.model.overall
    others = {
        name: one.overall.auroc
        for name, one in sorted(run.metrics.models.items())
        if name != run.main and one.overall.auroc
    }
    moved = _recalibrated(run)
    own = "" if moved else "None in this run."
    if cell.averaged_over_sites:
        own = "Each hospital uses a model of its own, adapted to its patients."
    between = model.between_sites
    failed = sum(len(one.failed) + len(one.rejected) for one in run.rounds)
    gaps = [
        f"{attribute.replace('_', ' ')}: sensitivity {_plain(found.get('sensitivity'))}, AUROC "
        f"{_plain(found.get('auroc'))}"
        for attribute, found in sorted(model.fairness.items())
    ]
    return {
        "outcome": f"{_label(run)}, as a risk between 0 and 1.",
        "threshold": threshold_words(model) or "No threshold was chosen.",
        "headline": _headline(run),
        "events": _events(cell),
        "comparison": "; ".join(
            f"{model_name(name)}: AUROC {_plain(auroc)}" for name, auroc in others.items()
        )
        or "No other model was there to compare with.",
        "calibrated": f"Calibration slope {_plain(cell.calibration_slope)}, intercept "
        f"{_plain(cell.calibration_intercept)}."
        if cell.calibration_slope
        else "No calibration of all hospitals together was measured.",
        "worst": " ".join(
            f"Lowest AUROC of {one.of} {kind}: {subgroup_name(one.name)}, {_plain(one.auroc)}."
            for kind, one in (
                ("hospitals", model.worst.site),
                ("subgroups", model.worst.subgroup),
            )
            if one is not None
        )
        or "The run names no lowest hospital or subgroup.",
        "gaps": f"Largest gaps between subgroups: {'; '.join(gaps)}."
        if gaps
        else "The run measured no gap between subgroups.",
        "between": f"AUROC of the average of {between.hospitals} hospitals {_plain(between.auroc)}."
        if between is not None and between.auroc.value is not None
        else "Too few hospitals can be compared for an average hospital.",
        "failures": f"{rounds(run)} rounds counted; {failed} times a hospital failed or was "
        "rejected in one.",
        "updating": f"{own} {moved}".strip(),
        "updated": f"{own} {moved}".strip(),
        "limits": "Measured on past records of the hospitals that trained it, not in care. Groups "
        "below the hospitals' smallest cell are withheld, so nothing is known of them."
        + " Fewer than 50 patients of one class were measured: intervals hold less often than "
        "they say." * _few(cell),
    }


def _recalibrated(run: RunFolder) -> str:
    """What was done to the risks after training."""
    if run.task == "binary":
        return recalibration_words(run.model.recalibration, run.model.overall)
    told = recalibrated_outcomes(run.document["models"][run.main])
    return " ".join(f"{name}: {words}" for name, words in told.items())


def _headline(run: RunFolder) -> str:
    """The main figures of all hospitals; of tasks without an AUROC those of the first screen."""
    cell = run.model.overall
    if cell.suppressed:
        return f"Withheld: {cell.suppressed}."
    if run.task != "binary":
        told = [f"{fact.name}: {fact.value} ({fact.note})" for fact in facts(run)[1:-1]]
        return f"{'; '.join(told)}. {_events(cell)}"
    return (
        f"AUROC {_plain(cell.auroc)}, AUPRC {_plain(cell.auprc)}, Brier score "
        f"{_plain(cell.brier)}. {_events(cell)}"
    )


def _events(cell: Cell) -> str:
    if not cell.n:
        return f"Withheld: {cell.suppressed}."
    outcome = "" if cell.positives is None else f", {cell.positives:,} with the outcome"
    return f"On {cell.n:,} held-out patients{outcome}; the tables have every hospital and subgroup."


def _few(cell: Cell) -> bool:
    if cell.n is None or cell.positives is None:
        return False
    return min(cell.positives, cell.n - cell.positives) < 50


def _by_modality(run: RunFolder) -> dict[str, list[int | str]]:
    """What each hospital told of each modality."""
    names = sorted({name for one in run.sites.values() for name in one.modalities})
    return {
        name: [one.modalities[name] for one in run.sites.values() if name in one.modalities]
        for name in names
    }


def _absent(how: str) -> str:
    """What the model makes of a modality that a patient lacks."""
    if how == "imputed":
        return (
            "A modality that a patient lacks is replaced by a guess from the encodings of those "
            "that the patient has, learned with the model."
        )
    return (
        "A modality that a patient lacks is masked: nothing of it enters the prediction; with "
        "early fusion a learned vector stands for it."
    )


def _began_with(modalities: Mapping[str, Any]) -> str:
    """Weights of others that an encoder began with."""
    files = {name: one["weights"] for name, one in modalities.items() if one.get("weights")}
    if not files:
        return "None: every weight was trained in this run."
    told = "; ".join(f"{name}: {shown(weights)}" for name, weights in sorted(files.items()))
    return f"Training began with weights of a file. {told}."


def _input(name: str, section: Mapping[str, Any]) -> str:
    if name != "ehr":
        told = {key: section[key] for key in ("size", "max_tokens", "buckets") if key in section}
        return f"{name}: {shown(told)}" if told else name
    listed_codes = len(section.get("codes", ())) + len(section.get("reference_ranges", {}))
    return (
        f"health records: {listed_codes} codes by name, vocabulary {section.get('vocabulary')}, "
        f"aggregates {shown(section.get('aggregates', []))}"
    )


def _label(run: RunFolder) -> str:
    return str(run.study.get("task", {}).get("label", "the outcome")).replace("_", " ")


def _commit(environment: Mapping[str, Any]) -> str:
    return str(environment.get("git commit") or "")


def _plain(metric: Metric | None) -> str:
    found = metric_text(metric)
    return f"{found.text} ({found.note})" if found.note else found.text
