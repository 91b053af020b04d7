"""Weights of others: nothing in a file runs, names and shapes are checked, frozen stages stay."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import save_file

from clients.fits import PlainFit, PrivateFit
from clients.training import train_alone
from clients.workbench import Workbench
from federation.checksums import checksum
from federation.errors import UserError
from federation.modalities import ImageSection
from federation.models.encoders.networks import NETWORKS
from federation.models.weights import initial_model, read_tensors
from federation.privacy.accounting import Segment
from federation.privacy.noise import Seeded
from federation.randomness import torch_generator
from federation.study import load_study
from simulations.runner import simulate

NAME = "resnet10.safetensors"


def tensors_of(channels=1):
    torch.manual_seed(3)
    encoder = NETWORKS["resnet10"](ImageSection(encoder="resnet10", size=32, channels=channels))
    return {n: p.detach().clone() for n, p in encoder.network.named_parameters()}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "weights").mkdir()
    save_file(tensors_of(), tmp_path / "weights" / NAME)
    return tmp_path / "weights"


@pytest.fixture
def study_of(make_study, folder):
    """Return a builder of studies of images whose weights are those of the folder."""

    def study_of(name=NAME, freeze=(), **options):
        weights = {"name": name, "sha256": checksum(folder / name)}
        image = {"encoder": "resnet10", "size": 32, "width": 8, "weights": weights}
        return make_study(modalities={"ehr": None, "image": {**image, "freeze": freeze}}, **options)

    return study_of


def network_of(model):
    return dict(model.module.encoders["image"].network.named_parameters())


def test_model_begins_with_the_file_s_weights_and_is_else_as_the_seed_says(study_of, folder):
    model = initial_model(study_of(), None, folder)
    own = network_of(model)
    for name, tensor in tensors_of().items():
        assert torch.equal(own[name], tensor)
    plain = study_of().modalities.image.model_copy(update={"weights": None})
    assert plain.weights is None
    head = model.module.encoders["image"].head[0].weight
    again = initial_model(study_of(), None, folder)
    assert torch.equal(head, again.module.encoders["image"].head[0].weight)
    assert torch.equal(torch.from_numpy(model.weights()), torch.from_numpy(again.weights()))


@pytest.mark.parametrize("wrapped", [False, True])
def test_state_dict_of_torch_is_read_and_what_the_network_lacks_passed_over(
    study_of, folder, wrapped
):
    more = {"fc.weight": torch.ones(5, 512), "bn1.running_mean": torch.ones(64)}
    held = {f"module.{name}": tensor for name, tensor in (tensors_of() | more).items()}
    torch.save({"state_dict": held, "epoch": 3} if wrapped else held, folder / "old.pt")
    model = initial_model(study_of("old.pt"), None, folder)
    assert torch.equal(network_of(model)["conv1.weight"], tensors_of()["conv1.weight"])


class Planted:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"not weights", "cannot be read"),
        (Planted(), "cannot be read"),
        ({"epoch": 3}, "holds no state dict"),
        (tensors_of(channels=3), r"1 tensors have another shape .* conv1.weight \(64, 3, 7, 7\)"),
        ({"conv1.weight": torch.ones(64, 1, 7, 7)}, "tensors are not in it: bn1.weight"),
    ],
)
def test_file_that_does_not_fit_is_refused_and_nothing_in_it_runs(
    study_of, folder, content, told, capsys
):
    if isinstance(content, bytes):
        (folder / "x.pt").write_bytes(content)
    else:
        torch.save(content, folder / "x.pt")
    with pytest.raises(UserError, match=told) as caught:
        initial_model(study_of("x.pt"), None, folder)
    assert caught.value.exit_code == 2
    assert "x.pt" in str(caught.value)
    assert "executed" not in capsys.readouterr().out


def test_another_file_under_the_name_or_none_is_refused(study_of, folder):
    study = study_of()
    save_file({n: t + 1 for n, t in tensors_of().items()}, folder / NAME)
    with pytest.raises(UserError, match=f"its SHA-256 is {checksum(folder / NAME)}"):
        initial_model(study, None, folder)
    (folder / NAME).unlink()
    with pytest.raises(UserError, match="it is not in"):
        initial_model(study, None, folder)
    with pytest.raises(UserError, match="--weights FOLDER"):
        initial_model(study, None, None)


def test_names_of_torchvision_s_densenet_are_understood(tmp_path):
    torch.save({"features.denseblock1.denselayer2.norm1.weight": torch.ones(1)}, tmp_path / "d.pt")
    assert list(read_tensors(tmp_path / "d.pt")) == [
        "features.denseblock1.denselayer2.layers.norm1.weight"
    ]


@pytest.mark.parametrize("private", [False, True])
def test_frozen_stages_stay_to_the_bit_and_the_rest_moves(
    study_of, folder, tmp_path, write_site, private
):
    decay = {"name": "adamw", "lr": 0.01, "weight_decay": 0.1}
    training = {"optimizer": decay, "rounds": 1, "batch_size": 8}
    privacy = {"mechanism": "dp_sgd", "epsilon": 4.0} if private else {}
    study = study_of(freeze=["stem", "stage2"], training=training, privacy=privacy)
    site = write_site(tmp_path / "site", 24, images=True)
    bench = Workbench()
    model, cohort = bench.model(study, None), bench.cohort(str(site), study, None)
    start = initial_model(study, None, folder).weights()
    if private:
        clipped, segment = bench.clipped(study, None, model), Segment(0.5, 1.0, 2)
        draws = lambda: Seeded(1, "site")  # noqa: E731
        fit = PrivateFit(model, start, cohort, study, study.training, clipped, segment, draws)
    else:
        fit = PlainFit(
            model, start, cohort, study, study.training, lambda: torch_generator(1, "site")
        )
    moved = train_alone(fit).weights != start
    frozen = sum(part.stop - part.start for part in model.frozen)
    stages = model.module.encoders["image"].stages
    modules = [m for name in ("stem", "stage2") for m in stages[name]]
    assert frozen == sum(p.numel() for m in modules for p in m.parameters()) > 0
    for part in model.frozen:
        assert not moved[part.start : part.stop].any()
    assert moved.sum() > 0.5 * (len(start) - frozen)


def test_unknown_stage_is_answered_with_those_there_are(study_of, folder):
    with pytest.raises(UserError, match="Its stages are stem, stage1, stage2, stage3, stage4"):
        initial_model(study_of(freeze=["layer1"]), None, folder)


def test_a_checksum_of_a_folder_is_that_of_its_files(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"2")
    (tmp_path / "a").write_bytes(b"1")
    digests = [hashlib.sha256(content).hexdigest() for content in (b"1", b"2")]
    told = f"a {digests[0]}\nsub/b {digests[1]}\n"
    assert checksum(tmp_path) == hashlib.sha256(told.encode()).hexdigest()


def test_run_from_a_file_of_weights_names_it_and_keeps_what_is_frozen(
    study_of, folder, tmp_path, write_site
):
    for name in ("bern", "basel"):
        write_site(tmp_path / "sites" / name, 20, images=True, seed=len(name))
    training = {"rounds": 1, "local_epochs": None, "local_steps": 1, "batch_size": 10}
    study = study_of(freeze=["stem"], training=training)
    with pytest.raises(UserError, match="no folder of weights was given"):
        simulate(study, tmp_path / "sites", tmp_path / "run", workers=0)
    simulate(study, tmp_path / "sites", tmp_path / "run", workers=0, weights=folder)
    kept = load_study(tmp_path / "run" / "study.toml").modalities.image.weights
    assert (kept.name, kept.sha256) == (NAME, checksum(folder / NAME))
    final = read_tensors(tmp_path / "run" / "model.safetensors")
    start = tensors_of()
    for name, tensor in start.items():
        same = torch.equal(final[f"encoders.image.network.{name}"], tensor)
        assert same == name.startswith(("conv1", "bn1")), name
    record = json.loads((tmp_path / "run" / "rounds.jsonl").read_text().splitlines()[0])
    assert len(record["answered"]) == 2


def test_weights_are_an_option_of_networks_and_freezing_of_weights(make_study):
    weights = {"name": "x.pt", "sha256": "0" * 64}
    for image, told in (
        ({"weights": weights}, "weights is an option of encoder"),
        ({"encoder": "vit", "freeze": ["stem"]}, "give \\[modalities.image.weights\\]"),
        ({"encoder": "vit", "weights": {**weights, "name": "../x"}}, "name"),
    ):
        with pytest.raises(ValueError, match=told):
            make_study(modalities={"image": image})
