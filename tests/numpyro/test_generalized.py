"""GDReG: the same mean as pathwise gradients, with learned priors; per-sample parity with torch is in test_parity."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from probgen.errors import UnsupportedObjective
from probgen.numpyro import IWAE

COUNT = 4000
STANDARD_ERRORS = 5.0


def model(x: jax.Array) -> None:
    m, t = numpyro.param("m", jnp.array([0.4, -0.3])), numpyro.param("t", jnp.array([[1.1, 0.0], [0.4, 0.8]]))
    a, r = numpyro.param("a", jnp.array(0.7)), numpyro.param("r", jnp.array([0.9, 1.3]))
    c = numpyro.param("c", jnp.array(0.3))
    with numpyro.plate("data", len(x)):
        top = numpyro.sample("top", dist.MultivariateNormal(m, scale_tril=t))
        low = numpyro.sample("low", dist.Laplace(a * top, r).mask(jnp.array([True, True])).to_event(1))
        numpyro.sample("x", dist.Normal(low.sum(-1) + c * top[..., 0], 1.0), obs=x)


def guide(x: jax.Array) -> None:
    w, b = numpyro.param("w", jnp.array([0.4, 0.2])), numpyro.param("b", jnp.array([0.2, -0.1]))
    u = numpyro.param("u", jnp.array(0.3))
    with numpyro.plate("data", len(x)):
        low = numpyro.sample("low", dist.Normal(w * x[:, None] + b, 0.9).to_event(1))
        numpyro.sample("top", dist.Normal(u * low, 0.8).to_event(1))


def test_its_mean_is_that_of_the_pathwise_gradient(kit: Any) -> None:
    params = kit.initial((model, guide))
    found = [
        kit.gradients(IWAE(num_particles=3, gradient=name), (model, guide), params, COUNT, seed=seed)
        for seed, name in enumerate(("gdreg", "pathwise"))
    ]
    for name in params:
        assert (kit.errors_apart(found[0][name], found[1][name]) < STANDARD_ERRORS).all(), name
        assert np.abs(found[0][name]).max() > 0.0
    assert (found[0]["m"].std(0) < found[1]["m"].std(0)).all()  # what it is for


def gamma_pair(learned: bool) -> tuple[Any, Any]:
    def model(x: jax.Array) -> None:
        rate = numpyro.param("rate", jnp.array(1.0))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Gamma(2.0, rate if learned else 1.0))
            numpyro.sample("x", dist.Normal(rate * z, 1.0), obs=x)

    def guide(x: jax.Array) -> None:
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.LogNormal(numpyro.param("m", jnp.array(0.1)), 0.5))

    return model, guide


def test_a_learned_prior_of_another_family_is_refused(kit: Any) -> None:
    key, x, objective = jax.random.key(0), jnp.asarray(kit.data), IWAE(num_particles=2, gradient="gdreg")
    params = kit.initial(gamma_pair(True))
    with pytest.raises(UnsupportedObjective, match=r"location-scale family .* site 'z' is Gamma there"):
        objective.loss(key, params, *gamma_pair(True), x)
    fixed = jax.grad(lambda values: objective.loss(key, values, *gamma_pair(False), x))(params)
    dreg = IWAE(num_particles=2, gradient="dreg")
    other = jax.grad(lambda values: dreg.loss(key, values, *gamma_pair(False), x))(params)
    for name in params:  # nothing of the prior is learned, so that the two are one
        np.testing.assert_allclose(fixed[name], other[name], rtol=1e-9)
    with pytest.raises(UnsupportedObjective, match=r"'bits' \(Bernoulli\) has none"):
        objective.loss(key, kit.initial(kit.bits), *kit.bits, x)
