"""One small model for each of several sites, run together in one pass.

A step of a small model costs more in calls than in arithmetic. Here the layers that hold
parameters hold a copy for each site and multiply all of them in one batched product; whatever else
the model does goes row by row, and does not see where one site's patients end. So a site's result
depends neither on who else is in the pass nor on how many there are, to the last bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from federation.models.build import FlatModel, Vector

MOST_PARAMETERS = 1 << 18
"""Above it a step's arithmetic outweighs its calls, and nothing is gained."""
LARGEST_BATCH = 256
"""Likewise, and many sites' batches would not fit into memory."""
MOST_AT_ONCE = 32
"""Sites in one pass; with more, what they compute leaves the processor's cache."""
ALIGNMENT = 64
"""Each copy begins at a multiple of so many numbers: what is left over at the end of a vector is
computed otherwise than the rest, and must hold no parameter."""


class StackedLayer(nn.Module):
    """A layer with parameters of its own for each copy.

    Attributes:
        copies: how many.
        seen: input and output of each call of a pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies = 0
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer makes of x, and remember both."""
        out = self.product(x)
        self.seen.append((x, out))
        return out

    def product(self, x: Tensor) -> Tensor:
        """x: (copies * patients, ...), one copy's patients after another's."""
        raise NotImplementedError

    def add(self, x: Tensor, gradient: Tensor, step: float | None = None) -> None:
        """Add what one call gives to the parameters' gradients, (copies, ...) each.

        Args:
            x: the call's input.
            gradient: that of its output.
            step: instead of to the gradients, add this multiple of them to the parameters.
        """
        raise NotImplementedError


class StackedLinear(StackedLayer):
    """``nn.Linear`` with a weight and a bias for each copy."""

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, like: nn.Linear):
        super().__init__()
        self.width = like.out_features

    def product(self, x: Tensor) -> Tensor:
        """x: (copies * patients, ..., features), one copy's patients after another's."""
        rows = x.reshape(self.copies, -1, x.shape[-1])
        if self.width == 1:  # as a matrix product, its bits would depend on the number of copies
            out = (rows * self.weight).sum(-1, keepdim=True) + self.bias.unsqueeze(1)
        else:
            out = torch.baddbmm(self.bias.unsqueeze(1), rows, self.weight.transpose(1, 2))
        return out.view(*x.shape[:-1], self.width)

    def add(self, x: Tensor, gradient: Tensor, step: float | None = None) -> None:
        """See `StackedLayer`."""
        rows = x.reshape(self.copies, -1, x.shape[-1])
        g = gradient.reshape(self.copies, -1, self.width)
        weight, bias, alpha = _target(self.weight, step), _target(self.bias, step), step or 1.0
        if self.width == 1:
            weight.squeeze(1).add_((g * rows).sum(1), alpha=alpha)
        else:
            weight.baddbmm_(g.transpose(1, 2), rows, alpha=alpha)
        bias.add_(g.sum(1), alpha=alpha)


class StackedEmbedding(StackedLayer):
    """``nn.Embedding`` with a table for each copy."""

    weight: nn.Parameter

    def __init__(self, like: nn.Embedding):
        super().__init__()
        self.padding_idx = like.padding_idx

    def product(self, x: Tensor) -> Tensor:
        """x: (copies * patients, ...) indices, one copy's patients after another's."""
        tables = torch.arange(self.copies, device=x.device).unsqueeze(1)
        return self.weight[tables, x.reshape(self.copies, -1)].view(*x.shape, -1)

    def add(self, x: Tensor, gradient: Tensor, step: float | None = None) -> None:
        """See `StackedLayer`."""
        if self.padding_idx is not None:
            gradient = gradient.masked_fill((x == self.padding_idx).unsqueeze(-1), 0)
        width = gradient.shape[-1]
        places = x.reshape(self.copies, -1)
        gradients = gradient.reshape(self.copies, -1, width)
        tables = _target(self.weight, step)
        for table, rows, g in zip(tables, places, gradients, strict=True):
            table.index_add_(0, rows, g, alpha=step or 1.0)


def _target(parameter: nn.Parameter, step: float | None) -> Tensor:
    return cast(Tensor, parameter.grad) if step is None else parameter.detach()


STACKED: dict[type[nn.Module], type[StackedLinear] | type[StackedEmbedding]] = {
    nn.Linear: StackedLinear,
    nn.Embedding: StackedEmbedding,
}


