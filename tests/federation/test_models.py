"""The multimodal model: sound for any subset of modalities, and one flat vector throughout."""

import itertools

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from torch.func import functional_call, grad, vmap
from torch.nn.functional import binary_cross_entropy_with_logits

from federation.models.build import FlatModel, build_model
from federation.models.encoders.small_cnn import ToMap
from federation.models.inputs import probe_inputs
from federation.models.words import PIECES
from federation.study import Study
from federation.vocabulary import agreed_vocabulary

PATIENTS = 8
FUSIONS = ("late", "early", "cross_attention")
ALL = ("ehr", "image", "text")


@pytest.fixture
def build(make_study):
    def build(fusion="late", encoder="mlp", names=ALL):
        study = make_study(*names, fusion={"kind": fusion})
        if "ehr" in names:
            document = study.to_dict()
            document["modalities"]["ehr"]["encoder"] = encoder
            study = type(study).model_validate(document)
            return build_model(study, agreed_vocabulary(study.modalities.ehr))
        return build_model(study, None)

    return build


def features(model):
    ehr = model.module.encoders["ehr"]
    return ehr.layers[0].in_features if hasattr(ehr, "layers") else ehr.width


def batch_for(model, seed=0, patients=PATIENTS):
    generator = torch.Generator().manual_seed(seed)
    names = list(model.module.encoders)
    inputs = {}
    if "ehr" in names:
        inputs["ehr"] = torch.randn(patients, features(model), generator=generator)
    if "image" in names:
        inputs["image"] = torch.rand(patients, 1, 32, 32, generator=generator)
    if "text" in names:
        inputs["text"] = torch.randint(0, 65, (patients, 16, PIECES), generator=generator)
    # every subset of modalities, the empty one too
    subsets = list(itertools.product([True, False], repeat=len(names)))
    present = {
        name: torch.tensor([subsets[i % len(subsets)][k] for i in range(patients)])
        for k, name in enumerate(names)
    }
    labels = torch.arange(patients) % 2
    return inputs, present, labels.float()


def gradients(model, inputs, present, labels):
    model.vector.grad.zero_()
    logits = model.module(inputs, present)
    binary_cross_entropy_with_logits(logits, labels).backward()
    return logits.detach().clone(), model.vector.grad.clone()


KINDS = [*itertools.product(FUSIONS, ("linear", "mlp"))]


@pytest.mark.parametrize(("fusion", "encoder"), KINDS)
def test_any_subset_of_modalities_gives_one_finite_logit_a_patient(build, fusion, encoder):
    model = build(fusion, encoder)
    inputs, present, _ = batch_for(model)
    assert sum(not any(present[n][i] for n in ALL) for i in range(PATIENTS)) == 1
    logits = model.module(inputs, present)
    assert logits.shape == (PATIENTS,)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@pytest.mark.parametrize("names", [n for k in (1, 2) for n in itertools.combinations(ALL, k)])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_studies_with_fewer_modalities_build_and_learn(build, fusion, names):
    model = build(fusion, names=names)
    inputs, present, labels = batch_for(model)
    logits, gradient = gradients(model, inputs, present, labels)
    assert logits.isfinite().all()
    assert gradient.abs().sum() > 0
    assert {part.name for part in model.parts} == {*names, "fusion"} - (
        {"fusion"} if fusion == "late" else set()
    )


@pytest.mark.parametrize("filling", ["noise", "nan", "inf"])
@pytest.mark.parametrize(("fusion", "encoder"), KINDS)
def test_absent_modalities_change_no_bit_of_logits_or_gradients(build, fusion, encoder, filling):
    model = build(fusion, encoder)
    inputs, present, labels = batch_for(model)
    clean = {n: torch.where(_like(present[n], v), v, 0) for n, v in inputs.items()}
    filled = dict(inputs)
    if filling != "noise":
        for name in ("ehr", "image"):
            value = torch.tensor(float(filling))
            filled[name] = torch.where(_like(present[name], inputs[name]), inputs[name], value)
    expected = gradients(model, clean, present, labels)
    found = gradients(model, filled, present, labels)
    assert found[0].numpy().tobytes() == expected[0].numpy().tobytes()
    assert found[1].numpy().tobytes() == expected[1].numpy().tobytes()
    assert found[1].isfinite().all()


