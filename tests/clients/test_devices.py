"""Where a site computes, and how a batch gets there; what can be shown without a GPU."""

from types import SimpleNamespace

import pytest
import torch

from clients.features import ModalityTensor
from clients.workbench import Cohort, choose_device
from federation.errors import UserError


def site(device):
    section = SimpleNamespace(device=device)
    return SimpleNamespace(file="bern/site.toml", settings=SimpleNamespace(site=section))


@pytest.mark.parametrize(
    ("wanted", "gpus", "found"),
    [
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda"),
        ("cpu", 2, "cpu"),
        ("cuda:1", 2, "cuda:1"),
        ("cuda:2", 2, None),
        ("cuda", 0, None),
    ],
)
def test_a_gpu_is_taken_where_there_is_one_and_refused_where_it_is_not(
    monkeypatch, wanted, gpus, found
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if found is not None:
        assert choose_device(site(wanted)) == torch.device(found)
        return
    with pytest.raises(UserError, match="is not there; PyTorch sees"):
        choose_device(site(wanted))


def test_a_batch_goes_to_a_device_from_pinned_memory_and_stays_as_it_is_on_the_cpu(monkeypatch):
    pinned, sent = [], []
    to = torch.Tensor.to

    def pin(tensor):
        pinned.append(tensor.data_ptr())
        return tensor

    def send(tensor, device, **options):
        assert tensor.data_ptr() in pinned
        sent.append(options)
        return to(tensor, device)

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", send)
    tensor = ModalityTensor(torch.randn(4, 3), torch.tensor([True, False, True, True]), {})
    cohort = Cohort(None, {"ehr": tensor, "text": tensor}, torch.zeros(4))
    rows = torch.tensor([2, 0])
    values, present = cohort.inputs(rows, torch.device("cpu"))
    assert not pinned
    assert torch.equal(values["ehr"], tensor.values[rows])
    assert present["text"].tolist() == [True, True]
    there, masks = cohort.inputs(rows, torch.device("meta"))
    assert {one.device.type for one in (*there.values(), *masks.values())} == {"meta"}
    assert sent == [{"non_blocking": True}] * 4
