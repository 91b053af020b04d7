"""One model to train by rounds, and how its sites are asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import RecordDict

from federation.bodies import TrainBody
from federation.messages import FEDERATED, Instruction, with_witness
from federation.models.build import FlatModel, Vector
from federation.models.weights import initial_model
from federation.study import Split, Study
from federation.vocabulary import Vocabulary
from server.exchange import Exchange
from server.witness import Witness

UNPAID = "no word of what the update cost its patients"


@dataclass(frozen=True)
class Heard:
    """An answer in a round, for whoever watches.

    Attributes:
        model: the model that is trained.
        round: of ``rounds``.
        rounds: how many the study has.
        heard: how many sites have answered.
        asked: how many were asked.
        site: the one that answered, or did not in time.
        patients: training patients behind its update.
        problem: why there is no usable update; empty if there is one.
    """

    model: str
    round: int
    rounds: int
    heard: int
    asked: int
    site: str
    patients: int
    problem: str


@dataclass(frozen=True)
class Task:
    """One model to train by rounds: the federated one, or a comparator.

    Attributes:
        exchange: reaches the sites.
        study: the resolved study.
        vocabulary: places of the EHR codes.
        model: the model's name in the run.
        only: the nodes that take part; None for all that are connected in each round.
        quorum: fewest updates of a round that counts; None for the study's.
        measured: whether rounds are evaluated on the tuning split.
        patience: by how much the study's deadline is longer for this model.
        run: id of the run, by which the sites' ledgers tell runs apart.
        witness: what is known of the sites' ledgers; None in a simulation with ledgers of its own.
        sizes: training patients by site, as far as the sites told them.
        watch: told of every answer in a training round.
        weights: folder of the files of weights that the study names; None if there is none.
    """

    exchange: Exchange
    study: Study
    vocabulary: Vocabulary | None
    model: str = FEDERATED
    only: Mapping[str, int] | None = None
    quorum: int | None = None
    measured: bool = True
    patience: float = 1.0
    run: str = ""
    witness: Witness | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    watch: Callable[[Heard], None] = lambda heard: None
    weights: Path | None = None

    def initial(self) -> FlatModel:
        """Return the model that training begins with."""
        return initial_model(self.study, self.vocabulary, self.weights)

    def nodes(self) -> Mapping[str, int]:
        """Return the nodes to ask now."""
        return self.exchange.sites() if self.only is None else self.only

    def enough(self) -> Mapping[str, int]:
        """Return the nodes to ask now, once there are as many as a round needs.

        A site that lost its connection, or was started again, is back within a minute or so; a
        round waits for it at most as long as for its answer.
        """
        if self.only is not None:
            return self.only
        return self.exchange.wait_for_sites(self.minimum, self.deadline)

    @property
    def minimum(self) -> int:
        """Fewest updates of a round that counts."""
        return self.study.strategy.minimum_sites if self.quorum is None else self.quorum

    @property
    def deadline(self) -> float:
        """Seconds that the sites have to answer."""
        return self.study.strategy.round_deadline_seconds * self.patience

    def instruction(self, weights: Vector, round_: int, split: Split | None = None) -> Instruction:
        """Return the instruction to train, or to evaluate a split."""
        # A host's sum cannot be taken apart where a site's ledger turns out to have gone back.
        fold = self.exchange.simulated and split is None and self.witness is None
        fold = fold and self.study.strategy.sums
        return Instruction(
            self.study,
            self.model,
            round_,
            self.vocabulary,
            weights,
            split=split,
            fold=fold,
            run=self.run,
        )

    def addressed(self, instructions: Mapping[str, RecordDict]) -> dict[str, RecordDict]:
        """Tell each site what was witnessed of its ledger."""
        if self.witness is None or self.study.privacy.mechanism != "dp_sgd":
            return dict(instructions)
        heads = {site: self.witness.of(site) for site in instructions}
        return {
            site: records if (head := heads[site]) is None else with_witness(records, head)
            for site, records in instructions.items()
        }

    def doubts(self, site: str, body: TrainBody) -> str:
        """Note the head of a site's ledger; return why its reply is not to be used."""
        if self.study.privacy.mechanism != "dp_sgd":
            return ""
        if body.spent is None:
            return UNPAID
        return "" if self.witness is None else self.witness.note(site, body.spent.ledger)