def _like(mask, values):
    return mask.view(-1, *[1] * (values.dim() - 1))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_absent_encoder_gets_no_gradient(build, fusion):
    model = build(fusion)
    inputs, present, labels = batch_for(model)
    present["image"] = torch.zeros(PATIENTS, dtype=torch.bool)
    _, gradient = gradients(model, inputs, present, labels)
    for part in model.parts:
        moved = bool(gradient[part.start : part.stop].abs().sum() > 0)
        assert moved == (part.name != "image"), part


@pytest.mark.parametrize("fusion", FUSIONS)
def test_prediction_does_not_depend_on_the_rest_of_the_batch(build, fusion):
    model = build(fusion)
    inputs, present, _ = batch_for(model)
    together = model.module(inputs, present)
    order = torch.randperm(PATIENTS, generator=torch.Generator().manual_seed(1))
    shuffled = model.module(
        {n: v[order] for n, v in inputs.items()}, {n: m[order] for n, m in present.items()}
    )
    torch.testing.assert_close(shuffled, together[order], rtol=1e-5, atol=1e-6)
    for i in range(PATIENTS):
        alone = model.module(
            {n: v[i : i + 1] for n, v in inputs.items()},
            {n: m[i : i + 1] for n, m in present.items()},
        )
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-5, atol=1e-6)


def test_linear_ehr_with_late_fusion_is_a_logistic_regression(build):
    model = build("late", "linear", names=("ehr",))
    inputs, _, _ = batch_for(model)
    weight, bias = model.named_arrays().values()
    present = {"ehr": torch.ones(PATIENTS, dtype=torch.bool)}
    expected = inputs["ehr"].numpy() @ weight[0] + bias[0]
    np.testing.assert_allclose(
        model.module(inputs, present).detach().numpy(), expected, rtol=1e-5, atol=1e-6
    )


def test_padding_and_repetition_of_padding_do_not_change_a_note(build):
    model = build(names=("text",))
    short = torch.randint(1, 65, (1, 4, PIECES))
    short[:, 2:] = 0
    long = torch.cat([short, torch.zeros_like(short)], 1)
    present = {"text": torch.tensor([True])}
    assert torch.equal(
        model.module({"text": short}, present), model.module({"text": long}, present)
    )


def test_initial_weights_follow_the_seed_and_nothing_else(make_study):
    def weights(**sections):
        study = make_study("text", **sections)
        return build_model(study, None).weights().tobytes()

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = weights()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert weights() == first
    assert weights(training={"rounds": 9}) == first
    assert weights(study={"seed": 43}) != first


@pytest.mark.parametrize("fusion", FUSIONS)
def test_parts_cover_the_vector_once_and_follow_the_parameters(build, fusion):
    model = build(fusion)
    edges = [part.start for part in model.parts] + [model.parts[-1].stop]
    assert edges[0] == 0
    assert [part.stop for part in model.parts] == edges[1:]
    assert edges[-1] == len(model.weights())
    flat = np.concatenate([a.reshape(-1) for a in model.named_arrays().values()])
    assert flat.tobytes() == model.weights().tobytes()


