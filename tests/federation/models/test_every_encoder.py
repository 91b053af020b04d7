"""What every encoder of the registry must do; a new one is tested by its line there."""

import io
from pathlib import Path

import pytest
import torch
from private_models import Flat, added, bce, expected_sum, gradients
from small_encoders import EVERY, PATIENTS, SECTIONS, Whole, built, section_of
from torch import nn

from federation.models import encoders
from federation.models.registry import ENCODERS
from federation.privacy.clipping import clipped_sum
from federation.privacy.layers import check_forward, check_private

every = pytest.mark.parametrize(("modality", "name"), EVERY)


@every
def test_each_patient_gets_as_many_finite_numbers_as_the_width_says(modality, name):
    encoder, batch = built(section_of(modality, name))
    encoded = encoder(batch)
    assert encoded.shape == (PATIENTS, encoder.width)
    assert encoded.dtype == torch.float32
    assert encoded.isfinite().all()
    assert (encoded[0] != encoded[1]).any()


@every
def test_rows_of_zeros_as_of_absent_patients_are_encoded(modality, name):
    encoder, batch = built(section_of(modality, name))
    batch[1] = 0
    assert encoder(batch).isfinite().all()
    assert encoder(torch.zeros_like(batch)).isfinite().all()


@every
def test_private_training_takes_it_and_no_patient_sees_another(modality, name):
    encoder, batch = built(section_of(modality, name))
    check_private(encoder)
    check_forward(encoder, batch)


@every
def test_clipped_sum_equals_a_loop_over_patients(modality, name):
    encoder, batch = built(section_of(modality, name))
    model = Flat(Whole(encoder).train())
    small = len(model.vector) < 1_000_000
    batch = batch if small else batch[:2]
    whole = {"x": batch}, {}, (torch.arange(len(batch)) % 2).float()
    rows = gradients(model, whole)
    assert (rows[:, : -encoder.width - 1] != 0).any() or modality == "ehr"
    norm = float(rows.norm(dim=1).median())
    assert clipped_sum(model, bce, norm).mode == "book_keeping"
    for mode in ("book_keeping", "hooks") if small else ("book_keeping",):
        found = added(model, clipped_sum(model, bce, norm, mode), whole)
        error = (found - expected_sum(rows, norm)).norm()
        assert error <= 1e-4 * norm * PATIENTS, mode


@every
def test_weights_saved_and_loaded_give_the_same_bits(modality, name):
    section = section_of(modality, name)
    encoder, batch = built(section)
    other, _ = built(section, seed=1)
    file = io.BytesIO()
    torch.save(encoder.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(batch), encoder(batch))


@every
def test_it_draws_nothing_and_is_the_same_in_training(modality, name):
    encoder, batch = built(section_of(modality, name))
    state = torch.get_rng_state()
    training = encoder.train()(batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(encoder.eval()(batch), training)


@every
def test_cpu_and_gpu_agree(modality, name):
    if not torch.cuda.is_available():
        pytest.skip("no GPU is here")
    encoder, batch = built(section_of(modality, name))
    here = encoder(batch)
    there = encoder.cuda()(batch.cuda()).cpu()
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)


def test_registry_and_files_are_one_to_one_and_each_option_is_a_key():
    files = {f.stem for f in Path(encoders.__file__).parent.glob("*.py")} - {"__init__"}
    entries = [one for of_modality in ENCODERS.values() for one in of_modality.values()]
    assert {one.file for one in entries} == files
    for modality, of_modality in ENCODERS.items():
        for one in of_modality.values():
            assert one.options <= SECTIONS[modality].model_fields.keys()
            assert one.summary


def test_wrong_encoder_is_found_by_the_tests_above():
    class Mixing(nn.Module):
        width = 4

        def forward(self, x):
            return x[:, :4] - x[:, :4].mean(0)

    with pytest.raises(Exception, match="who else is in the batch"):
        check_forward(Mixing(), torch.randn(3, 8))
