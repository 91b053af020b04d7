"""Every encoder of the registry, small, with a batch of made-up patients."""

import torch
from torch import nn

from federation.modalities import EhrSection, ImageSection, TextSection
from federation.models.inputs import PROBES
from federation.models.registry import ENCODERS, IMAGE
from federation.vocabulary import agreed_vocabulary

PATIENTS = 4
SECTIONS = {
    "ehr": EhrSection,
    "image": ImageSection,
    "volume": ImageSection,
    "text": TextSection,
}
SHARED = {
    "ehr": {"width": 8, "buckets": 6, "codes": ("LAB//CRP", "LAB//BUN")},
    "image": {"width": 8, "size": 32},
    "volume": {"width": 8, "size": 32, "planes": 8},
    "text": {"width": 8, "max_tokens": 6},
}
PRETRAINED = {"name": "bert", "sha256": "0" * 64, "features": 12}
OWN = {
    "hashed": {"buckets": 32},
    "huggingface": {"pretrained": PRETRAINED},
    "vit": {"layers": 2, "heads": 2},
    "transformer": {"max_events": 8, "layers": 2, "heads": 2},
}
"""By encoder: what makes it small."""
EVERY = [(modality, name) for modality, encoders in ENCODERS.items() for name in encoders]
LARGE = ("resnet18", "resnet50")
"""Of volumes they are the layers of resnet10, more of them, and take a minute."""
EVERY += [("volume", n) for n, one in IMAGE.items() if one.volumes and n not in LARGE]


def section_of(modality, name, **options):
    own = {**SHARED[modality], **OWN.get(name, {}), **options}
    return SECTIONS[modality](encoder=name, **own)


def built(section, seed=0):
    """An encoder, and a batch for it."""
    torch.manual_seed(seed)
    places = agreed_vocabulary(section).places if isinstance(section, EhrSection) else 0
    encoder = section.chosen.build(section, places)
    generator = torch.Generator().manual_seed(seed)
    batch = PROBES[section.chosen.reads](section, places, PATIENTS, generator)
    with torch.no_grad():  # norms begin as ones and zeros, where mistakes hide
        for parameter in encoder.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return encoder, batch


class Whole(nn.Module):
    """An encoder and one logit, called as the study's models are."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.width, 1)

    def forward(self, values, present):
        return self.head(self.encoder(values["x"])).squeeze(-1)
