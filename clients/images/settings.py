"""The ``[data.images]`` and ``[data.notes]`` tables of a site file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from clients.images.picture import View
from federation.validation import Section, nearest

Format = Literal["dicom", "png", "nifti"]

IMAGE_FILES: Mapping[Format, str] = {
    "dicom": "the .dcm files",
    "png": "the .png files",
    "nifti": "the .nii and .nii.gz files",
}


def _known_tag(keyword: str) -> str:
    from pydicom.datadict import keyword_dict, tag_for_keyword

    if tag_for_keyword(keyword) is None:
        guess = nearest(keyword, keyword_dict)
        hint = f'; did you mean "{guess}"' if guess else ""
        raise ValueError(f"not the keyword of a DICOM tag{hint}")
    return keyword


def _with_patient(pattern: str) -> str:
    try:
        names = re.compile(pattern).groupindex
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    if "patient" not in names:
        raise ValueError("a group (?P<patient>...) is needed")
    return pattern


Tag = Annotated[str, AfterValidator(_known_tag)]
Patterns = tuple[str, ...]


class LinkSection(Section):
    """How a file finds its patient, where no event names it.

    ``by = "tag"``: a DICOM tag holds the patient. ``"file_name"``: ``pattern`` is searched in the
    path below the folder; its group ``patient`` is the patient, and ``time``, if it has one, the
    time. ``"table"``: a CSV with the columns ``file`` and ``patient``, and ``time`` if known.
    """

    by: Literal["tag", "file_name", "table"]
    tag: Tag = "PatientID"
    pattern: Annotated[str, AfterValidator(_with_patient)] | None = None
    table: str | None = None
    identifiers: str | None = None
    """A CSV ``identifier,subject_id`` where the events call the patients otherwise."""
    time_format: str | None = None
    """Of the group or column ``time``; ISO 8601 if left away."""
    undated: bool = False
    """Whether a file without a time may be used, as known at any prediction time."""
    code: str | None = Field(default=None, min_length=1)
    """Of the events; by default the prefix and the DICOM modality, or the format."""

    @model_validator(mode="after")
    def _is_whole(self) -> LinkSection:
        if self.by == "file_name" and self.pattern is None:
            raise ValueError('by = "file_name" needs "pattern"')
        if self.by == "table" and self.table is None:
            raise ValueError('by = "table" needs "table"')
        if self.by != "file_name" and self.pattern is not None:
            raise ValueError('"pattern" goes with by = "file_name"')
        if self.by != "table" and self.table is not None:
            raise ValueError('"table" goes with by = "table"')
        return self


class PacsSection(Section):
    """Where ``wardround site pull`` finds the images: a DICOMweb service of the hospital."""

    url: str = Field(pattern=r"^https?://[^\s/]+(/\S*)?$")
    query: Mapping[Tag, str] = Field(min_length=1)
    """Which studies: what QIDO-RS matches, such as ``ModalitiesInStudy = "CR"``."""
    series: Mapping[Tag, str] = Field(default_factory=dict)
    """Which of their series, likewise, such as ``Modality = "CR"``; all of them if empty."""
    credentials: str | None = None
    """A TOML file that only its owner may read: ``user`` and ``password``, or ``token``."""
    certificate: str | None = None
    """The authority that signed the service's certificate, where the system does not know it."""
    most_studies: int = Field(default=100_000, gt=0)


class Region(Section):
    """Where files of one kind show text that belongs to nobody's picture, to be blanked.

    ``blank`` lists rectangles: left, top, right, bottom, in pixels, the latter two excluded. An
    empty list says that somebody has looked at such files and found no text.
    """

    select: Mapping[Tag, Patterns] = Field(min_length=1)
    blank: tuple[tuple[int, int, int, int], ...]


class ImagesSection(Section):
    """A folder of images, to which ``IMAGE//`` events point or which ``link`` ties to patients."""

    format: Format
    path: str
    slice: float = Field(default=0.5, ge=0, le=1)
    ct_window: tuple[float, float] | None = None
    select: Mapping[Tag, Patterns] = Field(default_factory=dict)
    exclude: Mapping[Tag, Patterns] = Field(default_factory=dict)
    link: LinkSection | None = None
    pacs: PacsSection | None = None
    regions: tuple[Region, ...] = ()

    @model_validator(mode="after")
    def _fits_its_format(self) -> ImagesSection:
        if self.ct_window is not None and self.ct_window[1] <= 1:
            raise ValueError("ct_window: centre and width, a width of more than 1")
        if self.format == "dicom":
            return self
        for name in ("ct_window", "select", "exclude", "pacs", "regions"):
            if getattr(self, name):
                raise ValueError(f'"{name}" goes with format = "dicom"')
        if self.link is not None and self.link.by == "tag":
            raise ValueError('link.by = "tag" goes with format = "dicom"')
        return self

    @property
    def view(self) -> View:
        """Which picture of a file is wanted."""
        return View(self.slice, self.ct_window, self.select, self.exclude)


class NotesSection(Section):
    """Notes held as ``NOTE//`` events, or as text files that ``link`` ties to patients."""

    format: Literal["meds", "files"]
    path: str | None = None
    link: LinkSection | None = None
    encoding: str = "utf-8"
    models: str | None = None
    """Folder of pretrained encoders, one folder each, for studies that name one."""

    @model_validator(mode="after")
    def _files_are_linked(self) -> NotesSection:
        files = self.format == "files"
        if files != (self.path is not None) or files != (self.link is not None):
            raise ValueError('"path" and "link" go with format = "files", and it needs both')
        if self.link is not None and self.link.by == "tag":
            raise ValueError('link.by = "tag" goes with images')
        return self
