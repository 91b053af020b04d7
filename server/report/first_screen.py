"""The first screen: what was trained, how well it does, for whom worst, and how private it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from federation.pages.elements import Fact
from server.report.documents import Cell, Metric, ModelMetrics, Privacy, Worst
from server.report.other_tasks import other_facts
from server.report.run_folder import RunFolder
from server.report.spending import at_most, rounded_up
from server.report.text import MODALITIES, metric_text, subgroup_name

SPLITS = ("train", "tuning", "held_out")

_OWN_MODELS = (
    " Each hospital uses a model of its own: figures of several hospitals are the means of theirs, "
    "weighted by patients."
)


def lead(run: RunFolder) -> str:
    """What was trained, where, and on whom, in a sentence or two."""
    label = _listed([str(name).replace("_", " ") for name in outcomes_of(run)])
    strategy = run.study.get("strategy", {}).get("name", "strategy not recorded")
    modalities = [MODALITIES.get(name, name) for name in sorted(run.study.get("modalities", {}))]
    patients = patients_by_split(run)
    faults = "simulation" in run.study and "faults" in run.study["simulation"]
    return (
        f"A model that predicts {label} from {_listed(modalities)}, trained "
        f"by federated learning ({strategy}) over {rounds(run)} rounds at {len(run.sites)} "
        f"hospitals on {patients['train']:,} patients. "
        f"{patients['tuning']:,} further patients served to follow the rounds; the figures below "
        f"are for {patients['held_out']:,} held-out patients that it did not use."
        + (_OWN_MODELS if run.model.overall.averaged_over_sites else "")
        + (
            " The run was made to suffer faults, which stand under Participation and failures."
            if faults
            else ""
        )
    )


def outcomes_of(run: RunFolder) -> list[str]:
    """What the study calls the outcome, or each of several."""
    task = run.study.get("task", {})
    each = task.get("tasks", {}).values() or [task]
    return [str(one.get("label", "the outcome")) for one in each]


def _listed(words: Sequence[str]) -> str:
    *others, last = words or ["patient data"]
    return f"{', '.join(others)} and {last}" if others else last


def intended_use(run: RunFolder) -> str:
    """What the study says that the model is for; empty if it says nothing."""
    return str(run.study.get("study", {}).get("intended_use", ""))


def rounds(run: RunFolder) -> str:
    """Rounds that counted, beside those that were planned."""
    planned = run.study.get("training", {}).get("rounds", len(run.rounds))
    needed = run.study.get("strategy", {}).get("minimum_sites", 1)
    counted = sum(len(record.answered) >= needed for record in run.rounds)
    return f"{counted} of {planned}" if planned != counted else f"{planned}"


def patients_by_split(run: RunFolder) -> dict[str, int]:
    """Patients of all hospitals, without counts that were withheld."""
    return {
        split: sum(
            count
            for site in run.sites.values()
            if isinstance(count := site.patients.get(split, 0), int)
        )
        for split in SPLITS
    }


def facts(run: RunFolder) -> list[Fact]:
    """Patients, AUROC, calibration, worst hospital, worst subgroup, privacy."""
    if run.task != "binary":
        return [_trained_on(run), *other_facts(run), privacy_fact(run.privacy)]
    model = run.model
    subgroups = {subgroup_name(name): cell for name, cell in model.subgroups.items()}
    return [
        _trained_on(run),
        _headline(model.overall),
        _calibration(model),
        _worst("Worst hospital", model.sites, model.worst.site),
        _worst("Worst subgroup", subgroups, model.worst.subgroup),
        privacy_fact(run.privacy),
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
    found = [(*at_most(site), site.get("delta")) for site in privacy.sites.values()]
    unheard = any("epsilon_at_most" in site for site in privacy.sites.values())
    known = [(epsilon, name, delta) for name, epsilon, delta in found if epsilon is not None]
    if not known:
        return Fact("Privacy", name, f"{seeded}No ε reported.")
    epsilon, accountant, delta = max(known, key=lambda one: one[0])
    whom = {
        "hospital": "A hospital is protected, not a patient, and not from the coordinator.",
        "patient": "Those on whom the model was measured have one of their own, below."
        if privacy.evaluation is not None
        else "It covers training patients only.",
    }
    return Fact(
        "Privacy",
        f"ε {'≤' if unheard else '='} {rounded_up(epsilon)}",
        f"{seeded}The largest of any hospital, by {name} ({accountant.upper()}), δ = {delta:g}. "
        f"{whom.get(privacy.unit, '')}".strip(),
    )


def _trained_on(run: RunFolder) -> Fact:
    cell, patients = run.model.overall, patients_by_split(run)
    told = ""
    if cell.n and cell.positives is None:
        told = f"Measured on {cell.n:,} others."
    elif cell.n:
        share = f"{100 * (cell.positives or 0) / cell.n:.0f}%"
        told = f"Measured on {cell.n:,} others, {share} of them with the outcome."
    value = f"{len(run.sites)} hospitals"
    return Fact("Trained at", value, f"on {patients['train']:,} patients. {told}".strip())


def _headline(cell: Cell) -> Fact:
    if cell.suppressed:
        return Fact("AUROC, all hospitals", "withheld", cell.suppressed)
    shown = metric_text(cell.auroc)
    interval = f"95% interval {shown.note}" if cell.auroc and cell.auroc.low else shown.note
    left_out = f"; without {', '.join(cell.excludes)}" if cell.excludes else ""
    return Fact("AUROC, all hospitals", shown.text, f"{interval}{left_out}")


def _calibration(model: ModelMetrics) -> Fact:
    title = "Calibration slope, all hospitals"
    cell = model.overall
    if cell.averaged_over_sites:
        return Fact(title, "–", "Each hospital's own model is calibrated for itself.")
    if cell.suppressed:
        return Fact(title, "withheld", cell.suppressed)
    slope = metric_text(cell.calibration_slope)
    if cell.calibration_slope is None or cell.calibration_slope.value is None:
        return Fact(title, slope.text, f"Not defined: {slope.note}.")
    extreme = _beside(cell.calibration_slope, 1, "too extreme", "too timid")
    high = _beside(cell.calibration_intercept, 0, "too high on the whole", "too low on the whole")
    found = [words for words in (extreme, high) if words]
    verdict = f"Risks are {' and '.join(found)}" if found else "No miscalibration shown"
    return Fact(title, slope.text, f"95% interval {slope.note}; 1 is right. {verdict}.")


def _beside(metric: Metric | None, right: float, below: str, above: str) -> str:
    """In words, on which side of the right value a whole interval lies."""
    if metric is None or metric.low is None or metric.high is None:
        return ""
    return below if metric.high < right else above if metric.low > right else ""


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
        return Fact(f"{title}, AUROC", "–", f"None could be measured.{unseen}")
    name = min(values, key=values.__getitem__)
    note = metric_text(cells[name].auroc).note
    if told is not None and subgroup_name(told.name) == name:
        note = f"{metric_text(told.auroc).note}, for all {told.of} at once"
    value = metric_text(cells[name].auroc).text
    return Fact(f"{title}, AUROC", value, f"{name}; {note}; {cells[name].n} patients.{unseen}")
