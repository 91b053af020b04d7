"""Published networks for pictures and volumes, from MONAI, made fit for private training.

Sources: He et al., CVPR 2016 (ResNet); Huang et al., CVPR 2017 (DenseNet); Tan and Le, ICML 2019
(EfficientNet). Parameters keep MONAI's names, so that weights made with it fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from monai.networks.nets.densenet import DenseNet121
from monai.networks.nets.efficientnet import EfficientNetBN
from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetBottleneck
from torch import Tensor, nn
from torch.nn import functional as F

from federation.modalities import ImageSection
from federation.models.adapter import fit_for_privacy
from federation.models.encoded import Tokens

Stages = Mapping[str, Sequence[str]]
"""Names of the parts of a network, from the input on, and the modules of each."""


class ConvNet(nn.Module):
    """A network without its last layer; averages over what it found, and one linear layer.

    Attributes:
        stages: its parts, from the input on, that weights can be frozen by.
    """

    def __init__(self, network: nn.Module, channels: int, stages: Stages, width: int):
        super().__init__()
        self.width, self.channels = width, channels
        self.network = network
        self.stages = {
            stage: [network.get_submodule(path) for path in paths]
            for stage, paths in stages.items()
        }
        self.head = nn.Sequential(nn.Linear(channels, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, channels, [planes,] size, size) in [0, 1] -> (patients, width)."""
        encoded: Tensor = self.head(self._map(x).mean(-1))
        return encoded

    def tokens(self, x: Tensor) -> Tokens:
        """Return one token for each place of the last map."""
        values = self.head(self._map(x).transpose(1, 2))
        return Tokens(values, torch.ones_like(values[..., 0], dtype=torch.bool))

    def _map(self, x: Tensor) -> Tensor:
        """(patients, channels of the last map, places)."""
        found: Tensor = self.network((x - 0.5) * 4)
        return found.view(len(x), self.channels, -1)


class Halved(nn.Module):
    """``nn.AvgPool3d(2)``, but for a side of one place: volumes may have fewer planes than size."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, channels, planes, size, size)."""
        return F.avg_pool3d(x, [min(2, side) for side in x.shape[2:]])


class Block(ResNetBlock):
    """MONAI's, which adds the shortcut in place."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, channels, ...)."""
        found = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        return _joined(self, x, found)


class Bottleneck(ResNetBottleneck):
    """MONAI's, which adds the shortcut in place."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (patients, channels, ...)."""
        found = self.act(self.bn2(self.conv2(self.act(self.bn1(self.conv1(x))))))
        return _joined(self, x, self.bn3(self.conv3(found)))


def _joined(block: Block | Bottleneck, x: Tensor, found: Tensor) -> Tensor:
    shortcut = x if block.downsample is None else cast(nn.Module, block.downsample)(x)
    joined: Tensor = block.act(found + shortcut)
    return joined


def resnet(
    block: type[Block] | type[Bottleneck], layers: list[int], section: ImageSection
) -> ConvNet:
    """Return a ResNet; every shortcut that changes shape is a convolution ("B" in the paper)."""
    network: Any = ResNet(
        block,
        layers,
        [64, 128, 256, 512],
        spatial_dims=section.dimensions,
        n_input_channels=section.channels,
        conv1_t_stride=2,
        feed_forward=False,
        bias_downsample=False,
    )
    network.avgpool = nn.Identity()
    stages = {"stem": ["conv1", "bn1"], **{f"stage{i}": [f"layer{i}"] for i in range(1, 5)}}
    return _fitted(network, 512 * block.expansion, stages, section)


def densenet121(section: ImageSection) -> ConvNet:
    """Return a DenseNet of 121 layers."""
    network: Any = DenseNet121(section.dimensions, section.channels, 1)
    channels = network.class_layers.out.in_features
    network.class_layers.pool = nn.Identity()
    network.class_layers.out = nn.Identity()
    if section.dimensions == 3:
        for i in range(1, 4):
            network.features.get_submodule(f"transition{i}").pool = Halved()
    blocks = {
        f"stage{i}": [f"features.denseblock{i}", f"features.transition{i}"] for i in range(1, 4)
    }
    stages = {
        "stem": ["features.conv0", "features.norm0"],
        **blocks,
        "stage4": ["features.denseblock4", "features.norm5"],
    }
    return _fitted(network, channels, stages, section)


def efficientnet_b0(section: ImageSection) -> ConvNet:
    """Return an EfficientNet of the smallest kind, without stochastic depth."""
    network: Any = EfficientNetBN(
        "efficientnet-b0",
        pretrained=False,
        spatial_dims=section.dimensions,
        in_channels=section.channels,
    )
    block: Any
    for block in network.modules():
        if hasattr(block, "drop_connect_rate"):
            block.drop_connect_rate = 0.0
    channels = network._fc.in_features
    network._fc = nn.Identity()
    network._avg_pooling = nn.Identity()
    stages = {
        "stem": ["_conv_stem", "_bn0"],
        **{f"stage{i + 1}": [f"_blocks.{i}"] for i in range(len(network._blocks))},
        "last": ["_conv_head", "_bn1"],
    }
    return _fitted(network, channels, stages, section)


def _fitted(network: nn.Module, channels: int, stages: Stages, section: ImageSection) -> ConvNet:
    fit_for_privacy(network, section.encoder)
    return ConvNet(network, channels, stages, section.width)


NETWORKS: Mapping[str, Callable[[ImageSection], ConvNet]] = {
    "resnet10": lambda section: resnet(Block, [1, 1, 1, 1], section),
    "resnet18": lambda section: resnet(Block, [2, 2, 2, 2], section),
    "resnet50": lambda section: resnet(Bottleneck, [3, 4, 6, 3], section),
    "densenet121": densenet121,
    "efficientnet_b0": efficientnet_b0,
}


def build(section: ImageSection, places: int) -> ConvNet:
    """See `federation.models.registry.Encoder`."""
    return NETWORKS[section.encoder](section)
