"""The site file: where a hospital's data lies and what it allows. It never leaves the site."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from clients.images.settings import IMAGE_FILES, ImagesSection, NotesSection
from clients.sources.settings import EventsSection, ExcludeSection, LabelsSection
from federation.errors import UserError
from federation.validation import Section, read_toml, validate

KEY_BYTES = 32
CLOCK = "([01][0-9]|2[0-3]):[0-5][0-9]"


class SiteSection(Section):
    """The hospital and its machine."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    state: str = "state"


class DataSection(Section):
    """Where the data lies, relative to the site file."""

    events: EventsSection
    images: ImagesSection | None = None
    notes: NotesSection | None = None
    labels: LabelsSection
    label: str | None = Field(default=None, min_length=1)
    """Name of what the labels file holds; a study whose ``task.label`` differs is refused."""
    subgroups: tuple[Literal["sex", "age_band", "ethnicity"], ...] = ()
    exclude: ExcludeSection | None = None

    @model_validator(mode="after")
    def _named_once(self) -> DataSection:
        if self.label is not None and isinstance(self.labels, dict):
            raise ValueError("[data.labels] names each of its labels: leave data.label away")
        return self


class PolicySection(Section):
    """What the site allows to leave, and on which terms it takes part.

    ``epsilon_per_patient`` at ``delta`` caps what all studies together may spend on a patient, by
    the site's ledger; ``largest_epsilon`` bounds what one study with differential privacy may ask.
    The others hold at a deployed site, not in a simulation: whether a person approves each study,
    how many runs of it one approval covers, how many training rounds begin in one day, and at
    which hours, in local time.
    """

    minimum_cell: int = Field(default=10, gt=0, le=1_000_000)
    score_bins: Literal["merged", "fine"] = "merged"
    unit: Literal["patient"] = "patient"
    epsilon_per_patient: float = Field(default=8.0, gt=0, le=10_000, strict=True)
    delta: float = Field(default=1e-5, gt=0, lt=1, strict=True)
    require_privacy: bool = False
    largest_epsilon: float | None = Field(default=None, gt=0, le=10_000, strict=True)
    approve: bool = True
    most_runs: int = Field(default=10, gt=0, le=100_000)
    most_rounds_a_day: int | None = Field(default=None, gt=0, le=100_000)
    hours: str | None = Field(default=None, pattern=rf"^{CLOCK}-{CLOCK}$")
    """From and to, "19:00-06:00"; over midnight where the end is not after the beginning."""


class SiteFile(Section):
    """The whole of site.toml."""

    site: SiteSection
    data: DataSection
    policy: PolicySection = PolicySection()


@dataclass(frozen=True)
class Site:
    """A site file with its paths resolved; ``load_site`` checks that the data are there."""

    file: Path
    settings: SiteFile
    events: Path
    images: Path | None
    notes: Path | None
    label_files: Mapping[str, Path]
    """By the key of the site file that names one, ``data.labels`` or ``data.labels.NAME``."""
    state: Path

    @property
    def labels(self) -> Path | None:
        """The labels file; None where a rule gives the labels, or each has a source of its own."""
        return self.label_files.get("data.labels")

    @property
    def name(self) -> str:
        """The site's name in the consortium."""
        return self.settings.site.name

    @property
    def policy(self) -> PolicySection:
        """The site's policy."""
        return self.settings.policy

    def offers(self, modality: str) -> bool:
        """Return whether the site file names a source of a modality; of no patient in particular.

        Events are always there.
        """
        data = self.settings.data
        sources = {"ehr": data.events, "image": data.images, "text": data.notes}
        return sources[modality] is not None

    def patient_key(self) -> bytes:
        """Return the key under which patients are hashed; drawn on first use, never sent."""
        path = self.state / "patient.key"
        try:
            if not path.exists():
                _draw_key(path)
            key = bytes.fromhex(path.read_text().strip())
        except ValueError:
            raise UserError(path, "expected hexadecimal digits") from None
        except OSError as error:
            raise UserError(path, f"cannot be read or made: {error.strerror}") from None
        if len(key) < KEY_BYTES:
            raise UserError(path, f"expected {2 * KEY_BYTES} hexadecimal digits, found fewer")
        return key


def load_site(path: Path) -> Site:
    """Read and check a site file.

    Args:
        path: ``site.toml``, or the folder that holds it.

    Raises:
        UserError: naming the file, the field and what was looked for.
    """
    site = open_site(path)
    data = site.settings.data
    _check_there(site.file, "data.events.path", data.events.path, "the events")
    if data.images is not None:
        files = IMAGE_FILES[data.images.format]
        _check_there(site.file, "data.images.path", data.images.path, files)
    if data.notes is not None and data.notes.path is not None:
        _check_there(site.file, "data.notes.path", data.notes.path, "the note files")
    for field, given in _label_files(data):
        _check_there(site.file, field, given, "the labels", folder=False)
    return site


def open_site(path: Path) -> Site:
    """Read a site file, without a look at the data: they may be on a disk that is away.

    Args:
        path: ``site.toml``, or the folder that holds it.

    Raises:
        UserError: naming the file and the field.
    """
    holds_it = path.is_dir() and path.name != "site.toml"
    file = (path / "site.toml" if holds_it else path).absolute()
    settings = validate(SiteFile, read_toml(file), file)
    data, folder = settings.data, file.parent
    notes = None if data.notes is None else data.notes.path
    return Site(
        file=file,
        settings=settings,
        events=folder / data.events.path,
        images=None if data.images is None else folder / data.images.path,
        notes=None if notes is None else folder / notes,
        label_files={field: folder / given for field, given in _label_files(data)},
        state=folder / settings.site.state,
    )


def _label_files(data: DataSection) -> list[tuple[str, str]]:
    """Return the key and the name of each file of labels."""
    if isinstance(data.labels, str):
        return [("data.labels", data.labels)]
    if not isinstance(data.labels, dict):
        return []
    return [(f"data.labels.{k}", one) for k, one in data.labels.items() if isinstance(one, str)]


def find_sites(folder: Path) -> list[Path]:
    """Return the site files of a folder that holds one folder per site, by name.

    Raises:
        UserError: if the folder is missing or holds no site.
    """
    if not folder.is_dir():
        raise UserError(folder, "there is no such folder", remedy="Give --sites a folder of sites.")
    files = sorted(folder.glob("*/site.toml"))
    if not files:
        raise UserError(
            folder,
            "no site was found; expected one folder per site, each with a site.toml",
            remedy="`wardround synthesize` and `wardround dataset` write such a folder.",
        )
    return [file.absolute() for file in files]


def _draw_key(path: Path) -> None:
    """Write a new key under its name at once, whole, or not at all if another process was first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(KEY_BYTES))
    try:
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    except OSError:  # a file system without hard links
        draft.replace(path)
    draft.unlink(missing_ok=True)


def _check_there(file: Path, field: str, given: str, what: str, folder: bool = True) -> None:
    path = file.parent / given
    if folder and not path.is_dir():
        raise UserError(
            file,
            f'"{given}" is not a folder (looked in {path})',
            field=field,
            remedy=f"Give the folder that holds {what}.",
        )
    if not folder and not path.is_file():
        raise UserError(
            file,
            f'"{given}" is not a file (looked for {path})',
            field=field,
            remedy=f"Give the file that holds {what}.",
        )
