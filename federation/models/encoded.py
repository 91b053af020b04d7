"""What goes from the encoders to a fusion, and from a fusion on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

Widths = Mapping[str, int]
"""How many numbers each encoder gives, by modality."""
Present = Mapping[str, Tensor]
"""(patients,) bool by modality."""


class Tokens(NamedTuple):
    """What an encoder found at several places, events or words of a patient.

    Attributes:
        values: (patients, tokens, width).
        there: (patients, tokens) bool; what is not there has no influence.
    """

    values: Tensor
    there: Tensor


Encoded = Mapping[str, Tensor | Tokens]
"""By modality: (patients, width), or `Tokens` where the fusion takes and the encoder has some."""


def one_or_several(outputs: Tensor) -> Tensor:
    """Logits of (patients, outputs); (patients,) if there is one output."""
    return outputs.squeeze(-1) if outputs.shape[-1] == 1 else outputs


def whole(encoded: Tensor | Tokens) -> Tensor:
    """Return an encoding of which it is known that it is one vector a patient."""
    assert isinstance(encoded, Tensor)
    return encoded


class Imputer(nn.Module):
    """Guesses the encoding of what a patient lacks from those of what the patient has.

    The guess is linear, and learned with everything else from the outcome. A patient with nothing
    stays one with nothing.
    """

    def __init__(self, widths: Widths):
        super().__init__()
        total = sum(widths.values()) + len(widths)
        self.guess = nn.ModuleDict(
            {name: nn.Linear(total - width - 1, width) for name, width in widths.items()}
        )

    def forward(
        self, encoded: Mapping[str, Tensor], present: Present
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return encodings in which none is missing, and presence to match."""
        known = {n: torch.where(present[n].unsqueeze(-1), encoded[n], 0.0) for n in self.guess}
        flags = {n: present[n].float().unsqueeze(-1) for n in self.guess}
        something = torch.stack([present[n] for n in self.guess]).any(0)
        filled = {}
        for name, guess in self.guess.items():
            others = [x for n in self.guess if n != name for x in (known[n], flags[n])]
            guessed: Tensor = guess(torch.cat(others, -1))
            filled[name] = torch.where(present[name].unsqueeze(-1), known[name], guessed)
        return filled, dict.fromkeys(self.guess, something)
