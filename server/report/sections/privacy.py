"""What protects a single patient, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from federation.pages.elements import Part, Section, Table, Td, Text
from server.report.documents import Privacy
from server.report.first_screen import privacy_fact
from server.report.run_folder import RunFolder
from server.report.spending import epsilon_text, reported, rounded_up
from server.report.text import model_name, shown


def privacy(run: RunFolder) -> Section:
    """The guarantee in words, the spending by hospital, and what else uses patients' data."""
    told, fact = run.privacy, privacy_fact(run.privacy)
    parts: list[Part] = [Text(f"{fact.value}. {fact.note}")]
    if told.mechanism != "none":
        parts.append(Text(guarantee(told)))
    spent, uses = privacy_table(told), other_uses_table(told)
    if spent.rows:
        parts.append(spent)
    else:
        parts.append(Text("No hospital kept a privacy account in this run.", note=True))
    if told.evaluation is not None:
        parts.append(evaluation_table(told.evaluation))
    if uses.rows:
        parts.append(uses)
    return Section("privacy", "Privacy", parts)


def guarantee(told: Privacy) -> str:
    """Who is protected from whom."""
    said = [
        f"Protected is one {told.unit}, from {told.adversary}. Covered: {told.covers}.",
        f"ε compares the outcome with and without that {told.unit} ({told.adjacency})."
        if told.adjacency
        else "",
    ]
    if together := _of_every_site(told.patient_of_every_site):
        said.append(f"A person who is a patient of every hospital has spent, in all, {together}.")
    return " ".join(one for one in said if one)


def privacy_table(told: Privacy) -> Table:
    """What each hospital's patients have spent, of the model and of the comparators."""
    rows = [_privacy_row(site, "", one) for site, one in sorted(told.sites.items())]
    for name, sites in sorted(told.comparators.items()):
        rows += [_privacy_row(site, model_name(name), one) for site, one in sorted(sites.items())]
    if told.mechanism == "none":
        rows = []
    return Table(
        "Privacy by hospital",
        ["Hospital", "ε", "All accountants", "δ", "Rate", "Noise", "Steps", "Rounds"],
        rows,
        "Rate is the chance of a patient to be in a step, noise its standard deviation over the "
        "clipping norm: with the steps they are all that an accountant needs.",
    )


def evaluation_table(told: Mapping[str, Any]) -> Table:
    """What it cost the patients on whom the model was measured, by hospital and split."""
    rows = []
    for site, splits in sorted(told["sites"].items()):
        for split, one in splits.items():
            _, epsilon = reported(one)
            rows.append(
                [
                    Td(site, split.replace("_", "-")),
                    Td("–" if epsilon is None else rounded_up(epsilon)),
                    Td(f"{told['delta']:g}"),
                    Td(f"{one['scale']:g}"),
                    Td(f"{one['evaluations'] * one['counts']:,}"),
                ]
            )
    return Table(
        "Privacy of the patients on whom the model was measured",
        ["Hospital", "ε", "δ", "Noise", "Steps"],
        rows,
        "A patient is in one split. Noise is the scale of the discrete Gaussian noise of a count; "
        "steps are the counts to which a patient adds, over all evaluations of the split.",
    )


def other_uses_table(told: Privacy) -> Table:
    """What else looks at patients' data, and what became of it."""
    rows = [
        [Td(one["use"]), Td(one["status"], look="text"), Td(one["why"], look="text")]
        for one in told.other_uses
    ]
    return Table("What else uses patients' data", ["Use", "Under ε", "How"], rows)


def _of_every_site(person: Mapping[str, Any]) -> str:
    """What a patient of every hospital has spent; more where rounds were not heard of."""
    if most := person.get("epsilon_at_most"):
        return f"at most {epsilon_text({'epsilon': most})}"
    return epsilon_text(person)


def _privacy_row(site: str, model: str, one: Mapping[str, Any]) -> list[Td]:
    name, epsilon = reported(one)
    most = one.get("epsilon_at_most")
    note = f"at most {epsilon_text({'epsilon': most})}" if most else name.upper()
    wanted, noise = one.get("study_noise_multiplier"), one.get("noise_multiplier")
    raised = f"study: {shown(wanted)}" if wanted and noise and noise > wanted * 1.0005 else ""
    everything = one.get("epsilon_with_comparators")
    with_all = f"with comparators {epsilon_text({'epsilon': everything})}" if everything else ""
    return [
        Td(site, model),
        Td("–" if epsilon is None else rounded_up(epsilon), note),
        Td(epsilon_text(one), with_all, look="text"),
        Td(shown(one.get("delta", "–"))),
        Td(shown(one.get("sampling_rate", "–"))),
        Td(shown(noise if noise is not None else "–"), raised),
        *(Td(shown(one.get(key, "–"))) for key in ("steps", "rounds")),
    ]
