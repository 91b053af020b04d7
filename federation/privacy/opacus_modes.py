"""Opacus's ways to per-sample gradients, for comparison: hooks, functorch and ew.

Not its ghost clipping, whose second backward pass rounds anew what the first one measured: weights
can be sent with which the two have little in common.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from federation.privacy.clipping import (
    Flat,
    PerPatientLoss,
    all_finite,
    clip_factors,
    norms_over,
    trainable,
)
from federation.privacy.norms import row_squares


class OpacusHooks:
    """Opacus's per-sample gradients: rules by layer, or ``torch.func`` for every layer."""

    def __init__(
        self, model: Flat, loss: PerPatientLoss, max_grad_norm: float, functorch: bool = False
    ):
        from opacus.grad_sample import GradSampleHooks

        self.model, self.loss, self.max_grad_norm = model, loss, max_grad_norm
        self.parameters = trainable(model.module)
        self.hooks = StowedHooks(
            GradSampleHooks(
                model.module, loss_reduction="sum", strict=False, force_functorch=functorch
            )
        )

    def __call__(
        self, values: Mapping[str, Tensor], present: Mapping[str, Tensor], labels: Tensor
    ) -> Tensor | None:
        """See `Attempt`."""
        with _shielded(self.parameters), self.hooks.attached():
            losses = self.loss(self.model.module(values, present), labels)
            losses.sum().backward()  # type: ignore[no-untyped-call]
            samples = _taken_samples(self.parameters)
        return _add_clipped(samples, self.max_grad_norm, len(labels))


class ExpandedWeights:
    """Opacus's ``ew``: per-sample gradients out of torch's own expanded weights.

    Torch refuses embeddings of one index a patient, and so early and cross-attention fusion.
    """

    def __init__(self, model: Flat, loss: PerPatientLoss, max_grad_norm: float):
        self.model, self.loss, self.max_grad_norm = model, loss, max_grad_norm
        self.parameters = trainable(model.module)

    def __call__(
        self, values: Mapping[str, Tensor], present: Mapping[str, Tensor], labels: Tensor
    ) -> Tensor | None:
        """See `Attempt`."""
        from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

        # Not through Opacus's wrapper, which reads the batch size off a first tensor argument.
        forward = call_for_per_sample_grads(  # type: ignore[no-untyped-call]
            self.model.module, batch_size=len(labels), loss_reduction="sum"
        )
        with _shielded(self.parameters):
            losses = self.loss(forward(values, present), labels)
            losses.sum().backward()  # type: ignore[no-untyped-call]
            samples = _taken_samples(self.parameters)
        return _add_clipped(samples, self.max_grad_norm, len(labels))


class StowedHooks:
    """Opacus's hooks, on the module only while they are needed.

    Even where they are disabled, they would wrap every layer's output in each forward pass, and
    travel with the module wherever it is copied.
    """

    def __init__(self, hooks: Any):
        self.hooks, self.root = hooks, hooks._module
        self.modules = list(dict.fromkeys(hooks.iterate_submodules(self.root)))
        for handle in hooks.autograd_grad_sample_hooks:
            handle.remove()
        del self.root.autograd_grad_sample_hooks  # while it is there, a second set is refused
        self.prepared = [m.__dict__.pop("ft_compute_sample_grad", None) for m in self.modules]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Put the hooks on the module, and take them off again."""
        if not self.root.training:
            raise RuntimeError("Opacus keeps nothing of a module that is not in training mode")
        backward = partial(
            self.hooks.capture_backprops_hook, loss_reduction="sum", batch_first=True
        )
        handles = []
        for module, prepared in zip(self.modules, self.prepared, strict=True):
            handles.append(module.register_forward_hook(self.hooks.capture_activations_hook))
            handles.append(module.register_full_backward_hook(backward))
            if prepared is not None:
                module.__dict__["ft_compute_sample_grad"] = prepared
        self.hooks.enable_hooks()
        try:
            with _quiet():
                yield
        finally:
            # A graph keeps the hooks that it was built with: only disabling silences those.
            self.hooks.disable_hooks()
            for handle in handles:
                handle.remove()
            for module in self.modules:
                for name in ("ft_compute_sample_grad", "activations", "max_batch_len"):
                    module.__dict__.pop(name, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings of what is as it should be: inputs without a gradient, and whole numbers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        warnings.filterwarnings("ignore", message="In CPU autocast")
        yield


@contextmanager
def _shielded(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Keep what a backward pass adds to ``grad``, which is not clipped, from `Flat.vector`."""
    views = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, view in zip(parameters, views, strict=True):
            parameter.grad = view


def _taken_samples(parameters: Sequence[nn.Parameter]) -> list[tuple[nn.Parameter, Tensor]]:
    """Take away each parameter's per-sample gradients, (patients, *shape)."""
    taken = []
    for parameter in parameters:
        samples = parameter.__dict__.get("grad_sample")
        parameter.__dict__["grad_sample"] = None
        if samples is not None:
            taken.append((parameter, samples.detach()))
        elif parameter.grad is not None:
            raise _incomplete()
    return taken


def _incomplete() -> RuntimeError:
    return RuntimeError(
        "a parameter has a gradient, but no per-sample gradients: the module uses it other than "
        "by calling its layer"
    )


def _add_clipped(
    samples: Sequence[tuple[nn.Parameter, Tensor]], max_grad_norm: float, patients: int
) -> Tensor | None:
    """See `Attempt`."""
    flat = [(parameter, sample.reshape(patients, -1)) for parameter, sample in samples]
    norms = norms_over([row_squares(sample) for _, sample in flat], patients)
    if not all_finite(norms):
        return norms.isfinite()
    factors = clip_factors(norms, max_grad_norm)
    for parameter, sample in flat:
        cast(Tensor, parameter.grad).view(-1).addmv_(sample.t(), factors)
    return None
