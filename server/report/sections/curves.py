"""ROC, precision-recall, calibration and decision curves, of all hospitals and of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from federation.metrics.calibration import calibration_curve
from federation.metrics.discrimination import (
    auprc,
    auroc,
    precision_recall_curve,
    roc_curve,
)
from federation.metrics.grid import UNCHANGED, Line
from federation.metrics.intervals import wilson_interval
from federation.metrics.summary import ScoreSummary, merge
from federation.pages.elements import (
    COLOURS,
    MUTED,
    TOTAL,
    Chooser,
    Figure,
    Pair,
    Part,
    Section,
    Table,
    Td,
    Text,
    Trace,
    axes,
)
from server.report.documents import Cell, ModelMetrics
from server.report.recalibration import recalibration_words
from server.report.run_folder import RunFolder
from server.report.text import ALL, metric_text, plain
from server.report.traces import line, of_all, of_site, reference, thinned

GRID = tuple(step / 10 for step in range(1, 10))
"""Where the numbers of a ROC and of a precision-recall curve are told."""

FEWEST_IN_GROUP = 20
"""Patients in a group of one hospital's calibration curve, at least."""

BEFORE = f"{ALL}, before recalibration"
_DOTTED = " The dotted line is of all hospitals before the risks were recalibrated."
_NO_SUMMARIES = "No score summaries are kept for this model."

Summaries = Mapping[str, ScoreSummary]


def curves(run: RunFolder) -> Section:
    """Four figures and one choice of whose curves they show."""
    model, raw = run.model, run.scores.get(run.main, {})
    summaries = {site: one.recalibrated(_line(model)) for site, one in raw.items()}
    averaged = model.overall.averaged_over_sites
    usable = {site: one for site, one in summaries.items() if 0 < one.positives < one.n}
    figures: list[Figure] = []
    if summaries:
        whole = None if averaged else merge(summaries.values())
        figures = [roc(whole, usable), precision_recall(whole, usable)]
        earlier = None if averaged or _line(model) == UNCHANGED else merge(raw.values())
        figures += [calibration(whole, usable, earlier), decision(model, averaged)]
    elif model.overall.net_benefit:
        figures = [decision(model, averaged)]
    parts: list[Part] = []
    if averaged:
        parts.append(
            Text(
                "Each hospital uses a model of its own, whose scores share no scale with the "
                "others', so no curve is drawn across them.",
                note=True,
            )
        )
    if words := recalibration_words(model.recalibration, model.overall):
        parts.append(Text(words))
    if not figures:
        why = "No curve is drawn of counts with noise." if run.noised else _NO_SUMMARIES
        parts.append(Text(why, note=True))
        return Section("curves", "Curves", parts)
    choices = sorted({*usable, *(s for s, cell in model.sites.items() if cell.net_benefit)})
    names = [figure.name for figure in figures]
    parts.append(Chooser("curves-of", "Curves of", ALL, choices, names))
    parts += [Pair(figures[k : k + 2]) for k in range(0, len(figures), 2)]
    return Section("curves", "Curves", parts)


def roc(whole: ScoreSummary | None, sites: Summaries) -> Figure:
    """ROC curves of the held-out split."""
    traces = [
        of_site(site, *thinned(*roc_curve(one)), k, len(sites))
        for k, (site, one) in enumerate(sites.items())
    ]
    rows = [_at_grid(site, *roc_curve(one)) for site, one in sites.items()]
    area = None if whole is None else auroc(whole).value
    if whole is not None and area is not None:
        traces.append(of_all(*thinned(*roc_curve(whole), most=200)))
        rows.insert(0, _at_grid(ALL, *roc_curve(whole)))
    layout = _square("1 − specificity", "Sensitivity")
    layout["shapes"] = [reference(0, 1, 0, 1)]
    return Figure(
        "roc",
        "ROC curve",
        f"ROC curves of {_who(area, len(sites))}; the dashed line is guessing.",
        {"data": traces, "layout": layout},
        Table(
            "ROC curve: sensitivity at each share of false alarms (1 − specificity)",
            ["Hospital", *(f"at {x:.1f}" for x in GRID)],
            rows,
        ),
    )


