"""What book-keeping keeps of each kind of layer, and how it makes clipped gradients of it."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from federation.privacy.convolutions import Conv, weight_gradient, weight_samples, zeros_around
from federation.privacy.kept_layer import Batch, Layer, SampledLayer
from federation.privacy.norms import gram_squares, row_squares, with_room

NUMBERS_AT_ONCE = 1 << 18
"""In the gradients of a few patients, made for their norms alone: they stay in the cache."""


def rule_for(module: nn.Module) -> type[Layer]:
    """Return how a module is treated; `ReplayedLayer` if no rule is known for it."""
    rule = RULES.get(type(module))  # not for subclasses, which may compute anything
    plain = {name for name, _ in module.named_parameters(recurse=False)} <= {"weight", "bias"}
    return rule if rule is not None and plain and rule.takes(module) else ReplayedLayer


class LinearLayer(SampledLayer):
    """A patient's gradient is the sum over tokens of gradient times input, an outer product.

    With few tokens the two together are smaller than that product. They are kept instead, and the
    norm is that of the outer product for one token, and comes from Gram matrices for several.
    """

    least_dimensions = 2

    def __init__(self, module: nn.Linear, name: str, batch: Batch):
        super().__init__(module, name, batch)
        self.full, self.offset = module.weight, module.bias
        self.weight, self.bias = _trained(module.weight), _trained(module.bias)
        if self.weight is not None:
            self.matrix = self.totals[0]
        self.pair: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, ..., features)."""
        out = F.linear(x, self.full, self.offset)
        self.keep(x, out, x, at_once=x.dim() != 2 and not self._prefers_pair(x))
        return out

    def _prefers_pair(self, x: Tensor) -> bool:
        above, below = self.full.shape[-2:]
        return x.numel() // x.shape[0] * (above + below) < above * below * below

    def measure(self, kept: Tensor, gradient: Tensor) -> None:
        """See `Layer`."""
        if self.calls == 1 and (kept.dim() == 2 or self._prefers_pair(kept)):
            self.pair = kept, gradient
        else:
            super().measure(kept, gradient)

    def samples(self, kept: Tensor, gradient: Tensor) -> list[Tensor]:
        """See `SampledLayer`."""
        x, g = _tokens(kept), _tokens(gradient)
        found = [torch.bmm(g.transpose(1, 2), x)] if self.weight is not None else []
        return [*found, g.sum(1)] if self.bias is not None else found

    def squares(self) -> list[Tensor]:
        """See `Layer`."""
        if self.pair is None:
            return super().squares()
        x, g = self.pair
        if x.dim() == 2:
            if self.weight is None:
                return [row_squares(g)]
            if self.bias is None:
                return [row_squares(g).mul_(row_squares(x))]
            # Few operations: of small layers, their number is the cost. What the square of the
            # input loses is nothing beside the bias's input, 1.
            above = row_squares(g)
            return [torch.addcmul(above, above, torch.linalg.vecdot(x, x))]
        x, g = self.pair = _tokens(x), _tokens(g)
        found = [gram_squares(x, g)] if self.weight is not None else []
        if self.bias is not None:
            found.append(row_squares(g.sum(1)))
        return found

    def add(self, factors: Tensor) -> None:
        """See `Layer`."""
        if self.pair is None:
            return super().add(factors)
        x, g = self.pair
        if self.bias is not None:
            self.totals[-1].addmv_((g if g.dim() == 2 else g.sum(1)).t(), factors)
        if self.weight is not None:
            if g.dim() == 2:
                g = g * factors.unsqueeze(1)
            else:
                x, g = x.flatten(0, 1), (g * factors.view(-1, 1, 1)).flatten(0, 1)
            self.matrix.addmm_(g.t(), x)
        return None

    def forget(self) -> None:
        """See `Layer`."""
        super().forget()
        self.pair = None


