"""Independent replicates of an objective's gradient, thousands at once.

With Pyro, the loss and its gradient are captured as one graph of tensor operations, which ``torch.vmap`` then runs on
fresh noise for each replicate; with NumPyro, ``jax.vmap`` runs the gradient over keys. Neither knows anything of what
it differentiates.
"""

from collections.abc import Callable
from typing import Any, Protocol

import pyro
import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import GraphModule, Interpreter
from torch.fx.experimental.proxy_tensor import make_fx

from probgen.errors import ProgramError
from probgen.seeding import preserved_rng, seeded
from probgen.testing.problems import Problem

CHUNK = 10_000  # replicates of one call, which fit into the processor's cache
RANDOM = ("rand", "normal", "bernoulli", "multinomial", "exponential", "uniform", "poisson", "gamma", "dirichlet")


class Replicator(Protocol):
    """Draws gradients of the loss.

    Attributes:
        shapes: of each parameter, by full name; a replicate is their gradients, flattened in this order.
        random: whether replicates differ at all.
    """

    shapes: dict[str, tuple[int, ...]]
    random: bool

    def draw(self, count: int, seed: int) -> Tensor:
        """``[count, numbers]`` in float64."""


def replicator(objective: Any, problem: Problem) -> Replicator:
    """The replicator for the problem's backend.

    Raises:
        UnsupportedObjective: the objective refuses the problem.
    """
    if problem.backend == "torch":
        return TorchReplicator(objective, problem)
    from probgen.testing.replicates_numpyro import NumPyroReplicator

    return NumPyroReplicator(objective, problem)


def run_once(objective: Any, problem: Problem) -> None:
    """Runs an objective on a problem as a user would, not captured or compiled, with all its checks.

    Raises:
        UnsupportedObjective: the objective refuses the problem.
    """
    if problem.backend == "torch":
        model, guide = problem.pair()
        with seeded(0):
            objective(model, guide)(*problem.arguments())
        return
    from probgen.testing.replicates_numpyro import run_eagerly

    run_eagerly(objective, problem)


class TorchReplicator:
    """Runs the captured gradient of an objective of :mod:`probgen.objectives` under ``torch.vmap``.

    Args:
        objective: an objective for Pyro programs.
        problem: with ``backend="torch"``.
    """

    def __init__(self, objective: Any, problem: Problem) -> None:
        self.gradient, self.shapes = _gradient(objective, problem)
        with pyro.validation_enabled(False):
            self.graph = capture(self.gradient)
        self.random = any(map(_is_random, self.graph.graph.nodes))
        if self.random:
            with preserved_rng(), torch.no_grad():
                torch.vmap(_Watch(self.graph).run, randomness="different")(torch.zeros(2))

    def draw(self, count: int, seed: int) -> Tensor:
        """``[count, numbers]``: gradients of the loss on independent noise."""
        with seeded(seed), torch.no_grad():
            if not self.random:
                return self.graph(torch.zeros(())).expand(count, -1)
            return torch.vmap(self.graph, randomness="different")(torch.zeros(count))


def _gradient(objective: Any, problem: Problem) -> tuple[Callable[[], Tensor], dict[str, tuple[int, ...]]]:
    """The gradient of every player's loss for its own parameters as one vector, and the parameters' shapes."""
    model, guide = problem.pair()
    pair, arguments = objective(model, guide), problem.arguments()
    with seeded(0):
        pair(*arguments)  # with all its checks: refusals are raised here
    parameters = {name: value for name, value in pair.named_parameters() if name.startswith(("model.", "guide."))}
    players = objective.players(pair, parameters)

    def gradient() -> Tensor:
        found = {name: torch.zeros_like(value) for name, value in parameters.items()}
        for player in players:
            owned = player.parameters
            loss = player.loss(*arguments).total
            values = torch.autograd.grad(loss, list(owned.values()), allow_unused=True, materialize_grads=True)
            for name, value in zip(owned, values, strict=True):
                found[name] = found[name] + value
        return torch.cat([value.reshape(-1) for value in found.values()]).detach()

    return gradient, {name: tuple(value.shape) for name, value in parameters.items()}


