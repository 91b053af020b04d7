"""Which encoders and fusions there are: one line and one file each.

Nothing here imports torch, so that a study can be read, and the table printed, in no time. A file
is imported when a model with it is built, and the packages that it needs with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from torch import nn

Reads = Literal["aggregates", "events", "images", "notes", "features"]
"""What an encoder takes of a modality: each is prepared at the site in a way of its own."""


@dataclass(frozen=True)
class Encoder:
    """One encoder of one modality.

    Attributes:
        file: its module in ``federation.models.encoders``. There, ``build(section, places)``
            returns the encoder of a study's table; ``places`` is how many the EHR vocabulary has,
            0 for other modalities. The encoder maps (patients, ...) to (patients, ``width``); one
            with a method ``tokens`` can give `federation.models.encoded.Tokens` instead.
        reads: what it takes.
        summary: one line.
        source: the paper; empty for what has none.
        options: keys of the study's table that not every encoder of the modality takes.
        volumes: whether it takes volumes too, where it reads images.
    """

    file: str
    reads: Reads
    summary: str
    source: str = ""
    options: frozenset[str] = frozenset()
    volumes: bool = False

    def build(self, section: Any, places: int = 0) -> nn.Module:
        """Build the encoder, with weights from torch's random numbers.

        Args:
            section: the study's table of the modality.
            places: of the EHR vocabulary.
        """
        module = import_module(f"federation.models.encoders.{self.file}")
        return cast("Callable[[Any, int], nn.Module]", module.build)(section, places)


@dataclass(frozen=True)
class Fusion:
    """One way from what the encoders found to a prediction.

    Attributes:
        file: its module in ``federation.models.fusions``. There, ``build(widths, outputs)`` returns
            the fusion of encoders that give so many numbers, by modality.
        summary: one line.
        several: whether it takes several tokens of a modality.
    """

    file: str
    summary: str
    several: bool = False

    def build(self, widths: Mapping[str, int], outputs: int) -> nn.Module:
        """Build the fusion, with weights from torch's random numbers."""
        module = import_module(f"federation.models.fusions.{self.file}")
        return cast("Callable[[Mapping[str, int], int], nn.Module]", module.build)(widths, outputs)


_AGGREGATES = frozenset({"aggregates"})

EHR: Mapping[str, Encoder] = {
    "linear": Encoder("linear", "aggregates", "the aggregates as they are", "", _AGGREGATES),
    "mlp": Encoder("mlp", "aggregates", "two linear layers", "", _AGGREGATES),
    "transformer": Encoder(
        "transformer",
        "events",
        "a transformer over the events as they came: time, code and value of each",
        "Tipirneni and Reddy, TKDD 2022",
        frozenset({"max_events", "layers", "heads"}),
    ),
}
_RESNET = "He et al., CVPR 2016"
_WEIGHTS = frozenset({"weights", "freeze"})
IMAGE: Mapping[str, Encoder] = {
    "small_cnn": Encoder(
        "small_cnn", "images", "four convolutions and a layer over a 4 x 4 map", volumes=True
    ),
    "resnet10": Encoder(
        "networks", "images", "a residual network of 10 layers", _RESNET, _WEIGHTS, True
    ),
    "resnet18": Encoder(
        "networks", "images", "a residual network of 18 layers", _RESNET, _WEIGHTS, True
    ),
    "resnet50": Encoder(
        "networks", "images", "a residual network of 50 layers", _RESNET, _WEIGHTS, True
    ),
    "densenet121": Encoder(
        "networks",
        "images",
        "a densely connected network",
        "Huang et al., CVPR 2017",
        _WEIGHTS,
        volumes=True,
    ),
    "efficientnet_b0": Encoder(
        "networks", "images", "depthwise convolutions", "Tan and Le, ICML 2019", _WEIGHTS
    ),
    "vit": Encoder(
        "vit",
        "images",
        "a vision transformer",
        "Dosovitskiy et al., ICLR 2021",
        _WEIGHTS | {"patch", "layers", "heads"},
        volumes=True,
    ),
}
TEXT: Mapping[str, Encoder] = {
    "hashed": Encoder(
        "hashed",
        "notes",
        "vectors of hashed words, and attention that weighs them",
        "",
        frozenset({"buckets", "negations"}),
    ),
    "huggingface": Encoder(
        "huggingface",
        "features",
        "an adapter over a frozen BERT-like encoder of a folder at the site",
        "Houlsby et al., ICML 2019",
        frozenset({"pretrained"}),
    ),
}
ENCODERS: Mapping[str, Mapping[str, Encoder]] = {"ehr": EHR, "image": IMAGE, "text": TEXT}
FUSIONS: Mapping[str, Fusion] = {
    "early": Fusion("early", "all side by side, then two layers"),
    "late": Fusion("late", "one score a modality, gated by what else is there, added up"),
    "cross_attention": Fusion(
        "cross_attention", "a learned query weighs what each has found", True
    ),
}


def foreign_options(encoders: Mapping[str, Encoder], name: str) -> frozenset[str]:
    """Return the keys that other encoders of the modality take and this one does not.

    >>> sorted(foreign_options(EHR, "mlp"))
    ['heads', 'layers', 'max_events']
    """
    every = frozenset().union(*(encoder.options for encoder in encoders.values()))
    return every - encoders[name].options
