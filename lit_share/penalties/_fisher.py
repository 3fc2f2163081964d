"""The diagonal of the empirical Fisher information."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lit_share.text import check_choice
from lit_share.ties import by_unwrapped_name, is_dtensor, shortened, unwrapped

Per = Literal["example", "batch"]


def fisher(
    module: nn.Module,
    batches: Iterable[Any],
    loss: Callable[[Any, Any], Tensor] | None = None,
    per: Per = "example",
) -> dict[str, Tensor]:
    r"""Return the diagonal of the empirical Fisher information of a module's parameters.

    .. math::
        F_k = \frac{1}{M} \sum_{m=1}^{M} \Bigl( \frac{\partial \ell_m}{\partial w_k} \Bigr)^2

    :math:`\ell_m` is the loss of one example with its own label, so the squares are those of single
    examples, each with a forward and a backward pass of its own. Train on other data with
    ``Regularize("ewc", ties, strength, precision=fisher(...))``, and what these examples need is
    kept. For the Fisher information itself let ``loss`` draw the labels from the model's outputs.

    Everything is computed with a copy of the module, in evaluation mode: its gradients, buffers,
    metrics and modes stay as they are, and so does the state of torch's random number generators.

    Args:
        module: The module, trained on what ``batches`` has.
        batches: Batches of examples, such as a ``DataLoader``: tensors with the examples along
            dim 0, also nested in tuples, lists and dicts. They are moved to the module's device.
        loss: Return the scalar loss of a batch, given the module and the batch. By default the
            module's own ``training_step``, without a Trainer.
        per: ``"example"``, or ``"batch"`` for the squared gradient of each whole batch, as for
            batches of one example that cannot be sliced. The gradient of a batch of B examples is
            their average, so its square is about 1 / B of theirs.

    Returns:
        A tensor like each parameter that requires a gradient, by the parameter's name, in float32
        for half precision; zero for parameters that the loss does not depend on.

    Raises:
        TypeError: If ``loss`` is missing and the module has no ``training_step``, or it returns no
            loss.
        ValueError: If there is no batch, a batch cannot be split into examples, the loss is not a
            scalar, depends on none of the parameters, or has gradients that are NaN or infinite, or
            parameters are sharded.

    Source:
        Kirkpatrick et al.: *Overcoming Catastrophic Forgetting in Neural Networks*, PNAS 2017;
        Kunstner, Balles, Hennig: *Limitations of the Empirical Fisher Approximation for Natural
        Gradient Descent*, NeurIPS 2019, on what the labels change.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> batches = [torch.tensor([[1.0, 2.0], [3.0, 0.0]])]
        >>> fisher(layer, batches, loss=lambda module, batch: module(batch).sum())
        {'weight': tensor([[5., 2.]])}
    """
    check_choice("per", per, Per)
    # A copy leaves no trace of these passes, even in metrics that `training_step` updates.
    own = copy.deepcopy(unwrapped(module)).eval()
    trained = {name: p for name, p in own.named_parameters() if p.requires_grad}
    parameters = by_unwrapped_name(trained)
    if not parameters:
        raise ValueError("no parameter of the module requires a gradient")
    _refuse_shards(parameters)
    compute = loss or _training_step(own)
    device = next(iter(parameters.values())).device
    sums = {
        name: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)).detach()
        for name, p in parameters.items()
    }
    count = 0
    with _same_randomness(device), torch.enable_grad():
        for batch in batches:
            for example in _examples(_moved(batch, device), per):
                gradients = _gradients(compute(own, example), list(parameters.values()))
                for total, gradient in zip(sums.values(), gradients, strict=True):
                    if gradient is not None:
                        # In place; half precision would round small squares to zero.
                        total += gradient.to(total.dtype).square()
                count += 1
    if not count:
        raise ValueError("batches is empty: give the batches that the module was trained with")
    found = {name: total / count for name, total in sums.items()}
    _check(found)
    return found


def _training_step(module: Any) -> Callable[[Any, Any], Tensor]:
    """Return the module's training step as a loss; raise `TypeError` if it cannot be one."""
    kind = type(module).__name__
    write = "pass loss=, a function of the module and a batch that returns a scalar"
    if not hasattr(module, "training_step"):
        raise TypeError(f"{kind} has no training_step: {write}")
    if not getattr(module, "automatic_optimization", True):
        raise TypeError(f"{kind} is optimized manually, so its training_step is no loss: {write}")

    takes_index = _takes_index(module.training_step, f"the training_step of {kind}", write)

    def loss(own: Any, batch: Any) -> Tensor:
        arguments = (batch, 0)[: 1 + takes_index]
        with warnings.catch_warnings():
            # A module without a Trainer drops what it logs, and says so at each call.
            warnings.filterwarnings("ignore", r".*self\.log\(\).*trainer.*not registered")
            try:
                output = own.training_step(*arguments)
            except RuntimeError as error:
                if "Trainer" not in str(error):
                    raise
                raise TypeError(f"the training_step of {kind} needs a Trainer: {write}") from error
        found = output["loss"] if isinstance(output, dict) and "loss" in output else output
        if not isinstance(found, Tensor):
            raise TypeError(f"the training_step of {kind} returned no loss: {write}")
        return found

    return loss


