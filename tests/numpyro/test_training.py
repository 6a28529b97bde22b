"""The loop and the evidence, against closed forms; and NumPyro's own SVI with our objectives."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
import torch

import probgen.numpyro
from probgen.core.weights import pareto_khat
from probgen.errors import ArgumentError, DataError, DivergedError, ProgramError
from probgen.guides.numpyro import AmortizedNormal
from probgen.models.numpyro import PPCA, VAE
from probgen.numpyro import CUBO, ELBO, IWAE, RWS, SVI, evaluate, log_weights

X = np.random.default_rng(0).normal(size=(25, 3)) @ np.diag([2.0, 1.0, 0.5])


def gaussian_model(x):
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x)


def gaussian_guide(x):
    loc = numpyro.param("loc", jnp.array(0.5))
    with numpyro.plate("data", len(x)):
        numpyro.sample("z", dist.Normal(loc * x, numpyro.param("scale", jnp.array(math.sqrt(0.5)))))


def trained(loss, **options):
    pair = PPCA(3, 2), AmortizedNormal((3,), 2, (8,))
    return SVI(*pair, numpyro.optim.Adam(1e-2), loss).run(X, **({"batch_size": 10, "num_epochs": 2} | options)), pair


def test_losses_are_per_datum_and_the_last_minibatch_may_be_smaller():
    result, _ = trained(IWAE(num_particles=3, gradient="dreg"))
    assert result.losses.shape == (6,)  # 10 + 10 + 5, twice
    assert (np.abs(result.losses) < 100).all()
    assert set(result.params) == {"loadings", "mean", "log_scale", "encoder$params"}


def test_a_run_can_be_gone_on_with_and_repeated():
    first, pair = trained(ELBO())
    again, _ = trained(ELBO())
    np.testing.assert_array_equal(first.losses, again.losses)
    svi = SVI(*pair, numpyro.optim.Adam(1e-2), ELBO())
    more = svi.run(X, batch_size=10, num_steps=4, seed=5, init_state=first.state)
    assert more.losses.shape == (4,)
    assert float(first.params["mean"][0]) == float(first.params["mean"][0])  # the state given is not donated
    np.asarray(jax.tree.leaves(first.state)[0])


@pytest.mark.slow
def test_training_reaches_the_maximum_of_the_likelihood():
    """With a plate of one latent dimension, the evidence of the best normal is known."""
    svi = SVI(PPCA(3, 2), AmortizedNormal((3,), 2, (16,)), optax.adam(2e-2), IWAE(num_particles=5, gradient="dreg"))
    result = svi.run(X, batch_size=25, num_epochs=600)
    covariance = np.cov(X.T, bias=True)
    values = np.linalg.eigvalsh(covariance)[::-1]
    noise = values[2:].mean()
    best = -0.5 * (3 * math.log(2 * math.pi) + np.log(values[:2]).sum() + np.log(noise) + 3)
    assert -result.losses[-50:].mean() > best - 0.15


def test_a_schedule_follows_the_steps():
    ramp, _ = trained(ELBO(beta="linear:steps=1000,start=0.0,end=1.0"), num_epochs=1)
    none, _ = trained(ELBO(beta=0.0), num_epochs=1)
    full, _ = trained(ELBO(), num_epochs=1)
    np.testing.assert_allclose(ramp.losses[0], none.losses[0], rtol=1e-9)
    assert abs(ramp.losses[-1] - none.losses[-1]) < 0.1 * abs(full.losses[-1] - none.losses[-1])


def test_wrong_data_are_refused_before_the_first_step():
    bits = np.zeros((25, 4))
    bits[17, 2] = 2.0
    svi = SVI(VAE((4,), 2, (5,)), AmortizedNormal((4,), 2, (5,)), numpyro.optim.Adam(1e-2), ELBO())
    with pytest.raises(DataError, match=r"from 10 on: site 'x' observes 2 at index \(7, 2\)"):
        svi.run(bits, batch_size=10, num_epochs=1)
    for data, message in ((np.zeros((0, 4)), "empty"), ((np.zeros(3), np.zeros(4)), "one length")):
        with pytest.raises(DataError, match=message):
            svi.run(data, num_epochs=1)
    with pytest.raises(ArgumentError, match="either `num_epochs` or `num_steps`"):
        svi.run(bits)


def test_a_loss_that_is_not_finite_names_the_step():
    svi = SVI(PPCA(3, 2), AmortizedNormal((3,), 2, (8,)), numpyro.optim.SGD(1e30), ELBO())
    with pytest.raises(DivergedError, match=r"the loss is .* at step \d"):
        svi.run(X, batch_size=5, num_epochs=5)


@pytest.mark.parametrize("loss", [IWAE(gradient="dreg"), CUBO(), RWS(guide_update="wake-sleep")], ids=repr)
def test_objectives_drop_into_numpyros_svi(loss):
    svi = numpyro.infer.SVI(gaussian_model, gaussian_guide, numpyro.optim.Adam(1e-2), loss)
    x = jnp.asarray(X[:, 0])
    result = svi.run(jax.random.key(0), 20, x, progress_bar=False)
    assert np.isfinite(result.losses).all()
    assert np.isfinite(svi.evaluate(result.state, x))


def test_mutable_state_is_carried():
    def guide(x):
        state = numpyro.primitives.mutable("count", {"seen": jnp.zeros(())})
        state["seen"] = state["seen"] + len(x)
        gaussian_guide(x)

    svi = SVI(gaussian_model, guide, numpyro.optim.Adam(1e-2), IWAE(num_particles=2))
    result = svi.run(X[:, 0], batch_size=5, num_epochs=2)
    assert float(result.state.mutable_state["count"]["seen"]) >= 50.0


def test_evidence_of_the_exact_posterior():
    evidence = evaluate(gaussian_model, gaussian_guide, X[:, 0], num_particles=50, batch_size=10)
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(X[:, 0])
    np.testing.assert_allclose(evidence.log_prob, exact, rtol=1e-9)
    assert (evidence.khat == -math.inf).all()
    assert (evidence.ess > 49.99).all()
    assert evidence.kind == "lower"


def test_evidence_is_streamed_and_per_datum():
    params = {"loc": jnp.array(0.1), "scale": jnp.array(1.2)}
    evidence = evaluate(gaussian_model, gaussian_guide, X[:, 0], params=params, num_particles=2000, batch_size=25)
    exact = np.asarray(dist.Normal(0.0, math.sqrt(2)).log_prob(X[:, 0]))
    error = np.asarray(evidence.monte_carlo_error)
    assert (np.abs(np.asarray(evidence.log_prob) - exact) < 5.0 * error + 1e-6).all()
    small = evaluate(gaussian_model, gaussian_guide, X[:, 0], params=params, num_particles=60, max_particles_at_once=60)
    key = jax.random.fold_in(jax.random.split(jax.random.key(0))[1], 0)
    options = {"num_particles": 60, "rng_key": key, "params": params}
    weights = log_weights(gaussian_model, gaussian_guide, jnp.asarray(X[:, 0]), **options)
    np.testing.assert_allclose(small.khat, pareto_khat(weights), rtol=1e-6)
    assert torch.is_tensor(small.khat)


def test_exact_joint_and_refused_evidence():
    def plain(x):
        with numpyro.plate("data", len(x)):
            numpyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    evidence = evaluate(plain, None, X[:, 0])
    assert evidence.kind == "exact"
    np.testing.assert_allclose(evidence.log_prob, dist.Normal(0.0, 1.0).log_prob(X[:, 0]))

    def joint(x):
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", len(x)):
            numpyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def joint_guide(x):
        numpyro.sample("w", dist.Normal(0.0, 0.3))

    assert evaluate(joint, joint_guide, X[:, 0], num_particles=50).joint
    with pytest.raises(ProgramError, match="`batch_size=25`"):
        evaluate(joint, joint_guide, X[:, 0], num_particles=50, batch_size=5)

    def subsampled(x):
        with numpyro.plate("data", 25, subsample_size=5) as index:
            numpyro.sample("x", dist.Normal(0.0, 1.0), obs=x[index])

    with pytest.raises(ProgramError, match=r"minibatch of its own|sizes"):
        evaluate(subsampled, None, X[:, 0])


def test_names_load_late():
    assert set(dir(probgen.numpyro)) >= {"ELBO", "SVI", "evaluate", "log_weights"}
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = probgen.numpyro.nothing
