"""Puts the report together and writes it."""

from __future__ import annotations

from pathlib import Path

from federation.pages.render import render as from_template
from server.report.card import write_card
from server.report.card.change import compare, keep
from server.report.first_screen import facts, intended_use, lead
from server.report.run_folder import RunFolder, read_run_folder
from server.report.sections import sections_of

HERE = Path(__file__).parent

WARNINGS_AT_ONCE = 6
"""Warnings on the first screen; the others are folded away below them."""


def write_report(run: Path, predecessor: Path | None = None) -> Path:
    """Write RUN/report.html and the model card from the files of the run folder alone.

    The page carries plotly.js once and forbids itself the network. All are the same for the same
    run folder, whenever and wherever they are written.

    Args:
        run: the run folder.
        predecessor: another one, with which the card compares; what is found is kept in RUN.

    Returns:
        The page's path; model_card.md and model_card.json lie beside it.

    Raises:
        UserError: if a folder or one of its files is missing or broken, naming it.
    """
    folder = read_run_folder(run)
    if predecessor is not None:
        keep(compare(folder, read_run_folder(predecessor)), run)
    write_card(folder)
    target = run / "report.html"
    target.write_text(render(folder), encoding="utf-8")
    return target


def render(run: RunFolder) -> str:
    """The page as text."""
    return from_template(
        HERE / "report.html.jinja",
        title=run.metrics.study,
        fingerprint=run.metrics.fingerprint,
        lead=lead(run),
        intended_use=intended_use(run),
        facts=facts(run),
        warnings=run.warnings,
        at_once=WARNINGS_AT_ONCE,
        sections=sections_of(run),
    )
