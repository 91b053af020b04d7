"""What rules out private training is found before it, and named with its fix."""

import copy

import pytest
import torch
from private_models import FUSIONS, KINDS, bce, registry_batch, registry_model
from torch import nn
from torch.nn import functional as F

from federation.privacy.layers import UnfitForPrivacy, check_forward, check_loss, check_private


@pytest.mark.parametrize(("fusion", "kind"), KINDS)
def test_every_model_of_the_registry_passes(make_study, fusion, kind):
    model = registry_model(make_study, fusion, kind)
    values, present, _ = registry_batch(model)
    check_private(model.module)
    check_forward(model.module, values, present)


def frozen(module):
    return module.requires_grad_(False)


FORBIDDEN = {
    "batch norm": (lambda: nn.BatchNorm1d(4), "BatchNorm1d", "GroupNorm"),
    "batch norm without weights": (
        lambda: nn.BatchNorm2d(4, affine=False),
        "BatchNorm2d",
        "GroupNorm",
    ),
    "batch norm without statistics": (
        lambda: nn.BatchNorm3d(4, track_running_stats=False),
        "BatchNorm3d",
        "GroupNorm",
    ),
    "frozen batch norm": (lambda: frozen(nn.BatchNorm2d(4)), "BatchNorm2d", "GroupNorm"),
    "batch norm in eval mode": (lambda: nn.BatchNorm2d(4).eval(), "BatchNorm2d", "GroupNorm"),
    "synchronised batch norm": (lambda: nn.SyncBatchNorm(4), "SyncBatchNorm", "GroupNorm"),
    "lazy batch norm": (lambda: nn.LazyBatchNorm2d(), "LazyBatchNorm2d", "GroupNorm"),
    "instance norm with statistics": (
        lambda: nn.InstanceNorm2d(4, track_running_stats=True),
        "InstanceNorm2d",
        "track_running_stats=False",
    ),
    "embedding that rescales": (lambda: nn.Embedding(4, 4, max_norm=1.0), "Embedding", "max_norm"),
    "bag that rescales": (lambda: nn.EmbeddingBag(4, 4, max_norm=1.0), "EmbeddingBag", "max_norm"),
    "embedding scaled by the batch": (
        lambda: nn.Embedding(4, 4, scale_grad_by_freq=True),
        "Embedding",
        "scale_grad_by_freq=False",
    ),
    "sparse embedding": (lambda: nn.Embedding(4, 4, sparse=True), "Embedding", "sparse=False"),
    "layer without a shape": (lambda: nn.LazyLinear(4), "LazyLinear", "weight has no shape"),
    "complex parameters": (
        lambda: nn.Linear(4, 4, dtype=torch.complex64),
        "Linear",
        "weight, torch.complex64",
    ),
    "half precision": (lambda: nn.Linear(4, 4, dtype=torch.float16), "Linear", "float32"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_forbidden_layer_is_named_with_its_fix(what):
    make, kind, fix = FORBIDDEN[what]
    module = nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"inner": make()}))
    with pytest.raises(UnfitForPrivacy) as caught:
        check_private(module)
    assert f"1.inner ({kind}): " in str(caught.value)
    assert fix in str(caught.value)


def test_every_forbidden_layer_is_named_and_the_root_by_its_name():
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False))
    with pytest.raises(UnfitForPrivacy, match=r"^0 \(BatchNorm1d\): .*\n2 \(BatchNorm1d\): "):
        check_private(module)
    with pytest.raises(UnfitForPrivacy, match=r"^encoder \(BatchNorm1d\): "):
        check_private(nn.BatchNorm1d(4), "encoder")


def test_what_harms_nobody_passes():
    module = nn.Sequential(
        nn.InstanceNorm2d(4, affine=True),
        nn.LayerNorm(4),
        nn.Embedding(4, 4, padding_idx=0),
        frozen(nn.Linear(4, 4, dtype=torch.float16)),
    )
    check_private(module)


class RunningMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.layer(x)


class LateBuffer(nn.Module):
    def forward(self, x):
        self.register_buffer("seen", x.detach().clone())
        return x


class MovedParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        with torch.no_grad():
            self.scale.add_(x.mean(0))
        return x * self.scale


class Centred(nn.Module):
    """Subtracts the batch's mean."""

    def forward(self, x):
        return x - x.mean(0)


class CentredBetween(nn.Module):
    """Subtracts the batch's mean between two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        y = self.first(x)
        return self.second(y - y.mean(0))


class ByPlace(nn.Module):
    def forward(self, x):
        return x * torch.arange(1, len(x) + 1).unsqueeze(1)


class Neighbour(nn.Module):
    """Adds one patient's values to the next one's."""

    def forward(self, x):
        return x + x.roll(1, 0)


class Gathered(nn.Module):
    """Encodes only the patients who have something."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        some = x[:, 0] > 0
        out = torch.zeros_like(x)
        out[some] = self.layer(x[some])
        return out


class SharedPlaces(nn.Module):
    def __init__(self):
        super().__init__()
        self.places = nn.Embedding(4, 1)

    def forward(self, x):
        return x * self.places(torch.arange(4)).squeeze(1)


class Reached(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.hidden = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) + F.linear(x, self.hidden.weight)


class Averaged(nn.Module):
    def forward(self, x):
        return x.mean(0, keepdim=True)


