"""The parameters of a pair: what modules own, and what programs declare by ``pyro.param``."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import unwrap as unwrap_poutine
from torch import Tensor, nn

from probgen.programs.modules import modules_of, untrained, write
from probgen.programs.param_scope import Program, owner_of
from probgen.programs.run import declared_parameters


def trained_parameters(
    model: Program, guide: Program | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Tensor]:
    """The unconstrained leaf tensors of a pair that want gradients, by name; runs the pair once, on trial.

    A module's parameters are called ``model.…`` or ``guide.…``; what programs declare keeps its Pyro name.
    """
    with untrained(modules_of(model, guide)) as kept:
        declared = declared_parameters(model, guide, args, kwargs)  # creates what programs create on first use
    owned = _owned(model, guide)
    skipped = {id(value) for value in (*kept, *owned.values()) if not value.requires_grad}
    found: dict[int, tuple[str, Tensor]] = {}
    for name, value in (owned | {n: v for n, v in declared.items() if n not in owned}).items():
        if id(value) not in found and id(value) not in skipped:
            found[id(value)] = (name, value)
    return dict(found.values())


def module_parameters(model: Program, guide: Program | None) -> dict[str, Tensor]:
    """The parameters among :func:`trained_parameters` that are there before a program runs."""
    unique: dict[int, tuple[str, Tensor]] = {}
    for name, value in _owned(model, guide).items():
        if value.requires_grad:
            unique.setdefault(id(value), (name, value))
    return dict(unique.values())


def _owned(model: Program, guide: Program | None) -> dict[str, Tensor]:
    return {
        f"{side}.{name}": value
        for side, program in (("model", model), ("guide", guide))
        if (module := _as_module(program)) is not None
        for name, value in module.named_parameters()
    }


def owned_tensors(model: Program, guide: Program | None, known: set[int], kind: str) -> dict[str, Tensor]:
    """Buffers (``kind="buffer"``) or parameters (``"frozen"``) of a pair's modules, by ``kind/side.name``.

    Args:
        model: the model.
        guide: the guide, or None.
        known: ``id`` of tensors that are left out.
        kind: which, and what stands in front of the name.
    """
    found: dict[int, tuple[str, Tensor]] = {}
    for side, program in (("model", model), ("guide", guide)):
        owner = None if program is None else owner_of(program)
        if isinstance(owner, nn.Module):
            for name, value in owner.named_buffers() if kind == "buffer" else owner.named_parameters():
                if id(value) not in known:
                    found.setdefault(id(value), (f"{kind}/{side}.{name}", value))
    return dict(found.values())


def _as_module(program: Program | None) -> nn.Module | None:
    """The module that a program is, through poutines and partials. A method's module trains what it declares alone."""
    while program is not None:
        inner = unwrap_poutine(program)
        inner = inner.func if isinstance(inner, functools.partial) else inner
        if inner is program:
            break
        program = inner
    return program if isinstance(program, nn.Module) else None


def constrained(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Detached copies of parameters by name, in the space in which ``pyro.param`` shows them."""
    store = pyro.get_param_store()
    declared = set(store.keys())
    return {name: (store[name] if name in declared else value).detach().clone() for name, value in parameters.items()}


class MovingAverage:
    """An exponential moving average of parameters, updated in place.

    Args:
        parameters: what is averaged, by name.
        decay: share of the old average that is kept each step, in (0, 1).
    """

    def __init__(self, parameters: dict[str, Tensor], decay: float) -> None:
        self._parameters = list(parameters.values())
        self._decay = decay
        self.values = {name: value.detach().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the parameters."""
        torch._foreach_lerp_(list(self.values.values()), self._parameters, 1.0 - self._decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Runs its body with the average in place of the parameters."""
        before = [value.detach().clone() for value in self._parameters]
        write(self._parameters, list(self.values.values()))
        try:
            yield
        finally:
            write(self._parameters, before)
