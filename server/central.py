"""Central differential privacy: the coordinator clips the sites' updates and noises their sum.

It protects a hospital, as a whole, from whoever sees the model; not from the coordinator, who sees
every update. It says nothing of a patient beyond that, and never satisfies a site's
``require_privacy`` or its cap.

Each round is one Gaussian mechanism on the hospitals that took part. Who takes part is visible, so
nothing is gained by a choice of sites. The number of them is declared public and divides the sum.

Source: McMahan et al., ICLR 2018; adaptive clipping: Andrew et al., NeurIPS 2021.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from federation.privacy.accounting import Segment, calibrated_noise
from federation.privacy.noise import OperatingSystem, Randomness, Seeded, noised
from federation.reduce import WeightedSum
from federation.study import Study

QUANTILE = 0.5
RATE = 0.2
COUNT_SHARE = 0.1
"""Share of a round's budget, in inverse variance, that the count of unclipped updates takes."""


class CentralPrivacy:
    """Clipping norm and noise over the rounds of one model.

    Args:
        study: with ``privacy.mechanism = "central"``.
        model: the model's name in the run.
        seeded: whether the noise comes from the study's seed: a simulation.
        clip: norm of the next round; None for the study's.

    Attributes:
        clip: norm to which the next round's updates are clipped.
        segment: one round, for the accountant.
    """

    def __init__(self, study: Study, model: str, seeded: bool, clip: float | None = None):
        privacy = study.privacy
        assert privacy.epsilon is not None
        rounds = study.training.rounds
        noise = calibrated_noise(privacy.epsilon, privacy.delta, 1.0, rounds, privacy.accountant)
        self.segment = Segment(1.0, noise, 1)
        self.clip = privacy.max_grad_norm if clip is None else clip
        self._study, self._model, self._seeded = study, model, seeded

    def release(self, total: WeightedSum, round_: int) -> dict[str, Any]:
        """Noise a round's sum in place, and adapt the norm of the next.

        Returns:
            What rounds.jsonl keeps of it: ``clip``, ``noise_multiplier``, ``next_clip``.
        """
        randomness = self._randomness(round_)
        used, adaptive = self.clip, self._study.privacy.adaptive_clipping
        multiplier = self.segment.noise_multiplier
        on_sum = multiplier / math.sqrt(1 - COUNT_SHARE) if adaptive else multiplier
        result = noised(torch.from_numpy(total.total()), on_sum * used, randomness)
        total.replace(result.numpy())
        if adaptive:
            # A hospital whose update counts for nothing moves the count by one.
            on_count = multiplier / math.sqrt(COUNT_SHARE)
            within = torch.tensor([total.within], dtype=torch.float64)
            share = float(noised(within, on_count, randomness)) / total.members
            self.clip = used * math.exp(-RATE * (min(max(share, 0.0), 1.0) - QUANTILE))
        return {"clip": used, "noise_multiplier": multiplier, "next_clip": self.clip}

    def _randomness(self, round_: int) -> Randomness:
        if not self._seeded:
            return OperatingSystem()
        return Seeded(self._study.study.seed, "central", self._model, round_)
