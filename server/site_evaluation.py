"""What one site sent about one model, and which of it can be used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic

from typing_extensions import TypeVar

from federation.bodies import Inputs, NoiseBody
from federation.metrics.noised import NoisedSummary
from federation.metrics.summaries import Summary
from federation.metrics.summary import ScoreSummary
from federation.subgroups import is_window

S = TypeVar("S", bound=Summary, default=ScoreSummary)
"""The kind of summaries, which follows from the study's task; one yes-or-no outcome if not said."""


@dataclass(frozen=True)
class Paired:
    """What a site sent of a second model on the same patients.

    Args:
        reference: the second model's summary, of all patients of the site.
        correlation: of the two models' AUROCs; None where it is not defined.
    """

    reference: ScoreSummary
    correlation: float | None


@dataclass(frozen=True)
class SiteEvaluation(Generic[S]):
    """What one site sent about one model.

    Args:
        site: its name.
        cells: summaries by cell; "" is all patients of the site, "sex=female" a subgroup,
            "window=2" a window of time.
        withheld: reason by withheld cell; "" withholds the whole site.
        paired: of a second model, where the site was sent one.
        inputs: patients by window, input and level, where the study has windows of time.
        noised: in the place of ``cells``, where the study asks for noise.
        noise: of what kind it is.
    """

    site: str
    cells: Mapping[str, S]
    withheld: Mapping[str, str]
    paired: Paired | None = None
    inputs: Inputs = field(default_factory=dict)
    noised: Mapping[str, NoisedSummary] = field(default_factory=dict)
    noise: NoiseBody | None = None

    def reason(self, name: str) -> str:
        """Why a cell is withheld, empty if it is not; a withheld site withholds every cell."""
        return self.withheld.get("", "") or self.withheld.get(name, "")


def ordered(evaluations: Iterable[SiteEvaluation[S]]) -> list[SiteEvaluation[S]]:
    """By site, because sums of floats depend on their order and messages arrive in any.

    Raises:
        ValueError: if a site appears twice, or says nothing about its patients as a whole.
    """
    found = sorted(evaluations, key=lambda one: one.site)
    names = [one.site for one in found]
    if len(set(names)) != len(names):
        raise ValueError("a site's evaluation of one model was given twice")
    for one in found:
        if not any("" in told for told in (one.cells, one.noised, one.withheld)):
            raise ValueError(f'site "{one.site}" says nothing about its patients as a whole')
    return found


def subgroups(evaluations: Iterable[SiteEvaluation[S]]) -> list[str]:
    """Names of the subgroup cells that any site sent or withheld."""
    return [name for name in _parts(evaluations) if not is_window(name)]


def windows(evaluations: Iterable[SiteEvaluation[S]]) -> list[str]:
    """Names of the windows of time that any site sent or withheld, the oldest first."""
    found = [name for name in _parts(evaluations) if is_window(name)]
    return sorted(found, key=window_number)


def window_number(name: str) -> int:
    """Return the number of a window of time from the name of its cell.

    >>> window_number("window=10")
    10
    """
    return int(name.partition("=")[2])


def _parts(evaluations: Iterable[SiteEvaluation[S]]) -> list[str]:
    return sorted({name for one in evaluations for name in (*one.cells, *one.withheld) if name})


def present(evaluations: Sequence[SiteEvaluation[S]], name: str) -> tuple[dict[str, S], list[str]]:
    """A cell's summaries by site, and the sites that withheld it."""
    excluded = [one.site for one in evaluations if one.reason(name)]
    cells = {
        one.site: one.cells[name]
        for one in evaluations
        if name in one.cells and one.site not in excluded
    }
    return cells, excluded
