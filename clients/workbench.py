"""What a process at a site keeps open between messages: cohorts and models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.cohort import Patients, read_patients
from clients.contents import images_state, site_store
from clients.features import ModalityTensor, ehr_tensor, image_tensor
from clients.images.pool import all_cores
from clients.known import taught_labels
from clients.ledger import Ledger, site_ledger
from clients.memory import Memory
from clients.notes import text_tensor
from clients.pretrained import feature_tensor
from clients.replies import StoredReplies
from clients.site import Site, load_site
from clients.store import CohortStore
from clients.triplets import event_tensor
from federation.errors import UserError
from federation.modalities import TextSection
from federation.models.build import FlatModel, build_model
from federation.models.inputs import probe_inputs
from federation.models.losses import patient_losses
from federation.models.stacked import StackedModel, can_stack
from federation.privacy.clipping import ClippedSum, clipped_sum
from federation.privacy.layers import UnfitForPrivacy, check_forward, check_loss
from federation.privacy.noise import OperatingSystem, Randomness
from federation.study import Study
from federation.tasks import Task
from federation.vocabulary import Vocabulary, agreed_vocabulary

T = TypeVar("T")

EHR_TENSORS = {"aggregates": ehr_tensor, "events": event_tensor}
"""By what the study's encoder reads."""


@dataclass(frozen=True)
class Cohort:
    """A site's patients for one study, as tensors.

    Attributes:
        patients: rows, labels, splits, subgroups.
        modalities: the tensor of each modality of the study.
        labels: (patients,) or (patients, columns) float32, as the task has them.
    """

    patients: Patients
    modalities: Mapping[str, ModalityTensor]
    labels: Tensor

    def inputs(self, rows: Tensor, device: torch.device) -> tuple[dict[str, Tensor], ...]:
        """Return the model's two arguments for some rows: values and presence by modality."""
        values = {name: modality.values[rows] for name, modality in self.modalities.items()}
        present = {name: modality.present[rows] for name, modality in self.modalities.items()}
        if device.type == "cpu":
            return values, present
        return _sent(values, device), _sent(present, device)

    @functools.cached_property
    def trained_on(self) -> dict[str, int]:
        """How many of the training patients have each modality."""
        rows = self.patients.splits["train"]
        return {
            name: int(modality.present[rows].sum()) for name, modality in self.modalities.items()
        }

    @property
    def unusable(self) -> dict[str, int]:
        """What could not be used of images and notes, counted by reason."""
        return {
            reason: count
            for modality in self.modalities.values()
            for reason, count in modality.unusable.items()
        }


