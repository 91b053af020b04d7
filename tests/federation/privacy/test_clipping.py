"""Clipped sums: every mode finds what the definition says, and no patient adds more than C."""

import copy
import pickle

import pytest
import torch
from private_models import (
    FUSIONS,
    KINDS,
    MODES,
    PATIENTS,
    Flat,
    Toy,
    added,
    bce,
    check_bound,
    check_sum,
    clipping_norms,
    expected_sum,
    first,
    gradients,
    part,
    registry_batch,
    registry_model,
)
from torch import nn
from torch.func import functional_call, grad, vmap

from federation.privacy.clipping import SLACK, clip_factors, clipped_sum
from federation.privacy.layers import UnfitForPrivacy


@pytest.fixture(scope="module")
def model_and_rows(make_study):
    """Return a builder of a registry model, its batch, and each patient's gradient."""
    known = {}

    def build(fusion, kind):
        if (fusion, kind) not in known:
            model = registry_model(make_study, fusion, kind)
            batch = registry_batch(model)
            known[fusion, kind] = model, batch, gradients(model, batch)
        return known[fusion, kind]

    return build


def modes_for(fusion):
    return MODES if fusion != "early" else [mode for mode in MODES if mode != "ew"]


@pytest.mark.parametrize(
    ("fusion", "kind", "mode"), [(*k, mode) for k in KINDS for mode in modes_for(k[0])]
)
def test_every_mode_equals_the_loop_over_patients(model_and_rows, fusion, kind, mode):
    model, batch, rows = model_and_rows(fusion, kind)
    model.module.train()
    for norm in clipping_norms(rows):
        clipped = clipped_sum(model, bce, norm, mode)
        assert clipped.mode == mode
        check_sum(model, clipped, batch, rows, norm)


@pytest.mark.parametrize(("fusion", "kind"), KINDS)
def test_auto_chooses_book_keeping_for_every_model_of_the_registry(model_and_rows, fusion, kind):
    assert clipped_sum(model_and_rows(fusion, kind)[0], bce, 1.0).mode == "book_keeping"


@pytest.mark.parametrize("fusion", FUSIONS)
def test_torch_func_finds_the_same_gradients(model_and_rows, fusion):
    model, (values, present, labels), rows = model_and_rows(fusion, "all_mlp")

    def loss(parameters, values, present, label):
        one = [{n: v.unsqueeze(0) for n, v in tree.items()} for tree in (values, present)]
        return bce(functional_call(model.module, parameters, tuple(one)), label[None]).sum()

    parameters = {n: p.detach().clone() for n, p in model.module.named_parameters()}
    found = vmap(grad(loss), (None, 0, 0, 0))(parameters, values, present, labels)
    flat = torch.cat([found[n].reshape(PATIENTS, -1) for n in parameters], 1)
    torch.testing.assert_close(flat.double(), rows, rtol=1e-4, atol=1e-6)


def test_ew_refuses_embeddings_of_one_index_a_patient(model_and_rows):
    model, batch, _ = model_and_rows("early", "linear")
    with pytest.raises(RuntimeError, match="batch size"):
        added(model, clipped_sum(model, bce, 1.0, "ew"), batch)


@pytest.mark.parametrize("mode", MODES)
def test_parts_of_a_batch_add_up_to_the_batch(model_and_rows, mode):
    model, batch, rows = model_and_rows("late" if mode == "ew" else "cross_attention", "all_mlp")
    model.module.train()
    norm = clipping_norms(rows)[1]
    clipped = clipped_sum(model, bce, norm, mode)
    whole = added(model, clipped, batch)
    parts = added(model, clipped, first(batch, 3), first(batch, 0), part(batch, slice(3, None)))
    assert (whole - parts).norm() <= 1e-5 * norm


@pytest.mark.parametrize("mode", MODES)
def test_one_patient_moves_the_sum_by_at_most_the_clipping_norm(model_and_rows, mode):
    model, batch, rows = model_and_rows("late" if mode == "ew" else "early", "all_mlp")
    model.module.train()
    for norm in clipping_norms(rows)[:2]:
        clipped = clipped_sum(model, bce, norm, mode)
        whole = added(model, clipped, batch)
        for i in range(PATIENTS):
            others = torch.arange(PATIENTS) != i
            moved = (whole - added(model, clipped, part(batch, others))).norm()
            assert moved <= norm * (1 + 1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 3e38])
def test_patient_without_a_finite_gradient_adds_nothing(model_and_rows, mode, wrong):
    model, batch, rows = model_and_rows("late" if mode == "ew" else "early", "all_mlp")
    model.module.train()
    norm = clipping_norms(rows)[1]
    clipped = clipped_sum(model, bce, norm, mode)
    values, present, labels = batch
    spoilt = {**values, "ehr": values["ehr"].clone()}
    spoilt["ehr"][2, 0] = wrong
    assert present["ehr"][2]
    others = torch.arange(PATIENTS) != 2
    found = added(model, clipped, (spoilt, present, labels))
    assert (found - expected_sum(rows[others], norm)).norm() <= 1e-5 * norm * PATIENTS
    alone = added(model, clipped, part((spoilt, present, labels), slice(2, 3)))
    assert not alone.any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", [4, 64])