def precision_recall(whole: ScoreSummary | None, sites: Summaries) -> Figure:
    """Precision against the share of patients with the outcome who are found."""
    traces = [
        of_site(site, *thinned(*precision_recall_curve(one)), k, len(sites))
        for k, (site, one) in enumerate(sites.items())
    ]
    rows = [_reached(site, *precision_recall_curve(one)) for site, one in sites.items()]
    area = None if whole is None else auprc(whole).value
    layout = _square("Recall (sensitivity)", "Precision (PPV)")
    if whole is not None and area is not None:
        traces.append(of_all(*thinned(*precision_recall_curve(whole), most=200)))
        rows.insert(0, _reached(ALL, *precision_recall_curve(whole)))
        share = whole.positives / whole.n
        layout["shapes"] = [reference(0, 1, share, share)]
    return Figure(
        "precision-recall",
        "Precision-recall curve",
        f"Precision against recall of {_who(area, len(sites))}; the dashed line is the share with "
        "the outcome, which is what guessing gets.",
        {"data": traces, "layout": layout},
        Table(
            "Precision-recall curve: precision where at least this share of the patients with the "
            "outcome is found",
            ["Hospital", *(f"at {x:.1f}" for x in GRID)],
            rows,
        ),
    )


def calibration(
    whole: ScoreSummary | None, sites: Summaries, earlier: ScoreSummary | None = None
) -> Figure:
    """Observed against predicted risk, in up to ten groups of equal size.

    Args:
        whole: all hospitals together; None where they use models of their own.
        sites: each hospital.
        earlier: all hospitals together, before the risks were recalibrated, if they were.
    """
    traces, rows = [], []
    drawn = {} if whole is None else {ALL: calibration_curve(whole)}
    if earlier is not None:
        drawn[BEFORE] = calibration_curve(earlier)
    drawn |= {
        site: calibration_curve(one, min(10, max(1, one.n // FEWEST_IN_GROUP)))
        for site, one in sites.items()
    }
    for name, points in drawn.items():
        bounds = [wilson_interval(risk, size) for _, risk, size in points]
        x, y = [round(score, 4) for score, _, _ in points], [round(p[1], 4) for p in points]
        if name == ALL:
            trace = of_all(x, y, "lines+markers")
        elif name == BEFORE:
            trace = line(name, x, y, MUTED, "lines+markers")
            trace["line"] = {**trace["line"], "dash": "dot"}
        else:
            trace = line(name, x, y, COLOURS[1], "lines+markers")
            trace["line"] = {**trace["line"], "dash": "dash"}
            trace |= {"meta": {"of": name, "alone": True}, "visible": False}
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [round(top - risk, 4) for risk, (_, top) in zip(y, bounds, strict=True)],
            "arrayminus": [round(risk - low, 4) for risk, (low, _) in zip(y, bounds, strict=True)],
            "color": MUTED,
            "thickness": 1.2,
            "width": 3,
        }
        traces.append(trace)
        rows += [
            [
                Td(name, look=TOTAL if name in (ALL, BEFORE) else ""),
                plain(score),
                Td(f"{risk:.3f}", f"{low:.3f} to {top:.3f}"),
                Td(f"{size:,}"),
            ]
            for (score, risk, size), (low, top) in zip(points, bounds, strict=True)
        ]
    layout = _square("Predicted risk", "Observed share with the outcome")
    layout["shapes"] = [reference(0, 1, 0, 1)]
    return Figure(
        "calibration",
        "Calibration curve",
        "Observed against predicted risk in groups of patients of about equal size, with 95% "
        "intervals; the dashed line is perfect calibration. One hospital's is drawn if it is "
        f"chosen above.{_DOTTED if earlier is not None else ''}",
        {"data": traces, "layout": layout},
        Table(
            "Calibration curve: groups of patients by predicted risk",
            ["Hospital", "Predicted risk", "Observed risk", "Patients"],
            rows,
        ),
    )


def decision(model: ModelMetrics, averaged: bool) -> Figure:
    """Net benefit by threshold, beside treating everyone and no one."""
    cells = {site: cell for site, cell in sorted(model.sites.items()) if cell.net_benefit}
    traces: list[Trace] = []
    for k, (site, cell) in enumerate(cells.items()):
        x, y = _benefit(cell)
        traces.append(of_site(site, x, y, k, len(cells)))
        everyone = line(f"{site}: treat everyone", x, _treat_all(cell), MUTED)
        everyone["line"] = {**everyone["line"], "dash": "dot"}
        traces.append(everyone | {"meta": {"of": site, "alone": True}, "visible": False})
    rows = [row for site, cell in cells.items() for row in _benefit_rows(site, cell)]
    top = 0.1
    if model.overall.net_benefit and not averaged:
        x, y = _benefit(model.overall)
        traces.append(of_all(x, y))
        everyone = line("Treat everyone", x, _treat_all(model.overall), MUTED)
        traces.append(everyone | {"line": {"color": MUTED, "width": 2, "dash": "dashdot"}})
        rows = [*_benefit_rows(ALL, model.overall), *rows]
        top = max([top, *(value for value in y if value is not None)])
    layout = axes("Threshold risk", "Net benefit", height=480)
    layout["xaxis"] |= {"range": [0, 1]}
    layout["yaxis"] |= {"range": [-0.25 * top, 1.25 * top]}
    layout["shapes"] = [reference(0, 1, 0, 0)]
    return Figure(
        "decision",
        "Decision curve",
        "Net benefit of the model by threshold, beside treating everyone; treating no one is 0, "
        "the dashed line.",
        {"data": traces, "layout": layout},
        Table(
            "Decision curve: net benefit at each threshold",
            ["Hospital", "Threshold", "Net benefit", "Net benefit, everyone treated"],
            rows,
        ),
    )


def _line(model: ModelMetrics) -> Line:
    """Through the logits of the model's scores."""
    told = model.recalibration
    if told is None or told.slope is None or told.intercept is None:
        return UNCHANGED
    return Line(told.slope, told.intercept)


def _square(x: str, y: str) -> dict[str, Any]:
    layout = axes(x, y, height=480)
    layout["xaxis"] |= {"range": [-0.02, 1.02]}
    layout["yaxis"] |= {"range": [-0.02, 1.04]}
    return layout


def _who(area: float | None, sites: int) -> str:
    whole = "" if area is None else f"all hospitals together (area {area:.3f}) and of "
    return f"{whole}{sites} hospitals"


def _at_grid(name: str, x: Any, y: Any) -> list[Td]:
    values = np.interp(GRID, x, y)
    return [_head(name), *(plain(float(value)) for value in values)]


def _reached(name: str, recall: Any, precision: Any) -> list[Td]:
    places = np.searchsorted(recall, np.array(GRID) - 1e-12)
    return [_head(name), *(plain(float(precision[k])) for k in places)]


def _head(name: str) -> Td:
    return Td(name, look=TOTAL if name == ALL else "")


def _benefit(cell: Cell) -> tuple[Sequence[float], Sequence[float | None]]:
    return [point.threshold for point in cell.net_benefit], [
        None if point.value is None else round(point.value, 5) for point in cell.net_benefit
    ]


def _treat_all(cell: Cell) -> list[float | None]:
    return [
        None if point.treat_all is None else round(point.treat_all, 5) for point in cell.net_benefit
    ]


def _benefit_rows(name: str, cell: Cell) -> list[list[Td]]:
    return [
        [
            _head(name),
            Td(f"{point.threshold:.2f}"),
            metric_text(point),
            plain(point.treat_all),
        ]
        for point in cell.net_benefit
    ]