def capture(gradient: Callable[[], Tensor]) -> GraphModule:
    """A function without arguments as a graph that ``torch.vmap`` can run over an unused first argument.

    Args:
        gradient: what to capture; its random draws become operators.

    Raises:
        ProgramError: it reads a tensor's value into Python.
    """
    try:
        with preserved_rng():
            traced = make_fx(lambda unused: gradient())(torch.zeros(()))
            _make_choices(traced.graph)
            traced.recompile()
            with torch.no_grad():  # in-place draws become functions, which alone are batched
                graph = make_fx(functionalize(traced, remove="mutations"))(torch.zeros(()))
    except RuntimeError as error:
        raise ProgramError(f"the gradient cannot be captured as a graph: {error}") from error
    _require_equal(graph, gradient)
    for node in graph.graph.nodes:
        _make_batchable(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _require_equal(graph: GraphModule, gradient: Callable[[], Tensor]) -> None:
    """Refuses a graph that is not the function it was captured from, on the same noise."""
    with seeded(1):
        captured = graph(torch.zeros(()))
    with seeded(1):
        eager = gradient()
    if not torch.allclose(captured, eager, rtol=1e-9, atol=1e-12):
        raise ProgramError("the captured graph and the programs give different gradients on the same noise")


def _make_choices(graph: Any) -> None:
    """Replaces assignments to masked entries, which would gather them, by choices between two values."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.target is not torch.ops.aten.index_put_.default:
            continue
        values, (mask, *others), new = node.args[:3]
        if others or mask.meta["val"].dtype != torch.bool or new.meta["val"].numel() != 1:
            continue
        with graph.inserting_before(node):
            choice = graph.call_function(torch.ops.aten.where.self, (mask, new, values))
        node.replace_all_uses_with(choice)
        values.replace_all_uses_with(choice, lambda user, at=order[node]: order.get(user, -1) > at)
        order[choice] = order[node]
        graph.erase_node(node)


def _make_batchable(node: Any) -> None:
    """Replaces what ``torch.vmap`` would run one by one, or on one noise for all."""
    if node.target in BATCHABLE:
        node.target = BATCHABLE[node.target]


def _normal(like: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return mean + std * torch.randn(like.shape, dtype=like.dtype)


def _uniform(like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(like.shape, dtype=like.dtype)


def _exponential(like: Tensor, rate: float = 1.0) -> Tensor:
    return -torch.rand(like.shape, dtype=like.dtype).log() / rate


def _index_put(values: Tensor, indices: list[Tensor | None], new: Tensor, accumulate: bool = False) -> Tensor:
    if len(indices) == 1 and indices[0] is not None and indices[0].dtype == torch.bool and new.numel() == 1:
        return torch.where(indices[0], new, values)
    return torch.ops.aten.index_put.default(values, indices, new, accumulate)


BATCHABLE = {
    torch.ops.aten.index_put.default: _index_put,
    torch.ops.aten.fill.Scalar: torch.full_like,
    torch.ops.aten.normal_functional.default: _normal,
    torch.ops.aten.uniform.default: _uniform,
    torch.ops.aten.exponential.default: _exponential,
}


class _Watch(Interpreter):
    """Runs a graph inside ``torch.vmap`` and refuses a draw that is the same for all replicates."""

    def run_node(self, n: Any) -> Any:
        result = super().run_node(n)
        if _is_random(n) and not torch._C._functorch.is_batchedtensor(result):
            raise ProgramError(f"the operator {n.target} draws one noise for all replicates")
        return result


def _is_random(node: Any) -> bool:
    return node.op == "call_function" and any(word in str(node.target) for word in RANDOM)
