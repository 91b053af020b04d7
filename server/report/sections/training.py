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
from server.report.run_folder import Round, RunFolder
from server.report.text import ALL, plain, size
from server.report.traces import of_all, of_site

_UNTOLD = (
    "What is missing here was not measured: AUROC by round only where the study asks for it "
    "(evaluation.every), the training loss never under differential privacy."
)


def training(run: RunFolder) -> Section:
    """AUROC and loss by round."""
    if not run.rounds:
        return Section("training", "Training", [Text("No round was run.", note=True)])
    parts: list[Part] = []
    figures: list[Figure] = []
    sites = sorted({site for one in run.rounds for site in one.site_metrics or {}})
    if any((one.metrics or {}).get("auroc") is not None for one in run.rounds):
        figures.append(learning_curve(run.rounds, sites))
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


def learning_curve(rounds: Sequence[Round], sites: Sequence[str]) -> Figure:
    """AUROC on the tuning split by round, overall and by hospital."""
    numbers = [one.round for one in rounds]
    overall = [(one.metrics or {}).get("auroc") for one in rounds]
    by_site = {
        site: [_rounded(((one.site_metrics or {}).get(site) or {}).get("auroc")) for one in rounds]
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
        "AUROC by round, tuning split",
        f"AUROC on the tuning split over {len(rounds)} rounds, all hospitals {words}.",
        {"data": traces, "layout": axes("Round", "AUROC (tuning)", height=440)},
        Table("AUROC on the tuning split", ["Round", ALL, *sites], rows),
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
    rows = []
    for one in rounds:
        sent = one.bytes or {}
        answered = Td(f"{len(one.answered)} of {len(one.asked)}")
        if one.outstanding is not None:
            asked = f"{len(one.asked)} asked, then {len(one.outstanding)} outstanding"
            answered = Td(str(len(one.answered)), asked)
        cells = [plain(one.loss), plain((one.metrics or {}).get("auroc")), answered]
        traffic = [size(sent.get("sent")), size(sent.get("received"))]
        rows.append([Td(str(one.round)), *cells, plain(one.seconds, 1), *traffic])
    columns = ["Round", "Training loss", "AUROC (tuning)", "Answered", "Seconds"]
    return Table("Rounds", [*columns, "Sent", "Received"], rows)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
