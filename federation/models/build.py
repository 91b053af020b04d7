"""From a study to its model, and from a model to one flat vector and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from federation.errors import UserError
from federation.layout import LOCAL
from federation.models.encoded import Imputer
from federation.models.registry import FUSIONS
from federation.randomness import derive_seed
from federation.reduce import Part
from federation.strategies.base import LocalPart
from federation.study import Study
from federation.vocabulary import Vocabulary

Vector = NDArray[np.float32]

NORMALISATION = nn.GroupNorm, nn.LayerNorm
FROZEN = "frozen"


class MultimodalModel(nn.Module):
    """One encoder for each modality of the study, and a fusion that bears missing ones.

    Args:
        encoders: by modality.
        fusion: of what they find.
        imputer: fills in what is missing before the fusion; None leaves it to the fusion.
        several: whether encoders that have several tokens give them all.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        fusion: nn.Module,
        imputer: Imputer | None = None,
        several: bool = False,
    ):
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.imputer, self.several = imputer, several
        self.fusion = fusion

    def forward(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Predict.

        Args:
            inputs: for each modality (patients, ...) of what its encoder reads, as in
                `federation.models.inputs`.
            present: (patients,) bool for each modality; what stands in ``inputs`` where it is
                False has no influence, not even if it is not a number.

        Returns:
            Logits, float32: (patients,) of a task with one output, else (patients, outputs).
        """
        # Before the encoders: masking what comes out of them leaves 0 x NaN in their gradients.
        encoded = {
            name: self._encode(encoder, _zero_where_absent(inputs[name], present[name]))
            for name, encoder in self.encoders.items()
        }
        if self.imputer is not None:
            encoded, present = self.imputer(encoded, present)
        logits: Tensor = self.fusion(encoded, present)
        return logits

    def _encode(self, encoder: Any, values: Tensor) -> Any:
        several = self.several and hasattr(encoder, "tokens")
        return encoder.tokens(values) if several else encoder(values)


def _zero_where_absent(values: Tensor, present: Tensor) -> Tensor:
    return values.masked_fill(~present.view(-1, *[1] * (values.dim() - 1)), 0)


class FlatModel:
    """A model whose parameters and gradients are views of two flat vectors.

    Copying weights in, stepping an optimiser and reading the update are then one operation each,
    however many layers there are.

    Args:
        module: the model.
        local_part: which part of it is each site's own; its stretches are parts named ``LOCAL``.

    Attributes:
        parts: stretches of the vector, by what moves them; together all of it.
        frozen: stretches that nothing moves.
    """

    def __init__(self, module: MultimodalModel, local_part: LocalPart = ""):
        self.module = module
        named = list(module.named_parameters())
        flat = torch.cat([parameter.detach().reshape(-1) for _, parameter in named])
        self.vector = nn.Parameter(flat, requires_grad=False)
        self.vector.grad = torch.zeros_like(flat)
        lone = module.imputer is None
        self.parts = _parts(named, _own(module, local_part), lone)
        self.frozen = _frozen(named)
        start = 0
        for _, parameter in named:
            stop = start + parameter.numel()
            parameter.data = flat[start:stop].view(parameter.shape)
            parameter.grad = self.vector.grad[start:stop].view(parameter.shape)
            start = stop

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.vector.device

    def weights(self) -> Vector:
        """Return a copy of the parameters, (parameters,) float32."""
        return self.vector.detach().cpu().numpy().copy()

    def load(self, weights: Vector) -> None:
        """Overwrite the parameters in place."""
        if self.vector.device.type == "cpu":
            self.vector.detach().numpy()[:] = weights
        else:
            with torch.no_grad():
                self.vector.copy_(torch.from_numpy(weights.copy()))

    def named_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return each parameter under its name, for files that others read."""
        return {n: p.detach().cpu().numpy().copy() for n, p in self.module.named_parameters()}


def build_model(
    study: Study, vocabulary: Vocabulary | None, device: torch.device | None = None
) -> FlatModel:
    """Build the study's model with the initial weights that its seed gives.

    Args:
        study: the resolved study.
        vocabulary: places of the EHR codes; needed if the study uses the EHR.
        device: where it will run; the CPU by default.

    Raises:
        UserError: if the strategy keeps a part at the sites that the model does not have.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(study.study.seed, "initial weights"))
        places = 0 if vocabulary is None else vocabulary.places
        encoders = {
            name: section.chosen.build(section, places) for name, section in study.modalities.used
        }
        if study.modalities.image is not None:
            _freeze(encoders["image"], study.modalities.image.freeze)
        widths = {name: int(encoder.width) for name, encoder in encoders.items()}  # type: ignore[arg-type]
        chosen = study.fusion
        fusion = FUSIONS[chosen.kind].build(widths, study.task.outputs)
        imputer = Imputer(widths) if chosen.absent == "imputed" and len(widths) > 1 else None
        whole = MultimodalModel(encoders, fusion, imputer, chosen.tokens == "all").to(
            device or torch.device("cpu")
        )
        strategy = study.strategy
        if strategy.local_part and not _own(whole, strategy.local_part):
            raise UserError(
                "the study's model",
                f'"{strategy.name}" keeps normalisation layers at the sites, and it has none',
                field="strategy.name",
                remedy="The image encoder has some; without images take another strategy.",
            )
        return FlatModel(whole, strategy.local_part)


def _own(module: MultimodalModel, local_part: LocalPart) -> set[str]:
    """Return the names of the parameters that are each site's own."""
    if local_part == "head":
        return {f"fusion.{name}" for name, _ in module.fusion.named_parameters()}
    kinds = NORMALISATION if local_part == "normalisation" else ()
    layers = [(path, layer) for path, layer in module.named_modules() if isinstance(layer, kinds)]
    return {f"{path}.{name}" for path, layer in layers for name, _ in layer.named_parameters()}


def _freeze(encoder: nn.Module, stages: Collection[str]) -> None:
    """Let training leave some stages of an encoder as they are."""
    known: dict[str, list[nn.Module]] = getattr(encoder, "stages", {})
    for stage in stages:
        if stage not in known:
            raise UserError(
                "the study",
                f'"{stage}" is not a stage of the encoder',
                field="modalities.image.freeze",
                remedy=f"Its stages are {', '.join(known)}.",
            )
        for part in known[stage]:
            part.requires_grad_(False)


def _frozen(named: list[tuple[str, nn.Parameter]]) -> tuple[Part, ...]:
    found: list[Part] = []
    position = 0
    for _, parameter in named:
        stop = position + parameter.numel()
        if not parameter.requires_grad and found and found[-1].stop == position:
            found[-1] = Part(FROZEN, found[-1].start, stop)
        elif not parameter.requires_grad:
            found.append(Part(FROZEN, position, stop))
        position = stop
    return tuple(found)


def _parts(
    named: list[tuple[str, nn.Parameter]], own: Collection[str], lone: bool
) -> tuple[Part, ...]:
    """Group consecutive parameters by the modality that they belong to.

    Args:
        named: all of them.
        own: names of those that are each site's own.
        lone: whether a modality's layer of the fusion is moved by patients who have it alone.
    """
    parts: list[Part] = []
    position = 0
    for name, parameter in named:
        scope, second = name.split(".")[:2]
        owner = second if scope == "encoders" else "fusion"
        if lone and scope == "fusion" and second in ("heads", "gates", "project"):
            owner = name.split(".")[2]  # a fusion layer that only one modality moves
        if name in own:
            owner = LOCAL
        if parts and parts[-1].name == owner:
            parts[-1] = Part(owner, parts[-1].start, position + parameter.numel())
        else:
            parts.append(Part(owner, position, position + parameter.numel()))
        position += parameter.numel()
    return tuple(parts)
