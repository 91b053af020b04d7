"""Fusions with several outputs: each output is what a fusion of one output would give."""

import pytest
import torch

from federation.models.registry import FUSIONS

WIDTHS = {"ehr": 5, "text": 3}
KINDS = ("late", "early", "cross_attention")


def encoded(patients=6):
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(patients, w, generator=generator) for name, w in WIDTHS.items()}
    masks = torch.rand(2, patients, generator=generator) < 0.6
    return values, dict(zip(WIDTHS, masks, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_output_of_several_is_that_of_a_fusion_with_its_rows_alone(kind):
    values, present = encoded()
    several = FUSIONS[kind].build(WIDTHS, 3)
    with torch.no_grad():  # gates and vectors of what is absent begin as zeros
        for parameter in several.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    logits = several(values, present)
    assert logits.shape == (6, 3)
    for output in range(3):
        alone = FUSIONS[kind].build(WIDTHS, 1)
        state = {
            name: _of_output(value, output, alone.state_dict()[name].shape)
            for name, value in several.state_dict().items()
        }
        alone.load_state_dict(state)
        torch.testing.assert_close(alone(values, present), logits[:, output])


def _of_output(value, output, shape):
    """Return what one output has of a parameter, which has one place of all outputs at most."""
    for axis in range(value.dim()):
        if value.shape[axis] != shape[axis]:
            return value.narrow(axis, output, 1)
    return value


@pytest.mark.parametrize("kind", KINDS)
def test_absent_modality_moves_no_output(kind):
    values, present = encoded()
    fusion = FUSIONS[kind].build(WIDTHS, 4)
    other = {n: torch.where(present[n][:, None], v, 9.0) for n, v in values.items()}
    assert torch.equal(fusion(values, present), fusion(other, present))
