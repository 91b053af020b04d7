"""Puts the report together and writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from federation.pages.elements import Fact, Figure, Table
from federation.pages.render import render as from_template
from server.report import decisions, plots, tables
from server.report.faults import faults_table
from server.report.run_folder import Cell, ModelMetrics, Privacy, RunFolder, Worst, read_run_folder
from server.report.shifts import shift_figure, shift_tables

HERE = Path(__file__).parent

OWN_MODELS = (
    " Each hospital uses a model of its own: figures of several hospitals are the means of theirs, "
    "weighted by patients."
)

_MODALITIES = {"ehr": "health records", "image": "images", "text": "clinical notes"}


def write_report(run: Path) -> Path:
    """Write RUN/report.html from the files of the run folder alone.

    The page carries plotly.js once and forbids itself the network. It is the same for the same run
    folder, whenever and wherever it is written.

    Raises:
        UserError: if the folder or one of its files is missing or broken, naming it.
    """
    folder = read_run_folder(run)
    target = run / "report.html"
    target.write_text(render(folder), encoding="utf-8")
    return target


def render(run: RunFolder) -> str:
    """The page as text."""
    name, model = main_model(run)
    return from_template(
        HERE / "report.html.jinja",
        title=run.metrics.study,
        fingerprint=run.metrics.fingerprint,
        lead=lead(run),
        facts=facts(model, run.privacy),
        privacy=run.privacy,
        together=_of_every_site(run.privacy.patient_of_every_site),
        warnings=run.warnings,
        averaged=model.overall.averaged_over_sites,
        tables=_tables(run, model),
        figures=_figures(run, name, model),
    )


def main_model(run: RunFolder) -> tuple[str, ModelMetrics]:
    """The model that the report is about: the federated one, or the only one there is."""
    models = run.metrics.models
    name = "federated" if "federated" in models else sorted(models)[0]
    return name, models[name]


def lead(run: RunFolder) -> str:
    """What was trained, where, and on whom, in a sentence or two."""
    label = str(run.study.get("task", {}).get("label", "the outcome")).replace("_", " ")
    strategy = run.study.get("strategy", {}).get("name", "strategy not recorded")
    modalities = [_MODALITIES.get(name, name) for name in sorted(run.study.get("modalities", {}))]
    patients = {
        split: sum(
            count
            for site in run.sites.values()
            if isinstance(count := site.patients.get(split, 0), int)
        )
        for split in ("train", "tuning", "held_out")
    }
    planned = run.study.get("training", {}).get("rounds", len(run.rounds))
    needed = run.study.get("strategy", {}).get("minimum_sites", 1)
    counted = sum(len(record.answered) >= needed for record in run.rounds)
    rounds = f"{counted} of {planned}" if planned != counted else f"{planned}"
    faults = "simulation" in run.study and "faults" in run.study["simulation"]
    return (
        f"A model that predicts {label} from {' and '.join(modalities) or 'patient data'}, trained "
        f"by federated learning ({strategy}) over {rounds} rounds at {len(run.sites)} hospitals on "
        f"{patients['train']:,} patients. "
        f"{patients['tuning']:,} further patients served to follow the rounds; the figures below "
        f"are for {patients['held_out']:,} held-out patients that it did not use."
        + (OWN_MODELS if main_model(run)[1].overall.averaged_over_sites else "")
        + (" The run was made to suffer faults, which stand under Training." if faults else "")
    )


def facts(model: ModelMetrics, privacy: Privacy) -> list[Fact]:
    """The first screen: AUROC, worst hospital, worst subgroup, privacy."""
    return [
        _headline(model.overall),
        _worst("Worst hospital", model.sites, model.worst.site),
        _worst(
            "Worst subgroup",
            {tables.subgroup_name(name): cell for name, cell in model.subgroups.items()},
            model.worst.subgroup,
        ),
        privacy_fact(privacy),
    ]


def privacy_fact(privacy: Privacy) -> Fact:
    """What protects a single patient, said plainly."""
    if privacy.mechanism == "none":
        return Fact(
            "Privacy",
            "No differential privacy",
            "Records stayed at the hospitals, but nothing limits what the model reveals about "
            "a single patient.",
        )
    name = {"dp_sgd": "DP-SGD", "central": "central noise"}.get(
        privacy.mechanism, privacy.mechanism
    )
    seeded = ""
    if privacy.seeded:
        seeded = "Its noise came from a seed, so this run is a rehearsal that protects no one. "
    found = [(*tables.at_most(site), site.get("delta")) for site in privacy.sites.values()]
    unheard = any("epsilon_at_most" in site for site in privacy.sites.values())
    known = [(epsilon, name, delta) for name, epsilon, delta in found if epsilon is not None]
    if not known:
        return Fact("Privacy", name, f"{seeded}No ε reported.")
    epsilon, accountant, delta = max(known, key=lambda one: one[0])
    whom = {
        "hospital": "A hospital is protected, not a patient, and not from the coordinator.",
        "patient": "It covers training patients only.",
    }
    return Fact(
        "Privacy",
        f"ε {'≤' if unheard else '='} {tables.rounded_up(epsilon)}",
        f"{seeded}The largest of any hospital, by {name} ({accountant.upper()}), δ = {delta:g}. "
        f"{whom.get(privacy.unit, '')}".strip(),
    )


def _of_every_site(person: Mapping[str, Any]) -> str:
    """What a patient of every hospital has spent; more where rounds were not heard of."""
    if most := person.get("epsilon_at_most"):
        return f"at most {tables.epsilon_text({'epsilon': most})}"
    return tables.epsilon_text(person)


def _tables(run: RunFolder, model: ModelMetrics) -> dict[str, Table]:
    return {
        "sites": tables.sites_table(model),
        "subgroups": tables.subgroups_table(model),
        "decisions": decisions.decision_table(model),
        "gaps": decisions.gap_table(model),
        "between": decisions.between_table(run.metrics.models),
        "joining": decisions.joining_table(run.metrics.joining),
        "comparators": tables.comparators_table(run.metrics.models),
        "site_subgroups": tables.site_subgroup_table(model),
        "cross_site": tables.cross_site_table(run.metrics.cross_site),
        "participation": tables.participation_table(run.rounds),
        "failures": tables.failures_table(run.rounds),
        "faults": faults_table(run.rounds),
        "rounds": tables.rounds_table(run.rounds),
        "data": tables.data_table(run.sites),
        "privacy": tables.privacy_table(run.privacy),
        "other_uses": tables.other_uses_table(run.privacy),
        "settings": tables.settings_table(run.study),
        "provenance": tables.provenance_table(run),
        **(shift_tables(run.shifts) if run.shifts else {}),
    }


def _figures(run: RunFolder, name: str, model: ModelMetrics) -> dict[str, Figure]:
    drawn = [
        plots.forest(model),
        plots.learning_curve(run.rounds),
        plots.loss_curve(run.rounds),
    ]
    # Models of the sites' own have scores of their own: no curve is drawn across them.
    if not model.overall.averaged_over_sites:
        drawn.append(plots.decision_curve(model.overall))
        if summaries := run.summaries.get(name):
            drawn += [plots.roc(summaries), plots.calibration(summaries)]
    if run.shifts:
        drawn.append(shift_figure(run.shifts))
    return {figure.name: figure for figure in drawn}


def _headline(cell: Cell) -> Fact:
    if cell.suppressed:
        return Fact("AUROC, all hospitals", "withheld", cell.suppressed)
    shown = tables.metric_text(cell.auroc)
    interval = f"95% interval {shown.note}" if cell.auroc and cell.auroc.low else shown.note
    left_out = f"; without {', '.join(cell.excludes)}" if cell.excludes else ""
    return Fact("AUROC, all hospitals", shown.text, f"{interval}{left_out}")


def _worst(title: str, cells: Mapping[str, Cell], told: Worst | None) -> Fact:
    """The lowest AUROC; its interval allows for the choice, in runs that tell one that does."""
    values = {
        name: cell.auroc.value
        for name, cell in sorted(cells.items())
        if cell.auroc and cell.auroc.value is not None
    }
    hidden = len(cells) - len(values)
    unseen = f" {hidden} of {len(cells)} cannot be compared." if hidden else ""
    if not values:
        return Fact(title, "–", f"None could be measured.{unseen}")
    name = min(values, key=values.__getitem__)
    note = tables.metric_text(cells[name].auroc).note
    if told is not None and tables.subgroup_name(told.name) == name:
        note = f"{tables.metric_text(told.auroc).note}, for all {told.of} at once"
    value = tables.metric_text(cells[name].auroc).text
    return Fact(title, value, f"{name}; {note}; {cells[name].n} patients.{unseen}")
