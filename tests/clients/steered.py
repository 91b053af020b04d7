"""Fits of several small sites, to steer them."""

from functools import partial

from clients.fits import PlainFit, PrivateFit
from clients.workbench import Workbench
from federation.models.losses import patient_losses
from federation.privacy.accounting import Segment
from federation.privacy.clipping import clipped_sum
from federation.privacy.noise import Seeded
from federation.randomness import torch_generator
from federation.vocabulary import agreed_vocabulary

SIZES = (24, 45, 31)


def fits_of(folder, write_site, study, **more):
    """Return a workbench and a fit for each of three sites, of different numbers of steps."""
    vocabulary, bench = agreed_vocabulary(study.modalities.ehr), Workbench()
    model = bench.model(study, vocabulary)
    start, fits = model.weights(), []
    for i, size in enumerate(SIZES):
        site, splits = folder / f"site-{i}", dict.fromkeys(range(1, size + 1), "train")
        if not site.exists():
            write_site(site, size, notes=i != 2, seed=i, splits=splits)
        cohort = bench.cohort(str(site), study, vocabulary)
        common = model, start, cohort, study, study.training
        if study.privacy.mechanism == "dp_sgd":
            clipped = clipped_sum(model, patient_losses(study), study.privacy.max_grad_norm)
            segment = Segment(0.3, 1.5, 2 + i)
            draws = partial(Seeded, 1, f"site-{i}")
            fits.append(PrivateFit(*common, clipped, segment, draws, **more))
        else:
            draws = partial(torch_generator, 1, f"site-{i}")
            fits.append(PlainFit(*common, draws, **more))
    return bench, fits
