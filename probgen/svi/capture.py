"""A player's step as one graph of tensor operations, captured once per shape of the batch.

Pyro's handlers then run at capture only; what is left is the arithmetic. Parameters and buffers are constants
of the graph that the optimizer moves in place, and random draws are operators, so a captured step gives the
numbers of the ordinary one, bit for bit.
"""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import Module
from torch.overrides import TorchFunctionMode

from probgen.errors import ProbgenError, ProgramError
from probgen.programs.modules import kept_buffers
from probgen.seeding import preserved_rng
from probgen.svi.players import Differentiated, Seat

ROUNDINGS = 64  # of the largest entry of each gradient; on one CPU the two agree bit for bit, on CUDA sums may not


class CapturedSeat:
    """A seat whose ``differentiate`` replays a graph.

    Args:
        seat: whose step is captured.
        modules: the pair's modules, whose buffers capturing must not move.
    """

    def __init__(self, seat: Seat, modules: list[Module]) -> None:
        self._seat = seat
        self._modules = modules
        self._graphs: dict[Any, _Graph] = {}

    def differentiate(self, *args: Any, **kwargs: Any) -> Differentiated:
        """As :meth:`Seat.differentiate`.

        Raises:
            ProgramError: an argument is no tensor, or the programs cannot be captured.
        """
        return self.graph(args, kwargs)([*args, *kwargs.values()])

    def graph(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "_Graph":
        """The graph for batches like this one, captured if it is the first."""
        inputs = [*args, *kwargs.values()]
        if not all(isinstance(value, Tensor) for value in inputs):
            raise ProgramError(
                "`capture=True` needs batches of tensors alone: another argument would be frozen into the graph"
            )
        key = (tuple(kwargs), len(args), *((v.shape, v.dtype, v.device) for v in inputs))
        if key not in self._graphs:
            self._graphs[key] = self._capture(args, kwargs, inputs)
        return self._graphs[key]

    def _capture(self, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[Tensor]) -> "_Graph":
        names: list[str] = []
        present: list[bool] = []

        def step(*values: Tensor) -> list[Tensor]:
            renamed = dict(zip(kwargs, values[len(args) :], strict=True))
            total, report, gradients = self._seat.differentiate(*values[: len(args)], **renamed)
            names[:], present[:] = list(report), [gradient is not None for gradient in gradients]
            return [total, *report.values(), *(g for g in gradients if g is not None)]

        with kept_buffers(self._modules), preserved_rng(), _NoReading():
            try:
                module = make_fx(step)(*inputs)
            except ProbgenError:
                raise
            except RuntimeError as error:
                raise ProgramError(
                    "the pair cannot be captured as a graph: it reads a tensor's value into Python (`.item()`, an "
                    f"`if` on a tensor); use `capture=False` ({error})"
                ) from error
        graph = _Graph(module, names, present)
        self._verify(lambda: graph(inputs), lambda: self._seat.differentiate(*args, **kwargs))
        return graph

    def _verify(self, graph: Callable[[], Differentiated], ordinary: Callable[[], Differentiated]) -> None:
        """Compares the graph with an ordinary step on the same noise: what it froze would make them differ."""
        results = []
        for run in (graph, ordinary):
            with kept_buffers(self._modules), preserved_rng():
                random.random(), np.random.random()  # the graph was captured on other noise of Python's and NumPy's
                total, _, gradients = run()
            results.append([total, *(g for g in gradients if g is not None)])
        if not all(_close(a, b) for a, b in zip(*results, strict=True)):
            raise ProgramError(
                "the captured graph and the programs give different results on the same noise: a program keeps state "
                "or randomness in Python; use `capture=False`"
            )


class _Graph:
    def __init__(self, module: GraphModule, names: list[str], present: list[bool]) -> None:
        self._module = module
        self._names = list(names)
        self._present = list(present)

    def __call__(self, inputs: list[Tensor]) -> Differentiated:
        with torch.no_grad():
            total, *rest = self._module(*inputs)
        report = dict(zip(self._names, rest, strict=False))
        found = iter(rest[len(self._names) :])
        return total, report, tuple(next(found) if here else None for here in self._present)


class _NoReading(TorchFunctionMode):
    """Refuses the ways into Python that tracing lets pass, with the value of the moment frozen into the graph."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.numpy, Tensor.tolist, Tensor.__array__):
            raise RuntimeError(f"`{func.__name__}` reads a tensor's values")
        return func(*args, **(kwargs or {}))


def _close(a: Tensor, b: Tensor) -> bool:
    largest = b[torch.isfinite(b)].abs().max().item() if bool(torch.isfinite(b).any()) else 0.0
    return torch.allclose(a, b, rtol=0.0, atol=ROUNDINGS * torch.finfo(b.dtype).eps * largest, equal_nan=True)