def _takes_index(step: Callable[..., Any], name: str, write: str) -> bool:
    """Return whether a training step takes the index of a batch; raise `TypeError` otherwise."""
    # A Trainer calls `training_step(batch)` as well as `training_step(batch, batch_idx)`.
    parameters = inspect.signature(step).parameters
    if "dataloader_iter" in parameters:
        raise TypeError(f"{name} draws its own batches from dataloader_iter: {write}")
    for count in (2, 1):
        try:
            inspect.signature(step).bind(*range(count))
        except TypeError:
            continue
        return count == 2
    listed = ", ".join(parameters)
    raise TypeError(f"{name} takes ({listed}), not (batch) or (batch, batch_idx): {write}")


def _moved(batch: Any, device: torch.device) -> Any:
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), batch)


def _examples(batch: Any, per: Per) -> Iterator[Any]:
    """Yield batches of one example each, or the whole batch."""
    if per == "batch":
        yield batch
        return
    leaves, structure = pytree.tree_flatten(batch)
    lengths = {len(leaf) if isinstance(leaf, Tensor) and leaf.ndim else None for leaf in leaves}
    (length, *others) = lengths or {None}
    if length is None or others:
        raise ValueError(
            "a batch must be of tensors with the same number of examples along dim 0, also nested: "
            'give batches of one example, with per="batch"'
        )
    for i in range(length):
        yield pytree.tree_unflatten([leaf[i : i + 1] for leaf in leaves], structure)


def _gradients(loss: Tensor, parameters: list[nn.Parameter]) -> tuple[Tensor | None, ...]:
    if loss.numel() != 1:
        raise ValueError(f"loss must be a scalar, got a tensor of shape {tuple(loss.shape)}")
    if not loss.requires_grad:
        raise ValueError(
            "the loss depends on no parameter of the module that requires a gradient: compute it "
            "with the module that loss gets, which is a copy"
        )
    return torch.autograd.grad(loss.squeeze(), parameters, allow_unused=True)


def _check(found: dict[str, Tensor]) -> None:
    infinite = [repr(name) for name, total in found.items() if not total.isfinite().all()]
    if infinite:
        raise ValueError(
            f"gradients of {shortened(infinite, ', ')} are NaN or infinite for some examples: "
            "check the loss, or compute it in float32"
        )
    if not any(bool(total.any()) for total in found.values()):
        raise ValueError(
            "the gradient of every example is zero: the loss must depend on the module that loss "
            "gets, which is a copy"
        )


def _refuse_shards(parameters: dict[str, nn.Parameter]) -> None:
    sharded = [repr(name) for name, p in parameters.items() if is_dtensor(p)]
    if sharded:
        raise ValueError(
            f"{shortened(sharded, ', ')} are sharded: call fisher before fully_shard, or save it "
            "to a file in another process"
        )


def _same_randomness(device: torch.device) -> Any:
    """Return a context that restores the random number generators of the host and ``device``."""
    devices = []
    if device.type != "cpu":
        devices = [device]
    return torch.random.fork_rng(devices, device_type=device.type if devices else "cuda")
