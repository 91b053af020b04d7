from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clients import evaluation
from federation.metrics.grid import UNCHANGED


@pytest.mark.parametrize("sign", [1, -1])
def test_calibration_never_turns_the_order_of_patients_around(sign, monkeypatch):
    labels = np.tile([0.0, 1.0], 30).astype(np.float32)
    noise = np.random.default_rng(5).normal(size=60)
    patients = SimpleNamespace(splits={"tuning": np.arange(60)}, labels=labels)
    found = torch.from_numpy(sign * (labels - 0.5) + noise)
    monkeypatch.setattr(evaluation, "logits", lambda model, cohort, rows: found)
    line = evaluation.fitted_line(None, SimpleNamespace(patients=patients))
    assert line.slope > 0
    assert (line == UNCHANGED) == (sign < 0)
