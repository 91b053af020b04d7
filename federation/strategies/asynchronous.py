"""Options of the strategies that do not wait for every site."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from federation.strategies.base import Rate, Strategy


class FedBuff(Strategy):
    """The model moves on as soon as so many updates are there; late ones count for less."""

    needs = "each"
    summary = "moves on after so many updates; late ones are used in later rounds, for less"
    source = "Nguyen et al., AISTATS 2022"
    not_with_central = "updates of several rounds' models are weighed by their age"
    not_with_secure_sum = "updates of several rounds' models are weighed by their age"

    name: Literal["fedbuff"] = "fedbuff"
    buffer: PositiveInt = 2
    server_lr: Rate = 1.0
    age_exponent: float = Field(default=0.5, ge=0, le=10)
    oldest: PositiveInt = 10

    @model_validator(mode="after")
    def _enough_in_the_buffer(self) -> FedBuff:
        if self.minimum_sites > self.buffer:
            raise ValueError(
                f"minimum_sites is {self.minimum_sites}, but a round ends with {self.buffer} "
                "updates (buffer)"
            )
        return self
