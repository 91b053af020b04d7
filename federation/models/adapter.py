"""Makes networks of others fit for private training, and checks that they are.

Networks for images come with layers that mix patients (BatchNorm), draw random numbers (dropout,
stochastic depth) or write over what a per-patient gradient needs (activations in place). Each is
exchanged for one that does not; whatever is left that cannot be trained privately is refused when
the model is built, with the layer's name.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from federation.privacy.layer_rules import ReplayedLayer, rule_for
from federation.privacy.layers import UnfitForPrivacy, check_private, units

MOST_GROUPS = 32
FEWEST_IN_A_GROUP = 4
"""Channels: in a group of one or two, at the end of a network with one place left, hardly anything
of a patient would remain."""


def fit_for_privacy(network: nn.Module, name: str) -> None:
    """Exchange layers in place until each patient's gradient is that patient's own.

    BatchNorm becomes GroupNorm with BatchNorm's scale and shift; a swish that writes in place
    becomes ``nn.SiLU``, the same function; dropout goes; activations keep their input.

    Args:
        network: newly built; its parameters' names stay.
        name: how messages call it.

    Raises:
        UnfitForPrivacy: naming the layer that is left and cannot be trained privately.

    See also: `check_fit`.
    """
    for layer in list(network.modules()):
        for key, child in list(layer.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(layer, key, group_norm(child))
            elif isinstance(child, _DropoutNd):
                setattr(layer, key, nn.Identity())
            elif type(child).__name__ == "MemoryEfficientSwish":
                setattr(layer, key, nn.SiLU())
            elif getattr(child, "inplace", False):
                setattr(child, "inplace", False)  # noqa: B010  (not every module has it)
    check_fit(network, name)


def check_fit(network: nn.Module, name: str) -> None:
    """Raise unless every layer has gradients for each patient that book-keeping knows a rule for.

    Raises:
        UnfitForPrivacy: naming each layer, and why.
    """
    check_private(network, name)
    found = []
    if len(units(network)) == 1 and len(list(network.children())) > 1:
        found.append(f"{name}: two of its layers share a parameter")
    for path, layer in network.named_modules():
        own = any(True for _ in layer.parameters(recurse=False))
        if own and rule_for(layer) is ReplayedLayer:
            found.append(f"{name}.{path} ({type(layer).__name__}): no rule for its gradients")
        if getattr(layer, "inplace", False):
            found.append(f"{name}.{path} ({type(layer).__name__}): writes over its input")
        if isinstance(layer, _DropoutNd):
            found.append(f"{name}.{path} ({type(layer).__name__}): draws random numbers")
    if found:
        raise UnfitForPrivacy("\n".join(found))


def group_norm(norm: _BatchNorm) -> nn.GroupNorm:
    """Return a GroupNorm of as many channels, with the same scale and shift.

    >>> group_norm(nn.BatchNorm2d(24)).num_groups
    4
    """
    channels = norm.num_features
    groups = MOST_GROUPS
    while channels % groups or channels // groups < FEWEST_IN_A_GROUP:
        groups //= 2
        if groups == 1:
            break
    found = nn.GroupNorm(groups, channels, eps=norm.eps, affine=norm.affine)
    if norm.affine:
        found.weight, found.bias = norm.weight, norm.bias
    return found
