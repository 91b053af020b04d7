"""One score a modality, added up over those that a patient has."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from federation.models.encoded import Encoded, Present, Widths, one_or_several, whole


class LateFusion(nn.Module):
    """A linear head a modality, with a bias, each gated by what else the patient has.

    A modality that is absent adds nothing. One that is present is worth more where another, which
    tells much the same, is absent: its score is multiplied by a learned number for each set of
    others that a patient may lack, which begins at 1 and stays 1 where none is lacking.
    """

    def __init__(self, widths: Widths, outputs: int):
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(w, outputs) for name, w in widths.items()})
        sets = 2 ** (len(widths) - 1) - 1
        self.gates = nn.ModuleDict(
            {name: _gate(sets, outputs) for name in widths if sets}  # alone: nothing to lack
        )

    def forward(self, encoded: Encoded, present: Present) -> Tensor:
        """Return logits; a patient with nothing gets 0."""
        logits = []
        for name, head in self.heads.items():
            score = head(whole(encoded[name]))
            if name in self.gates:
                others = [present[other] for other in self.heads if other != name]
                score = score * (1 + _change(self.gates[name], others))
            logits.append(torch.where(present[name].unsqueeze(-1), score, 0.0))
        return one_or_several(functools.reduce(torch.add, logits))


def _gate(sets: int, outputs: int) -> nn.Embedding:
    gate = nn.Embedding(sets, outputs)
    nn.init.zeros_(gate.weight)
    return gate


def _change(gate: nn.Module, others: list[Tensor]) -> Tensor:
    """Return what the gate has for the set of others that each patient lacks; 0 for none."""
    lacking = functools.reduce(
        torch.add, [(~there).long() << place for place, there in enumerate(others)]
    ).unsqueeze(-1)
    change: Tensor = gate((lacking - 1).clamp(min=0)).squeeze(1)
    return torch.where(lacking > 0, change, 0.0)


def build(widths: Widths, outputs: int) -> LateFusion:
    """See `federation.models.registry.Fusion`."""
    return LateFusion(widths, outputs)
