"""Pairs whose truth is known, and gradients over many keys."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def chain_model(x: jax.Array) -> None:
    a, c = numpyro.param("a", jnp.array(0.7)), numpyro.param("c", jnp.array(0.3))
    with numpyro.plate("data", len(x)):
        z2 = numpyro.sample("z2", dist.Normal(0.0, 1.0))
        z1 = numpyro.sample("z1", dist.Normal(a * z2, 1.0))
        numpyro.sample("x", dist.Normal(z1 + c, 1.0), obs=x)


def chain_guide(x: jax.Array) -> None:
    w, b = numpyro.param("w", jnp.array(0.4)), numpyro.param("b", jnp.array(0.2))
    u = numpyro.param("u", jnp.array(0.3))
    s = numpyro.param("s", jnp.array(0.9), constraint=dist.constraints.positive)
    with numpyro.plate("data", len(x)):
        z1 = numpyro.sample("z1", dist.Normal(w * x + b, s))
        numpyro.sample("z2", dist.Normal(u * z1, s))


def bits_model(x: jax.Array) -> None:
    """Two bits and a normal."""
    a, c = numpyro.param("a", jnp.array([0.7, -0.4])), numpyro.param("c", jnp.array(0.3))
    with numpyro.plate("data", len(x)):
        bits = numpyro.sample("bits", dist.Bernoulli(probs=jnp.array([0.4, 0.6])).to_event(1))
        z = numpyro.sample("z", dist.Normal(bits @ a, 1.0))
        numpyro.sample("x", dist.Normal(z + c, 1.0), obs=x)


def bits_guide(x: jax.Array) -> None:
    w, b = numpyro.param("w", jnp.array([0.4, -0.3])), numpyro.param("b", jnp.array([0.2, 0.1]))
    u = numpyro.param("u", jnp.array(0.5))
    with numpyro.plate("data", len(x)):
        bits = numpyro.sample("bits", dist.Bernoulli(logits=x[:, None] * w + b).to_event(1))
        numpyro.sample("z", dist.Normal(u * x + 0.2 * bits.sum(-1), 0.8))


DATA = np.array([0.5, -1.2])

Params = dict[str, Any]


def initial(pair: tuple[Callable[..., Any], Callable[..., Any]]) -> Params:
    """Constrained values of all parameters of a pair."""
    values: Params = {}
    for program in pair:
        with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as trace:
            program(jnp.asarray(DATA))
        values.update({name: site["value"] for name, site in trace.items() if site["type"] == "param"})
    return values


def gradients(objective: Any, pair: Any, params: Params, count: int, *, seed: int = 0) -> Params:
    """The loss's gradient for so many keys, ``[count, ...]`` for each parameter."""
    x = jnp.asarray(DATA)

    def one(key: jax.Array) -> Params:
        gradient: Params = jax.grad(lambda values: objective.loss(key, values, *pair, x))(params)
        return gradient

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), count)))


def errors_apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many standard errors the means of two independent samples are apart; 0 where neither varies nor differs."""
    spread = np.sqrt(one.var(0) / len(one) + other.var(0) / len(other))
    gap = np.abs(one.mean(0) - other.mean(0))
    return np.where(gap < 1e-12, 0.0, gap / np.maximum(spread, 1e-300))


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The pairs and functions of this file."""
    return SimpleNamespace(
        chain=(chain_model, chain_guide),
        bits=(bits_model, bits_guide),
        data=DATA,
        initial=initial,
        gradients=gradients,
        errors_apart=errors_apart,
    )