class StackedModel:
    """Copies of a model, whose parameters and gradients are rows of two matrices.

    Attributes:
        copies: how many are in use.
        module: takes the inputs of all copies, (copies * patients, ...), one copy's patients
            after another's, and returns as many logits.
        vector: (copies, at least the parameters); ``vector.grad`` likewise.
    """

    def __init__(self, model: FlatModel):
        self._size = len(model.vector)
        shape = MOST_AT_ONCE, -(-self._size // ALIGNMENT) * ALIGNMENT
        self._values = torch.zeros(shape, device=model.device)
        self._gradients = torch.zeros(shape, device=model.device)
        self._shapes = [(name, p.shape) for name, p in model.module.named_parameters()]
        self.module = _stacked(model.module)
        self._layers = [m for m in self.module.modules() if isinstance(m, StackedLayer)]
        self.copies = 0
        self.use(MOST_AT_ONCE)

    def use(self, copies: int) -> None:
        """Use so many copies, at most `MOST_AT_ONCE`."""
        if copies == self.copies:
            return
        self.copies = copies
        self.vector = nn.Parameter(self._values[:copies], requires_grad=False)
        self.vector.grad = self._gradients[:copies]
        for layer in self._layers:
            layer.copies = copies
        start = 0
        for name, shape in self._shapes:
            stop = start + shape.numel()
            own = nn.Parameter(self._values[:copies, start:stop].view(copies, *shape))
            own.grad = self._gradients[:copies, start:stop].view(copies, *shape)
            path, _, leaf = name.rpartition(".")
            setattr(self.module.get_submodule(path), leaf, own)
            start = stop

    @property
    def device(self) -> torch.device:
        """Where the copies run."""
        return self.vector.device

    def load(self, weights: Sequence[Vector]) -> None:
        """Overwrite the parameters of each copy; one vector for all is cheapest."""
        if all(one is weights[0] for one in weights):
            self._values[: self.copies, : self._size] = torch.from_numpy(weights[0].copy())
            return
        for row, one in zip(self._values, weights, strict=False):
            row[: self._size] = torch.from_numpy(one.copy())

    def weights(self, copies: Sequence[int]) -> list[Vector]:
        """Return the parameters of some copies, (parameters,) float32 each."""
        rows = [self._values[copy, : self._size] for copy in copies]
        return [row.cpu().numpy().copy() for row in rows]

    def differentiate(
        self,
        values: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        loss: Callable[[Tensor], Tensor],
        factors: Tensor,
        step: float | None = None,
    ) -> Tensor:
        """Set each copy's gradient to that of its patients' losses, added up with factors.

        Autograd would add the gradients up too, more slowly: it makes each before it adds it.

        Args:
            values: as the module takes them.
            present: likewise.
            loss: logits -> losses, (copies * patients,) each.
            factors: (copies * patients,).
            step: leave the gradients, and add this multiple of them to the parameters at once.

        Returns:
            The losses, detached.
        """
        assert self.vector.grad is not None
        losses = loss(self.module(values, present))
        calls = [(layer, x, out) for layer in self._layers for x, out in layer.seen]
        for layer in self._layers:
            layer.seen = []
        found = torch.autograd.grad(losses, [c[2] for c in calls], factors, allow_unused=True)
        with torch.no_grad():
            if step is None:
                self.vector.grad.zero_()
            for (layer, x, _), gradient in zip(calls, found, strict=True):
                if gradient is not None:
                    layer.add(x, gradient, step)
        return losses.detach()


def can_stack(model: FlatModel, batch_size: int) -> bool:
    """Whether model and batches are small, and all layers can be stacked or go row by row."""
    modules = list(model.module.modules())
    holders = [m for m in modules if next(m.parameters(recurse=False), None) is not None]
    return (
        len(model.vector) <= MOST_PARAMETERS
        and batch_size <= LARGEST_BATCH
        and all(type(module) in STACKED for module in holders)
        and all(module.bias is not None for module in holders if isinstance(module, nn.Linear))
        and not any(_draws_or_keeps(module) for module in modules)
    )


def _draws_or_keeps(module: nn.Module) -> bool:
    draws = isinstance(module, nn.modules.dropout._DropoutNd | nn.RReLU)
    return draws or next(module.buffers(recurse=False), None) is not None


def _stacked(module: nn.Module) -> nn.Module:
    """Return a copy of a module tree, the layers with parameters exchanged."""
    kind = STACKED.get(type(module))
    if kind is not None:
        return kind(module)  # type: ignore[arg-type]
    own = copy.copy(module)
    own._modules = {  # copy.copy shares the dictionary with the original
        name: None if child is None else _stacked(child) for name, child in module._modules.items()
    }
    return own
