"""How well the model does at each hospital."""

from __future__ import annotations

import html
from collections.abc import Mapping

from federation.pages.elements import INK, TOTAL, Figure, Section, Table, Td, Text, axes
from server.report.documents import Cell, ModelMetrics
from server.report.run_folder import RunFolder
from server.report.text import ALL, METRICS, metric_text, metrics_row, total_row
from server.report.traces import arms, reference

_HOW = (
    "Values with 95% intervals below them, but none for ECE; docs/metrics.md says how each is "
    "computed. All come from score counts that the hospitals allowed to leave, not from patients' "
    "scores: with fine bins AUROC comes within about 0.002 of the exact one and AUPRC within 0.01."
)


_NOISED = (
    "Values with 95% intervals below them, which allow for the noise that the hospitals added to "
    "their counts: numbers of patients are not exact either, and may even be below 0."
)


def hospitals(run: RunFolder) -> Section:
    """AUROC with intervals as a figure, and every metric as a table."""
    model = run.model
    return Section(
        "hospitals",
        "Hospitals",
        [forest(model), sites_table(model), Text(_NOISED if run.noised else _HOW, True)],
    )


def sites_table(model: ModelMetrics) -> Table:
    """Every metric by hospital, the overall row first."""
    rows = [metrics_row(site, cell) for site, cell in sorted(model.sites.items())]
    return Table(
        "Performance by hospital, held-out patients",
        ["Hospital", "Patients", "Events", *METRICS.values()],
        [total_row(model.overall), *rows],
    )


def forest(model: ModelMetrics) -> Figure:
    """AUROC with its interval of all together and by hospital, the highest first."""
    best_first = sorted(model.sites.items(), key=lambda one: (-(_value(one[1]) or 0.0), one[0]))
    cells = {ALL: model.overall, **dict(best_first)}
    shown = {name: cell for name, cell in cells.items() if _value(cell) is not None}
    names = [html.escape(name) for name in shown]
    values = [_value(cell) for cell in shown.values()]
    ends = [arms(cell.auroc) for cell in shown.values()]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": values,
        "y": names,
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [above for _, above in ends],
            "arrayminus": [below for below, _ in ends],
            "color": INK,
            "thickness": 1.6,
            "width": 4,
        },
        "marker": {
            "size": [13 if name == ALL else 9 for name in names],
            "symbol": ["diamond" if name == ALL else "square" for name in names],
            "color": INK,
        },
        "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
    }
    height = 34 if len(names) <= 30 else 18
    layout = axes("AUROC, 95% interval", "", height=110 + height * max(len(names), 3))
    layout["yaxis"] |= {"range": [len(names) - 0.4, -0.6], "dtick": 1, "showgrid": False}
    layout["yaxis"] |= {"automargin": True}
    starts = [v - below for v, (below, _) in zip(values, ends, strict=True) if v is not None]
    layout["xaxis"] |= {"range": [min([0.45, *starts]) - 0.02, 1.01]}
    layout["shapes"] = [reference(0.5, 0.5, 0, 1, yref="paper")]
    rows = [
        [
            Td(name, look=TOTAL if name == ALL else ""),
            metric_text(cell.auroc) if not cell.suppressed else Td("withheld", look="withheld"),
        ]
        for name, cell in cells.items()
    ]
    best = "no hospital could be shown" if len(shown) < 2 else _span(shown)
    return Figure(
        "forest",
        "AUROC by hospital",
        f"AUROC with 95% interval for each hospital and for all together: {best}.",
        {"data": [trace], "layout": layout},
        Table("AUROC by hospital", ["Hospital", "AUROC"], rows),
    )


def _span(cells: Mapping[str, Cell]) -> str:
    values = {name: _value(cell) or 0.0 for name, cell in cells.items() if name != ALL}
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    return f"from {values[low]:.3f} ({low}) to {values[high]:.3f} ({high})"


def _value(cell: Cell) -> float | None:
    return cell.auroc.value if cell.auroc else None
