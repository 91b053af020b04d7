"""Clipped gradients from one backward pass, by keeping what it goes through anyway.

A layer's gradient for one patient is a function of that patient's input to it and of its output's
gradient. Keeping both, the norms come first (from the patients' gradients where these are small,
from Gram matrices where they are not), and then the clipped sum, as one weighted product a layer.
The backward pass is not asked for any parameter's gradient, so nothing unclipped is ever added up.

Source: Bu et al., "Differentially Private Optimization on Large Foundation Models", ICML 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from federation.privacy.clipping import (
    Flat,
    PerPatientLoss,
    all_finite,
    clip_factors,
    norms_over,
)
from federation.privacy.kept_layer import Batch, Layer
from federation.privacy.layer_rules import ReplayedLayer, rule_for
from federation.privacy.layers import units


class BookKeeping:
    """See `federation.privacy.clipping.Attempt`."""

    def __init__(
        self,
        model: Flat,
        loss: PerPatientLoss,
        max_grad_norm: float,
        rule: Callable[[nn.Module], type[Layer]] = rule_for,
    ):
        self.model, self.loss, self.max_grad_norm = model, loss, max_grad_norm
        self.gradient, self.batch = model.vector.grad, Batch()
        self.layers = [
            rule(unit)(unit, name, self.batch) for name, unit in units(model.module).items()
        ]
        self.patches = [(layer.module.__dict__, layer.forward) for layer in self.layers]

    def __call__(
        self, values: Mapping[str, Tensor], present: Mapping[str, Tensor], labels: Tensor
    ) -> Tensor | None:
        """Add the batch's clipped gradients, or find out whose are not finite."""
        if self.model.vector.grad is not self.gradient:
            raise RuntimeError("the flat gradient was replaced; set it to zero in place instead")
        batch = self.batch
        batch.patients = labels.shape[0]
        try:
            logits = self._forward(values, present)
            losses = self.loss(logits, labels)
            if not (batch.waiting and losses.requires_grad):  # no layer has acted on the batch
                return None
            edges = [edge for _, edge in batch.waiting]
            gradients = torch.autograd.grad(
                losses, edges, torch.ones_like(losses), allow_unused=True
            )
            with torch.no_grad():
                for (measure, _), gradient in zip(batch.waiting, gradients, strict=True):
                    if gradient is not None:
                        measure(gradient)
                return self._add()
        finally:
            batch.waiting = []
            for layer in self.layers:
                layer.forget()

    def _forward(self, values: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Run the model; the module is patched for just as long."""
        try:
            for attributes, forward in self.patches:
                attributes["forward"] = forward
            logits: Tensor = self.model.module(values, present)
            return logits
        finally:
            for attributes, _ in self.patches:
                attributes.pop("forward", None)

    def _add(self) -> Tensor | None:
        found = [squares for layer in self.layers for squares in layer.squares()]
        norms = norms_over(found, self.batch.patients)
        if not all_finite(norms):
            return norms.isfinite()
        factors = clip_factors(norms, self.max_grad_norm)
        for layer in self.layers:
            layer.add(factors)
        return None


def can_replay(root: nn.Module) -> bool:
    """Whether every unit has a rule of its own, or can be run again for each patient."""
    replayed = [unit for unit in units(root).values() if rule_for(unit) is ReplayedLayer]
    return not any(_draws_or_recurs(module) for unit in replayed for module in unit.modules())


def _draws_or_recurs(module: nn.Module) -> bool:
    kinds = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.RNNBase)
    return isinstance(module, kinds) or bool(getattr(module, "dropout", 0))
