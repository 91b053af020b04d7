"""The figures of the report: plotly specifications, each with its numbers in a table.

Specifications are plain dicts, drawn in the browser by the plotly.js that the page carries. Names
that sites chose are escaped, because plotly reads tags in any text.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from federation.metrics.calibration import calibration_curve
from federation.metrics.discrimination import auroc, roc_curve
from federation.metrics.intervals import wilson_interval
from federation.metrics.summary import ScoreSummary, merge
from federation.pages.elements import (
    COLOURS,
    DASHES,
    INK,
    MUTED,
    Figure,
    Table,
    Td,
    Trace,
    axes,
)
from server.report.run_folder import Cell, Metric, ModelMetrics, Round
from server.report.tables import metric_text

NAMED = 12
"""Hospitals up to which each has its own colour and place in the legend."""


def forest(model: ModelMetrics) -> Figure:
    """AUROC with its interval by hospital, and of all together."""
    cells = {"All hospitals": model.overall, **dict(sorted(model.sites.items()))}
    shown = {name: cell for name, cell in cells.items() if _value(cell) is not None}
    names = [_escaped(name) for name in shown]
    values = [_value(cell) for cell in shown.values()]
    arms = [_arms(cell.auroc) for cell in shown.values() if cell.auroc]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": values,
        "y": names,
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [above for _, above in arms],
            "arrayminus": [below for below, _ in arms],
            "color": INK,
            "thickness": 1.6,
            "width": 4,
        },
        "marker": {
            "size": [13 if name == "All hospitals" else 9 for name in names],
            "symbol": ["diamond" if name == "All hospitals" else "square" for name in names],
            "color": INK,
        },
        "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
    }
    layout = axes("AUROC, 95% interval", "", height=110 + 34 * max(len(names), 3))
    layout["yaxis"] |= {"autorange": "reversed", "automargin": True, "showgrid": False}
    starts = [v - below for v, (below, _) in zip(values, arms, strict=True) if v is not None]
    layout["xaxis"] |= {"range": [min([0.45, *starts]) - 0.02, 1.01]}
    layout["shapes"] = [_line(0.5, 0.5, 0, 1, yref="paper")]
    rows = [
        [Td(name), metric_text(cell.auroc) if not cell.suppressed else Td("withheld")]
        for name, cell in cells.items()
    ]
    best = f"{len(shown)} rows; no hospital could be shown" if len(shown) < 2 else _span(shown)
    return Figure(
        "forest",
        "AUROC by hospital",
        f"AUROC with 95% interval for each hospital and for all together: {best}.",
        {"data": [trace], "layout": layout},
        Table("AUROC by hospital", ["Hospital", "AUROC"], rows),
    )


def learning_curve(rounds: Sequence[Round]) -> Figure:
    """AUROC on the tuning split by round, overall and by hospital."""
    sites = sorted({site for one in rounds for site in one.site_metrics or {}})
    numbers = [one.round for one in rounds]
    overall = [(one.metrics or {}).get("auroc") for one in rounds]
    by_site = {
        site: [((one.site_metrics or {}).get(site) or {}).get("auroc") for one in rounds]
        for site in sites
    }
    traces = [_series(site, numbers, by_site[site], k, len(sites)) for k, site in enumerate(sites)]
    traces.append(_overall(numbers, overall))
    known = [value for value in overall if value is not None]
    words = f"from {known[0]:.3f} to {known[-1]:.3f}" if known else "not measured"
    rows = [
        [Td(str(one.round)), _td(overall[k]), *(_td(by_site[site][k]) for site in sites)]
        for k, one in enumerate(rounds)
    ]
    return Figure(
        "learning",
        "AUROC by round, tuning split",
        f"AUROC on the tuning split over {len(rounds)} rounds, all hospitals {words}.",
        {"data": traces, "layout": axes("Round", "AUROC (tuning)")},
        Table("AUROC on the tuning split", ["Round", "All hospitals", *sites], rows),
    )


def loss_curve(rounds: Sequence[Round]) -> Figure:
    """Training loss by round."""
    losses = [one.loss for one in rounds]
    known = [loss for loss in losses if loss is not None]
    words = f"from {known[0]:.3f} to {known[-1]:.3f}" if known else "not reported"
    rows = [[Td(str(one.round)), _td(one.loss)] for one in rounds]
    return Figure(
        "loss",
        "Training loss by round",
        f"Training loss over {len(rounds)} rounds, {words}.",
        {
            "data": [_overall([one.round for one in rounds], losses)],
            "layout": axes("Round", "Training loss", height=300),
        },
        Table("Training loss", ["Round", "Loss"], rows),
    )


def roc(summaries: Mapping[str, ScoreSummary]) -> Figure:
    """ROC curves of the held-out split, overall and by hospital."""
    usable = {site: one for site, one in summaries.items() if 0 < one.positives < one.n}
    whole = merge(summaries.values())
    traces = []
    for k, (site, one) in enumerate(usable.items()):
        fp, tp = roc_curve(one)
        traces.append(_series(site, fp.round(4).tolist(), tp.round(4).tolist(), k, len(usable)))
    area = auroc(whole).value
    points: list[list[Td]] = []
    if area is not None:
        fp, tp = roc_curve(whole)
        traces.append(_overall(fp.round(4).tolist(), tp.round(4).tolist(), mode="lines"))
        every = range(0, len(fp), max(1, len(fp) // 20))
        points = [[_td(float(fp[k])), _td(float(tp[k]))] for k in every]
    layout = axes("1 − specificity", "Sensitivity", height=520)
    layout["xaxis"] |= {"range": [-0.01, 1.01]}
    layout["yaxis"] |= {"range": [-0.01, 1.02]}
    layout["shapes"] = [_line(0, 1, 0, 1)]
    words = "no hospital has patients of both classes" if area is None else f"area {area:.3f}"
    return Figure(
        "roc",
        "ROC curve",
        f"ROC curve of all hospitals together ({words}) and of {len(usable)} hospitals.",
        {"data": traces, "layout": layout},
        Table("ROC curve, all hospitals", ["1 − specificity", "Sensitivity"], points),
    )


def calibration(summaries: Mapping[str, ScoreSummary]) -> Figure:
    """Observed against predicted risk, in ten groups of equal size, all hospitals."""
    points = calibration_curve(merge(summaries.values()))
    bounds = [wilson_interval(risk, size) for _, risk, size in points]
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "All hospitals",
        "x": [round(score, 4) for score, _, _ in points],
        "y": [round(risk, 4) for _, risk, _ in points],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [round(top - p[1], 4) for p, (_, top) in zip(points, bounds, strict=True)],
            "arrayminus": [
                round(p[1] - low, 4) for p, (low, _) in zip(points, bounds, strict=True)
            ],
            "color": MUTED,
            "thickness": 1.2,
            "width": 3,
        },
        "line": {"color": INK, "width": 2.4},
        "marker": {"size": 8, "color": INK},
    }
    layout = axes("Predicted risk", "Observed share with the outcome", height=460)
    layout["xaxis"] |= {"range": [-0.02, 1.02]}
    layout["yaxis"] |= {"range": [-0.05, 1.05]}
    layout["shapes"] = [_line(0, 1, 0, 1)]
    rows = [
        [_td(score), Td(f"{risk:.3f}", f"{low:.3f} to {top:.3f}"), Td(f"{size:,}")]
        for (score, risk, size), (low, top) in zip(points, bounds, strict=True)
    ]
    return Figure(
        "calibration",
        "Calibration curve",
        f"Observed against predicted risk in {len(points)} groups of about equal size; "
        "the dashed line is perfect calibration.",
        {"data": [trace], "layout": layout},
        Table("Calibration, all hospitals", ["Predicted risk", "Observed", "Patients"], rows),
    )


def decision_curve(cell: Cell) -> Figure:
    """Net benefit by threshold, beside treating everyone and no one."""
    points = [point for point in cell.net_benefit if point.value is not None]
    thresholds = [point.threshold for point in points]
    traces = [
        _overall(thresholds, [point.value for point in points], name="Model"),
        {
            **_series("Treat everyone", thresholds, [point.treat_all for point in points], 1, 2),
            "mode": "lines",
        },
    ]
    top = max([0.1, *(max(point.value or 0, point.treat_all or 0) for point in points)])
    layout = axes("Threshold risk", "Net benefit")
    layout["yaxis"] |= {"range": [-0.25 * top, 1.15 * top]}
    layout["shapes"] = [_line(0, 1, 0, 0)]
    rows = [
        [Td(f"{point.threshold:.2f}"), metric_text(point), _td(point.treat_all)] for point in points
    ]
    return Figure(
        "decision",
        "Decision curve",
        "Net benefit of the model by threshold, beside treating everyone; treating no one is 0.",
        {"data": traces, "layout": layout},
        Table("Net benefit, all hospitals", ["Threshold", "Model", "Treat everyone"], rows),
    )


def _series(name: str, x: Sequence[Any], y: Sequence[Any], k: int, of: int) -> Trace:
    """One hospital's line: a colour and dash of its own while there are few, else thin and grey."""
    named = of <= NAMED
    colour = COLOURS[k % len(COLOURS)] if named else "#9aa5ad"
    dash = DASHES[(k // 2) % len(DASHES)] if named else "solid"
    return {
        "type": "scatter",
        "mode": "lines",
        "name": _escaped(name),
        "x": list(x),
        "y": list(y),
        "line": {"color": colour, "width": 1.6 if named else 1, "dash": dash},
        "showlegend": named,
        "connectgaps": True,
    }


def _overall(
    x: Sequence[Any], y: Sequence[Any], mode: str = "lines+markers", name: str = "All hospitals"
) -> Trace:
    line, marker = {"color": INK, "width": 3.2}, {"size": 6, "color": INK}
    shared = {"type": "scatter", "mode": mode, "name": name, "connectgaps": True}
    return {**shared, "x": list(x), "y": list(y), "line": line, "marker": marker}


def _line(x0: float, x1: float, y0: float, y1: float, yref: str = "y") -> dict[str, Any]:
    line = {"color": "#8a959c", "width": 1, "dash": "dash"}
    place = {"x0": x0, "x1": x1, "y0": y0, "y1": y1, "yref": yref}
    return {"type": "line", "layer": "below", "line": line, **place}


def _span(cells: Mapping[str, Cell]) -> str:
    values = {name: _value(cell) or 0.0 for name, cell in cells.items() if name != "All hospitals"}
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    return f"from {values[low]:.3f} ({low}) to {values[high]:.3f} ({high})"


def _value(cell: Cell) -> float | None:
    return cell.auroc.value if cell.auroc else None


def _arms(metric: Metric) -> tuple[float, float]:
    """Distance from the value down and up to the ends of its interval."""
    if metric.value is None or metric.low is None or metric.high is None:
        return 0.0, 0.0
    return metric.value - metric.low, metric.high - metric.value


def _td(value: float | None) -> Td:
    return Td("–" if value is None else f"{value:.3f}".replace("-", "−"))


def _escaped(name: str) -> str:
    return html.escape(name)
