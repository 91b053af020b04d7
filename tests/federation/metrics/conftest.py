"""Simulated scores for the tests of metrics."""

import numpy as np
import pytest


def _scores(generator, patients, separation=1.2, shift=0.0, scale=1.0, prevalence=0.35):
    labels = (generator.random(patients) < prevalence).astype(int)
    z = scale * (generator.normal(size=patients) + separation * labels - 0.8) + shift
    return 1 / (1 + np.exp(-z)), labels


@pytest.fixture(scope="session")
def simulated():
    """Scores and labels of a logistic model at one site: (patients,), (patients,)."""
    return _scores
