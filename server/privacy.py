"""privacy.json: what a run cost its patients, from what the sites stated, to be recomputed.

Nothing here is taken from a site's own epsilon: sites state sampling rate, noise multiplier and
steps, and every epsilon is computed from those.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from federation.privacy.accounting import (
    ADJACENCY,
    Accountant,
    Segment,
    epsilon,
    tightest,
)
from federation.study import Study
from server.exchange import LOST, NO_REPLY, UNREADABLE
from server.witness import WENT_BACK

SCHEMA = "wardround.privacy/1"

PRIVACY_REASONS = (
    "the privacy budget of the site's patients does not allow it",
    "the study's privacy terms do not fit the site",
    "the site's privacy ledger does not extend the one that was witnessed",
    WENT_BACK,
)

MOST_WITH_PRV = 20
"""Sites up to which the slowest accountant is asked too; it is there to compare with."""

WITHOUT_WORD = (LOST, NO_REPLY, UNREADABLE)

_ADVERSARY = {
    "dp_sgd": "whoever sees anything that leaves a site, the coordinator included",
    "central": "whoever sees the model; not the coordinator, who sees updates without noise",
}
_COVERS = {
    "none": "nothing",
    "dp_sgd": "training patients only",
    "central": "hospitals as a whole: the model, not the evaluation or the counts that sites send",
}
_COVERS_NOISED = "training, tuning and held-out patients, each by the epsilon of its split"
_EVALUATION = "evaluation on tuning and held-out patients"
_EVALUATION_COVERED = "counts of 16 score bins with noise, planned in number; see evaluation"
_OTHER_USES = (
    ("number of training patients", "declared public", "it sets the sampling rate and the weight"),
    ("class weights", "refused", "class_weight must be none"),
    ("vocabulary and scaling", "independent", "from the study alone; a prepared one is refused"),
    ("membership in a split", "independent", "a keyed hash or a given list; by time is refused"),
    ("training loss", "not sent", "and not looked at by the site"),
    ("patients by modality, notices", "not sent", "a part counts for all or for none by site.toml"),
    ("zeroing of parts that few patients moved", "not done", "it would tell that they are few"),
    ("what a strategy keeps or sends beside", "follows", "from noised gradients alone"),
    ("modality dropout", "independent", "drawn for each patient from the private generator"),
    (
        "a record that cannot be read",
        "not covered",
        "it stops the whole site, which says so; that somebody has it can be seen",
    ),
    ("excluded patients", "not covered", "counts, small ones withheld; they do not train"),
    (
        _EVALUATION,
        "not covered",
        "summaries without noise, small cells withheld; other patients than those who train",
    ),
)
"""Under dp_sgd: what else looks at patients' data, and what became of it."""

_CHOICE = "early stopping, choice of round"
_LAST = (_CHOICE, "independent", "the model of the last round is kept")
_BEST = (_CHOICE, "not covered", "by the tuning split, of other patients than those who train")


