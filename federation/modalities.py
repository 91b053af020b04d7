"""The modalities of a study: what is read of each, and by which encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, TypeVar

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from federation.augmentation import EhrAugmentSection, ImageAugmentSection
from federation.models.registry import EHR, IMAGE, TEXT, Encoder, foreign_options
from federation.validation import Section

Modality = Literal["ehr", "image", "text"]
MODALITIES: tuple[Modality, ...] = ("ehr", "image", "text")

if TYPE_CHECKING:
    EhrEncoder: TypeAlias = str
    ImageEncoder: TypeAlias = str
    TextEncoder: TypeAlias = str
else:
    EhrEncoder, ImageEncoder, TextEncoder = (Literal[tuple(e)] for e in (EHR, IMAGE, TEXT))

ModalitySectionT = TypeVar("ModalitySectionT", bound="ModalitySection")


class ModalitySection(Section):
    """What all modalities have: an encoder, and options that only some encoders take."""

    encoders: ClassVar[Mapping[str, Encoder]]

    encoder: str
    width: PositiveInt = Field(default=64, le=4096)

    @property
    def chosen(self) -> Encoder:
        """The encoder that is named."""
        return self.encoders[self.encoder]

    def with_encoder(self: ModalitySectionT, name: str) -> ModalitySectionT:
        """Return the same table with another encoder, without the options that it does not take."""
        other = foreign_options(self.encoders, name)
        own = {key: value for key, value in self if key not in other}
        return type(self)(**{**own, "encoder": name})

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> ModalitySection:
        heads = getattr(self, "heads", 1) if "heads" in self.chosen.options else 1
        if self.width % heads:
            raise ValueError(f"width is {self.width}; it must be a multiple of heads, {heads}")
        return self

    @model_validator(mode="after")
    def _options_are_taken(self) -> ModalitySection:
        for key in sorted(foreign_options(self.encoders, self.encoder)):
            if getattr(self, key) != type(self).model_fields[key].default:
                takers = [f'"{n}"' for n, one in self.encoders.items() if key in one.options]
                raise ValueError(
                    f"{key} is an option of encoder {' and '.join(takers)}, not of "
                    f'"{self.encoder}": leave it away'
                )
        return self


Aggregate = Literal["last", "mean", "count", "slope", "since", "present"]


class EhrSection(ModalitySection):
    """Events before the prediction time, as aggregates over a window or as they came.

    ``vocabulary``: ``hashed`` gives each code of ``reference_ranges`` and ``codes`` a place of
    its own and hashes the pieces of every other code into ``buckets``; ``listed`` uses the
    named codes alone; ``prepared`` asks the sites for suppressed counts and moments first.
    """

    encoders: ClassVar[Mapping[str, Encoder]] = EHR

    encoder: EhrEncoder = "mlp"
    vocabulary: Literal["hashed", "listed", "prepared"] = "hashed"
    buckets: PositiveInt = Field(default=256, le=1_048_576)
    vocabulary_size: PositiveInt = Field(default=512, le=131_072)
    reference_ranges: dict[str, tuple[float, float]] = Field(default_factory=dict)
    codes: tuple[str, ...] = ()
    aggregates: tuple[Aggregate, ...] = Field(
        default=("last", "mean", "count", "slope", "since", "present"), min_length=1
    )
    max_events: int = Field(default=256, ge=8, le=4096)
    layers: int = Field(default=2, ge=1, le=24)
    heads: int = Field(default=4, ge=1, le=32)
    window_hours: PositiveFloat | None = None
    age: bool = True
    augment: EhrAugmentSection = EhrAugmentSection()

    @property
    def prepared(self) -> tuple[object, ...]:
        """What a site's tensor follows from, beside the vocabulary and its patients."""
        reads = self.chosen.reads
        own = self.aggregates if reads == "aggregates" else self.max_events
        return reads, own, self.window_hours

    @field_validator("reference_ranges")
    @classmethod
    def _ordered(cls, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for code, (low, high) in ranges.items():
            if not low < high:
                raise ValueError(f"{code}: low must be below high, found [{low:g}, {high:g}]")
        # In one order, as in the fingerprint: it decides the places of the codes.
        return dict(sorted(ranges.items()))

    @model_validator(mode="after")
    def _something_listed(self) -> EhrSection:
        if self.vocabulary == "listed" and not self.reference_ranges and not self.codes:
            raise ValueError('vocabulary "listed" needs codes or reference_ranges')
        return self


class WeightsSection(Section):
    """A file of weights that the coordinator has, and what it must hold."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class ImageSection(ModalitySection):
    """The latest image before the prediction time, in [0, 1].

    A picture, ``size`` x ``size``; with ``planes`` a volume of so many of them, ``spacing_mm``
    between them and within one, or the whole volume fitted in.
    """

    encoders: ClassVar[Mapping[str, Encoder]] = IMAGE

    encoder: ImageEncoder = "small_cnn"
    size: int = Field(default=64, ge=32, le=1024)
    channels: Literal[1, 3] = 1
    planes: int | None = Field(default=None, ge=8, le=256)
    spacing_mm: tuple[PositiveFloat, PositiveFloat] | None = None
    augment: ImageAugmentSection = ImageAugmentSection()
    weights: WeightsSection | None = None
    freeze: tuple[str, ...] = ()
    patch: int = Field(default=8, ge=4, le=64)
    layers: int = Field(default=4, ge=1, le=24)
    heads: int = Field(default=4, ge=1, le=32)

    @model_validator(mode="after")
    def _volumes_have_an_encoder(self) -> ImageSection:
        if self.planes is not None and not self.chosen.volumes:
            raise ValueError(
                f'encoder "{self.encoder}" takes pictures, not volumes: leave planes away'
            )
        if self.spacing_mm is not None and self.planes is None:
            raise ValueError("spacing_mm is of a volume: give planes, or leave it away")
        return self

    @model_validator(mode="after")
    def _what_is_frozen_has_learned(self) -> ImageSection:
        if self.freeze and self.weights is None:
            raise ValueError("freeze keeps what weights bring: give [modalities.image.weights]")
        return self

    @property
    def dimensions(self) -> int:
        """2 of pictures, 3 of volumes."""
        return 2 if self.planes is None else 3

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a patient's image: (channels, size, size) or (channels, planes, size, size)."""
        depth = () if self.planes is None else (self.planes,)
        return (self.channels, *depth, self.size, self.size)


NEGATIONS: tuple[str, ...] = (
    *("no", "not", "without", "denies", "denied", "denying", "absent", "negative"),
    *("never", "neither", "nor", "none", "cannot"),
)
"""Words of English that say that something is not so."""


class PretrainedSection(WeightsSection):
    """A folder with an encoder that each site has, and how many features it gives."""

    features: PositiveInt = Field(default=768, le=16_384)


class TextSection(ModalitySection):
    """The notes before the prediction time, newest first, as hashed words or as features."""

    encoders: ClassVar[Mapping[str, Encoder]] = TEXT

    encoder: TextEncoder = "hashed"
    buckets: PositiveInt = Field(default=2048, le=1_048_576)
    max_tokens: PositiveInt = Field(default=64, le=4096)
    negations: tuple[str, ...] = NEGATIONS
    pretrained: PretrainedSection | None = None

    @model_validator(mode="after")
    def _features_are_of_something(self) -> TextSection:
        if self.chosen.reads == "features" and self.pretrained is None:
            raise ValueError(
                f'encoder "{self.encoder}" needs to know which: give [modalities.text.pretrained]'
            )
        return self

    @property
    def prepared(self) -> tuple[object, ...]:
        """What a site's tensor follows from, beside its patients."""
        if self.pretrained is not None:
            # The folder's name and place do not matter, what is in it does.
            return self.chosen.reads, self.pretrained.sha256, self.max_tokens
        return self.chosen.reads, self.buckets, self.max_tokens, self.negations


class ModalitiesSection(Section):
    """Which modalities the model sees; at least one."""

    ehr: EhrSection | None = None
    image: ImageSection | None = None
    text: TextSection | None = None

    @model_validator(mode="after")
    def _at_least_one(self) -> ModalitiesSection:
        if not self.names:
            raise ValueError("give at least one of [modalities.ehr], .image, .text")
        return self

    @property
    def augmented(self) -> bool:
        """Whether training patients are seen otherwise than they were recorded."""
        return any(one is not None and one.augment.used for one in (self.ehr, self.image))

    @property
    def names(self) -> tuple[Modality, ...]:
        """The modalities in use, in their fixed order."""
        return tuple(name for name in MODALITIES if getattr(self, name) is not None)

    @property
    def used(self) -> tuple[tuple[str, ModalitySection], ...]:
        """The modalities in use with their tables, in their fixed order."""
        tables = ((name, getattr(self, name)) for name in MODALITIES)
        return tuple((name, table) for name, table in tables if table is not None)
