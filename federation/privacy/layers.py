"""Whether a model can be trained privately: found out before training, with the layer and the fix.

Per-patient clipping bounds what one patient does to the sum of gradients, and only that. It says
nothing where a layer moves statistics of its own on raw data, or where one patient's gradient
depends on who else is in the batch; neither raises anything by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from federation.errors import WardroundError

TOLERANCE = 1e-5
"""By how much a patient's output may differ with the batch around it: float32 sums round."""


class UnfitForPrivacy(WardroundError):
    """A model or a loss that clipped gradients cannot make private."""

    exit_code = 2


def check_private(module: nn.Module, name: str = "model") -> None:
    """Raise if what the module is made of rules out private training.

    Args:
        module: in any mode; frozen layers count too, for statistics move without a gradient.
        name: how messages call it.

    Raises:
        UnfitForPrivacy: naming each layer, its class, why, and what to do instead.

    >>> check_private(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    Traceback (most recent call last):
    federation.privacy.layers.UnfitForPrivacy: 1 (BatchNorm1d): its statistics mix patients and \
move on raw data, frozen or not; use GroupNorm

    See also: `check_forward`, `check_loss`.
    """
    found = [
        f"{path or name} ({type(layer).__name__}): {problem}"
        for path, layer in module.named_modules()
        for problem in _problems(layer)
    ]
    if found:
        raise UnfitForPrivacy("\n".join(found))


def check_forward(module: nn.Module, *inputs: Any, name: str = "model") -> None:
    """Raise if a forward pass changes the module, or lets one patient see another.

    Runs the batch in training mode without dropout, then patient by patient, then in another
    order. The module, its buffers and torch's random numbers are left as they were.

    Args:
        module: what is to be trained.
        inputs: arguments of a forward pass; every tensor in them, however nested, has a row for
            each of two patients or more, that differ.
        name: how messages call the module.

    Raises:
        UnfitForPrivacy: naming the first layer at fault.
        ValueError: if there are fewer than two patients.
    """
    patients = {len(leaf) for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)}
    if len(patients) != 1 or max(patients) < 2:
        raise ValueError("the tensors must have one row for each of two patients or more")
    (count,) = patients
    with _left_as_it_was(module):
        before = {path: value.clone() for path, value in _state(module)}
        with torch.no_grad():
            module(*inputs)
        for path, value in _state(module):
            if path not in before or not _same(before[path], value):
                owner = module.get_submodule(path.rpartition(".")[0])
                where = f"{path.rpartition('.')[0] or name} ({type(owner).__name__})"
                raise UnfitForPrivacy(
                    f"{where}: {path.rpartition('.')[2]} changes in a forward pass, so that raw "
                    "data move it; use a layer that keeps no statistics, such as GroupNorm"
                )
    with _left_as_it_was(module), _no_dropout(module):
        try:
            _check_rows(module, inputs, count, name)
        except UnfitForPrivacy as found:
            # What deep networks make of rounding is larger than the tolerance: is it that alone?
            if not _passes_in_double(module, inputs, count, name):
                raise found from None
        _check_parameters(module, inputs, name)


def check_loss(
    loss: Callable[[Tensor, Tensor], Tensor],
    logits: Tensor | None = None,
    labels: Tensor | None = None,
) -> None:
    """Raise unless the loss gives each patient one number, of that patient's logit and label only.

    Args:
        loss: logits and labels -> losses, (patients,).
        logits: (patients, ...) to try it with, of two patients or more; some by default.
        labels: (patients,) to try it with; zeros and ones by default.

    Raises:
        UnfitForPrivacy: if it couples patients, such as a contrastive loss or one that weighs
            classes by the batch, or if it is already a sum or a mean.

    >>> check_loss(lambda logits, labels: F.binary_cross_entropy_with_logits(logits, labels))
    Traceback (most recent call last):
    federation.privacy.layers.UnfitForPrivacy: loss: it has shape () for 5 patients, not (5,); \
use reduction="none"
    """
    if logits is None:
        logits = torch.tensor([0.3, -1.2, 2.0, 0.1, -0.4])
    if labels is None:
        labels = (torch.arange(len(logits)) % 2).to(logits.dtype)
    logits = logits.detach().requires_grad_()
    losses = loss(logits, labels)
    if losses.shape != (len(logits),):
        raise UnfitForPrivacy(
            f"loss: it has shape {tuple(losses.shape)} for {len(logits)} patients, "
            f'not ({len(logits)},); use reduction="none"'
        )
    for i in range(len(logits)):
        one = slice(i, i + 1)
        (gradient,) = torch.autograd.grad(losses[i], logits, retain_graph=True)
        others = torch.cat([gradient[:i], gradient[i + 1 :]])
        alone = loss(logits[one], labels[one])
        if others.abs().max() > 0 or not _close(alone, losses[one]):
            raise UnfitForPrivacy(
                "loss: a patient's loss depends on who else is in the batch; make it of the "
                "patient's own logit and label, with weights that are fixed beforehand"
            )


