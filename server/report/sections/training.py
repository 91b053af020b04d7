"""What the rounds did: learning curves, and one row a round."""

from __future__ import annotations

from collections.abc import Sequence

from federation.pages.elements import (
    Chooser,
    Figure,
    Folded,
    Pair,
    Part,
    Section,
    Table,
    Td,
    Text,
    axes,
)
from server.report.documents import Round
from server.report.run_folder import RunFolder
from server.report.text import ALL, plain, size
from server.report.traces import of_all, of_site

FOLLOWED = {"auroc": "AUROC", "c_index": "c-index", "mean": "Mean of the tasks"}
"""What rounds are followed by; the first of these that was measured."""

_UNTOLD = (
    "What is missing here was not measured: a metric by round only where the study asks for it "
    "(evaluation.every), the training loss never under differential privacy."
)


def training(run: RunFolder) -> Section:
    """AUROC and loss by round."""
    if not run.rounds:
        return Section("training", "Training", [Text("No round was run.", note=True)])
    parts: list[Part] = []
    figures: list[Figure] = []
    sites = sorted({site for one in run.rounds for site in one.site_metrics or {}})
    followed = _followed(run.rounds)
    if followed is not None:
        figures.append(learning_curve(run.rounds, sites, followed))
        if sites:
            parts.append(Chooser("training-of", "Learning curve of", ALL, sites, ["learning"]))
    if any(one.loss is not None for one in run.rounds):
        figures.append(loss_curve(run.rounds))
    if figures:
        parts.append(Pair(figures))
    if len(figures) < 2:
        parts.append(Text(_UNTOLD, note=True))
    parts.append(Folded(f"Every round, {len(run.rounds)} of them", [rounds_table(run.rounds)]))
    return Section("training", "Training", parts)


def _followed(rounds: Sequence[Round]) -> str | None:
    """The metric that rounds are followed by; None where none was measured."""
    measured = (
        name
        for name in FOLLOWED
        if any((one.metrics or {}).get(name) is not None for one in rounds)
    )
    return next(measured, None)


def learning_curve(rounds: Sequence[Round], sites: Sequence[str], metric: str) -> Figure:
    """A metric on the tuning split by round, overall and by hospital."""
    what, numbers = FOLLOWED[metric], [one.round for one in rounds]
    overall = [(one.metrics or {}).get(metric) for one in rounds]
    by_site = {
        site: [_rounded(((one.site_metrics or {}).get(site) or {}).get(metric)) for one in rounds]
        for site in sites
    }
    traces = [of_site(site, numbers, by_site[site], k, len(sites)) for k, site in enumerate(sites)]
    traces.append(of_all(numbers, [_rounded(value) for value in overall], "lines+markers"))
    known = [value for value in overall if value is not None]
    words = f"from {known[0]:.3f} to {known[-1]:.3f}" if known else "not measured"
    rows = [
        [Td(str(one.round)), plain(overall[k]), *(plain(by_site[site][k]) for site in sites)]
        for k, one in enumerate(rounds)
    ]
    return Figure(
        "learning",
        f"{what} by round, tuning split",
        f"{what} on the tuning split over {len(rounds)} rounds, all hospitals {words}.",
        {"data": traces, "layout": axes("Round", f"{what} (tuning)", height=440)},
        Table(f"{what} on the tuning split", ["Round", ALL, *sites], rows),
    )


def loss_curve(rounds: Sequence[Round]) -> Figure:
    """Training loss by round."""
    losses = [_rounded(one.loss) for one in rounds]
    known = [loss for loss in losses if loss is not None]
    words = f"from {known[0]:.3f} to {known[-1]:.3f}" if known else "not reported"
    return Figure(
        "loss",
        "Training loss by round",
        f"Training loss over {len(rounds)} rounds, {words}.",
        {
            "data": [of_all([one.round for one in rounds], losses, "lines+markers")],
            "layout": axes("Round", "Training loss", height=440),
        },
        Table(
            "Training loss",
            ["Round", "Training loss"],
            [[Td(str(one.round)), plain(one.loss)] for one in rounds],
        ),
    )


def rounds_table(rounds: Sequence[Round]) -> Table:
    """One row a round."""
    rows, metric = [], _followed(rounds) or "auroc"
    for one in rounds:
        sent = one.bytes or {}
        answered = Td(f"{len(one.answered)} of {len(one.asked)}")
        if one.outstanding is not None:
            asked = f"{len(one.asked)} asked, then {len(one.outstanding)} outstanding"
            answered = Td(str(len(one.answered)), asked)
        cells = [plain(one.loss), plain((one.metrics or {}).get(metric)), answered]
        traffic = [size(sent.get("sent")), size(sent.get("received"))]
        rows.append([Td(str(one.round)), *cells, plain(one.seconds, 1), *traffic])
    columns = ["Round", "Training loss", f"{FOLLOWED[metric]} (tuning)", "Answered", "Seconds"]
    return Table("Rounds", [*columns, "Sent", "Received"], rows)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