@pytest.mark.parametrize("left", [0.0, 1e-6, 1e-3])
def test_no_gradient_passes_the_clipping_norm_where_tokens_cancel(mode, width, left):
    torch.manual_seed(0)
    model = Flat(Toy(nn.Linear(width, width)))  # its gradient is that of the sum over tokens
    model.module.train()
    half = 1e4 * torch.randn(PATIENTS, 4, width)
    x = torch.cat([half, 1e4 * left * torch.randn(PATIENTS, 4, width) - half], 1)
    batch = ({"x": x}, {}, torch.ones(PATIENTS))
    model.vector.detach().mul_(1e-6)  # or logits as large as the tokens
    for norm in (1e-4, 1e-2, 1.0):
        check_bound(model, clipped_sum(model, bce, norm, mode), batch, norm)


@pytest.mark.parametrize("mode", MODES)
def test_module_is_left_as_it_was(make_study, mode):
    model = registry_model(make_study, "late" if mode == "ew" else "early", "all_mlp")
    values, present, labels = registry_batch(model)

    def logits():
        with torch.no_grad():
            return model.module.eval()(values, present).numpy().tobytes()

    untouched, pickled = logits(), len(pickle.dumps(model.module))
    attributes = {n: set(m.__dict__) for n, m in model.module.named_modules()}
    clipped = clipped_sum(model, bce, 1.0, mode)
    for _ in range(2):
        model.module.train()
        clipped.add(values, present, labels)
        assert logits() == untouched
        assert {n: set(m.__dict__) for n, m in model.module.named_modules()} == attributes
        for module in model.module.modules():
            assert not module._forward_hooks
            assert not module._backward_hooks
    copy.deepcopy(model.module)
    assert len(pickle.dumps(model.module)) < 1.5 * pickled
    for parameter in model.module.parameters():
        storage = parameter.grad.untyped_storage().data_ptr()
        assert storage == model.vector.grad.untyped_storage().data_ptr()


@pytest.mark.parametrize("mode", MODES)
def test_frozen_layers_are_neither_moved_nor_counted_in_the_norm(make_study, mode):
    model = registry_model(make_study, "late", "all_mlp")
    model.module.encoders["text"].requires_grad_(False)
    model.module.encoders["ehr"].layers[0].bias.requires_grad_(False)
    model.module.train()
    batch = registry_batch(model)
    rows = gradients(model, batch)
    norm = clipping_norms(rows)[1]
    found = added(model, clipped_sum(model, bce, norm, mode), batch)
    assert (found - expected_sum(rows, norm)).norm() <= 1e-5 * norm * PATIENTS


@pytest.mark.parametrize("mode", ["hooks", "functorch", "ew"])
def test_dropout_falls_alike_in_every_mode(mode):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 1))
    model = Flat(Toy(net))
    model.module.train()
    batch = ({"x": torch.randn(PATIENTS, 6)}, {}, torch.ones(PATIENTS))

    def found(mode):
        torch.manual_seed(1)
        return added(model, clipped_sum(model, bce, 0.1, mode), batch)

    assert (found("book_keeping") - found(mode)).norm() <= 1e-6


@pytest.mark.parametrize("mode", ["hooks", "functorch"])
def test_opacus_says_so_when_the_module_is_not_in_training_mode(make_study, mode):
    model = registry_model(make_study, "late", "mlp")
    model.module.eval()
    with pytest.raises(RuntimeError, match="training mode"):
        clipped_sum(model, bce, 1.0, mode).add(*registry_batch(model))
    assert not model.vector.grad.any()


def test_factors_leave_room_below_the_clipping_norm():
    norms = torch.tensor([0.0, 1e-30, 0.5, 1.0, 2.0, 1e19])
    factors = clip_factors(norms, 1.0)
    assert factors[:3].tolist() == [1, 1, 1]
    assert (factors * norms <= 1).all()
    torch.testing.assert_close(factors[3:] * norms[3:], torch.full((3,), 1 - SLACK))


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan"), float("inf")])
def test_clipping_norm_is_a_positive_number(make_study, norm):
    with pytest.raises(ValueError, match="max_grad_norm"):
        clipped_sum(registry_model(make_study, "late", "mlp"), bce, norm)


def test_model_that_cannot_be_private_is_refused():
    model = Flat(Toy(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))))
    with pytest.raises(UnfitForPrivacy, match=r"net\.1 \(BatchNorm1d\)"):
        clipped_sum(model, bce, 1.0)


def test_model_that_is_all_frozen_is_refused(make_study):
    model = registry_model(make_study, "late", "mlp")
    model.module.requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        clipped_sum(model, bce, 1.0)


def test_flat_gradient_that_was_replaced_is_refused(make_study):
    model = registry_model(make_study, "late", "mlp")
    clipped = clipped_sum(model, bce, 1.0)
    model.vector.grad = torch.zeros_like(model.vector.grad)
    with pytest.raises(RuntimeError, match="replaced"):
        clipped.add(*registry_batch(model))


def test_gradients_that_are_not_views_are_refused(make_study):
    model = registry_model(make_study, "late", "mlp")
    next(model.module.parameters()).grad = None
    with pytest.raises(ValueError, match=r"encoders\.ehr\.layers\.0\.weight"):
        clipped_sum(model, bce, 1.0)
