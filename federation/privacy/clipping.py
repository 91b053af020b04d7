"""The sum over patients of their gradients, each clipped: what one step of DP-SGD starts from.

Abadi et al., "Deep Learning with Differential Privacy", CCS 2016: each patient's gradient, over all
parameters together, is scaled by ``min(1, C / norm)``, so that no patient moves the sum by more
than C. The modes differ in how they come by the patients' gradients, not in what they find.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from federation.privacy.layers import check_private
from federation.privacy.norms import row_squares

PerPatientLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits and labels, (patients,) each -> losses, (patients,)."""

Mode = Literal["auto", "book_keeping", "hooks", "functorch", "ew", "per_patient"]

SLACK = 1e-6
"""Relative room below the clipping norm, for what rounds in float32: one part in a million of the
update's scale is the price. What remains to round is far below a part in a hundred thousand."""


class Flat(Protocol):
    """What a model must offer: see ``federation.models.build.FlatModel``.

    The module's parameters are views of ``vector``, and their gradients views of ``vector.grad``.
    """

    @property
    def module(self) -> nn.Module:
        """Called with values and presence by modality, it returns logits, (patients,)."""

    @property
    def vector(self) -> nn.Parameter:
        """All parameters and, in ``grad``, all gradients."""


class ClippedSum(Protocol):
    """Adds up clipped gradients, and leaves the module as it found it."""

    @property
    def mode(self) -> str:
        """Which mode was chosen."""

    def add(
        self, values: Mapping[str, Tensor], present: Mapping[str, Tensor], labels: Tensor
    ) -> None:
        """Add to ``model.vector.grad`` the batch's clipped gradients; nothing for an empty batch.

        A patient adds nothing whose gradient is not finite in float32, or too large for its norm
        to be squared there; so may one with a layer of which that is true of input or gradient.
        Any other adds a gradient of norm C (1 + 1e-5) + 1e-20 at most, whatever the magnitudes; the
        last is for numbers that round up from zero.
        Adding the parts of a batch one after another adds the batch.

        Args:
            values: as the module takes them, patients first.
            present: likewise.
            labels: (patients,).
        """


Attempt = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Tensor], Tensor | None]
"""Adds the batch and returns None; or adds nothing, and returns (patients,) bool: whose gradient is
finite, not all of them being so."""


def clipped_sum(
    model: Flat, loss: PerPatientLoss, max_grad_norm: float, mode: Mode = "auto"
) -> ClippedSum:
    """Return what adds up the clipped gradients of a model.

    Args:
        model: its module must be one that `check_private` passes.
        loss: one loss a patient, each from that patient's logit and label alone.
        max_grad_norm: the clipping norm C.
        mode: ``auto`` chooses by what the module is made of: ``book_keeping``, and ``per_patient``
            where a module that book-keeping must replay draws random numbers or is recurrent.
            ``hooks``, ``functorch`` and ``ew`` are Opacus's, and want the module in training mode.

    Raises:
        UnfitForPrivacy: if no clipped gradient could make training private.
        ValueError: if the clipping norm is not a positive number, or the model is all frozen or not
            `Flat`.

    See also: `check_forward` and `check_loss`, which find what cannot be seen without a batch.
    """
    if not (math.isfinite(max_grad_norm) and max_grad_norm > 0):
        raise ValueError(f"max_grad_norm: {max_grad_norm} is not a positive number")
    check_private(model.module)
    _check_views(model)
    # Imported here: both build on this file.
    from federation.privacy import opacus_modes as opacus
    from federation.privacy.book_keeping import BookKeeping, can_replay

    if mode == "auto":
        mode = "book_keeping" if can_replay(model.module) else "per_patient"
    kinds: dict[str, Callable[[], Attempt]] = {
        "book_keeping": lambda: BookKeeping(model, loss, max_grad_norm),
        "per_patient": lambda: PerPatient(model, loss, max_grad_norm),
        "hooks": lambda: opacus.OpacusHooks(model, loss, max_grad_norm),
        "functorch": lambda: opacus.OpacusHooks(model, loss, max_grad_norm, functorch=True),
        "ew": lambda: opacus.ExpandedWeights(model, loss, max_grad_norm),
    }
    return FiniteSum(mode, kinds[mode](), model.vector.device)


