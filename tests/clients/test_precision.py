"""Products in fewer bits, and on another device: nearly the same model, in float32."""

import dataclasses

import numpy as np
import pytest
import torch

from clients.fits import PlainFit
from clients.training import train_alone
from clients.workbench import Workbench
from federation.models.build import build_model
from federation.randomness import torch_generator
from federation.vocabulary import agreed_vocabulary


@pytest.fixture
def fit(tmp_path, write_site, make_study):
    def fit(**training):
        sgd = {"name": "sgd", "lr": 0.05}
        study = make_study(
            "ehr", "image", training={"batch_size": 16, "optimizer": sgd, **training}
        )
        if not (tmp_path / "site").exists():
            write_site(tmp_path / "site", 60, images=True)
        vocabulary, bench = agreed_vocabulary(study.modalities.ehr), Workbench()
        cohort = bench.cohort(str(tmp_path / "site"), study, vocabulary)
        model = bench.model(study, vocabulary)
        draws = lambda: torch_generator(1, "here")  # noqa: E731
        made = PlainFit(model, model.weights(), cohort, study, study.training, draws)
        return bench, vocabulary, made

    return fit


def moved(fit):
    return train_alone(fit).weights - fit.start


def test_fewer_bits_move_the_model_nearly_as_far_and_leave_it_in_float32(fit):
    _, _, exact = fit()
    bench, _, short = fit(precision="bfloat16")
    assert not bench.stacks(short.model, short.study)
    full, half = moved(exact), moved(short)
    assert half.dtype == np.float32
    assert not np.array_equal(half, full)
    assert np.linalg.norm(half - full) < 0.1 * np.linalg.norm(full)
    assert np.array_equal(moved(short), half)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_finds_what_the_cpu_finds(fit, precision):
    _, vocabulary, here = fit(precision=precision)
    gpu = build_model(here.study, vocabulary, torch.device("cuda"))
    there = moved(dataclasses.replace(here, model=gpu))
    cpu = moved(here)
    within = 1e-3 if precision == "float32" else 0.1
    assert np.linalg.norm(there - cpu) < within * np.linalg.norm(cpu)