class EmbeddingLayer(Layer):
    """A patient's gradient has one row for each index that the patient has, however often."""

    def __init__(self, module: nn.Embedding, name: str, batch: Batch):
        super().__init__(module, name, batch)
        self.weight, self.padding = module.weight, module.padding_idx
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self.rows: tuple[Tensor, Tensor, Tensor] | None = None

    @classmethod
    def takes(cls, module: nn.Embedding) -> bool:
        """See `Layer`."""
        return not (module.sparse or module.scale_grad_by_freq or module.max_norm is not None)

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, ...) indices."""
        out = F.embedding(x, self.weight, self.padding)
        self.keep(x, out, x, at_once=False)
        return out

    def measure(self, kept: Tensor, gradient: Tensor) -> None:
        """See `Layer`."""
        self.pairs.append(
            (
                kept.reshape(self.batch.patients, -1),
                gradient.reshape(self.batch.patients, -1, gradient.shape[-1]),
            )
        )

    def squares(self) -> list[Tensor]:
        """See `Layer`."""
        if not self.pairs:
            return []
        indices, gradient = self.pairs[0]
        if len(self.pairs) > 1:
            indices = torch.cat([pair[0] for pair in self.pairs], 1)
            gradient = torch.cat([pair[1] for pair in self.pairs], 1)
        if indices.shape[1] == 1 and self.padding is None:
            owners = torch.arange(self.batch.patients, device=indices.device)
            self.rows = owners, indices.squeeze(1), gradient.squeeze(1)
            return [row_squares(gradient)]
        self.rows = owners, _, rows = self._sum_rows(indices, gradient)
        squares = row_squares(rows).double()  # of many rows, which are added one after another
        total = squares.new_zeros(self.batch.patients).index_add_(0, owners, squares)
        return [total.to(rows.dtype)]

    def _sum_rows(self, indices: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return patients and indices, (rows,), each pair once, and gradients, (rows, width)."""
        places = self.weight.shape[-2]
        keys = (
            torch.arange(self.batch.patients, device=indices.device).unsqueeze(1) * places + indices
        )
        keys, gradient = keys.flatten(), gradient.flatten(0, 1)
        if self.padding is not None:
            real = (indices.flatten() != self.padding).nonzero().squeeze(1)
            keys, gradient = keys[real], gradient.index_select(0, real)
        keys, inverse = torch.unique(keys, return_inverse=True)
        rows = gradient.new_zeros(len(keys), gradient.shape[1]).index_add_(0, inverse, gradient)
        return keys // places, keys % places, rows

    def add(self, factors: Tensor) -> None:
        """See `Layer`."""
        if self.rows is None:
            return
        owners, indices, rows = self.rows
        (total,) = self.totals
        if self.weight.shape[0] == 1:
            total.view(-1).addmv_(rows.t(), factors[owners])
        else:
            total.index_add_(0, indices, rows * factors[owners].unsqueeze(1))

    def forget(self) -> None:
        """See `Layer`."""
        self.pairs, self.rows, self.calls = [], None, 0


class ConvLayer(SampledLayer):
    """Convolutions of one, two or three dimensions, padded with zeros.

    Where input and gradient together are smaller than the patients' gradients, the two are kept,
    and those made for the norm alone, of a few patients at once.
    """

    def __init__(self, module: Conv, name: str, batch: Batch):
        super().__init__(module, name, batch)
        self.least_dimensions = 2 + len(module.kernel_size)
        self.conv, self.padding, self.full = module, zeros_around(module) or (), module.weight
        self.weight, self.bias = _trained(module.weight), _trained(module.bias)
        self.pair: tuple[Tensor, Tensor] | None = None
        self.pair_squares: list[Tensor] = []

    @classmethod
    def takes(cls, module: Conv) -> bool:
        """See `Layer`."""
        return module.padding_mode == "zeros" and zeros_around(module) is not None

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, channels, *size)."""
        out = cast(Tensor, self.original(x))
        self.keep(x, out, x, at_once=True)
        return out

    def measure(self, kept: Tensor, gradient: Tensor) -> None:
        """See `Layer`."""
        each = self.full.numel()
        smaller = kept.numel() + gradient.numel() < self.batch.patients * each
        if self.calls > 1 or self.weight is None or not smaller:
            super().measure(kept, gradient)
            return
        self.pair = kept, gradient
        step = max(1, NUMBERS_AT_ONCE // each)
        squares = [
            row_squares(weight_samples(self.conv, self.padding, x, g))
            for x, g in zip(torch.split(kept, step), torch.split(gradient, step), strict=True)
        ]
        # A number of the input is in at most as many windows as a window has places.
        windows = math.prod(self.conv.kernel_size)
        places = math.prod(gradient.shape[2:])
        self.pair_squares = [
            with_room(torch.cat(squares), kept, gradient, places, windows),
            *([row_squares(_over_places(gradient))] if self.bias is not None else []),
        ]

    def samples(self, kept: Tensor, gradient: Tensor) -> list[Tensor]:
        """See `SampledLayer`."""
        found = []
        if self.weight is not None:
            found.append(weight_samples(self.conv, self.padding, kept, gradient))
        return [*found, _over_places(gradient)] if self.bias is not None else found

    def squares(self) -> list[Tensor]:
        """See `Layer`."""
        return super().squares() if self.pair is None else self.pair_squares

    def add(self, factors: Tensor) -> None:
        """See `Layer`."""
        if self.pair is None:
            return super().add(factors)
        x, g = self.pair
        weighted = g * factors.view(-1, *[1] * (g.dim() - 1))
        self.totals[0].add_(weight_gradient(self.conv, self.padding, x, weighted))
        if self.bias is not None:
            self.totals[-1].addmv_(_over_places(g).t(), factors)
        return None

    def forget(self) -> None:
        """See `Layer`."""
        super().forget()
        self.pair, self.pair_squares = None, []


class GroupNormLayer(SampledLayer):
    """Scale and shift of each channel."""

    def __init__(self, module: nn.GroupNorm, name: str, batch: Batch):
        super().__init__(module, name, batch)
        self.norm, self.weight, self.bias = module, _trained(module.weight), _trained(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, channels, ...)."""
        norm = self.norm
        out, mean, scale = torch.native_group_norm(
            x,
            norm.weight,
            norm.bias,
            len(x),
            norm.num_channels,
            math.prod(x.shape[2:]),
            norm.num_groups,
            norm.eps,
        )
        # Detached: with a way back to the node that holds the hook, only gc would free them.
        self.keep(x, out, (x, mean.detach(), scale.detach()), at_once=True)
        return out

    def samples(self, kept: tuple[Tensor, Tensor, Tensor], gradient: Tensor) -> list[Tensor]:
        """See `SampledLayer`."""
        x, mean, scale = kept
        groups = (self.batch.patients, self.norm.num_groups, -1)
        shifts = _over_places(gradient)
        found = []
        if self.weight is not None:
            products = _over_places(gradient * x).view(groups)
            centred = products - mean.unsqueeze(-1) * shifts.view(groups)
            found.append(centred * scale.unsqueeze(-1))
        return [*found, shifts] if self.bias is not None else found


