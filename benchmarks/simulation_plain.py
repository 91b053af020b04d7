"""The plain loop: one process, one thread, one module, one site after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from simulation_work import Data, Job, in_order, plain_module, site_data, train_site
from torch import Tensor, nn


def run(job: Job) -> NDArray[np.float32]:
    """Train with all data in memory as tensors; return the last model, flat."""
    kind = job.column.model
    loop = PlainLoop(plain_module(kind), {s: site_data(kind, s) for s in range(job.column.sites)})
    for round_ in range(1, job.rounds + 2):
        loop.round(job.column.asked(round_))
        job.watch.round_done()
    return loop.flat()


class PlainLoop:
    """Federated averaging as a researcher would write it for one study on one machine.

    Args:
        module: the initial model: (patients, ...) -> logits, (patients, 1).
        data: of each site.

    Attributes:
        batches: the batches of a site's epoch: its patients as they lie, unless set otherwise.
        mean: the model after the last round, by parameter.
    """

    def __init__(self, module: nn.Module, data: Mapping[int, Data]):
        self.module = module
        self.data = data
        self.batches: Callable[[int], Iterable[slice | Tensor]] = lambda site: in_order(
            len(data[site][1])
        )
        self.mean = {name: p.detach().clone() for name, p in module.named_parameters()}

    def round(self, sites: Iterable[int]) -> None:
        """Train each site from the mean model, then average by patients."""
        total = {name: torch.zeros_like(p) for name, p in self.mean.items()}
        patients = 0
        for site in sites:
            with torch.no_grad():
                for name, parameter in self.module.named_parameters():
                    parameter.copy_(self.mean[name])
            train_site(self.module, self.data[site], self.batches(site))
            weight = len(self.data[site][1])
            for name, parameter in self.module.named_parameters():
                total[name].add_(parameter.detach(), alpha=weight)
            patients += weight
        self.mean = {name: value / patients for name, value in total.items()}

    def flat(self) -> NDArray[np.float32]:
        """Return the mean model, (parameters,) float32."""
        return torch.cat([value.reshape(-1) for value in self.mean.values()]).numpy()
