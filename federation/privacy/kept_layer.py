"""A layer under book-keeping: what it keeps of a pass through the model, whatever its kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

Waiting = tuple[Callable[[Tensor], None], GradientEdge]
"""What takes in the gradient at an edge of the autograd graph, and the edge."""


class Layer(ABC):
    """One unit of the model, whose forward method is replaced while the model runs."""

    def __init__(self, module: nn.Module, name: str):
        self.module, self.name = module, name
        self.original: Callable[..., Any] = module.forward
        self.trained = [p for p in module.parameters() if p.requires_grad]
        self.patients = self.calls = 0
        self.waiting: list[Waiting] = []

    @classmethod
    def takes(cls, module: Any) -> bool:
        """Whether the rule holds for a module with these settings."""
        return True

    def patch(self, patients: int, waiting: list[Waiting]) -> None:
        """Replace the module's forward method."""
        self.patients, self.waiting, self.calls = patients, waiting, 0
        self.module.__dict__["forward"] = self.forward

    def restore(self) -> None:
        """Give the module its own forward method back."""
        self.module.__dict__.pop("forward", None)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return what the module returns, and `keep` what `measure` needs."""

    @abstractmethod
    def measure(self, kept: Any, gradient: Tensor) -> None:
        """Take in one call of the module.

        Args:
            kept: as given to `keep`.
            gradient: that of the call's output.
        """

    @abstractmethod
    def norms(self) -> list[Tensor]:
        """Return each parameter's norms over all calls, (patients,)."""

    @abstractmethod
    def add(self, factors: Tensor) -> None:
        """Add the patients' gradients times their (patients,) factors to the parameters'."""

    @abstractmethod
    def forget(self) -> None:
        """Free what was kept."""

    def keep(self, x: Tensor, out: Tensor, kept: Any, at_once: bool) -> None:
        """Have `measure` called with the gradient of ``out``.

        Args:
            x: the call's input.
            out: the call's output.
            kept: for `measure`.
            at_once: in the midst of the backward pass, so as to keep nothing to its end.
        """
        self.check(x)
        node = out.grad_fn
        if node is None:
            return
        self.calls += 1
        version = x._version

        def measure(gradient: Tensor) -> None:
            if x._version != version:
                raise RuntimeError(f"{self.name}: its input was changed in place after the call")
            self.measure(kept, gradient)

        if at_once and x.requires_grad:
            out.register_hook(measure)  # type: ignore[no-untyped-call]
        else:  # for the first layers too: the backward pass goes only as far as it is asked to
            self.waiting.append((measure, GradientEdge(node, out.output_nr)))

    def check(self, x: Tensor) -> None:
        """Raise ValueError unless there is one row for each patient."""
        if x.dim() < 1 or len(x) != self.patients:
            raise ValueError(
                f"{self.name}: its input has shape {tuple(x.shape)}, not one row for each of "
                f"{self.patients} patients; use the mode per_patient"
            )


class SampledLayer(Layer):
    """Makes each patient's gradient, adds up those of several calls, and keeps that."""

    def __init__(self, module: nn.Module, name: str):
        super().__init__(module, name)
        self.sums: list[Tensor] = []

    @abstractmethod
    def samples(self, kept: Any, gradient: Tensor) -> list[Tensor]:
        """Return the patients' gradients, (patients, *shape) for each trained parameter."""

    def measure(self, kept: Any, gradient: Tensor) -> None:
        """See `Layer`."""
        found = [sample.reshape(self.patients, -1) for sample in self.samples(kept, gradient)]
        self.sums = [a + b for a, b in zip(self.sums, found, strict=True)] if self.sums else found

    def norms(self) -> list[Tensor]:
        """See `Layer`."""
        return [torch.linalg.vector_norm(total, dim=1) for total in self.sums]

    def add(self, factors: Tensor) -> None:
        """See `Layer`."""
        for parameter, total in zip(self.trained, self.sums, strict=False):
            flat_gradient(parameter).addmv_(total.t(), factors)

    def forget(self) -> None:
        """See `Layer`."""
        self.sums = []


def flat_gradient(parameter: Tensor) -> Tensor:
    """Return where a parameter's gradient is added up, (elements,)."""
    assert parameter.grad is not None
    return parameter.grad.view(-1)