class LayerNormLayer(SampledLayer):
    """Scale and shift of each feature."""

    def __init__(self, module: nn.LayerNorm, name: str, batch: Batch):
        super().__init__(module, name, batch)
        self.least_dimensions = 1 + len(module.normalized_shape)
        self.norm, self.weight, self.bias = module, _trained(module.weight), _trained(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, ..., *normalized shape)."""
        norm = self.norm
        out, mean, scale = torch.native_layer_norm(
            x, norm.normalized_shape, norm.weight, norm.bias, norm.eps
        )
        self.keep(x, out, (x, mean.detach(), scale.detach()), at_once=True)
        return out

    def samples(self, kept: tuple[Tensor, Tensor, Tensor], gradient: Tensor) -> list[Tensor]:
        """See `SampledLayer`."""
        x, mean, scale = kept
        features = math.prod(self.norm.normalized_shape)
        found = []
        if self.weight is not None:
            products = ((x - mean).mul_(scale)).mul_(gradient)
            found.append(products.reshape(self.batch.patients, -1, features).sum(1))
        if self.bias is not None:
            found.append(gradient.reshape(self.batch.patients, -1, features).sum(1))
        return found


class ReplayedLayer(SampledLayer):
    """Any other module, with all that is below it: run again for each patient, under ``vmap``."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Tensors anywhere in the arguments: (patients, ...); results likewise."""
        results = self.original(*args, **kwargs)
        inputs = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        for x in inputs:
            if x.dim() < 1 or x.shape[0] != self.batch.patients:
                raise self.not_by_patient(x)
        for place, out in enumerate(pytree.tree_leaves(results)):
            if isinstance(out, Tensor) and out.requires_grad:
                self.keep(inputs[0], out, (args, kwargs, place), at_once=False)
        return results

    def samples(self, kept: tuple[Any, Any, int], gradient: Tensor) -> list[Tensor]:
        """See `SampledLayer`."""
        leaves, structure = pytree.tree_flatten(kept[:2])
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        trained = {n: p.detach() for n, p in self.module.named_parameters() if p.requires_grad}

        def of_one(inputs: list[Tensor], cotangent: Tensor) -> dict[str, Tensor]:
            filled = list(leaves)
            for place, one in zip(places, inputs, strict=True):
                filled[place] = one.unsqueeze(0)
            args, kwargs = pytree.tree_unflatten(filled, structure)

            def run(parameters: dict[str, Tensor]) -> Tensor:
                results = torch.func.functional_call(self.module, parameters, args, kwargs)
                return cast(Tensor, pytree.tree_leaves(results)[kept[2]])

            pull = torch.func.vjp(run, trained)[1]
            return cast(dict[str, Tensor], pull(cotangent.unsqueeze(0))[0])

        inputs = [leaves[place].detach() for place in places]
        return list(torch.func.vmap(of_one)(inputs, gradient).values())


RULES: dict[type[nn.Module], type[Layer]] = {
    nn.Linear: LinearLayer,
    nn.Embedding: EmbeddingLayer,
    nn.Conv1d: ConvLayer,
    nn.Conv2d: ConvLayer,
    nn.Conv3d: ConvLayer,
    nn.GroupNorm: GroupNormLayer,
    nn.LayerNorm: LayerNormLayer,
}


def _trained(parameter: Tensor | None) -> Tensor | None:
    return parameter if parameter is not None and parameter.requires_grad else None


def _tokens(values: Tensor) -> Tensor:
    """(patients, ..., features) -> (patients, tokens, features)."""
    return values.reshape(len(values), -1, values.shape[-1])


def _over_places(values: Tensor) -> Tensor:
    """(patients, channels, ...) -> (patients, channels)."""
    # Not flattened: that would copy an image whose channels lie last.
    return values.sum(tuple(range(2, values.dim()))) if values.dim() > 2 else values
