"""The tables of the report: rows of text, formatted once, here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from federation.pages.elements import Table, Td
from server.report.run_folder import (
    Cell,
    Metric,
    ModelMetrics,
    Privacy,
    Round,
    RunFolder,
    SiteData,
)

MODEL_NAMES = {
    "federated": "Federated",
    "shared": "Federated, without what is each hospital's own",
    "local": "Each hospital alone",
    "pooled": "Pooled in one place",
    "existing_score": "The score that hospitals hold already, of those who have it",
    "leave_one_out": "Federated, at hospitals that it was trained without",
    "logistic_regression": "Federated, logistic regression on health records",
    "ehr_only": "Federated, health records only",
    "image_only": "Federated, images only",
    "text_only": "Federated, notes only",
}

UNTOLD = "not told under differential privacy"

_COLUMNS: Mapping[str, str] = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "sensitivity_at_90_specificity": "Sensitivity at 90% specificity",
    "brier": "Brier",
    "ece": "ECE",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
}


def metric_text(metric: Metric | None, digits: int = 3) -> Td:
    """Value over interval, or why there is no value."""
    if metric is None or metric.value is None:
        return Td("–", metric.reason if metric else "not computed", "undefined")
    value = _signed(metric.value, digits)
    if metric.low is None or metric.high is None:
        return Td(value, metric.reason)
    return Td(value, f"{_signed(metric.low, digits)} to {_signed(metric.high, digits)}")


def sites_table(model: ModelMetrics) -> Table:
    """Every metric by hospital, the overall row first."""
    rows = [_cell_row("All hospitals", model.overall, _excludes(model.overall))]
    rows += [_cell_row(site, cell) for site, cell in sorted(model.sites.items())]
    return Table(
        "Performance by hospital, held-out patients",
        ["Hospital", "Patients", "Events", *_COLUMNS.values()],
        rows,
    )


def subgroups_table(model: ModelMetrics) -> Table:
    """Every metric by subgroup, over all hospitals that did not withhold it."""
    rows = [
        _cell_row(subgroup_name(name), cell, _excludes(cell))
        for name, cell in sorted(model.subgroups.items())
    ]
    return Table(
        "Performance by subgroup, held-out patients of all hospitals",
        ["Subgroup", "Patients", "Events", *_COLUMNS.values()],
        rows,
    )


def comparators_table(models: Mapping[str, ModelMetrics]) -> Table:
    """Overall figures of every model of the run."""
    order = sorted(models, key=lambda name: (name != "federated", name))
    rows = []
    for name in order:
        cell = models[name].overall
        note = "mean over hospitals, each on its own patients" if cell.averaged_over_sites else ""
        head = Td(MODEL_NAMES.get(name, name), note)
        if cell.suppressed:
            rows.append([head, Td(f"withheld: {cell.suppressed}", look="withheld", span=4)])
            continue
        values = [metric_text(one) for one in (cell.auroc, cell.auprc, cell.brier)]
        rows.append([head, _number(cell.n), *values])
    return Table(
        "Overall performance of each model, held-out patients",
        ["Model", "Patients", "AUROC", "AUPRC", "Brier"],
        rows,
    )


def site_subgroup_table(model: ModelMetrics) -> Table:
    """AUROC of each subgroup at each hospital, shaded."""
    names = sorted({name for cells in model.site_subgroups.values() for name in cells})
    rows = [
        [Td(site), *(_shaded(cells.get(name)) for name in names)]
        for site, cells in sorted(model.site_subgroups.items())
        if cells
    ]
    return Table(
        "AUROC by hospital and subgroup",
        ["Hospital", *(subgroup_name(name) for name in names)],
        rows,
        "Darker is higher. Cells of few patients vary widely by chance: read the interval.",
    )


def cross_site_table(cross_site: Mapping[str, Mapping[str, Cell]]) -> Table:
    """AUROC of the model trained at the row's hospital on the patients of the column's."""
    tested = sorted({site for cells in cross_site.values() for site in cells})
    rows = [
        [Td(trained), *(_shaded(cells.get(site)) for site in tested)]
        for trained, cells in sorted(cross_site.items())
    ]
    return Table(
        "AUROC of each hospital's own model (row) on each hospital's patients (column)",
        ["Trained at", *tested],
        rows,
        "The diagonal is each model at home. Darker is higher.",
    )


def participation_table(rounds: Sequence[Round]) -> Table:
    """How often each hospital was asked and answered."""
    sites = sorted({site for one in rounds for site in (*one.asked, *one.answered, *one.failed)})
    rows = []
    for site in sites:
        counts = [
            sum(site in getattr(one, part) for one in rounds)
            for part in ("asked", "answered", "failed", "rejected")
        ]
        rows.append([Td(site), *(Td(str(count)) for count in counts)])
    return Table(
        "Participation by hospital, in rounds",
        ["Hospital", "Asked", "Answered", "Failed", "Rejected"],
        rows,
    )


def failures_table(rounds: Sequence[Round]) -> Table:
    """Every failure and every rejected update, with its reason."""
    rows = [
        [Td(str(one.round)), Td(site, look="text"), Td(kind, look="text"), Td(why, look="text")]
        for one in rounds
        for kind, reasons in (("failed", one.failed), ("rejected", one.rejected))
        for site, why in sorted(reasons.items())
    ]
    return Table("Failures and rejected updates", ["Round", "Hospital", "What", "Reason"], rows)


def rounds_table(rounds: Sequence[Round]) -> Table:
    """One row a round."""
    rows = []
    for one in rounds:
        sent = one.bytes or {}
        answered = Td(f"{len(one.answered)} of {len(one.asked)}")
        if one.outstanding is not None:
            asked = f"{len(one.asked)} asked, then {len(one.outstanding)} outstanding"
            answered = Td(str(len(one.answered)), asked)
        cells = [_plain(one.loss), _plain((one.metrics or {}).get("auroc")), answered]
        traffic = [_size(sent.get("sent")), _size(sent.get("received"))]
        rows.append([Td(str(one.round)), *cells, _plain(one.seconds, 1), *traffic])
    columns = ["Round", "Training loss", "AUROC (tuning)", "Answered", "Seconds"]
    return Table("Rounds", [*columns, "Sent", "Received"], rows)


def data_table(sites: Mapping[str, SiteData]) -> Table:
    """Patients by split and modality, with what was left out."""
    modalities = sorted({name for one in sites.values() for name in one.modalities})
    rows = [
        [
            Td(site),
            *(_count(one.patients.get(split)) for split in ("train", "tuning", "held_out")),
            *(_count(one.modalities.get(name)) for name in modalities),
            Td(one.failure or _listed(one.excluded) or "none", look="text"),
            Td(_listed(one.notices) or ("none" if one.counted else UNTOLD), look="text"),
        ]
        for site, one in sorted(sites.items())
    ]
    splits = ["Training", "Tuning", "Held out"]
    return Table(
        "Patients by hospital",
        ["Hospital", *splits, *(f"With {name}" for name in modalities), "Excluded", "Noticed"],
        rows,
    )


def privacy_table(privacy: Privacy) -> Table:
    """What each hospital's patients have spent, of the model and of the comparators."""
    rows = [_privacy_row(site, "", one) for site, one in sorted(privacy.sites.items())]
    for name, sites in sorted(privacy.comparators.items()):
        model = MODEL_NAMES.get(name, name)
        rows += [_privacy_row(site, model, one) for site, one in sorted(sites.items())]
    if privacy.mechanism == "none":
        rows = []
    return Table(
        "Privacy by hospital",
        ["Hospital", "ε", "All accountants", "δ", "Rate", "Noise", "Steps", "Rounds"],
        rows,
        "Rate is the chance of a patient to be in a step, noise its standard deviation over the "
        "clipping norm: with the steps they are all that an accountant needs.",
    )


