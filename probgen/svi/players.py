"""One player's turn: its loss, the gradient of its own parameters, its optimizer."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from probgen.errors import ArgumentError, ArgumentTypeError, ProgramError, nearest
from probgen.objectives import Player
from probgen.svi.schedules import Schedule, multiplier

OptimFactory = Callable[[Iterable[Tensor]], torch.optim.Optimizer]
Differentiated = tuple[Tensor, dict[str, Tensor], tuple[Tensor | None, ...]]


@dataclass(frozen=True)
class Gradient:
    """A player's gradient, ready for its optimizer.

    Attributes:
        tensors: by the parameter's name, in memory of their own; None where the loss does not use the parameter.
        norms: the norm of each that is there, in their order.
        norm: the norm of all of them together, a scalar.
    """

    tensors: dict[str, Tensor | None]
    norms: Tensor
    norm: Tensor

    @property
    def names(self) -> list[str]:
        """The parameters that ``norms`` are of."""
        return [name for name, tensor in self.tensors.items() if tensor is not None]


class Seat:
    """A player with its optimizer.

    Args:
        player: whose turn it is.
        optim: makes the optimizer of its parameters.
        schedule: multiplies every learning rate, or None.
        max_grad_norm: clips the norm of the player's gradient, or None.

    Attributes:
        begun: the optimizer's groups as they were made, before a schedule or a checkpoint.
    """

    def __init__(
        self, player: Player, optim: OptimFactory, schedule: Schedule | None, max_grad_norm: float | None
    ) -> None:
        self.player = player
        self.parameters = list(player.parameters.values())
        self.optimizer = _make(optim, self.parameters, player.name)
        self.max_grad_norm = max_grad_norm
        self._schedule = schedule
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self.begun = [dict(group) for group in self.optimizer.param_groups]

    def differentiate(self, *args: Any, **kwargs: Any) -> Differentiated:
        """(the loss, what it reports, its gradient for this player's parameters alone).

        Raises:
            ProgramError: the loss depends on no parameter.
        """
        loss = self.player.loss(*args, **kwargs)
        if not loss.total.requires_grad:
            raise ProgramError(
                f"the loss of the player '{self.player.name}' depends on no parameter: nothing can be trained"
            )
        gradients = torch.autograd.grad(loss.total, self.parameters, allow_unused=True)
        return loss.total.detach(), dict(loss.report), gradients

    @torch.no_grad()
    def measure(self, gradients: Iterable[Tensor | None]) -> Gradient:
        """The gradients that :meth:`differentiate` gives, with their norms."""
        tensors = dict(zip(self.player.parameters, _apart(gradients, self.parameters), strict=True))
        present = [tensor for tensor in tensors.values() if tensor is not None]
        if not present:
            none = self.parameters[0].new_zeros(0)
            return Gradient(tensors, none, none.sum())
        norms = torch.stack([norm.to(present[0].device) for norm in torch._foreach_norm(present)])
        return Gradient(tensors, norms, torch.linalg.vector_norm(norms))

    def apply(self, gradient: Gradient, step: int, total_steps: int | None) -> None:
        """One step of the optimizer."""
        for parameter, tensor in zip(self.parameters, gradient.tensors.values(), strict=True):
            parameter.grad = tensor
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.max_grad_norm, gradient.norm)
        if self._schedule is not None:
            factor = multiplier(self._schedule, step, total_steps)
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * factor
        self.optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None


def check_optim(optim: Any) -> None:
    """Refuses what is no recipe for an optimizer.

    Raises:
        ArgumentTypeError: an optimizer that exists already, one of Pyro's, or something that cannot be called.
    """
    for value in optim.values() if isinstance(optim, Mapping) else [optim]:
        if not callable(value) or isinstance(value, torch.optim.Optimizer | PyroOptim):
            raise ArgumentTypeError(
                "`optim` must be a callable from parameters to a torch optimizer, such as "
                f"`functools.partial(torch.optim.Adam, lr=1e-3)`, got {type(value).__module__}.{type(value).__name__}"
            )


def seat(
    players: Iterable[Player],
    optim: OptimFactory | Mapping[str, OptimFactory],
    schedule: Schedule | None,
    max_grad_norm: float | None,
) -> list[Seat]:
    """Gives every player an optimizer; ``optim`` is one callable for all, or one by player.

    Raises:
        ArgumentError: a player without optimizer, parameters or steps, an unknown name, an optimizer that refuses.
    """
    players = list(players)
    names = [player.name for player in players]
    if isinstance(optim, Mapping):
        for name in optim:
            if name not in names:
                raise ArgumentError(f"`optim` names a player '{name}' that the objective lacks; {nearest(name, names)}")
        if missing := [name for name in names if name not in optim]:
            raise ArgumentError(f"`optim` has no optimizer for the player '{missing[0]}'")
    for name, count in Counter(names).items():
        if count > 1:
            raise ArgumentError(f"two players are called '{name}'")
    for player in players:
        if not player.parameters:
            raise ArgumentError(f"the player '{player.name}' has no parameters to train")
        if player.steps < 1:
            raise ArgumentError(f"the player '{player.name}' must take at least 1 step a turn, not {player.steps}")
    factories = optim if isinstance(optim, Mapping) else dict.fromkeys(names, optim)
    return [Seat(player, factories[player.name], schedule, max_grad_norm) for player in players]


def _apart(gradients: Iterable[Tensor | None], parameters: list[Tensor]) -> Iterator[Tensor | None]:
    """Gradients in memory of their own, as ``backward`` would leave them, for what works on them in place.

    ``autograd.grad`` returns that of a sum as one number, expanded, which fused optimizers read past; and that of
    ``a + b`` as one tensor for both, which clipping would scale twice.
    """
    seen: set[int] = set()
    for gradient, parameter in zip(gradients, parameters, strict=True):
        if gradient is not None and (gradient.stride() != parameter.stride() or gradient.data_ptr() in seen):
            gradient = torch.empty_like(parameter).copy_(gradient)
        if gradient is not None:
            seen.add(gradient.data_ptr())
        yield gradient


def _make(optim: OptimFactory, parameters: list[Tensor], name: str) -> torch.optim.Optimizer:
    try:
        optimizer = optim(parameters)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"`optim` fails on the parameters of the player '{name}': {error}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ArgumentTypeError(f"`optim` must return a torch optimizer for '{name}', got {type(optimizer).__name__}")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ArgumentTypeError(
            "`optim` must not be LBFGS, which runs the loss several times a step, on other noise each"
        )
    return optimizer
