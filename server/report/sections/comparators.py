"""How the model compares with others, and what each hospital gains by joining."""

from __future__ import annotations

from collections.abc import Mapping

from federation.pages.elements import TOTAL, Heading, Part, Section, Table, Td
from server.report.documents import Joining, Metric, ModelMetrics, Predecessor
from server.report.run_folder import RunFolder
from server.report.text import metric_text, model_name, number, withheld


def comparators(run: RunFolder) -> Section:
    """Every model of the run side by side, what joining brings, and the average hospital."""
    models = run.metrics.models
    parts: list[Part] = [comparators_table(models)]
    joined, between = joining_table(run.metrics.joining), between_table(models)
    if joined.rows:
        parts += [Heading("What each hospital gains by joining"), joined]
    if (earlier := run.metrics.predecessor) is not None:
        parts += [Heading("Beside the model of an earlier run"), predecessor_table(earlier)]
    if between.rows:
        parts += [Heading("The average hospital, and one more"), between]
    return Section("comparators", "Comparators", parts)


def comparators_table(models: Mapping[str, ModelMetrics]) -> Table:
    """Overall figures of every model of the run."""
    rows = []
    for name in sorted(models, key=lambda name: (name != "federated", name)):
        cell = models[name].overall
        note = "mean over hospitals, each on its own patients" if cell.averaged_over_sites else ""
        head = Td(model_name(name), note)
        if cell.suppressed:
            rows.append([head, withheld(cell.suppressed, 4)])
            continue
        values = [metric_text(one) for one in (cell.auroc, cell.auprc, cell.brier)]
        rows.append([head, number(cell.n), *values])
    return Table(
        "Overall performance of each model, held-out patients",
        ["Model", "Patients", "AUROC", "AUPRC", "Brier score"],
        rows,
    )


def between_table(models: Mapping[str, ModelMetrics]) -> Table:
    """AUROC of the average hospital, and of one more, where enough can be compared."""
    rows = []
    for name in sorted(models, key=lambda name: (name != "federated", name)):
        found = models[name].between_sites
        if found is None or found.auroc.value is None:
            continue
        ends = found.prediction.get("low"), found.prediction.get("high")
        ahead = metric_text(Metric(value=found.auroc.value, low=ends[0], high=ends[1])).note
        rows.append(
            [
                Td(model_name(name)),
                Td(str(found.hospitals)),
                metric_text(found.auroc),
                Td(ahead),
                Td("–" if found.i_squared is None else f"{100 * found.i_squared:.0f}%"),
            ]
        )
    return Table(
        "AUROC of the average hospital (random effects), and where one more is to be expected",
        [
            "Model",
            "Hospitals",
            "Average AUROC",
            "One more hospital, 95%",
            "Variation beyond chance",
        ],
        rows,
    )


def joining_table(joining: Joining | None) -> Table:
    """What each hospital gains or loses by joining."""
    rows = []
    for site, one in sorted(joining.sites.items()) if joining else ():
        if one.suppressed:
            rows.append([Td(site), withheld(one.suppressed, 3)])
            continue
        shown = [metric_text(metric) for metric in (one.federated, one.local, one.difference)]
        rows.append([Td(site, "" if one.paired else "unpaired"), *shown])
    if joining and rows:
        rows.append([Td("Mean", look=TOTAL), Td("–"), Td("–"), metric_text(joining.mean)])
    return Table(
        "What each hospital gains by joining: AUROC on its own held-out patients",
        ["Hospital", "AUROC, federated", "AUROC, its own alone", "Difference of AUROC"],
        rows,
        "Above 0, the federated model is better at home than what the hospital trains alone.",
    )


def predecessor_table(earlier: Predecessor) -> Table:
    """How the model does beside that of an earlier run, on the same patients."""
    rows = []
    for site, one in sorted(earlier.sites.items()):
        if one.suppressed:
            rows.append([Td(site), withheld(one.suppressed, 3)])
            continue
        shown = [metric_text(metric) for metric in (one.federated, one.predecessor, one.difference)]
        rows.append([Td(site, "" if one.paired else "unpaired"), *shown])
    rows.append([Td("Mean", look=TOTAL), Td("–"), Td("–"), metric_text(earlier.mean)])
    return Table(
        "The federated model and that of an earlier run, on the same held-out patients",
        ["Hospital", "AUROC, federated", "AUROC, earlier model", "Difference of AUROC"],
        rows,
        "Both scored the same patients at once, so the difference is known better than either.",
    )