def other_uses_table(privacy: Privacy) -> Table:
    """What else looks at patients' data, and what became of it."""
    rows = [
        [Td(one["use"]), Td(one["status"], look="text"), Td(one["why"], look="text")]
        for one in privacy.other_uses
    ]
    return Table("What else uses patients' data", ["Use", "Under ε", "How"], rows)


def reported(site: Mapping[str, Any]) -> tuple[str, float | None]:
    """The accountant whose figure is reported for a hospital, and the figure."""
    return _by_accountant(site, "epsilon")


def at_most(site: Mapping[str, Any]) -> tuple[str, float | None]:
    """The same with the rounds of which nothing was heard, where there are any."""
    return _by_accountant(site, "epsilon_at_most" if "epsilon_at_most" in site else "epsilon")


def _by_accountant(site: Mapping[str, Any], figure: str) -> tuple[str, float | None]:
    found = site.get(figure)
    if not isinstance(found, Mapping):
        return "", None
    name = str(site.get("reported", next(iter(found), "")))
    return name, found.get(name)


def epsilon_text(spent: Mapping[str, Any]) -> str:
    """Epsilon by every accountant that has one.

    >>> epsilon_text({"epsilon": {"pld": 3.1415, "prv": None}})
    'PLD 3.15'
    """
    found = spent.get("epsilon") or {}
    return ", ".join(f"{name.upper()} {rounded_up(one)}" for name, one in found.items() if one)