def _sent(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copy tensors to a GPU from pinned memory, so that it computes meanwhile."""
    return {
        name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in tensors.items()
    }


class Prepared(NamedTuple):
    """A folder of cohorts, and the start of the keys of one site's parts there."""

    store: CohortStore
    of: tuple[str, ...]


class Workbench:
    """Opens sites, reads their cohorts and builds models, each once.

    Attributes:
        keeps_unprotected: whether training without differential privacy is noted in the ledger.
        simulated: whether the sites are a simulation's, which may meet a study's faults.
        together: whether small models of several sites may be trained in one pass.
    """

    keeps_unprotected = True
    simulated = False
    together = True

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], Any] = {}
        self._last: tuple[tuple[Any, ...], Patients] | None = None

    def randomness(self, seed: int, *purpose: str | int) -> Randomness:
        """Return where a private round's draws come from; the seed is a simulation's only."""
        return OperatingSystem()

    def ledger(self, file: str) -> Ledger:
        """Return the site's privacy ledger, open."""
        return self._once(("ledger", file), lambda: site_ledger(self.site(file)))

    def replies(self, file: str) -> StoredReplies:
        """Return the replies that the site keeps."""
        return StoredReplies(self.site(file).state / "replies")

    def memory(self, file: str, run: str, model: str) -> Memory:
        """Return what the site keeps for itself of one model of a run."""
        folder = self.site(file).state / "personal" / (run or "no-run") / model.replace(":", ".")
        return Memory(folder)

    def site(self, file: str) -> Site:
        """Return the site of a site file."""
        return self._once(("site", file), lambda: load_site(Path(file)))

    def roster(self, file: str, study: Study) -> Patients:
        """Return the site's patients for the study's task and split, without their events."""
        store, of = self._prepared(file)
        key = ("patients", *of, repr(study.task), repr(study.split))
        found = store.patients(key)
        if found is None:
            patients = self.patients(file, study)
            self._check_unchanged(file)
            store.keep_patients(key, patients)
            found = store.patients(key)
            assert found is not None
        return found

    def patients(self, file: str, study: Study) -> Patients:
        """Return the site's patients with their events, which are kept of the last site alone."""
        key = (file, repr(study.task), repr(study.split))
        if self._last is None or self._last[0] != key:
            self._last = key, read_patients(self.site(file), study.task, study.split)
        return self._last[1]

    def agreed_vocabulary(self, study: Study) -> Vocabulary | None:
        """Return the vocabulary that the study alone defines; None if it defines none."""
        section = study.modalities.ehr
        if section is None or section.vocabulary == "prepared":
            return None
        key = ("vocabulary", study.fingerprint)
        return self._once(key, lambda: agreed_vocabulary(section))

    def cohort(self, file: str, study: Study, vocabulary: Vocabulary | None) -> Cohort:
        """Return the site's patients as tensors."""
        key = ("cohort", file, study.fingerprint, vocabulary and vocabulary.canonical)
        return self._once(key, lambda: self._read_cohort(file, study, vocabulary))

    def model(
        self,
        study: Study,
        vocabulary: Vocabulary | None,
        device: torch.device = torch.device("cpu"),  # noqa: B008  (immutable)
    ) -> FlatModel:
        """Return the study's model; its weights are whatever was loaded last."""
        key = ("model", study.fingerprint, vocabulary and vocabulary.canonical, str(device))
        return self._once(key, lambda: _on_one_thread(study, vocabulary, device))

    def stacks(self, model: FlatModel, study: Study) -> bool:
        """Whether a study's model is trained in one pass with those of other sites."""
        key = ("stacks", study.fingerprint, id(model))
        batch_size, plain = study.training.batch_size, stackable(study)
        return self.together and plain and self._once(key, lambda: can_stack(model, batch_size))

    def stacked(self, model: FlatModel, copies: int) -> StackedModel:
        """Return copies of a model of this workbench, to train them in one pass."""
        stacked = self._once(("stacked", id(model)), lambda: StackedModel(model))
        stacked.use(copies)
        return stacked

    def clipped(self, study: Study, vocabulary: Vocabulary | None, model: FlatModel) -> ClippedSum:
        """Return what sums the model's clipped gradients; model and loss are checked to bear it.

        Raises:
            UserError: naming the layer that does not.
        """
        privacy, task = study.privacy, study.task
        losses = patient_losses(study)

        def make() -> ClippedSum:
            try:
                check_loss(losses, *_probe_losses(task))
                norm, mode = privacy.max_grad_norm, privacy.clipped_sum
                clipped = clipped_sum(model, losses, norm, mode)
                values, present = probe_inputs(study, vocabulary)
                on = {name: value.to(model.device) for name, value in values.items()}
                masks = {name: mask.to(model.device) for name, mask in present.items()}
                check_forward(model.module, on, masks)
            except (UnfitForPrivacy, ValueError) as error:
                raise UserError("the study's model", str(error), field="modalities") from None
            _try_out(clipped, model, (on, masks), task, privacy.clipped_sum)
            return clipped

        return self._once(("clipped", study.fingerprint, id(model)), make)

    def _read_cohort(self, file: str, study: Study, vocabulary: Vocabulary | None) -> Cohort:
        patients = self.roster(file, study)
        tensors = {
            name: self._tensor(file, (name, *key), make)
            for name, key, make in self._recipes(file, study, vocabulary)
        }
        return Cohort(patients, tensors, torch.from_numpy(self._taught(file, study, patients)))

    def _taught(self, file: str, study: Study, patients: Patients) -> NDArray[np.float32]:
        """Return labels as training uses them.

        Under differential privacy all of them, for how many there are of an outcome would tell.
        """
        if study.privacy.mechanism == "dp_sgd":
            return patients.labels
        minimum = self.site(file).policy.minimum_cell
        return taught_labels(patients.labels, patients.splits["train"], study.task, minimum)

    def _recipes(
        self, file: str, study: Study, vocabulary: Vocabulary | None
    ) -> Iterator[tuple[str, tuple[Any, ...], Callable[[], ModalityTensor]]]:
        """Yield each modality with what its tensor follows from, and how it is made."""
        task, modalities = (repr(study.task), repr(study.split)), study.modalities
        site = self.site(file)
        if (ehr := modalities.ehr) is not None:
            assert vocabulary is not None
            make = EHR_TENSORS[ehr.chosen.reads]
            key = (*task, *ehr.prepared, vocabulary.canonical)
            yield "ehr", key, lambda: make(self.patients(file, study), ehr, vocabulary)
        if (image := modalities.image) is not None:
            yield (
                "image",
                (
                    *task,
                    repr((image.shape, image.spacing_mm)),
                    self._once(("images", file), lambda: images_state(site)),
                ),
                lambda: image_tensor(
                    self.patients(file, study),
                    image,
                    site.images,
                    site.settings.data.images,
                    0 if self.simulated else all_cores(),
                    self._prepared(file).store.room,
                ),
            )
        if (text := modalities.text) is not None:
            yield "text", (*task, *text.prepared), lambda: self._text(file, study, text)

    def _text(self, file: str, study: Study, text: TextSection) -> ModalityTensor:
        site, patients = self.site(file), self.patients(file, study)
        if text.chosen.reads == "features":
            return feature_tensor(patients, text, site, choose_device(site))
        return text_tensor(patients, text, site.settings.data.notes is not None)

    def _prepared(self, file: str) -> Prepared:
        """Return where a site's cohorts are kept, and what tells it from other sites there."""
        site = self.site(file)
        return Prepared(*self._once(("prepared", file), lambda: (site_store(site), ())))

    def _check_unchanged(self, file: str) -> None:
        """Refuse to keep what was read from files that changed meanwhile."""
        store, _ = self._prepared(file)
        if not self.simulated and site_store(self.site(file)).folder != store.folder:
            raise UserError(
                self.site(file).file,
                "the site's data changed while they were read",
                remedy="Start again when the export is complete.",
            )

    def _tensor(
        self, file: str, key: tuple[Any, ...], make: Callable[[], ModalityTensor]
    ) -> ModalityTensor:
        store, of = self._prepared(file)
        found = store.tensor((*of, *key))
        if found is None:
            tensor = make()
            self._check_unchanged(file)
            store.keep_tensor((*of, *key), tensor)
            found = store.tensor((*of, *key))
            assert found is not None
        return found

    def _once(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        if key not in self._kept:
            self._kept[key] = make()
        return cast(T, self._kept[key])


def _probe_losses(task: Task) -> tuple[Tensor, Tensor]:
    """Made-up logits and labels of five patients, to try a loss with."""
    shape = (5,) if task.outputs == 1 else (5, task.outputs)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)), task.probe_labels(5)