def test_loaded_weights_are_what_the_module_computes_with(build):
    model, other = build(), build()
    inputs, present, _ = batch_for(model)
    changed = model.weights() + np.float32(0.01)
    other.load(changed)
    assert other.weights().tobytes() == changed.tobytes()
    assert not torch.equal(other.module(inputs, present), model.module(inputs, present))
    changed[:] = 0  # a copy was taken
    assert other.weights().any()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_flat_steps_equal_ordinary_training_of_named_parameters(build, fusion, optimizer):
    model, plain = build(fusion), build(fusion).module
    for parameter in plain.parameters():  # cut the views: ordinary parameters of their own
        parameter.data = parameter.data.clone()
        parameter.grad = None
    flat_optimizer = OPTIMIZERS[optimizer]([model.vector])
    plain_optimizer = OPTIMIZERS[optimizer](plain.parameters())
    for step in range(4):
        inputs, present, labels = batch_for(model, seed=step)
        gradients(model, inputs, present, labels)
        flat_optimizer.step()
        plain_optimizer.zero_grad()
        binary_cross_entropy_with_logits(plain(inputs, present), labels).backward()
        for parameter in plain.parameters():  # an ordinary optimiser skips what has no gradient
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        plain_optimizer.step()
    expected = torch.cat([p.detach().reshape(-1) for p in plain.parameters()])
    torch.testing.assert_close(model.vector.detach(), expected, rtol=1e-6, atol=1e-7)


def test_parameters_and_gradients_stay_views_through_training(build):
    model = build("cross_attention")
    optimizer = torch.optim.AdamW([model.vector], lr=0.01)
    for step in range(3):
        gradients(model, *batch_for(model, seed=step))
        optimizer.step()
    start_weights = model.vector.data_ptr()
    start_gradient = model.vector.grad.data_ptr()
    offset = 0
    for parameter in model.module.parameters():
        assert parameter.data_ptr() == start_weights + 4 * offset
        assert parameter.grad.data_ptr() == start_gradient + 4 * offset
        offset += parameter.numel()


def per_sample_by_loop(model, inputs, present, labels):
    rows = []
    for i in range(PATIENTS):
        one = slice(i, i + 1)
        rows.append(
            gradients(
                model,
                {n: v[one] for n, v in inputs.items()},
                {n: m[one] for n, m in present.items()},
                labels[one],
            )[1]
        )
    return torch.stack(rows)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_per_sample_gradients_of_torch_func_equal_a_loop(build, fusion):
    model = build(fusion)
    inputs, present, labels = batch_for(model)
    parameters = {n: p.detach().clone() for n, p in model.module.named_parameters()}

    def loss(parameters, inputs, present, label):
        logits = functional_call(
            model.module,
            parameters,
            (
                {n: v.unsqueeze(0) for n, v in inputs.items()},
                {n: m.unsqueeze(0) for n, m in present.items()},
            ),
        )
        return binary_cross_entropy_with_logits(logits, label.unsqueeze(0))

    found = vmap(grad(loss), in_dims=(None, 0, 0, 0))(parameters, inputs, present, labels)
    flat = torch.cat([found[name].reshape(PATIENTS, -1) for name in model.named_arrays()], dim=1)
    expected = per_sample_by_loop(model, inputs, present, labels)
    torch.testing.assert_close(flat, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_opacus_accepts_the_model_and_its_per_sample_gradients_equal_a_loop(build, fusion):
    model: FlatModel = build(fusion)
    inputs, present, labels = batch_for(model)
    expected = per_sample_by_loop(model, inputs, present, labels)
    private = GradSampleModule(model.module, loss_reduction="sum", strict=True)
    logits = private(inputs, present)
    binary_cross_entropy_with_logits(logits, labels, reduction="sum").backward()
    found = [
        torch.zeros(PATIENTS, p.numel())
        if p.grad_sample is None
        else p.grad_sample.reshape(PATIENTS, -1)
        for p in model.module.parameters()
    ]
    torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("side", [1, 2, 4, 5, 8])
def test_the_map_before_the_head_is_torchs_adaptive_average(side):
    x = torch.randn(3, 8, side, side)
    assert torch.equal(ToMap()(x), torch.nn.functional.adaptive_avg_pool2d(x, 4))


def test_colour_images_reach_the_encoder_in_three_channels(make_study):
    document = make_study("image").to_dict()
    document["modalities"]["image"]["channels"] = 3
    study = Study.model_validate(document)
    model = build_model(study, None)
    inputs, present = probe_inputs(study, None)
    assert inputs["image"].shape == (3, 3, 32, 32)
    reordered = {"image": inputs["image"].flip(1)}
    assert not torch.allclose(model.module(inputs, present), model.module(reordered, present))
