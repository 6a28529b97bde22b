"""What NumPyro itself gets wrong or accepts in silence, and ours does not."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer import RenyiELBO, Trace_ELBO
from numpyro.infer.importance import psis_diagnostic

from probgen.errors import DataError, ProgramError
from probgen.numpyro import ELBO, IWAE, evaluate

KEY = jax.random.key(0)
X = np.random.default_rng(1).normal(size=20)


def bits_model(x):
    p = numpyro.param("p", jnp.array(0.4))
    with numpyro.plate("data", len(x)):
        numpyro.sample("x", dist.Bernoulli(logits=p), obs=x)


def empty(*args):
    pass


def test_data_outside_the_support():
    x, params = jnp.array([0.0, 1.0, 2.0]), {"p": jnp.array(0.4)}
    with pytest.warns(UserWarning, match="Out-of-support values"):  # the defect: no error, and no word of which
        assert Trace_ELBO().loss(KEY, params, bits_model, empty, x) == np.inf
    with pytest.raises(DataError, match="observes 2 at index"):
        ELBO().loss(KEY, params, bits_model, empty, x)
    svi = numpyro.infer.SVI(bits_model, empty, numpyro.optim.Adam(1e-2), ELBO())
    with pytest.raises(DataError, match="outside the support"):
        svi.run(KEY, 2, x, progress_bar=False)


def test_silent_broadcasting():
    def model(x):
        loc = numpyro.param("loc", jnp.zeros(3))
        numpyro.sample("x", dist.Normal(loc[:, None], 1.0).to_event(0), obs=x)

    x, params = jnp.zeros(3), {"loc": jnp.zeros(3)}
    assert np.isfinite(Trace_ELBO().loss(KEY, params, model, empty, x))  # the defect: 9 terms
    with pytest.raises(ProgramError, match="no plate declares dimension -2 of size 3"):
        ELBO().loss(KEY, params, model, empty, x)


def minibatch_model(x, size):
    with numpyro.plate("data", len(x), subsample_size=size) as index:
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x[index])


def minibatch_guide(x, size):
    loc = numpyro.param("loc", jnp.array(0.2))
    with numpyro.plate("data", len(x), subsample_size=size) as index:
        numpyro.sample("z", dist.Normal(loc * x[index], 0.9))


def expected(loss, size, count=20_000):
    keys = jax.random.split(jax.random.key(size), count)
    x, params = jnp.asarray(X), {"loc": jnp.array(0.2)}

    def one(key):
        return loss.loss(key, params, minibatch_model, minibatch_guide, x, size)

    values = np.asarray(jax.jit(jax.vmap(one))(keys))
    return values.mean(), values.std() / np.sqrt(count)


def test_subsampling_leaves_the_importance_weighted_loss_unbiased():
    full, full_error = expected(IWAE(num_particles=5), 20)
    part, part_error = expected(IWAE(num_particles=5), 2)
    assert abs(full - part) < 5.0 * np.hypot(full_error, part_error)


def test_a_scale_stays_out_of_the_logsumexp():
    x, params = jnp.asarray(X), {"loc": jnp.array(0.2)}
    scaled = [handlers.scale(program, 3.0) for program in (minibatch_model, minibatch_guide)]

    def ratio(loss):
        plain = loss.loss(KEY, params, minibatch_model, minibatch_guide, x, 20)
        return float(loss.loss(KEY, params, *scaled, x, 20) / plain)

    assert abs(ratio(IWAE(num_particles=5)) - 3.0) < 1e-9
    assert abs(ratio(RenyiELBO(alpha=0.0, num_particles=5)) - 3.0) > 0.05  # the defect


def test_a_discrete_guide_gets_a_gradient():
    # Not at a logit of exactly 0, where the gradient of NumPyro's log-density is wrong.
    def model():
        bit = numpyro.sample("bit", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(bit, 1.0), obs=2.0)

    def guide():
        numpyro.sample("bit", dist.Bernoulli(logits=numpyro.param("a", jnp.array(0.3))))

    def mean_gradient(loss):
        def one(key):
            return jax.grad(lambda a: loss.loss(key, {"a": a}, model, guide))(jnp.array(0.3))

        values = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(KEY, 20_000)))
        return values.mean(), values.std() / np.sqrt(len(values))

    joint = np.log([0.7, 0.3]) + np.asarray(dist.Normal(jnp.arange(2.0), 1.0).log_prob(2.0))

    def bound(a):  # IWAE of two particles, enumerated
        q = np.array([1 / (1 + np.exp(a)), 1 / (1 + np.exp(-a))])
        weights = np.exp(joint) / q
        return sum(q[i] * q[j] * np.log((weights[i] + weights[j]) / 2) for i in (0, 1) for j in (0, 1))

    exact = -(bound(0.3 + 1e-5) - bound(0.3 - 1e-5)) / 2e-5
    ours, error = mean_gradient(IWAE(num_particles=2))
    assert abs(ours - exact) < 5.0 * error
    theirs, error = mean_gradient(RenyiELBO(alpha=0.0, num_particles=2))
    assert abs(theirs - exact) > 20.0 * error  # the defect


def test_khat_of_a_datum_does_not_depend_on_the_others():
    def model(x):
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(0.4 * x, 0.8))

    many = np.tile(X, 20)
    khat = np.asarray(evaluate(model, guide, many, num_particles=1000, batch_size=400).khat)
    assert khat.shape == (400,)
    assert khat.max() < 0.7
    theirs = psis_diagnostic(KEY, {}, model, guide, jnp.asarray(many), num_particles=1000)
    assert theirs > 0.7  # the defect: one number, which grows with the batch
