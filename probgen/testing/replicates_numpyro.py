"""Replicates of the gradients of :mod:`probgen.numpyro`; imports NumPyro and JAX."""

from typing import Any

import jax
import numpy as np
import torch
from jax.extend.core import jaxpr_as_fun
from numpyro import handlers
from torch import Tensor

from probgen.testing.problems import Problem


class NumPyroReplicator:
    """Runs ``jax.grad`` of an objective of :mod:`probgen.numpyro` under ``jax.vmap``, in float64.

    Args:
        objective: an objective for NumPyro programs.
        problem: with ``backend="numpyro"``.
    """

    def __init__(self, objective: Any, problem: Problem) -> None:
        with jax.enable_x64(True):
            arguments = problem.arguments()
            model, guide = problem.pair()
            values = _parameters(arguments, model, guide)
            self.shapes = {name: tuple(value.shape) for name, value in values.items()}

            def gradient(key: Any) -> Any:
                found = jax.grad(lambda p: objective.loss(key, p, model, guide, *arguments))(values)
                return jax.numpy.concatenate([found[name].reshape(-1) for name in values])

            keys = jax.random.split(jax.random.PRNGKey(0), 2)
            traced = jax.jit(gradient).trace(keys[0])  # refusals are raised here
            self.random = "random" in str(traced.jaxpr)
            self._single = gradient
            self._many = jax.jit(jax.vmap(jaxpr_as_fun(traced.jaxpr)))

    def draw(self, count: int, seed: int) -> Tensor:
        """``[count, numbers]``: gradients of the loss with independent keys."""
        with jax.enable_x64(True):
            if not self.random:
                single = np.asarray(self._single(jax.random.PRNGKey(seed)))
                return torch.tensor(single).expand(count, -1)
            keys = jax.random.split(jax.random.PRNGKey(seed), count)
            return torch.tensor(np.asarray(self._many(keys)[0]))


def run_eagerly(objective: Any, problem: Problem) -> None:
    """The loss, outside every transformation of JAX."""
    with jax.enable_x64(True):
        arguments = problem.arguments()
        model, guide = problem.pair()
        objective.loss(jax.random.PRNGKey(0), _parameters(arguments, model, guide), model, guide, *arguments)


def _parameters(arguments: tuple[Any, ...], *programs: Any) -> dict[str, Any]:
    """The parameters that the programs declare, by name: the model's first."""
    found: dict[str, Any] = {}
    guide_trace = handlers.trace(handlers.seed(programs[1], 0)).get_trace(*arguments)
    model = handlers.replay(handlers.seed(programs[0], 0), trace=guide_trace)
    for trace in (handlers.trace(model).get_trace(*arguments), guide_trace):
        found |= {name: site["value"] for name, site in trace.items() if site["type"] == "param"}
    return found
