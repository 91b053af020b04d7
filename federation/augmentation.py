"""How training patients may look otherwise than they were recorded: tables of the study.

Only what keeps its medical meaning, and nothing unless asked: a chest film that is mirrored shows
the heart on the wrong side.
"""

from __future__ import annotations

from pydantic import Field

from federation.validation import Section


class ImageAugmentSection(Section):
    """Each number is the most by which a patient's image is changed, either way, in a step.

    ``rotation`` in degrees, of a volume about the axis from feet to head. ``shift`` as a share of
    the side. ``zoom``, ``brightness`` and ``contrast`` as shares. ``noise``: standard deviation, as
    a share of the range of grey. ``left_right`` mirrors half of the patients.
    """

    rotation: float = Field(default=0.0, ge=0, le=30)
    shift: float = Field(default=0.0, ge=0, le=0.25)
    zoom: float = Field(default=0.0, ge=0, le=0.3)
    brightness: float = Field(default=0.0, ge=0, le=0.3)
    contrast: float = Field(default=0.0, ge=0, le=0.5)
    noise: float = Field(default=0.0, ge=0, le=0.2)
    left_right: bool = False

    @property
    def moves(self) -> bool:
        """Whether pixels change their places."""
        return bool(self.rotation or self.shift or self.zoom or self.left_right)

    @property
    def used(self) -> bool:
        """Whether anything changes."""
        return self.moves or bool(self.brightness or self.contrast or self.noise)


class EhrAugmentSection(Section):
    """``dropout``: the chance that a record is taken as never made. ``jitter_hours``: by how much
    its time moves at most, either way.

    A record is an event where the encoder reads events, and all of one code where it reads
    aggregates.
    """

    dropout: float = Field(default=0.0, ge=0, le=0.5)
    jitter_hours: float = Field(default=0.0, ge=0, le=24)

    @property
    def used(self) -> bool:
        """Whether anything changes."""
        return bool(self.dropout or self.jitter_hours)
