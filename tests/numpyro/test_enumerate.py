"""``gradient="enumerate"`` against sums over all states that are written out by hand."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from probgen.errors import ProgramError, UnsupportedObjective
from probgen.numpyro import ELBO

X = np.array([0.5, -1.2])
P = [0.2, 0.5, 0.3]


def model(x: jax.Array) -> None:
    a, c = numpyro.param("a", jnp.array([0.7, -0.4])), numpyro.param("c", jnp.array([0.3, -0.5, 1.0]))
    with numpyro.plate("data", len(x)):
        kind = numpyro.sample("kind", dist.Categorical(jnp.array(P)))
        bits = numpyro.sample("bits", dist.Bernoulli(logits=c[kind][..., None] * jnp.ones(2)).to_event(1))
        numpyro.sample("x", dist.Normal(bits @ a + c[kind], 1.0), obs=x)


def guide(x: jax.Array) -> None:
    """The bits depend on the kind."""
    v, w = numpyro.param("v", jnp.array([0.1, 0.4, -0.2])), numpyro.param("w", jnp.array([0.4, -0.3]))
    u = numpyro.param("u", jnp.array([0.2, -0.6, 0.9]))
    with numpyro.plate("data", len(x)):
        kind = numpyro.sample("kind", dist.Categorical(logits=x[:, None] * v))
        numpyro.sample("bits", dist.Bernoulli(logits=x[:, None] * w + u[kind][..., None]).to_event(1))


def by_hand(params: dict[str, Any], beta: float) -> jax.Array:
    """Minus the ELBO, summed over the data."""
    total: Any = 0.0
    for kind, first, second in itertools.product(range(3), (0.0, 1.0), (0.0, 1.0)):
        bits = jnp.array([first, second])
        prior = jnp.log(P[kind]) + dist.Bernoulli(logits=params["c"][kind]).log_prob(bits).sum()
        likelihood = dist.Normal(bits @ params["a"] + params["c"][kind], 1.0).log_prob(X)
        log_q = dist.Categorical(logits=X[:, None] * params["v"]).log_prob(kind)
        logits = X[:, None] * params["w"] + params["u"][kind]
        log_q = log_q + dist.Bernoulli(logits=logits).log_prob(bits).sum(-1)
        total = total - (jnp.exp(log_q) * (likelihood + beta * (prior - log_q))).sum()
    return total


@pytest.mark.parametrize(("particles", "beta"), [(1, 1.0), (2, 0.3)])
def test_all_sites_are_summed_exactly(kit: Any, particles: int, beta: float) -> None:
    params = kit.initial((model, guide))
    objective = ELBO(num_particles=particles, beta=beta, gradient="enumerate")
    key = jax.random.key(0)
    loss, gradient = jax.jit(jax.value_and_grad(lambda v: objective.loss(key, v, model, guide, X)))(params)
    exact, slope = jax.value_and_grad(by_hand)(params, beta)
    np.testing.assert_allclose(loss, exact, rtol=1e-9)
    for name in params:
        np.testing.assert_allclose(gradient[name], slope[name], rtol=1e-9, atol=1e-9, err_msg=name)
    bound = objective.bound(model, guide, X, params=params)
    np.testing.assert_allclose(-bound.sum(), by_hand(params, 1.0), rtol=1e-9)


def test_plates_inside_a_datum(kit: Any) -> None:
    """Two bits in a plate are four states; the plate inside is like an event."""

    def plated(x: jax.Array) -> None:
        with numpyro.plate("data", len(x), dim=-2), numpyro.plate("inside", 2, dim=-1):
            bit = numpyro.sample("bit", dist.Bernoulli(jnp.array([0.3, 0.6])))
            numpyro.sample("x", dist.Normal(bit, 1.0), obs=x[:, None])

    def plated_guide(x: jax.Array) -> None:
        w = numpyro.param("w", jnp.array([0.4, -0.3]))
        with numpyro.plate("data", len(x), dim=-2), numpyro.plate("inside", 2, dim=-1):
            numpyro.sample("bit", dist.Bernoulli(logits=x[:, None] * w))

    def exact(w: jax.Array) -> jax.Array:
        q = jax.nn.sigmoid(X[:, None] * w)
        p = jnp.array([0.3, 0.6])
        on = dist.Normal(1.0, 1.0).log_prob(X)[:, None] + jnp.log(p / q)
        off = dist.Normal(0.0, 1.0).log_prob(X)[:, None] + jnp.log((1 - p) / (1 - q))
        return -(q * on + (1 - q) * off).sum()

    params = kit.initial((plated, plated_guide))
    for gradient in ("enumerate", {"bit": "enumerate"}):
        objective = ELBO(gradient=gradient)
        found = jax.grad(lambda v, o=objective: o.loss(jax.random.key(0), v, plated, plated_guide, X))(params)
        np.testing.assert_allclose(found["w"], jax.grad(exact)(params["w"]), rtol=1e-9)


@pytest.mark.parametrize("other", ["auto", "score", "rloo"])
def test_beside_other_sites(kit: Any, other: str) -> None:
    """The normal site keeps its own estimator; the mean is that of score functions everywhere."""
    params, particles = kit.initial(kit.bits), 2
    ours = ELBO(num_particles=particles, gradient={"bits": "enumerate", "z": other})
    known = ELBO(num_particles=particles)
    count = 4000
    mine, theirs = (kit.gradients(o, kit.bits, params, count, seed=i) for i, o in enumerate((ours, known)))
    for name in params:
        assert (kit.errors_apart(mine[name], theirs[name]) < 5.0).all(), name
    if other == "auto":
        assert (mine["b"].std(0) < theirs["b"].std(0)).all()


def test_a_state_of_probability_zero_counts_nothing() -> None:
    def certain(x: jax.Array) -> None:
        with numpyro.plate("data", len(x)):
            bit = numpyro.sample("bit", dist.Bernoulli(1.0))
            numpyro.sample("x", dist.Normal(bit, 1.0), obs=x)

    def certain_guide(x: jax.Array) -> None:
        with numpyro.plate("data", len(x)):
            numpyro.sample("bit", dist.Bernoulli(1.0))

    loss = ELBO(gradient="enumerate").loss(jax.random.key(0), {}, certain, certain_guide, X)
    np.testing.assert_allclose(loss, -dist.Normal(1.0, 1.0).log_prob(X).sum(), rtol=1e-6)


def test_refusals(kit: Any) -> None:
    key, params = jax.random.key(0), kit.initial(kit.bits)
    with pytest.raises(UnsupportedObjective, match="finitely many values, but 'z' is Normal"):
        ELBO(gradient="enumerate").loss(key, params, *kit.bits, X)
    with pytest.raises(ProgramError, match="names a site 'bit'"):
        ELBO(gradient={"bit": "enumerate"}).loss(key, params, *kit.bits, X)

    def many(x: jax.Array) -> None:
        with numpyro.plate("data", len(x)):
            bits = numpyro.sample("bits", dist.Bernoulli(jnp.full(13, 0.5)).to_event(1))
            numpyro.sample("x", dist.Normal(bits.sum(-1), 1.0), obs=x)

    def many_guide(x: jax.Array) -> None:
        with numpyro.plate("data", len(x)):
            numpyro.sample("bits", dist.Bernoulli(jnp.full(13, 0.5)).to_event(1))

    with pytest.raises(UnsupportedObjective, match=r"8\.19e\+03 joint states of 'bits', more than 4096"):
        ELBO(gradient="enumerate").loss(key, {}, many, many_guide, X)