UNFIT = {
    "running statistics": (RunningMean, r"1 \(RunningMean\): mean changes .*GroupNorm"),
    "a buffer that appears": (LateBuffer, r"1 \(LateBuffer\): seen changes"),
    "a parameter that data move": (MovedParameter, r"1 \(MovedParameter\): scale changes"),
    "a batch norm": (lambda: nn.BatchNorm1d(4), r"1 \(BatchNorm1d\): .*changes"),
    "a batch norm without statistics": (
        lambda: nn.BatchNorm1d(4, track_running_stats=False),
        r"1 \(BatchNorm1d\): cannot be run for one patient alone",
    ),
    "the batch's mean": (Centred, r"1 \(Centred\): a patient's values depend on who else"),
    "the batch's mean, between layers": (
        CentredBetween,
        r"1\.second \(Linear\): what enters it: a patient's values depend on who else",
    ),
    "a place in the batch": (ByPlace, r"1 \(ByPlace\): a patient's values depend on who else"),
    "a neighbour": (Neighbour, r"1 \(Neighbour\): a patient's values depend on who else"),
    "a choice of rows": (Gathered, r"1\.layer \(Linear\): .*not one row for each patient"),
    "shared places": (SharedPlaces, r"1\.places \(Embedding\): .*not one row for each patient"),
    "a weight used without its layer": (
        Reached,
        r"1\.hidden \(Linear\): its weight is used outside its own call.*Embedding\(1, d\)",
    ),
    "a mean over patients": (Averaged, r"1 \(Averaged\)|model \(Sequential\)"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_unfit_forward_pass_is_named(what):
    make, message = UNFIT[what]
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), make())
    with pytest.raises(UnfitForPrivacy, match=message):
        check_forward(module, torch.randn(4, 4))


class FirstResult(nn.Module):
    def forward(self, results):
        return results[0]


class PlainDropout(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5, training=self.training)


def test_fit_forward_pass_is_found_fit_whatever_it_draws():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(4, 4),
        nn.Dropout(0.5),
        PlainDropout(),
        nn.TransformerEncoderLayer(4, 2, 8, dropout=0.3, batch_first=True),
        nn.LSTM(4, 4, num_layers=2, dropout=0.5, batch_first=True),
        FirstResult(),
    )
    check_forward(module, torch.randn(3, 5, 4))
    assert module[1].p == 0.5
    assert module[4].dropout == 0.5
    assert module[3].self_attn.dropout == 0.3


def test_bare_parameters_may_be_used_in_their_own_modules_call():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.layer = nn.Parameter(torch.randn(4)), nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x + self.token)

    check_forward(nn.Sequential(Bare(), nn.Linear(4, 4)), torch.randn(3, 4))


def test_checking_leaves_everything_as_it_was():
    module = nn.Sequential(nn.Linear(4, 4), RunningMean(), nn.Dropout(0.5), nn.Linear(4, 4))
    module[1].eval()
    before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    attributes = [set(m.__dict__) for m in module.modules()]
    modes = [m.training for m in module.modules()]
    with pytest.raises(UnfitForPrivacy):
        check_forward(module, torch.randn(4, 4))
    check_forward(nn.Sequential(module[0], module[2], module[3]), torch.randn(4, 4))
    assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())
    assert [m.training for m in module.modules()] == modes
    assert [set(m.__dict__) for m in module.modules()] == attributes
    assert not any(m._forward_hooks for m in module.modules())
    assert all(p.grad is None for p in module.parameters())
    torch.set_rng_state(state)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_random_numbers_are_left_alone(make_study, fusion):
    model = registry_model(make_study, fusion, "all_mlp")
    values, present, _ = registry_batch(model)
    state = torch.get_rng_state()
    check_forward(model.module, values, present)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("inputs", [(torch.ones(1, 4),), (), (torch.ones(3, 4), torch.ones(2, 4))])
def test_probing_needs_two_patients(inputs):
    with pytest.raises(ValueError, match="two patients"):
        check_forward(nn.Linear(4, 4), *inputs)


def contrastive(logits, labels):
    apart = (logits.unsqueeze(0) - logits.unsqueeze(1)).square()
    return torch.exp(-apart).mean(1) + bce(logits, labels)


def balanced(logits, labels):
    return bce(logits, labels) / labels.mean()


LOSSES = {
    "contrastive": (contrastive, "who else is in the batch"),
    "weighed by the batch's labels": (balanced, "who else is in the batch"),
    "centred logits": (lambda z, y: bce(z - z.mean().detach(), y), "who else is in the batch"),
    "a mean": (lambda z, y: bce(z, y).mean(), 'reduction="none"'),
    "a sum, as one number": (lambda z, y: bce(z, y).sum().reshape(1), r"shape \(1,\)"),
    "pairs": (lambda z, y: bce(z.unsqueeze(0) - z.unsqueeze(1), y.expand(5, 5)), r"shape \(5, 5\)"),
}


@pytest.mark.parametrize("what", LOSSES)
def test_loss_that_couples_patients_is_refused(what):
    loss, message = LOSSES[what]
    with pytest.raises(UnfitForPrivacy, match=message):
        check_loss(loss)


def test_loss_of_each_patient_alone_passes():
    check_loss(bce)
    check_loss(
        lambda z, y: F.cross_entropy(z, y, reduction="none"), torch.randn(4, 3), torch.arange(4) % 3
    )
