"""Which plates hold the data, what multiplies what, and what is refused."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoIAFNormal, AutoNormal

from probgen.errors import DataError, ProgramError, UnsupportedObjective
from probgen.numpyro import ELBO, IWAE, log_weights

X = np.array([0.5, -1.2, 0.3])


def local_model(x, size=None):
    with numpyro.plate("data", size or len(x), subsample_size=len(x) if size else None):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x)


def local_guide(x, size=None):
    with numpyro.plate("data", size or len(x), subsample_size=len(x) if size else None):
        numpyro.sample("z", dist.Normal(x / 2, 0.8))


def global_model(x):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("data", len(x)):
        numpyro.sample("x", dist.Normal(w, 1.0), obs=x)


def initialised(guide, *args):
    with handlers.seed(rng_seed=0):
        guide(*args)
    return guide


def test_weights_are_densities_by_hand():
    weights = log_weights(local_model, local_guide, jnp.asarray(X), num_particles=4, rng_key=1)
    with handlers.seed(rng_seed=0):
        again = log_weights(local_model, local_guide, jnp.asarray(X), num_particles=(2, 2), rng_key=1)
    assert weights.shape == (4, 3)
    np.testing.assert_array_equal(again.reshape(4, 3), weights)  # outer handlers change nothing

    def fixed_guide(x):
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(x / 2, 1e-9))

    z = X / 2
    by_hand = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(X)
    noisy = log_weights(local_model, fixed_guide, jnp.asarray(X))[0]
    np.testing.assert_allclose(noisy, by_hand + 0.5 * np.log(2 * np.pi) + np.log(1e-9) + 0.0, atol=20.0)


@pytest.mark.parametrize("make", [AutoNormal, AutoDiagonalNormal, AutoIAFNormal])
def test_autoguides(make):
    x = jnp.asarray(X)
    guide = initialised(make(local_model), x)
    weights = log_weights(local_model, guide, x, num_particles=5)
    assert weights.shape == ((5, 3) if make is AutoNormal else (5,))
    assert np.isfinite(weights).all()


def test_a_global_latent_makes_weights_joint():
    guide = initialised(AutoNormal(global_model), jnp.asarray(X))
    assert log_weights(global_model, guide, jnp.asarray(X), num_particles=5).shape == (5,)


def test_inner_plates_are_summed_and_batch_plates_named():
    def model(x):
        with numpyro.plate("data", 3, dim=-1), numpyro.plate("copies", 2, dim=-2):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with numpyro.plate("data", 3, dim=-1), numpyro.plate("copies", 2, dim=-2):
            numpyro.sample("z", dist.Normal(0.0, 1.0))

    x = jnp.ones((2, 3))
    full = log_weights(model, guide, x, num_particles=4)
    assert full.shape == (4, 2, 3)
    inner = log_weights(model, guide, x, num_particles=4, batch_plate="data")
    np.testing.assert_allclose(inner, full.sum(1))
    with pytest.raises(ProgramError, match="did you mean 'data'"):
        log_weights(model, guide, x, batch_plate="dta")


def test_one_minibatch_for_model_guide_and_all_particles():
    data = jnp.arange(100.0)

    def model():
        with numpyro.plate("data", 100, subsample_size=5) as index:
            z = numpyro.sample("z", dist.Normal(0.0, 1e3))
            numpyro.sample("x", dist.Normal(z, 1e-3), obs=data[index])

    def guide():
        with numpyro.plate("data", 100, subsample_size=5) as index:
            numpyro.sample("z", dist.Normal(data[index], 1e-4))

    weights = np.asarray(log_weights(model, guide, num_particles=50, rng_key=3))
    assert weights.shape == (50, 5)
    assert weights.min() > -50.0  # another minibatch would be off by (gap / 1e-3)^2
    loss = IWAE(num_particles=2).loss(jnp.array([0, 3], jnp.uint32), {}, model, guide)
    bound = IWAE(num_particles=2).bound(model, guide, rng_key=jnp.array([0, 3], jnp.uint32))
    np.testing.assert_allclose(loss, -20.0 * bound.sum(), rtol=1e-9)  # N/B = 20


def test_a_shared_scale_multiplies_the_bound():
    x = jnp.asarray(X)
    key = jnp.array([0, 7], jnp.uint32)
    plain = IWAE(num_particles=3).loss(key, {}, local_model, local_guide, x)
    both = [handlers.scale(program, 2.5) for program in (local_model, local_guide)]
    np.testing.assert_allclose(IWAE(num_particles=3).loss(key, {}, *both, x), 2.5 * plain, rtol=1e-9)


def test_a_scale_of_the_likelihood_tempers_and_one_of_latents_is_for_the_elbo():
    x, key = jnp.asarray(X), jnp.array([0, 7], jnp.uint32)

    def model(x, on_latent):
        with numpyro.plate("data", len(x)):
            with handlers.scale(scale=0.5 if on_latent else 1.0):
                z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            with handlers.scale(scale=1.0 if on_latent else 0.5):
                numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, on_latent):
        local_guide(x)

    tempered = log_weights(model, guide, x, False, num_particles=2, rng_key=key)
    halved = log_weights(local_model, local_guide, x, num_particles=2, rng_key=key)
    assert not np.allclose(tempered, halved)
    plain = IWAE(num_particles=2).bound(local_model, local_guide, x, rng_key=key)
    np.testing.assert_allclose(IWAE(num_particles=2).bound(model, guide, x, False, rng_key=key), plain)
    with pytest.raises(UnsupportedObjective, match=r"latent site 'z' has a `handlers\.scale`"):
        IWAE().loss(key, {}, model, guide, x, True)
    assert np.isfinite(ELBO().loss(key, {}, model, guide, x, True))


def test_masks_silence_data():
    x, key = jnp.asarray(X), jnp.array([0, 7], jnp.uint32)
    mask = jnp.array([True, False, True])

    def guide(x):
        local_guide(jnp.nan_to_num(x))

    both = [handlers.mask(program, mask) for program in (local_model, guide)]
    masked = log_weights(*both, x.at[1].set(jnp.nan), num_particles=2, rng_key=key)
    whole = log_weights(local_model, local_guide, x, num_particles=2, rng_key=key)
    np.testing.assert_allclose(masked, jnp.where(mask, whole, 0.0))


def observing(value, family=dist.Bernoulli):
    def model():
        with numpyro.plate("data", 3):
            numpyro.sample("x", family(jnp.full(3, 0.4)), obs=value)

    return model


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (observing(jnp.array([0.0, 2.0, 1.0])), DataError, r"observes 2 at index \(1,\), outside the support of Bern"),
        (observing(jnp.array([0.0, jnp.nan, 1.0])), DataError, r"observes nan at index \(1,\); data must be finite"),
        (observing(jnp.zeros((3, 1))), ProgramError, "no plate declares dimension -2 of size 3"),
        (observing(jnp.zeros(4)), ProgramError, "the model's log-density at site 'x' fails"),
        (observing("ones"), DataError, "observes a str"),
        (lambda: numpyro.deterministic("x", 1.0), ProgramError, "no sample site"),
    ],
)
def test_refused_models(model, error, message):
    with pytest.raises(error, match=message):
        log_weights(model, None)


def test_refused_pairs():
    x = jnp.asarray(X)
    with pytest.raises(ProgramError, match="samples site 'z', which the guide lacks"):
        log_weights(local_model, None, x)
    with pytest.raises(ProgramError, match="site 'z', which the model lacks"):
        log_weights(global_model, local_guide, x)
    with pytest.raises(ProgramError, match="the guide observes site 'z'"):
        log_weights(local_model, lambda x: numpyro.sample("z", dist.Normal(0.0, 1.0), obs=x), x)

    def vectors(x):
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))

    with pytest.raises(ProgramError, match=r"event shape \(\) in the model but \(2,\) in the guide"):
        log_weights(local_model, vectors, x)
    with pytest.raises(UnsupportedObjective, match="point mass at site 'z'"):
        log_weights(local_model, initialised(AutoDelta(local_model), x), x)
    with pytest.raises(ProgramError, match=r"fails on a batch \(\(3,\) float64\): ValueError"):
        log_weights(local_model, lambda x: local_guide(x[:2]), x)


def test_joint_weights_with_a_subsample_are_refused_for_several_particles():
    def model(x):
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", 30, subsample_size=3) as index:
            numpyro.sample("x", dist.Normal(w, 1.0), obs=x[index])

    def guide(x):
        numpyro.sample("w", dist.Normal(0.0, 1.0))

    with pytest.raises(UnsupportedObjective, match="plate 'data' is subsampled inside"):
        log_weights(model, guide, jnp.zeros(30), num_particles=2)
    assert log_weights(model, guide, jnp.zeros(30)).shape == (1,)
