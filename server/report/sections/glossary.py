"""What the numbers mean, so that the file needs no other to be read."""

from __future__ import annotations

from federation.pages.elements import Folded, Section, Terms
from server.report.glossary import GLOSSARY
from server.report.run_folder import RunFolder


def glossary(run: RunFolder) -> Section:
    """Every number of the report in two sentences."""
    terms = Terms(tuple(GLOSSARY.items()))
    return Section(
        "meaning",
        "What the numbers mean",
        [Folded(f"{len(GLOSSARY)} numbers and words, each in two sentences", [terms])],
    )
