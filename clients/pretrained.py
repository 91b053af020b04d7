"""From a site's notes to the features of a pretrained encoder that lies in a folder of the site.

Nothing is downloaded, and no code of the folder is run.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clients.cohort import Patients
from clients.features import ModalityTensor, newest_first
from clients.notes import CUT, NO_NOTE
from clients.site import Site
from federation.checksums import checksum
from federation.errors import UserError
from federation.modalities import PretrainedSection, TextSection

AT_ONCE = 16
"""Patients whose notes go through the encoder together."""
REMEDY = (
    "data.notes.models of the site file names a folder; put the one that the study means into it. "
    "`wardround models --checksum FOLDER` prints what a study says of one."
)


def feature_tensor(
    patients: Patients, section: TextSection, site: Site, device: torch.device
) -> ModalityTensor:
    """Encode each patient's notes, the newest first, and average over their tokens.

    Returns:
        (patients, features) float32.

    Raises:
        UserError: if the site does not have the encoder that the study names, or has another.
    """
    assert section.pretrained is not None
    offered = site.settings.data.notes is not None
    rows, notes = newest_first(patients.events, "NOTE//") if offered else ([], [])
    texts: dict[int, list[str]] = {}
    for row, note in zip(rows, notes, strict=True):
        if note.strip():
            texts.setdefault(row, []).append(note)
    values = np.zeros((len(patients), section.pretrained.features), np.float32)
    present = np.zeros(len(patients), bool)
    cut = 0
    if texts:
        encoder = FrozenEncoder(section.pretrained, site, section.max_tokens, device)
        order = sorted(texts)
        for start in range(0, len(order), AT_ONCE):
            some = order[start : start + AT_ONCE]
            found, shortened = encoder(["\n".join(texts[row]) for row in some])
            values[some] = found.numpy()
            cut += shortened
        present[order] = True
    unusable = {CUT: cut} if cut else {}
    if offered and not rows:
        unusable[NO_NOTE] = len(patients)
    return ModalityTensor(torch.from_numpy(values), torch.from_numpy(present), unusable)


class FrozenEncoder:
    """A tokenizer and an encoder of a local folder."""

    def __init__(
        self, pretrained: PretrainedSection, site: Site, max_tokens: int, device: torch.device
    ):
        folder = _found(pretrained, site)
        if importlib.util.find_spec("transformers") is None:
            raise UserError(
                "the study",
                'encoder "huggingface" needs the package transformers',
                field="modalities.text.encoder",
                remedy='Install it: pip install "wardround[huggingface]".',
            )
        from transformers import AutoModel, AutoTokenizer

        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, **local)
            self.model: Any = AutoModel.from_pretrained(folder, **local).to(device).eval()
        except Exception as error:  # of many kinds, by what is missing in the folder
            raise UserError(
                folder, f"the encoder cannot be read: {str(error).splitlines()[0]}"
            ) from None
        hidden = int(self.model.config.hidden_size)
        if hidden != pretrained.features:
            raise UserError(
                folder,
                f"the encoder gives {hidden} features, and the study says {pretrained.features}",
                field="modalities.text.pretrained.features",
            )
        positions = int(getattr(self.model.config, "max_position_embeddings", max_tokens))
        self.max_tokens, self.device = min(max_tokens, positions), device

    def __call__(self, texts: list[str]) -> tuple[Tensor, int]:
        """Return (texts, features) float32, and how many texts were cut."""
        whole = self.tokenizer(texts)["input_ids"]
        given = self.tokenizer(
            texts,
            truncation=True,
            max_length=self.max_tokens,
            padding=True,
            return_tensors="pt",
        ).to(self.device)
        with torch.no_grad():
            states = self.model(**given).last_hidden_state.float()
        real = given["attention_mask"].unsqueeze(-1)
        mean = (states * real).sum(1) / real.sum(1).clamp(min=1)
        return mean.cpu(), sum(len(ids) > self.max_tokens for ids in whole)


def _found(pretrained: PretrainedSection, site: Site) -> Path:
    notes = site.settings.data.notes
    field = "data.notes.models"
    if notes is None or notes.models is None:
        raise UserError(site.file, "it names no folder of encoders", field=field, remedy=REMEDY)
    folder = site.file.parent / notes.models / pretrained.name
    if not folder.is_dir():
        raise UserError(site.file, f'"{folder}" is not a folder', field=field, remedy=REMEDY)
    found = checksum(folder)
    if found != pretrained.sha256:
        raise UserError(
            folder,
            f"its SHA-256 is {found}, and the study names {pretrained.sha256}",
            field="modalities.text.pretrained.sha256",
            remedy=REMEDY,
        )
    return folder
