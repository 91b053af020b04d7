"""Networks of others become fit for private training, and otherwise stay what they were."""

import pytest
import torch
from monai.networks.nets import DenseNet121, EfficientNetBN, ResNet
from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck
from private_models import Flat, added, bce, expected_sum, gradients
from small_encoders import PATIENTS, Whole, built, section_of
from torch import nn

from federation.models.adapter import fit_for_privacy, group_norm
from federation.models.encoders.networks import Block, Bottleneck
from federation.privacy.clipping import clipped_sum
from federation.privacy.layers import UnfitForPrivacy


def test_every_layer_that_rules_out_privacy_is_exchanged_and_keeps_its_parameters():
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(16)),
    )
    names = [name for name, _ in network.named_parameters()]
    network[1].weight.data.fill_(3.0)
    fit_for_privacy(network, "net")
    assert [name for name, _ in network.named_parameters()] == names
    assert isinstance(network[1], nn.GroupNorm) and (network[1].weight == 3).all()
    assert not network[2].inplace
    assert isinstance(network[3][0], nn.Identity)


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 16, 24, 40, 112, 1280])
def test_groups_divide_the_channels_and_hold_several_where_they_can(channels):
    norm = group_norm(nn.BatchNorm2d(channels))
    assert channels % norm.num_groups == 0
    assert norm.num_groups == 1 or channels // norm.num_groups >= 4
    assert norm(torch.randn(2, channels, 3, 3)).shape == (2, channels, 3, 3)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 4)
        self.down.weight = self.up.weight


UNFIT = {
    "a layer without a rule": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.PReLU()),
        r"net\.1 \(PReLU\)",
    ),
    "torch's attention": (lambda: nn.Sequential(nn.MultiheadAttention(4, 2)), r"net\.0 \(Multi"),
    "statistics": (
        lambda: nn.Sequential(nn.InstanceNorm2d(4, track_running_stats=True)),
        r"0 \(InstanceNorm2d\)",
    ),
    "a recurrent layer": (lambda: nn.Sequential(nn.GRU(4, 4)), r"net\.0 \(GRU\)"),
    "shared parameters": (Tied, "share a parameter"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_what_cannot_be_trained_privately_is_refused_by_name(what):
    make, told = UNFIT[what]
    with pytest.raises(UnfitForPrivacy, match=told):
        fit_for_privacy(make(), "net")


@pytest.mark.parametrize(("ours", "theirs"), [(Block, ResNetBlock), (Bottleneck, ResNetBottleneck)])
def test_blocks_compute_what_monai_s_do(ours, theirs):
    torch.manual_seed(0)
    planes = 8 * ours.expansion
    one, other = ours(planes, 8, spatial_dims=2), theirs(planes, 8, spatial_dims=2)
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, planes, 5, 5)
    assert torch.equal(one.eval()(x), other.eval()(x.clone()))


PUBLISHED = {
    "resnet18": lambda: ResNet(
        "basic", [2, 2, 2, 2], [64, 128, 256, 512], 2, 1, feed_forward=False, bias_downsample=False
    ),
    "densenet121": lambda: DenseNet121(2, 1, 1),
    "efficientnet_b0": lambda: EfficientNetBN(
        "efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=1
    ),
}
HEADS = ("class_layers.", "_fc.")


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_have_monai_s_names_and_shapes(name):
    encoder, _ = built(section_of("image", name))
    found = {n: p.shape for n, p in encoder.network.named_parameters()}
    published = {
        n: p.shape for n, p in PUBLISHED[name]().named_parameters() if not n.startswith(HEADS)
    }
    assert found == published


def test_stages_cover_a_network_once_without_its_head():
    for name in ("resnet50", "densenet121", "efficientnet_b0", "vit"):
        encoder, _ = built(section_of("image", name))
        covered = [
            id(p) for parts in encoder.stages.values() for m in parts for p in m.parameters()
        ]
        head = {id(p) for p in encoder.head.parameters()} if hasattr(encoder, "head") else set()
        assert len(covered) == len(set(covered))
        assert set(covered) == {id(p) for p in encoder.parameters()} - head
        assert list(encoder.stages)[:2] == ["stem", "stage1"]


def test_opacus_takes_an_adapted_network_and_finds_the_same():
    encoder, batch = built(section_of("image", "resnet10"))
    model = Flat(Whole(encoder).train())
    whole = {"x": batch}, {}, (torch.arange(PATIENTS) % 2).float()
    rows = gradients(model, whole)
    norm = float(rows.norm(dim=1).median())
    found = added(model, clipped_sum(model, bce, norm, "hooks"), whole)
    assert (found - expected_sum(rows, norm)).norm() <= 1e-4 * norm * PATIENTS