def units(root: nn.Module) -> dict[str, nn.Module]:
    """Return by name the modules whose patients' gradients are found each by itself.

    They are the outermost ones that hold trainable parameters of their own, with all that is below
    them; the root alone, where two of them share a parameter.
    """
    found: dict[str, nn.Module] = {}

    def walk(name: str, module: nn.Module) -> None:
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            if all(module is not other for other in found.values()):
                found[name or "model"] = module
        else:
            for child, below in module.named_children():
                walk(f"{name}.{child}" if name else child, below)

    walk("", root)
    owned = [id(parameter) for unit in found.values() for parameter in unit.parameters()]
    return found if len(set(owned)) == len(owned) else {"model": root}


def _problems(layer: nn.Module) -> Iterator[str]:
    if isinstance(layer, _BatchNorm):
        yield "its statistics mix patients and move on raw data, frozen or not; use GroupNorm"
    if isinstance(layer, _InstanceNorm) and layer.track_running_stats:
        yield "its running statistics move on raw data; set track_running_stats=False"
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        if layer.max_norm is not None:
            yield "it rescales the rows that a batch looks up; set max_norm=None"
        if layer.scale_grad_by_freq:
            yield "its gradients depend on the batch's other patients; set scale_grad_by_freq=False"
        if layer.sparse:
            yield "its sparse gradients cannot be clipped; set sparse=False"
    for name, parameter in layer.named_parameters(recurse=False):
        if isinstance(parameter, nn.UninitializedParameter):
            yield f"{name} has no shape yet; give the layer its sizes, or run it once before"
        elif parameter.requires_grad and parameter.dtype not in (torch.float32, torch.float64):
            yield f"{name}, {parameter.dtype}, cannot be clipped; make it float32, or freeze it"


Call = tuple[str, nn.Module, list[Tensor], list[Tensor]]
"""Path and module of a call, and the tensors that went in and came out."""


def _check_rows(module: nn.Module, inputs: Any, count: int, name: str) -> None:
    """Raise if a patient's row, alone or in another order, is not what it is in the batch."""
    together = _trace(module, inputs, name)
    orders = [*(torch.tensor([i]) for i in range(count)), torch.arange(count).roll(1)]
    held = set(units(module).values())
    for order in orders:
        apart = _trace(module, _rows(inputs, order), name)
        for one, other in zip(together, apart, strict=False):
            path, layer, entered, left = one
            here = f"{path} ({type(layer).__name__})"
            batched = all(len(x) == count for x in _with_rows(entered))
            batched &= all(len(x) == len(order) for x in _with_rows(other[2]))
            if layer in held and not (batched and entered):
                raise UnfitForPrivacy(
                    f"{here}: what goes into it has not one row for each patient, so that its "
                    "gradient is of all of them; expand it to (patients, ...) before the call"
                )
            if not _rows_agree(left, other[3], order, count):
                outside = "" if _rows_agree(entered, other[2], order, count) else "what enters it: "
                raise UnfitForPrivacy(
                    f"{here}: {outside}a patient's values depend on who else is in the batch; "
                    "compute them row by row, such as with GroupNorm or LayerNorm"
                )
        if len(together) != len(apart) or any(len(x) != count for x in _with_rows(together[-1][3])):
            raise UnfitForPrivacy(
                f"{name} ({type(module).__name__}): what it runs, or the number of rows that it "
                "returns, does not follow the patients; return one row for each of them"
            )


def _passes_in_double(module: nn.Module, inputs: Any, count: int, name: str) -> bool:
    exact = copy.deepcopy(module).double()
    doubled = pytree.tree_map(
        lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x, inputs
    )
    try:
        _check_rows(exact, doubled, count, name)
    except UnfitForPrivacy:
        return False
    return True


def _check_parameters(module: nn.Module, inputs: Any, name: str) -> None:
    """Raise if a parameter acts on the output other than through a call of its unit."""
    names = [path for path, parameter in module.named_parameters() if parameter.requires_grad]
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with ExitStack() as stack:
        for unit in units(module).values():
            stack.enter_context(_detached_in_calls(unit))
        with torch.enable_grad():
            results = pytree.tree_leaves(module(*inputs))
    tracked = [x.sum() for x in results if isinstance(x, Tensor) and x.requires_grad]
    if not tracked:
        return
    gradients = torch.autograd.grad(tracked, trained, allow_unused=True)
    for path, gradient in zip(names, gradients, strict=True):
        if gradient is not None:
            owner = module.get_submodule(path.rpartition(".")[0])
            raise UnfitForPrivacy(
                f"{path.rpartition('.')[0] or name} ({type(owner).__name__}): its "
                f"{path.rpartition('.')[2]} is used outside its own call, where no patient's "
                "gradient can be kept; call the layer, or hold a lone vector in nn.Embedding(1, d)"
            )


