"""Networks in bfloat16, and everything else as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from probgen.errors import ArgumentError, ProgramError
from probgen.programs import PairTerms

PRECISIONS = ("full", "bfloat16")


def networks(modules: list[nn.Module]) -> list[nn.Module]:
    """The networks that programs call: every module below them, but for those that are programs themselves."""
    below = {id(m): m for root in modules for m in root.modules() if m is not root and not isinstance(m, PyroModule)}
    return list(below.values())


class Reduced:
    """While its body runs, networks compute in bfloat16 (autocast) and return what they returned before: float32.

    Parameters, samples and densities stay as they are: bfloat16 has 8 bits of precision, a sum of log-densities needs
    more. Only calls are seen; a network that a program uses by another method computes as before.

    Args:
        modules: the pair's.
        device: where they are.

    Raises:
        ArgumentError: there is no network, or its parameters are not float32.
    """

    def __init__(self, modules: list[nn.Module], device: torch.device) -> None:
        self._networks = networks(modules)
        self._autocast = torch.autocast(device.type, torch.bfloat16)
        self._depth = 0  # of networks within networks: the outermost one decides
        self._suspended = False
        parameters = [p for network in self._networks for p in network.parameters()]
        if not parameters:
            raise ArgumentError(
                '`precision="bfloat16"` is for networks that are parts of programs which are modules; there is none: '
                'use `precision="full"`'
            )
        if wrong := [p.dtype for p in parameters if p.is_floating_point() and p.dtype != torch.float32]:
            raise ArgumentError(
                f'`precision="bfloat16"` is for float32 parameters, got {wrong[0]}: use `precision="full"`'
            )

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Installs what watches the networks, and removes it."""
        hooks: list[Any] = []
        for network in self._networks:
            hooks.append(network.register_forward_pre_hook(self._enter))
            hooks.append(network.register_forward_hook(self._leave, always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Runs its body in full precision."""
        self._suspended = True
        try:
            yield
        finally:
            self._suspended = False

    def _enter(self, network: nn.Module, inputs: Any) -> None:
        if self._depth == 0 and not self._suspended:
            self._autocast.__enter__()
        self._depth += 1

    def _leave(self, network: nn.Module, inputs: Any, output: Any) -> Any:
        self._depth -= 1
        if self._depth > 0 or self._suspended:
            return output
        self._autocast.__exit__(None, None, None)
        return _single(output)


def _single(value: Any) -> Any:
    """bfloat16 tensors as float32, also inside tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    if isinstance(value, dict):
        return {name: _single(member) for name, member in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_single(member) for member in value)
    return value


def check_densities(terms: PairTerms) -> None:
    """Refuses pairs whose sites are in bfloat16 themselves, such as a program inside a network.

    Raises:
        ProgramError: naming the site.
    """
    for site in terms.sites:
        for what, value in (("value", site.value), ("log-density", site.log_p), ("log-density", site.log_q)):
            if value is not None and value.dtype in (torch.bfloat16, torch.float16):
                raise ProgramError(
                    f"the {what} of site '{site.name}' is {value.dtype}: densities need float32. Take the network's "
                    'output to float32 by `.float()` before it becomes a distribution, or use `precision="full"`'
                )