def _privacy_row(site: str, model: str, one: Mapping[str, Any]) -> list[Td]:
    name, epsilon = reported(one)
    most = one.get("epsilon_at_most")
    note = f"at most {epsilon_text({'epsilon': most})}" if most else name.upper()
    wanted, noise = one.get("study_noise_multiplier"), one.get("noise_multiplier")
    raised = f"study: {_shown(wanted)}" if wanted and noise and noise > wanted * 1.0005 else ""
    numbers = [Td(_shown(one.get(key, "–"))) for key in ("steps", "rounds")]
    everything = one.get("epsilon_with_comparators")
    with_all = f"with comparators {epsilon_text({'epsilon': everything})}" if everything else ""
    return [
        Td(site, model),
        Td("–" if epsilon is None else rounded_up(epsilon), note),
        Td(epsilon_text(one), with_all, look="text"),
        Td(_shown(one.get("delta", "–"))),
        Td(_shown(one.get("sampling_rate", "–"))),
        Td(_shown(noise if noise is not None else "–"), raised),
        *numbers,
    ]


def rounded_up(value: float) -> str:
    """Three digits, rounded up: an epsilon is never shown smaller than it is.

    >>> rounded_up(3.141), rounded_up(0.5), rounded_up(12.0)
    ('3.15', '0.5', '12')
    """
    if not 0 < value < math.inf:
        return _shown(value)
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.ceil(value / step - 1e-9) * step:.3g}"


def settings_table(study: Mapping[str, Any]) -> Table:
    """The resolved study, one row a key."""
    rows = [[Td(key), Td(_shown(value), look="text")] for key, value in _flat(study)]
    return Table("Resolved study (study.toml)", ["Setting", "Value"], rows)


def provenance_table(run: RunFolder) -> Table:
    """Fingerprint, seed, versions and machine."""
    facts = {"fingerprint": run.metrics.fingerprint, "seed": run.metrics.seed, **run.environment}
    rows = [[Td(key), Td(_shown(value), look="text")] for key, value in _flat(facts)]
    return Table("Versions, machine and seed", ["What", "Value"], rows)


def subgroup_name(name: str) -> str:
    """How a cell name reads.

    >>> subgroup_name("age_band=80+")
    'age band: 80+'
    """
    attribute, _, level = name.partition("=")
    return f"{attribute.replace('_', ' ')}: {level}" if level else name


def _cell_row(head: str, cell: Cell, note: str = "") -> list[Td]:
    if cell.suppressed:
        withheld = Td(f"withheld: {cell.suppressed}", look="withheld", span=len(_COLUMNS) + 2)
        return [Td(head), withheld]
    values = [metric_text(getattr(cell, name)) for name in _COLUMNS]
    return [Td(head, note), _number(cell.n), _number(cell.positives), *values]


def _excludes(cell: Cell) -> str:
    many = len(cell.excludes) > 2
    sites = f"{len(cell.excludes)} hospitals" if many else " and ".join(cell.excludes)
    return f"without {sites} (withheld)" if cell.excludes else ""


def _shaded(cell: Cell | None) -> Td:
    if cell is None:
        return Td("–", "no patients", "undefined")
    if cell.suppressed:
        return Td("withheld", look="withheld")
    shown = metric_text(cell.auroc, 2)
    if cell.auroc is None or cell.auroc.value is None:
        return shown
    step = min(max(int((cell.auroc.value - 0.5) * 10), 0), 4)
    return Td(shown.text, shown.note, f"shade-{step}")


def _signed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def _number(count: int | None) -> Td:
    return Td("–" if count is None else f"{count:,}")


def _count(count: int | str | None) -> Td:
    return Td(count) if isinstance(count, str) else _number(count)


def _plain(value: Any, digits: int = 3) -> Td:
    return Td(_signed(value, digits) if isinstance(value, int | float) else "–")


def _size(count: int | None) -> Td:
    if count is None:
        return Td("–")
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return Td(f"{count:.3g} {unit}")
        count /= 1000  # type: ignore[assignment]
    return Td(f"{count:.3g} GB")


def _listed(counts: Mapping[str, int | str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_shown(part) for part in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
