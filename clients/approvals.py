"""Which studies a person at the site has approved, and what such a study would do, in plain words.

An approval is an entry of the site's audit log. It covers one study, by its fingerprint, and the
code that was installed when it was given: another study or another version is another approval.
"""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from importlib.metadata import version

from clients.audit_log import AUDIT_LOG, AuditLog
from clients.budget import cap, planned_rounds
from clients.ledger import site_ledger
from clients.ledger_file import LEDGER
from clients.site import PolicySection, Site
from federation.modalities import Modality
from federation.strategies.averaging import Scaffold
from federation.study import Study
from federation.tasks import SeveralTask, Task
from federation.windows import WindowsSection

SOURCES: dict[Modality, str] = {
    "ehr": "coded events and their values",
    "image": "the latest image of each patient",
    "text": "notes",
}


def audit_log(site: Site) -> AuditLog:
    """Return a site's audit log."""
    return AuditLog(site.state / AUDIT_LOG)


def approve(study: Study, site: Site) -> None:
    """Record that a person approves a study.

    Raises:
        UserError: if it cannot be recorded, or the log was changed: nothing in it is valid then.
    """
    log = audit_log(site)
    log.append("approved", **_covered(study))
    log.verify()


def withdraw(study: Study, site: Site) -> None:
    """Record that a study is approved no more; the next message of it is refused.

    Raises:
        UserError: if it cannot be recorded.
    """
    audit_log(site).append("withdrawn", **_covered(study))


def approval_of(study: Study, site: Site) -> int | None:
    """Return the number of the entry that approves this study, or one of which it is a part.

    None if nobody has approved it for the code that is installed here.

    Raises:
        UserError: if the audit log is damaged.
    """
    approved: dict[str, int] = {}
    for entry in audit_log(site).entries():
        if entry.event not in ("approved", "withdrawn"):
            continue
        forms = str(entry.told.get("fingerprints", "")).split()
        if entry.event == "approved" and entry.told.get("version") == version("wardround"):
            approved |= dict.fromkeys(forms, entry.number)
        else:
            approved = {form: n for form, n in approved.items() if form not in forms}
    return approved.get(study.fingerprint)


def forms(study: Study) -> list[Study]:
    """Return the study and those that its comparators send in its name, which are part of it."""
    baselines = study.evaluation.baselines
    found = [study]
    if "local" in baselines:
        found.append(study.plain())
    if "single_modality" in baselines:
        found += [study.only(name) for name in study.modalities.names]
    return found


def in_plain_words(study: Study, site: Site) -> Iterator[str]:
    """Say what a study would do at a site, for the person who decides.

    Raises:
        UserError: if the site's ledger cannot be read.
    """
    about = study.study
    yield f'Study "{about.name}", fingerprint {study.fingerprint}'
    if about.intended_use:
        yield f"Intended use, as its authors state it: {about.intended_use}"
    yield f"It learns to predict {_predicted(study.task)}."
    yield ""
    yield "Data that it uses here"
    for name in study.modalities.names:
        lacking = "" if site.offers(name) else " (this site offers none)"
        yield f"  - {SOURCES[name]}, up to the time of prediction{lacking}"
    ehr = study.modalities.ehr
    if ehr is not None and ehr.window_hours is not None:
        yield f"    of the last {ehr.window_hours:g} hours"
    yield "  - the label of each patient"
    told = [name for name in study.evaluation.subgroups if name in site.settings.data.subgroups]
    if told:
        yield f"  - for separate results: {', '.join(told)}"
    yield ""
    yield "What leaves"
    yield from _leaving(study, site.policy)
    yield ""
    yield f'How it trains: strategy "{study.strategy.name}", {study.strategy.summary}'
    if study.strategy.at_sites:
        yield f"  - this site {study.strategy.at_sites}"
    if study.strategy.keeps:
        yield f"  - this site keeps {study.strategy.keeps}, in {site.state / 'personal'}"
    if study.personalisation.fine_tune_epochs:
        yield "  - this site goes on training the finished model for itself"
    yield ""
    yield "Rounds"
    models = _models(study)
    rounds = planned_rounds(study) if _private(study) else study.training.rounds
    yield f"  - up to {rounds} training rounds"
    if len(models) > 1:
        yield f"    of each of {len(models)} models: {', '.join(models)}"
    yield f"  - in at most {site.policy.most_runs} runs; each one trains and measures again"
    yield ""
    yield "Privacy"
    yield from _cost(study, site)
    yield ""
    yield "Code"
    yield f"  - wardround {version('wardround')} as installed here; the coordinator sends none"


