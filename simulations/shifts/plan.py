"""The shifts file: which shifts, how strong, at which sites, in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from federation.errors import UserError
from federation.randomness import derive_seed
from federation.tasks import Task
from federation.validation import Section, nearest, read_toml, validate
from simulations.shifts.kind import Kind, Scope, ShiftSection
from simulations.shifts.outcomes import LABELS
from simulations.shifts.registry import KINDS
from simulations.shifts.temporal import GROWING


class ShiftsSection(Section):
    """What holds for all shifts of the file."""

    seed: int = Field(default=7, ge=0, strict=True)
    strength: float = Field(default=1.0, ge=0, le=1, strict=True)
    """Multiplies every shift's own."""


class ShiftsFile(Section):
    """The whole of a shifts file; each ``[[shift]]`` is then checked as its kind asks."""

    shifts: ShiftsSection = ShiftsSection()
    shift: tuple[dict[str, Any], ...] = Field(min_length=1)


@dataclass(frozen=True)
class PlannedShift:
    """One ``[[shift]]`` of the file.

    Attributes:
        section: its table.
        strength: its own times the file's (and that of ``of``).
        seed: of its draws. It depends on the file's seed, the kind and how many of the kind stand
            before it, so another shift beside it does not change them.
    """

    section: ShiftSection
    strength: float
    seed: int

    @property
    def kind(self) -> Kind:
        """Its family."""
        return KINDS[self.section.kind]

    def scope(self, site: str, names: Sequence[str]) -> Scope | None:
        """The shift at a site of these names, or None where it does not act at all."""
        chosen = self.section.sites
        acting = tuple(sorted(set(names if chosen is None else chosen)))
        if site not in acting or self.strength == 0:
            return None
        return Scope(site, acting, self.strength, self.seed)


@dataclass(frozen=True)
class Plan:
    """A shifts file, resolved; shifts act in the order of the file."""

    file: Path
    seed: int
    strength: float
    shifts: tuple[PlannedShift, ...]

    def scaled(self, factor: float) -> Plan:
        """Return the same shifts, each ``factor`` times as strong.

        Args:
            factor: in [0, 1].
        """
        weaker = [replace(one, strength=one.strength * factor) for one in self.shifts]
        return replace(self, strength=self.strength * factor, shifts=tuple(weaker))

    def check_sites(self, names: Iterable[str]) -> None:
        """Check that shifts can be told between these sites.

        Raises:
            UserError: if there are fewer than two, or a shift names another.
        """
        known = sorted(names)
        if len(known) < 2:
            raise UserError(
                self.file,
                f"shifts are differences between sites, and there is {len(known)}",
                remedy="Give a folder of two sites or more.",
            )
        for number, shift in enumerate(self.shifts, start=1):
            for name in shift.section.sites or ():
                if name not in known:
                    guess = nearest(name, known)
                    hint = f'Did you mean "{guess}"? ' if guess else ""
                    raise UserError(
                        self.file,
                        f'"{name}" is no site',
                        field=f"shift.{number}.sites",
                        remedy=f"{hint}The sites are: {', '.join(known)}.",
                    )

    def check_task(self, task: Task) -> None:
        """Check that every shift has a meaning for a task's labels.

        Raises:
            UserError: if one has none, with the reason.
        """
        if not isinstance(task, LABELS):
            raise UserError(
                self.file,
                f'shifts are of one kind of label, and task.kind is "{task.kind}"',
                remedy="Give a study of one of its tasks: its labels are then shifted alone.",
            )
        for number, shift in enumerate(self.shifts, start=1):
            why = shift.kind.unfit(shift.section, task)
            if why:
                raise UserError(
                    self.file,
                    f'"{shift.section.kind}" does not fit task.kind = "{task.kind}": {why}',
                    field=f"shift.{number}",
                )


def load_shifts(file: Path) -> Plan:
    """Read a shifts file.

    Raises:
        UserError: naming the file, the field and what was expected there.
    """
    document = validate(ShiftsFile, read_toml(file), file)
    seen: Counter[str] = Counter()
    shifts = []
    for number, table in enumerate(document.shift, start=1):
        section = _section(table, file, number)
        of = getattr(section, "of", None)
        strength = document.shifts.strength * section.strength * (of.strength if of else 1)
        seed = derive_seed(document.shifts.seed, "shift", section.kind, seen[section.kind])
        shifts.append(PlannedShift(section, strength, seed))
        seen[section.kind] += 1
    return Plan(file, document.shifts.seed, document.shifts.strength, tuple(shifts))


def _section(table: Mapping[str, Any], file: Path, number: int) -> ShiftSection:
    where = f"{file}: [[shift]] number {number}"
    kind = _known_kind(table, KINDS, where, "kind")
    if kind == "temporal":
        of = table.get("of")
        if not isinstance(of, dict):
            raise UserError(
                where,
                "expected a table: the shift that grows with time",
                field="of",
                remedy='For example of = { kind = "covariate", offset = 1.0 }.',
            )
        inner = _known_kind(of, GROWING, where, "of.kind")
        if validate(GROWING[inner][0], of, f"{where}: of").sites is not None:
            raise UserError(
                where, "stands beside kind, not in of", field="of.sites", remedy="Move it there."
            )
    return validate(KINDS[kind].section, table, where)


def _known_kind(table: Mapping[str, Any], kinds: Mapping[str, Any], where: str, field: str) -> str:
    kind = table.get("kind")
    if isinstance(kind, str) and kind in kinds:
        return kind
    known = ", ".join(kinds)
    if kind is None:
        raise UserError(where, "missing; it has no default", field=field, remedy=f"Known: {known}.")
    guess = nearest(str(kind), kinds)
    hint = f'Did you mean "{guess}"? ' if guess else ""
    raise UserError(where, f'"{kind}" is not known', field=field, remedy=f"{hint}Known: {known}.")
