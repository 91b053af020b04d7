"""Weights that somebody else made: read from a file of the coordinator's, checked, put in place.

A study names a file and its SHA-256 and holds no path: who coordinates it keeps the file in a
folder of weights. Sites need none, for the first model that they get has the weights in it.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from federation.checksums import checksum
from federation.errors import UserError
from federation.modalities import ImageSection, WeightsSection
from federation.models.build import FlatModel, build_model
from federation.study import Study
from federation.vocabulary import Vocabulary

MOST_TOLD = 5
"""Tensors that a message names."""
NOT_LEARNED = ("running_mean", "running_var", "num_batches_tracked")


def initial_model(
    study: Study, vocabulary: Vocabulary | None, folder: Path | None = None
) -> FlatModel:
    """Build the study's model with the weights that training begins with.

    Args:
        study: the resolved study.
        vocabulary: places of the EHR codes; needed if the study uses the EHR.
        folder: of the files that the study names; None if there is none.

    Raises:
        UserError: if a file is missing, is another one, or does not fit the model.
    """
    model = build_model(study, vocabulary)
    for name, section in study.modalities.used:
        if isinstance(section, ImageSection) and section.weights is not None:
            field = f"modalities.{name}.weights"
            file = find(section.weights, folder, field)
            network = getattr(model.module.encoders[name], "network", model.module.encoders[name])
            put(read_tensors(file), network, file, field)
    return model


def check_weights(study: Study, folder: Path | None) -> None:
    """Raise unless the files that a study names are in the folder; whether they fit is seen later.

    Raises:
        UserError: naming the file.
    """
    image = study.modalities.image
    if image is not None and image.weights is not None:
        find(image.weights, folder, "modalities.image.weights")


def find(weights: WeightsSection, folder: Path | None, field: str) -> Path:
    """Return the file that a study names.

    Raises:
        UserError: if it is not in the folder, or its SHA-256 is not the study's.
    """
    remedy = "Give --weights FOLDER to `simulate`; a server reads the folder weights/ beside runs/."
    if folder is None or not (folder / weights.name).is_file():
        where = "no folder of weights was given" if folder is None else f"it is not in {folder}"
        raise UserError("the study", f'"{weights.name}": {where}', field=field, remedy=remedy)
    found = checksum(folder / weights.name)
    if found != weights.sha256:
        raise UserError(
            folder / weights.name,
            f"its SHA-256 is {found}, and the study names {weights.sha256}",
            field=field,
            remedy="Put the file there that the study means, or correct the study.",
        )
    return folder / weights.name


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or a state dict of torch; nothing in the file is executed.

    Raises:
        UserError: if it is neither.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(
            file,
            f"the weights cannot be read: {str(error).splitlines()[0]}",
            remedy="Give a .safetensors file, or a state dict saved by torch.save.",
        ) from None
    while isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not any(isinstance(v, Tensor) for v in found.values()):
        raise UserError(
            file, "it holds no state dict", remedy="Save the state dict alone, not the module."
        )
    return {
        # As torch.nn.DataParallel and torchvision's DenseNet name what MONAI names otherwise.
        re.sub(
            r"(denselayer\d+\.)(?=(?:norm|conv)\d)", r"\1layers.", name.removeprefix("module.")
        ): v
        for name, v in found.items()
        if isinstance(v, Tensor)
    }


def put(tensors: Mapping[str, Tensor], network: nn.Module, file: Path, field: str) -> None:
    """Overwrite a network's parameters in place by tensors of the same names.

    Tensors that the network does not have, such as a last layer for other classes or statistics of
    BatchNorm, are passed over; a parameter without a tensor is not.

    Raises:
        UserError: naming the tensors that are missing or have another shape.
    """
    own = dict(network.named_parameters())
    missing = [name for name in own if name not in tensors]
    if missing:
        extra = [n for n in tensors if n not in own and not n.endswith(NOT_LEARNED)]
        raise UserError(
            file,
            f"{len(missing)} of {len(own)} tensors are not in it: {_some(missing)}",
            field=field,
            remedy=f"The names must be MONAI's. In the file, and not used: {_some(extra)}.",
        )
    other = [
        f"{name} {tuple(tensors[name].shape)}, here {tuple(parameter.shape)}"
        for name, parameter in own.items()
        if tensors[name].shape != parameter.shape
    ]
    if other:
        raise UserError(
            file,
            f"{len(other)} tensors have another shape than the model: {_some(other)}",
            field=field,
            remedy="Look at `channels` (the first layer), `planes` (volumes) and `encoder`.",
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST_TOLD} more" if len(names) > MOST_TOLD else ""
    return (", ".join(names[:MOST_TOLD]) or "nothing") + more