@contextmanager
def _detached_in_calls(unit: nn.Module) -> Iterator[None]:
    """While the unit is called, and only then, let none of its parameters have a gradient."""
    original = unit.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        holders = [(m, m._parameters) for m in unit.modules()]
        for holder, parameters in holders:
            detached = {n: None if p is None else p.detach() for n, p in parameters.items()}
            holder.__dict__["_parameters"] = detached
        try:
            return original(*args, **kwargs)
        finally:
            for holder, parameters in holders:
                holder.__dict__["_parameters"] = parameters

    unit.__dict__["forward"] = forward
    try:
        yield
    finally:
        del unit.__dict__["forward"]


def _trace(module: nn.Module, inputs: Any, name: str) -> list[Call]:
    """Run the module, and return its calls in the order in which they end."""
    calls: list[Call] = []
    running: list[str] = []

    def begin(path: str) -> Callable[..., None]:
        return lambda layer, args: running.append(f"{path} ({type(layer).__name__})")

    def end(path: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: Any, kwargs: Any, results: Any) -> None:
            running.pop()
            entered, left = _tensors((args, kwargs)), _tensors(results)
            calls.append((path, layer, [x.clone() for x in entered], [x.clone() for x in left]))

        return hook

    handles = []
    for path, layer in module.named_modules():
        handles.append(layer.register_forward_pre_hook(begin(path or name)))
        handles.append(layer.register_forward_hook(end(path or name), with_kwargs=True))
    try:
        with torch.no_grad():
            module(*inputs)
    except Exception as error:
        raise UnfitForPrivacy(
            f"{running[-1] if running else name}: cannot be run for one patient alone, which a "
            "random batch may hold; use a layer that takes any number of them"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _rows_agree(
    together: Sequence[Tensor], apart: Sequence[Tensor], order: Tensor, count: int
) -> bool:
    """Whether tensors with a row for each patient have the same rows; others are passed over."""
    return all(
        _close(one[order], other)
        for one, other in zip(together, apart, strict=False)
        if one.dim() and other.dim() and len(one) == count and one[order].shape == other.shape
    )


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(
        one.double(), other.double(), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True
    )


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _with_rows(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Numbers without a row become empty, so that they are never taken for a batch."""
    return [x if x.dim() else x.new_empty(0) for x in tensors]


def _rows(inputs: Any, which: Tensor) -> Any:
    return pytree.tree_map(lambda x: x[which] if isinstance(x, Tensor) else x, inputs)


def _state(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_buffers(), *((n, p.detach()) for n, p in module.named_parameters())]


@contextmanager
def _left_as_it_was(module: nn.Module) -> Iterator[None]:
    """Put the module in training mode, and put back modes, values and random numbers after."""
    modes = [(layer, layer.training) for layer in module.modules()]
    held = [(layer, dict(layer._buffers)) for layer in module.modules()]
    values = [(value, value.clone()) for _, value in _state(module)]
    with torch.random.fork_rng(devices=[]):
        module.train()
        try:
            yield
        finally:
            for layer, mode in modes:
                layer.training = mode
            for layer, buffers in held:
                layer._buffers.clear()
                layer._buffers.update(buffers)
            for value, copy in values:
                value.copy_(copy)


@contextmanager
def _no_dropout(module: nn.Module) -> Iterator[None]:
    """Switch dropout off, in layers, in attention and recurrent layers, and in plain functions."""
    changed: list[tuple[nn.Module, str, Any]] = []
    for layer in module.modules():
        name = "p" if isinstance(layer, _DropoutNd) else "dropout"
        if isinstance(getattr(layer, name, None), float):
            changed.append((layer, name, getattr(layer, name)))
            setattr(layer, name, 0.0)
    try:
        with _WithoutDropout():
            yield
    finally:
        for layer, name, value in changed:
            setattr(layer, name, value)


class _WithoutDropout(TorchFunctionMode):
    functions = frozenset(
        {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout}
        | {F.feature_alpha_dropout, torch.dropout}
    )

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self.functions:
            return args[0] if args else (kwargs or {})["input"]
        if func is F.scaled_dot_product_attention and kwargs:
            kwargs = {**kwargs, "dropout_p": 0.0}
        return func(*args, **(kwargs or {}))
