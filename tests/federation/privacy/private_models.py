"""Models of many kinds, and the clipped sum as its definition has it, in float64."""

import copy
import itertools

import torch
from torch import nn
from torch.nn import functional as F

from federation.models.build import FlatModel, build_model
from federation.models.words import PIECES
from federation.vocabulary import agreed_vocabulary

PATIENTS = 7
FUSIONS = ("late", "early", "cross_attention")
MODES = ("book_keeping", "hooks", "functorch", "ew", "per_patient")
REGISTRY = {
    "linear": ("linear", ("ehr",)),
    "mlp": ("mlp", ("ehr",)),
    "cnn": ("mlp", ("image",)),
    "text": ("mlp", ("text",)),
    "all_linear": ("linear", ("ehr", "image", "text")),
    "all_mlp": ("mlp", ("ehr", "image", "text")),
}
KINDS = list(itertools.product(FUSIONS, REGISTRY))


def bce(logits, labels):
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none")


class Toy(nn.Module):
    """A network over ``values["x"]``, and nothing else, called as the study's models are."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, values, present):
        out = self.net(values["x"])
        return out if out.dim() == 1 else out.flatten(1).mean(1)


class Flat:
    """What a clipped sum needs of any module: parameters and gradients as views of one vector."""

    def __init__(self, module):
        self.module = module
        named = list(module.parameters())
        flat = torch.cat([p.detach().reshape(-1) for p in named])
        self.vector = nn.Parameter(flat, requires_grad=False)
        self.vector.grad = torch.zeros_like(flat)
        start = 0
        for p in named:
            stop = start + p.numel()
            p.data = flat[start:stop].view(p.shape)
            p.grad = self.vector.grad[start:stop].view(p.shape)
            start = stop


def registry_model(make_study, fusion, kind):
    encoder, names = REGISTRY[kind]
    study = make_study(*names, fusion={"kind": fusion})
    if "ehr" not in names:
        return build_model(study, None)
    document = study.to_dict()
    document["modalities"]["ehr"]["encoder"] = encoder
    study = type(study).model_validate(document)
    return build_model(study, agreed_vocabulary(study.modalities.ehr))


def registry_batch(model: FlatModel, patients=PATIENTS, seed=0):
    """Values, presence and labels; one patient after another lacks more modalities."""
    generator = torch.Generator().manual_seed(seed)
    names = list(model.module.encoders)
    values = {}
    if "ehr" in names:
        ehr = model.module.encoders["ehr"]
        width = ehr.layers[0].in_features if hasattr(ehr, "layers") else ehr.width
        values["ehr"] = torch.randn(patients, width, generator=generator)
    if "image" in names:
        values["image"] = torch.rand(patients, 1, 32, 32, generator=generator)
    if "text" in names:
        values["text"] = torch.randint(0, 65, (patients, 16, PIECES), generator=generator)
        values["text"][:, 12:] = 0
    subsets = list(itertools.product([True, False], repeat=len(names)))
    present = {
        name: torch.tensor([subsets[i % len(subsets)][k] for i in range(patients)])
        for k, name in enumerate(names)
    }
    return values, present, (torch.arange(patients) % 2).float()


def gradients(model, batch, loss=bce):
    """Each patient's gradient, one backward pass each, (patients, parameters) float64."""
    module = copy.deepcopy(model.module).double()
    values, present, labels = batch
    rows = []
    for i in range(len(labels)):
        one = slice(i, i + 1)
        logits = module(
            {n: v[one].double() if v.is_floating_point() else v[one] for n, v in values.items()},
            {n: m[one] for n, m in present.items()},
        )
        parameters = [p for p in module.parameters() if p.requires_grad]
        found = torch.autograd.grad(
            loss(logits, labels[one].double()).sum(), parameters, allow_unused=True
        )
        known = {id(p): g for p, g in zip(parameters, found, strict=True)}
        row = [known.get(id(p)) for p in module.parameters()]
        rows.append(
            torch.cat(
                [
                    torch.zeros(p.numel(), dtype=torch.float64) if g is None else g.reshape(-1)
                    for p, g in zip(module.parameters(), row, strict=True)
                ]
            )
        )
    empty = torch.zeros(0, len(model.vector), dtype=torch.float64)
    return torch.stack(rows) if rows else empty


def expected_sum(rows, max_grad_norm):
    """The clipped sum, by its definition; (patients, parameters) rows."""
    norms = rows.norm(dim=1, keepdim=True)
    return (rows * (max_grad_norm / norms).clamp(max=1)).sum(0)


def clipping_norms(rows):
    """One that clips every patient with a gradient, one that clips some, one that clips none."""
    norms = rows.norm(dim=1)
    return [0.3 * float(norms[norms > 0].min()), float(norms.median()), 3 * float(norms.max())]


def first(batch, patients):
    return part(batch, slice(0, patients))


def part(batch, which):
    values, present, labels = batch
    return (
        {n: v[which] for n, v in values.items()},
        {n: m[which] for n, m in present.items()},
        labels[which],
    )


def added(model, clipped, *batches):
    """The flat gradient after adding the batches to zero, float64."""
    model.vector.grad.zero_()
    for batch in batches:
        clipped.add(*batch)
    return model.vector.grad.double()


def check_sum(model, clipped, batch, rows, norm):
    """Of no patient, of the first, and of all, the clipped sum is that of the definition."""
    for patients in (0, 1, PATIENTS):
        found = added(model, clipped, first(batch, patients))
        error = (found - expected_sum(rows[:patients], norm)).norm()
        assert error <= 1e-5 * norm * max(patients, 1)


def check_bound(model, clipped, batch, norm):
    """No patient alone adds more than the clipping norm."""
    for i in range(PATIENTS):
        found = added(model, clipped, part(batch, slice(i, i + 1)))
        assert found.norm() <= norm * (1 + 1e-5)
