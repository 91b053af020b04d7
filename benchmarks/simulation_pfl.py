"""pfl-research: one model a process, parameters copied in place, data in memory as tensors.

Runs in an environment of its own, without ours. Several processes share the sites of a round under
``torchrun``, and PyTorch's gloo sums what they trained.
"""

from __future__ import annotations

import itertools
import types
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.internal.ops import pytorch_ops
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from simulation_work import BATCH, LEARNING_RATE, Job, Stopwatch, plain_module, site_data
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits


def run(job: Job) -> NDArray[np.float32] | None:
    """Train with ``FederatedAveraging``; return the last model, flat, in the first process."""
    torch.set_num_threads(1)
    column = job.column
    module = _with_loss(plain_module(column.model))
    tensors = [site_data(column.model, site) for site in range(column.sites)]
    data = [PyTorchTensorDataset(one, user_id=str(site)) for site, one in enumerate(tensors)]
    asked = (site for round_ in itertools.count(1) for site in column.asked(round_))
    sites = FederatedDataset(data.__getitem__, lambda: next(asked))
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=job.rounds + 1,
            evaluation_frequency=job.rounds + 2,  # in the first round only, which is left out
            train_cohort_size=column.sampled,
            val_cohort_size=0,
        ),
        SimulatedBackend(sites, sites, postprocessors=[WeightByDatapoints()]),
        PyTorchModel(module, torch.optim.SGD, optimizer),
        NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=LEARNING_RATE, local_batch_size=BATCH
        ),
        callbacks=[_Watched(job.watch)],
        send_metrics_to_platform=False,
    )
    if pytorch_ops.distributed.global_rank:
        return None
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy()


class _Watched(TrainingProcessCallback):
    def __init__(self, watch: Stopwatch):
        self.watch = watch

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Note the end of a round."""
        self.watch.round_done()
        return False, Metrics()


def _with_loss(module: nn.Module) -> nn.Module:
    """Give a module the two functions by which pfl trains and measures it."""

    def loss(self: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(self(x).squeeze(-1), y)

    def metrics(self: nn.Module, x: Tensor, y: Tensor) -> dict[str, Weighted]:
        return {"loss": Weighted(float(self.loss(x, y)) * len(y), len(y))}

    module.loss = types.MethodType(loss, module)  # type: ignore[assignment]
    module.metrics = types.MethodType(metrics, module)  # type: ignore[assignment]
    return module
