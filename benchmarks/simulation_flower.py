"""Flower's own simulation engine, as well tuned as its options allow.

One core and one thread an actor, no evaluation, no telemetry, no log; the data is drawn in the
actor once and kept, as is the module; the grid is asked for replies every 10 ms instead of 100.
Without an option: the engine hands messages to its actors every 100 ms.
"""

from __future__ import annotations

import functools
import logging
import os

import numpy as np
import torch
from numpy.typing import NDArray
from simulation_work import Data, Job, Kind, in_order, plain_module, site_data, train_site

# Before Flower and Ray are imported: they read them then.
os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

PULL_SECONDS = 0.01


def run(job: Job) -> NDArray[np.float32]:
    """Train with ``run_simulation``; return the last model, flat."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    module = plain_module(job.column.model)
    last: list[ArrayRecord] = []

    def round_done(round_: int, arrays: ArrayRecord) -> None:
        if round_:
            job.watch.round_done()
        last[:] = [arrays]

    def serve(grid: Grid, context: Context) -> None:
        grid.pull_interval = PULL_SECONDS  # type: ignore[attr-defined]  # of the in-memory grid
        strategy = FedAvg(
            fraction_train=job.column.sampled / job.column.sites,
            fraction_evaluate=0.0,
            min_train_nodes=job.column.sampled,
            min_available_nodes=job.column.sites,
        )
        arrays = ArrayRecord(module.state_dict())
        strategy.start(grid, arrays, num_rounds=job.rounds + 1, evaluate_fn=round_done)

    server = ServerApp()
    server.main()(serve)
    run_simulation(
        server,
        _client(job.column.model),
        num_supernodes=job.column.sites,
        backend_config={
            "init_args": {"num_cpus": job.workers, "address": "local", "log_to_driver": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    return np.concatenate([array.numpy().reshape(-1) for array in last[0].values()])


def _client(kind: Kind) -> ClientApp:
    app = ClientApp()
    app.train()(functools.partial(_train, kind))
    return app


def _train(kind: Kind, message: Message, context: Context) -> Message:
    module, data = _module(kind), _data(kind, int(context.node_config["partition-id"]))
    arrays = message.content["arrays"]
    assert isinstance(arrays, ArrayRecord)
    module.load_state_dict(arrays.to_torch_state_dict())
    train_site(module, data, in_order(len(data[1])))
    trained = ArrayRecord(module.state_dict())
    metrics = MetricRecord({"num-examples": len(data[1])})
    return Message(RecordDict({"arrays": trained, "metrics": metrics}), reply_to=message)


@functools.cache
def _module(kind: Kind) -> nn.Module:
    torch.set_num_threads(1)
    return plain_module(kind)


@functools.cache
def _data(kind: Kind, site: int) -> Data:
    return site_data(kind, site)