def clip_factors(norms: Tensor, max_grad_norm: float) -> Tensor:
    """Return by what each patient's gradient is multiplied.

    Args:
        norms: (patients,) finite, as from `norms_over`: so not above 1.9e19 in float32.
        max_grad_norm: the clipping norm.

    >>> clip_factors(torch.tensor([0.0, 0.5, 4.0]), 1.0)
    tensor([1.0000, 1.0000, 0.2500])
    """
    return norms.reciprocal().mul_(max_grad_norm * (1 - SLACK)).clamp_(max=1.0)


def all_finite(norms: Tensor) -> bool:
    """Whether no patient's norm is infinite or not a number; (patients,) norms."""
    # One reduction and one look, and a second one only where the first is in doubt.
    return math.isfinite(norms.sum().item()) or bool(norms.isfinite().all())


class FiniteSum:
    """Repeats an attempt without the patients whose gradients are not finite: 0 x NaN is NaN."""

    def __init__(self, mode: str, attempt: Attempt, device: torch.device):
        self.mode = mode
        self.attempt, self.device = attempt, device

    def add(
        self, values: Mapping[str, Tensor], present: Mapping[str, Tensor], labels: Tensor
    ) -> None:
        """See `ClippedSum.add`."""
        while len(labels):
            plain = self.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
            with nullcontext() if plain else _full_precision(self.device):
                finite = self.attempt(values, present, labels)
            if finite is None:
                return
            values, present = _rows(values, finite), _rows(present, finite)
            labels = labels[finite]


class PerPatient:
    """One backward pass a patient: slow, obvious, and right for any module."""

    def __init__(self, model: Flat, loss: PerPatientLoss, max_grad_norm: float):
        self.model, self.loss, self.max_grad_norm = model, loss, max_grad_norm
        self.parameters = trainable(model.module)

    def __call__(
        self, values: Mapping[str, Tensor], present: Mapping[str, Tensor], labels: Tensor
    ) -> None:
        """See `Attempt`; a patient that is not finite is left out at once."""
        for i in range(len(labels)):
            one = slice(i, i + 1)
            logits = self.model.module(_rows(values, one), _rows(present, one))
            (loss,) = self.loss(logits, labels[one])
            found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
            gradients = [
                (p, g) for p, g in zip(self.parameters, found, strict=True) if g is not None
            ]
            (norm,) = norms_over([row_squares(g.reshape(1, -1)) for _, g in gradients], 1)
            if not norm.isfinite():
                continue
            factor = clip_factors(norm, self.max_grad_norm)
            for parameter, gradient in gradients:
                assert parameter.grad is not None
                parameter.grad.add_(gradient * factor)


def norms_over(squares: Sequence[Tensor], patients: int) -> Tensor:
    """Return norms over all parameters, (patients,), from the squares of norms over some."""
    if not squares:
        return torch.zeros(patients)
    return torch.stack(tuple(squares)).sum(0).sqrt_()


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Have float32 products made in float32: the room for rounding is for no less.

    Autocast makes them in 16 bits; TensorFloat-32, the default of convolutions on CUDA, in 19.
    """
    library: Any = torch.backends  # whose types know no precisions
    operations = [library.cuda.matmul, library.cudnn.conv, library.cudnn.rnn]
    found = [(operation, operation.fp32_precision) for operation in operations]
    try:
        for operation, _ in found:
            operation.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for operation, precision in found:
            operation.fp32_precision = precision


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that training moves."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _rows(values: Mapping[str, Tensor], which: Tensor | slice) -> dict[str, Tensor]:
    return {name: value[which] for name, value in values.items()}


def _check_views(model: Flat) -> None:
    """Raise unless every trainable parameter's gradient lies in the model's flat gradient."""
    gradient = model.vector.grad
    assert gradient is not None
    if not trainable(model.module):
        raise ValueError("the model has no parameter to train: all are frozen")
    storage = gradient.untyped_storage().data_ptr()
    for name, parameter in model.module.named_parameters():
        view = parameter.grad
        if parameter.requires_grad and (
            view is None or view.untyped_storage().data_ptr() != storage or not view.is_contiguous()
        ):
            raise ValueError(f"{name}: its gradient is not a view of the model's flat gradient")
