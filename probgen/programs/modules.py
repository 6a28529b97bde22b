"""The modules of a pair: their mode, buffers and parameters, while something else happens to them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from probgen.programs.param_scope import Program, owner_of


def modules_of(*programs: Program | None) -> list[nn.Module]:
    """The modules that programs are, or are methods of, without repetition."""
    owners = [owner_of(program) for program in programs if program is not None]
    return [owner for i, owner in enumerate(owners) if isinstance(owner, nn.Module) and owner not in owners[:i]]


@contextmanager
def untrained(modules: list[nn.Module]) -> Iterator[list[nn.Parameter]]:
    """Keeps what wants no gradient so, and yields it.

    Pyro's store switches ``requires_grad`` on when it sees such a parameter, or ``pyro.module`` warns of it.
    """
    kept = [value for module in modules for value in module.parameters() if not value.requires_grad]
    if not kept:
        yield kept
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*was not registered in the param store.*")
        try:
            yield kept
        finally:
            for value in kept:
                value.requires_grad_(False)


@contextmanager
def mode(modules: list[nn.Module], *, training: bool) -> Iterator[None]:
    """Puts modules into train or eval mode, and back: every submodule as it was."""
    before = [(module, module.training) for root in modules for module in root.modules()]
    if all(was is training for _, was in before):  # every step asks, and setting is slower than looking
        yield
        return
    for root in modules:
        root.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


@contextmanager
def kept_buffers(modules: list[nn.Module]) -> Iterator[None]:
    """Puts the values of buffers back, such as running statistics, and the buffers themselves stay where they are."""
    buffers = [buffer for module in modules for buffer in module.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        write(buffers, before)


@torch.no_grad()
def write(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Writes values into tensors, in place."""
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
