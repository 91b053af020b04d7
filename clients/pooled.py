"""The patients of several sites in one place, for the comparator that trains on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from clients.cohort import Patients
from clients.features import ModalityTensor
from clients.workbench import Cohort


def pool(cohorts: Sequence[Cohort]) -> Cohort:
    """Put the patients of several cohorts of one study together: the pooled comparator."""
    starts = np.cumsum([0, *(len(c.patients) for c in cohorts)])
    patients = Patients(
        subject_ids=np.concatenate([c.patients.subject_ids for c in cohorts]),
        labels=np.concatenate([c.patients.labels for c in cohorts]),
        events=pd.DataFrame(),
        splits={
            split: np.concatenate(
                [c.patients.splits[split] + at for c, at in zip(cohorts, starts, strict=False)]
            )
            for split in cohorts[0].patients.splits
        },
        subgroups={},
        excluded={},
        notices={},
        arrival=np.concatenate([c.patients.arrival for c in cohorts]),
        times=np.concatenate([c.patients.times for c in cohorts]),
    )
    modalities = {
        name: ModalityTensor(
            torch.cat([c.modalities[name].values for c in cohorts]),
            torch.cat([c.modalities[name].present for c in cohorts]),
            {},
        )
        for name in cohorts[0].modalities
    }
    return Cohort(patients, modalities, torch.from_numpy(patients.labels))
