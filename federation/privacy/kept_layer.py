"""A layer under book-keeping: what it keeps of a pass through the model, whatever its kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from federation.privacy.norms import row_squares

Waiting = tuple[Callable[[Tensor], None], GradientEdge]
"""What takes in the gradient at an edge of the autograd graph, and the edge."""


class Batch:
    """What the layers of a model share while a batch goes through it."""

    def __init__(self) -> None:
        self.patients = 0
        self.waiting: list[Waiting] = []


class Layer(ABC):
    """One unit of the model; its `forward` stands in for the module's while the model runs."""

    least_dimensions = 1  # of an input with one row for each patient

    def __init__(self, module: nn.Module, name: str, batch: Batch):
        self.module, self.name, self.batch = module, name, batch
        self.original: Callable[..., Any] = module.forward
        trained = [p for p in module.parameters() if p.requires_grad]
        self.totals = [cast(Tensor, p.grad) for p in trained]
        self.calls = 0

    @classmethod
    def takes(cls, module: Any) -> bool:
        """Whether the rule holds for a module with these settings."""
        return True

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
    def squares(self) -> list[Tensor]:
        """Return squared norms, (patients,) each, that together are of all parameters and calls."""

    @abstractmethod
    def add(self, factors: Tensor) -> None:
        """Add the patients' gradients times their (patients,) factors to the parameters'."""

    @abstractmethod
    def forget(self) -> None:
        """Free what was kept, and count calls anew."""

    def keep(self, x: Tensor, out: Tensor, kept: Any, at_once: bool) -> None:
        """Have `measure` called with the gradient of ``out``.

        Args:
            x: the call's input.
            out: the call's output.
            kept: for `measure`.
            at_once: in the midst of the backward pass, so as to keep nothing to its end.
        """
        if x.dim() < self.least_dimensions or x.shape[0] != self.batch.patients:
            raise self.not_by_patient(x)
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
            self.batch.waiting.append((measure, GradientEdge(node, out.output_nr)))

    def not_by_patient(self, x: Tensor) -> ValueError:
        """Return what to raise where an input has not one row for each patient."""
        return ValueError(
            f"{self.name}: its input has shape {tuple(x.shape)}, not one row for each of "
            f"{self.batch.patients} patients; use the mode per_patient"
        )


class SampledLayer(Layer):
    """Makes each patient's gradient, adds up those of several calls, and keeps that."""

    def __init__(self, module: nn.Module, name: str, batch: Batch):
        super().__init__(module, name, batch)
        self.sums: list[Tensor] = []

    @abstractmethod
    def samples(self, kept: Any, gradient: Tensor) -> list[Tensor]:
        """Return the patients' gradients, (patients, *shape) for each trained parameter."""

    def measure(self, kept: Any, gradient: Tensor) -> None:
        """See `Layer`."""
        found = [sample.reshape(self.batch.patients, -1) for sample in self.samples(kept, gradient)]
        self.sums = [a + b for a, b in zip(self.sums, found, strict=True)] if self.sums else found

    def squares(self) -> list[Tensor]:
        """See `Layer`."""
        return [row_squares(total) for total in self.sums]

    def add(self, factors: Tensor) -> None:
        """See `Layer`."""
        for total, samples in zip(self.totals, self.sums, strict=False):
            total.view(-1).addmv_(samples.t(), factors)

    def forget(self) -> None:
        """See `Layer`."""
        self.sums, self.calls = [], 0
