"""Puts the report together and writes it."""

from __future__ import annotations

from pathlib import Path

from federation.pages.render import render as from_template
from server.report.first_screen import facts, intended_use, lead
from server.report.run_folder import RunFolder, read_run_folder
from server.report.sections import SECTIONS

HERE = Path(__file__).parent

WARNINGS_AT_ONCE = 6
"""Warnings on the first screen; the others are folded away below them."""


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
    return from_template(
        HERE / "report.html.jinja",
        title=run.metrics.study,
        fingerprint=run.metrics.fingerprint,
        lead=lead(run),
        intended_use=intended_use(run),
        facts=facts(run),
        warnings=run.warnings,
        at_once=WARNINGS_AT_ONCE,
        sections=[one for section in SECTIONS if (one := section(run)) is not None],
    )