def privacy_document(
    study: Study,
    rounds: Sequence[Mapping[str, Any]],
    comparators: Mapping[str, Mapping[str, Mapping[str, Any]]],
    simulated: bool,
    tuning_noise: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    held_out_noise: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return privacy.json.

    Args:
        study: the resolved study.
        rounds: the lines of rounds.jsonl.
        comparators: what sites last said of their patients' privacy, by model and site.
        simulated: whether central noise was drawn from a seed.
        tuning_noise: what sites said at the end of the noise on their tuning splits' counts.
        held_out_noise: and on those of their held-out splits.
    """
    mechanism = study.privacy.mechanism
    sites = sorted({site for record in rounds for site in record["answered"]})
    head: dict[str, Any] = {"schema": SCHEMA, "mechanism": mechanism, "covers": _COVERS[mechanism]}
    if mechanism == "none":
        return {**head, "sites": {site: {"mechanism": "none"} for site in sites}}
    head |= {"adversary": _ADVERSARY[mechanism], "delta": study.privacy.delta}
    if mechanism == "central":
        row = _central_row(study, rounds, simulated)
        head |= {"unit": "hospital", "adjacency": "add or remove one hospital", "seeded": simulated}
        return {**head, "sites": dict.fromkeys(sites, row)}
    told = _last_told(rounds)
    prv = len(told) <= MOST_WITH_PRV
    document = {
        **head,
        "unit": "patient",
        "adjacency": ADJACENCY,
        "seeded": any(spent["seeded"] for spent in told.values()),
        "sites": {
            site: _site_row(study, spent, _unheard(site, rounds), prv)
            for site, spent in told.items()
        }
        | {
            site: _silent_row(study, unheard)
            for site in sorted(_asked(rounds) - told.keys())
            if (unheard := _unheard(site, rounds))
        },
        "other_uses": [
            dict(zip(("use", "status", "why"), row, strict=True)) for row in _other_uses(study)
        ],
    }
    if study.evaluation.noise is not None:
        last = {site: told for record in rounds for site, told in record.get("noise", {}).items()}
        by_split = {"tuning": {**last, **tuning_noise}, "held_out": held_out_noise}
        document["covers"] = _COVERS_NOISED
        document["evaluation"] = _evaluation(study, by_split)
    if len(told) > 1:
        together = [segment for spent in told.values() for segment in _segments(spent)]
        person: dict[str, Any] = {
            "epsilon": _epsilons(together, study.privacy.delta),
            "note": "for a person who is a patient of every site, the spends compose to this",
        }
        more = [_more(spent, n) for s, spent in told.items() if (n := _unheard(s, rounds))]
        if more:
            person["epsilon_at_most"] = _epsilons([*together, *more], study.privacy.delta)
        document["patient_of_every_site"] = person
    if comparators:
        document["comparators"] = {
            name: {site: _site_row(study, spent) for site, spent in sorted(by_site.items())}
            for name, by_site in sorted(comparators.items())
        }
        for site, row in document["sites"].items():
            spents = [told.get(site), *(by_site.get(site) for by_site in comparators.values())]
            fits = [segment for spent in spents if spent for segment in _segments(spent)]
            if fits:
                row["epsilon_with_comparators"] = _epsilons(fits, study.privacy.delta)
    return document


def privacy_warnings(
    document: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]] = ()
) -> list[str]:
    """Return what a reader of the run must know of its privacy."""
    warnings = []
    for record in rounds:
        for site, why in {**record["failed"], **record.get("rejected", {})}.items():
            told = f"{site} took no part for its patients' privacy: {why}."
            if why in PRIVACY_REASONS and told not in warnings:
                warnings.append(told)
    rows = [("", document["sites"]), *document.get("comparators", {}).items()]
    for name, sites in rows:
        for site, row in sorted(sites.items()):
            wanted, noise = row.get("study_noise_multiplier"), row.get("noise_multiplier")
            if wanted is not None and noise > wanted * 1.0005:
                of = f" for the model {name}" if name else ""
                warnings.append(
                    f"{site} had less of its patients' budget left than the study asks for: it "
                    f"added noise of {noise:g} instead of {wanted:g}{of}."
                )
            if row.get("rounds_unheard"):
                warnings.append(
                    f"{site} may have trained in {row['rounds_unheard']} further rounds whose "
                    "replies never came; epsilon_at_most counts them, if it ever answered."
                )
    for site, splits in document.get("evaluation", {}).get("sites", {}).items():
        for split, one in splits.items():
            if one["scale"] > one["wanted_scale"] * 1.0005:
                warnings.append(
                    f"{site} had less of its patients' budget left than the evaluation asks for: "
                    f"noise of {one['scale']:g} instead of {one['wanted_scale']:g} ({split})."
                )
    if document.get("seeded"):
        warnings.append(
            "The noise of differential privacy was drawn from the study's seed, as in every "
            "simulation: this run shows what privacy costs, and protects nobody."
        )
    return warnings


def _other_uses(study: Study) -> Iterator[tuple[str, str, str]]:
    for row in _OTHER_USES:
        noised = row[0] == _EVALUATION and study.evaluation.noise is not None
        yield (_EVALUATION, "noised and charged", _EVALUATION_COVERED) if noised else row
    yield _BEST if study.selection.measures else _LAST


def _evaluation(
    study: Study, by_split: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> dict[str, Any]:
    """What being evaluated cost: of each site and split, to be recomputed from what stands here."""
    delta = study.privacy.delta
    sites: dict[str, dict[str, Any]] = {}
    for split, told in by_split.items():
        for site, noise in sorted(told.items()):
            steps = noise["evaluations"] * noise["counts"]
            spent = [Segment(1.0, noise["scale"], steps, "discrete")]
            figures = {"epsilon": _epsilons(spent, delta), "reported": tightest(spent, delta)[0]}
            sites.setdefault(site, {})[split] = {**noise, **figures}
    return {
        "mechanism": "discrete Gaussian noise on each count",
        "covers": "tuning patients and held-out patients, each by the figure of its split",
        "delta": delta,
        "adjacency": ADJACENCY,
        "sites": dict(sorted(sites.items())),
    }


def _site_row(
    study: Study, spent: Mapping[str, Any], unheard: int = 0, prv: bool = False
) -> dict[str, Any]:
    segments, delta = _segments(spent), study.privacy.delta
    last = spent["segments"][-1]
    row = {
        "mechanism": "dp_sgd",
        "unit": "patient",
        "delta": delta,
        "sampling_rate": last["sampling_rate"],
        "noise_multiplier": last["noise_multiplier"],
        "study_noise_multiplier": spent["wanted_noise"],
        "max_grad_norm": study.privacy.max_grad_norm,
        "steps": sum(segment.steps for segment in segments),
        "rounds": sum(one["rounds"] for one in spent["segments"]),
        "epsilon": _epsilons(segments, delta, prv),
        "reported": tightest(segments, delta)[0],
        "seeded": spent["seeded"],
    }
    if len(segments) > 1:
        row["segments"] = spent["segments"]
    if unheard:
        most = _epsilons([*segments, _more(spent, unheard)], delta)
        row |= {"rounds_unheard": unheard, "epsilon_at_most": most}
    return row


def _more(spent: Mapping[str, Any], rounds: int) -> Segment:
    """Return what further rounds on a site's last terms cost."""
    last = spent["segments"][-1]
    steps = last["steps"] // last["rounds"] * rounds
    return Segment(last["sampling_rate"], last["noise_multiplier"], steps)


def _silent_row(study: Study, unheard: int) -> dict[str, Any]:
    """A site that was asked, and of which nothing was ever heard: it may have trained."""
    return {
        "mechanism": "dp_sgd",
        "unit": "patient",
        "delta": study.privacy.delta,
        "epsilon": None,
        "rounds_unheard": unheard,
        "note": "it never answered; its own ledger tells what it spent",
    }


def _asked(rounds: Sequence[Mapping[str, Any]]) -> set[str]:
    return {site for record in rounds for site in record["asked"]}


def _central_row(
    study: Study, rounds: Sequence[Mapping[str, Any]], simulated: bool
) -> dict[str, Any]:
    released = [record["central"] for record in rounds if "central" in record]
    delta = study.privacy.delta
    segments = [Segment(1.0, one["noise_multiplier"], 1) for one in released]
    clips = [one["clip"] for one in released]
    return {
        "mechanism": "central",
        "unit": "hospital",
        "adversary": _ADVERSARY["central"],
        "delta": delta,
        "sampling_rate": 1.0,
        "noise_multiplier": released[0]["noise_multiplier"] if released else None,
        "clip": {"first": clips[0], "last": clips[-1]} if clips else None,
        "steps": len(released),
        "rounds": len(released),
        "epsilon": _epsilons(segments, delta, prv=True) if segments else None,
        "reported": tightest(segments, delta)[0] if segments else None,
        "seeded": simulated,
    }


def _last_told(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """What each site said last: it counts all its rounds, also those whose replies were lost."""
    told: dict[str, Mapping[str, Any]] = {}
    for record in rounds:
        told |= record.get("spent", {})
    return dict(sorted(told.items()))


def _unheard(site: str, rounds: Sequence[Mapping[str, Any]]) -> int:
    """Rounds after the site's last word in which it was asked, and nothing came back at all."""
    count = 0
    for record in rounds:
        if site in record.get("spent", {}):
            count = 0
        else:
            owed = site in record["asked"] and site in record.get("outstanding", ())
            count += owed or record["failed"].get(site) in WITHOUT_WORD
    return count


def _segments(spent: Mapping[str, Any]) -> list[Segment]:
    return [
        Segment(one["sampling_rate"], one["noise_multiplier"], one["steps"])
        for one in spent["segments"]
    ]


def _epsilons(
    segments: Sequence[Segment], delta: float, prv: bool = False
) -> dict[str, float | None]:
    names: tuple[Accountant, ...] = ("pld", "rdp", "prv") if prv else ("pld", "rdp")
    found = {name: epsilon(segments, delta, name) for name in names}
    # Six digits: beyond what any of the accountants is good for.
    return {
        name: None if math.isinf(value) else float(f"{value:.6g}") for name, value in found.items()
    }