def _try_out(
    clipped: ClippedSum,
    model: FlatModel,
    inputs: tuple[dict[str, Tensor], ...],
    task: Task,
    mode: str,
) -> None:
    """Add up made-up patients once, so that a mode that cannot is known before a round is paid."""
    gradient = model.vector.grad
    assert gradient is not None
    values, present = inputs
    training = model.module.training
    try:
        model.module.train()
        labels = task.probe_labels(len(next(iter(present.values()))))
        clipped.add(values, present, labels.to(model.device))
    except Exception as error:
        raise UserError(
            "the study",
            f'"{mode}" cannot take this model: {type(error).__name__}: {error}',
            field="privacy.clipped_sum",
            remedy='Use "auto".',
        ) from None
    finally:
        model.module.train(training)
        gradient.zero_()


def _on_one_thread(study: Study, vocabulary: Vocabulary | None, device: torch.device) -> FlatModel:
    """Build a model in a process of one thread: more contend, and would change the last bits."""
    torch.set_num_threads(1)
    return build_model(study, vocabulary, device)


def choose_device(site: Site) -> torch.device:
    """Return the device that the site file names; ``auto`` takes a GPU where there is one.

    Raises:
        UserError: if it names a GPU that this process does not see.
    """
    wanted = site.settings.site.device
    gpus = torch.cuda.device_count()
    if wanted == "auto":
        wanted = "cuda" if gpus else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise UserError(
            site.file,
            f'"{wanted}" is not there; PyTorch sees {gpus or "no"} CUDA device(s) here',
            field="site.device",
            remedy='Give "auto" or "cpu", or install a driver and PyTorch that see the GPU.',
        )
    return device


def stackable(study: Study) -> bool:
    """Whether a study allows to train several sites in one pass: one logit, nothing drawn.

    Nor a layer over many tokens: its sums may come out otherwise in other company.
    """
    plain = study.task.kind == "binary" and study.training.loss.weighted_only
    plain = plain and study.fusion.tokens == "one"
    apart = study.modalities.augmented or study.training.precision != "float32"
    return plain and not apart