def _leaving(study: Study, policy: PolicySection) -> Iterator[str]:
    least = policy.minimum_cell
    yield f"  - numbers of patients, none below {least}"
    ehr = study.modalities.ehr
    if ehr is not None and ehr.vocabulary == "prepared":
        yield f"  - codes that at least {least} patients have, with counts, sums, sums of squares"
    noised = ", clipped and noised" if _private(study) else ", not noised"
    yield f"  - after each training round a change of the model's parameters{noised}"
    if (compression := study.strategy.compression) is not None:
        kept = "; what that leaves unsent follows in later rounds" if compression.feeds_back else ""
        yield f"    rounded to {compression.kind}{kept}"
    if isinstance(study.strategy, Scaffold):
        yield f"  - with it the change of this site's control variate, a mean gradient{noised}"
    if not _private(study):
        yield "  - the mean training loss"
    if study.strategy.tells_loss:
        yield "  - the mean loss of the coordinator's model on the training patients"
    if study.strategy.wants_variance:
        yield "  - how much the gradients of training vary, as one number"
    every = study.evaluation.every
    often = f"every {every} rounds and at the end" if every > 1 else "after each round"
    often = often if every else "at the end"
    groups = f"in groups of at least {least}" if policy.score_bins == "merged" else "in fine steps"
    yield f"  - {often}: how many patients had which score, {groups}"
    if study.evaluation.windows is not None:
        yield f"  - at the end the same by {_windows(study.evaluation.windows)}, and with it how"
        yield "    many patients have each input, below, within or above its reference range"
    if study.evaluation.predecessor is not None:
        yield "  - the same under an earlier model, and how closely the two hang together:"
        yield f"    that of digest {study.evaluation.predecessor[:16]}..., and no other"
    if study.evaluation.existing_score is not None:
        yield f"  - the same of the score that the site has as {study.evaluation.existing_score}"


def _windows(section: WindowsSection) -> str:
    if section.number is not None:
        return f"time, in {section.number} parts of the patients in order; no date leaves"
    return f"calendar, parted at {', '.join(map(str, section.edges))}"


def _cost(study: Study, site: Site) -> Iterator[str]:
    policy, privacy = site.policy, study.privacy
    if not _private(study):
        yield "  - NO differential privacy at this site: what leaves may tell of single patients"
        if policy.require_privacy:
            yield "  - the site's policy (require_privacy) refuses that"
        return
    assert privacy.epsilon is not None
    count = len(_models(study))
    each = "" if count == 1 else f" for each of {count} models"
    yield f"  - epsilon {privacy.epsilon:g} at delta {privacy.delta:g} for a patient{each}, per run"
    if study.evaluation.noise is None:
        yield "  - that covers training patients; the evaluation's counts are not noised"
    else:
        epsilon = study.evaluation.noise.epsilon
        yield f"  - and epsilon {epsilon:g} for each patient on whom the model is measured,"
        yield "    whose counts are noised"
    spent = 0.0
    if (site.state / LEDGER).exists():
        ledger = site_ledger(site, writable=False)
        spent = cap(policy).epsilon_spent(ledger.segments())
        ledger.close()
    yield (
        f"  - spent so far: epsilon {spent:.3g} of this site's {policy.epsilon_per_patient:g} "
        f"at delta {policy.delta:g}; beyond that the site refuses"
    )


def _predicted(task: Task) -> str:
    each = task.tasks.values() if isinstance(task, SeveralTask) else (task,)
    return ", ".join(f'"{one.label}" ({one.kind})' for one in each)


def _models(study: Study) -> list[str]:
    names = {"local": "one of this site alone", "pooled": "", "single_modality": ""}
    models = ["the federated one", *(names[b] for b in study.evaluation.baselines if names[b])]
    if "single_modality" in study.evaluation.baselines and len(study.modalities.names) > 1:
        models += [f"one on {name} alone" for name in study.modalities.names]
    return models


def _private(study: Study) -> bool:
    return study.privacy.mechanism == "dp_sgd"


def _covered(study: Study) -> dict[str, str]:
    try:
        by = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, in a container
        by = ""
    return {
        "study": study.study.name,
        "fingerprints": " ".join(form.fingerprint for form in forms(study)),
        "version": version("wardround"),
        "by": by,
    }
