"""Options of the strategies that bear sites which send harmful updates."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from federation.robustness import fewest_sites
from federation.strategies.base import Strategy

EACH_ONE = "the coordinator looks at every update by itself"


class Robust(Strategy):
    """What they share: every site counts once, since what it claims need not be true."""

    needs = "each"
    counts_once = True
    not_with_central = EACH_ONE
    not_with_secure_sum = EACH_ONE
    without_a_modality = "parts that the same sites moved are combined; too few sites move nothing"


class Median(Robust):
    """The median of each parameter."""

    summary = "median of each parameter's updates"
    source = "Yin et al., ICML 2018"

    name: Literal["median"] = "median"


class TrimmedMean(Robust):
    """The mean of each parameter without the largest and smallest."""

    summary = "mean of each parameter's updates without the largest and the smallest"
    source = "Yin et al., ICML 2018"

    name: Literal["trimmed_mean"] = "trimmed_mean"
    fraction: float = Field(default=0.2, gt=0, lt=0.5)


class Krum(Robust):
    """The one update that has the nearest neighbours."""

    summary = "the one update that is nearest to the others"
    source = "Blanchard et al., NeurIPS 2017"

    name: Literal["krum"] = "krum"
    hostile: PositiveInt = 1

    @property
    def fewest_sites(self) -> int:
        """See `federation.robustness`."""
        return fewest_sites("krum", self.hostile)


class MultiKrum(Robust):
    """The mean of the updates that have the nearest neighbours."""

    summary = "mean of the updates that are nearest to the others"
    source = "Blanchard et al., NeurIPS 2017"

    name: Literal["multi_krum"] = "multi_krum"
    hostile: PositiveInt = 1
    chosen: PositiveInt | None = None

    @property
    def fewest_sites(self) -> int:
        """See `federation.robustness`."""
        return fewest_sites("multi_krum", self.hostile, self.chosen or 1)


class Bulyan(Robust):
    """Krum's choice, then the mean of the middle of each parameter."""

    summary = "updates chosen by Krum, then the mean of the middle of each parameter"
    source = "El Mhamdi et al., ICML 2018"

    name: Literal["bulyan"] = "bulyan"
    hostile: PositiveInt = 1

    @property
    def fewest_sites(self) -> int:
        """See `federation.robustness`."""
        return fewest_sites("bulyan", self.hostile)


class GeometricMedian(Robust):
    """The point with the least sum of distances to the updates."""

    summary = "the point that is nearest to all updates together"
    source = "Pillutla et al., IEEE TSP 2022"

    name: Literal["geometric_median"] = "geometric_median"
    smoothing: PositiveFloat = 1e-6
    iterations: PositiveInt = Field(default=100, le=1000)


class NormBound(Strategy):
    """No update counts for more than a norm."""

    summary = "mean of updates, long ones shortened to a norm"
    source = "Sun et al., 2019"
    counts_once = True

    not_with_central = "it clips updates to its own norm already"

    name: Literal["norm_bound"] = "norm_bound"
    norm: PositiveFloat = 1.0
