"""Relations between bounds: on the same weights, in expectation, and in their limits."""

import itertools

import pyro
import pytest
import torch

from probgen.core import bounds
from probgen.objectives import ELBO, IWAE, MIWAE, Renyi
from probgen.programs import log_weights


@pytest.fixture
def shifted(linear_gaussian):
    """The linear-Gaussian pair with a guide that is off by 0.4 posterior units, and many replicates of its data."""
    x = linear_gaussian.x.repeat(2000, 1)
    return linear_gaussian.model, linear_gaussian.guide(0.4), x


def test_bounds_are_ordered_pointwise_on_the_same_weights(shifted):
    weights = log_weights(*shifted, num_particles=5)
    ordered = [
        bounds.elbo(weights),
        bounds.renyi(weights, 0.9),
        bounds.renyi(weights, 0.5),
        bounds.renyi(weights, 0.1),
        bounds.iwae(weights),
        bounds.cubo(weights, 1.5),
        bounds.cubo(weights, 2.0),
    ]
    for lower, upper in itertools.pairwise(ordered):
        assert (lower < upper).all()
    assert (bounds.iwae(weights) < bounds.eubo(weights)).all()


@pytest.mark.parametrize("objective", [ELBO(num_particles=5), IWAE(num_particles=5), Renyi(alpha=0.5), Renyi(alpha=-1)])
def test_objectives_are_the_bounds_of_core_on_the_same_weights(objective, shifted):
    pyro.set_rng_seed(2)
    weights = log_weights(*shifted, num_particles=5)
    pyro.set_rng_seed(2)
    value = objective.bound(*shifted)
    expected = {
        ELBO: lambda: bounds.elbo(weights),
        IWAE: lambda: bounds.iwae(weights),
        Renyi: lambda: bounds.renyi(weights, objective.alpha),
    }[type(objective)]()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


def test_miwae_is_the_bound_of_core_on_grouped_weights(shifted):
    weights = log_weights(*shifted, num_particles=(3, 4), seed=2)
    pyro.set_rng_seed(2)
    torch.testing.assert_close(
        MIWAE(num_particles=(3, 4)).bound(*shifted), bounds.miwae(weights), rtol=1e-12, atol=1e-12
    )


def test_expected_bounds_rise_with_particles_up_to_the_evidence(shifted, linear_gaussian):
    counts = [1, 2, 5, 20]
    values = [IWAE(num_particles=count).bound(*shifted).reshape(2000, 4) for count in counts]
    means, errors = [v.mean(0) for v in values], [v.std(0) / 2000**0.5 for v in values]
    for lower, upper, a, b in zip(means, means[1:], errors, errors[1:], strict=False):
        assert (upper - lower > 5 * (a**2 + b**2).sqrt()).all()  # a miss is no accident: 1 in 3.5 million
    assert (means[-1] < linear_gaussian.evidence + 5 * errors[-1]).all()
    assert (means[0] < linear_gaussian.evidence - 5 * errors[0]).all()


def test_the_expected_elbo_is_the_evidence_less_the_divergence(shifted, linear_gaussian, assert_mean):
    loadings = torch.tensor([[1.0, 0.2], [-0.4, 0.9], [0.3, 0.5]])
    precision = torch.eye(2) + loadings.T @ loadings / 0.6**2
    divergence = 0.5 * 0.4**2 * precision.sum()  # of two normals with one covariance
    assert_mean(ELBO().bound(*shifted).reshape(2000, 4), linear_gaussian.evidence - divergence)


def test_every_bound_is_the_evidence_at_the_exact_posterior(linear_gaussian):
    pair = linear_gaussian.model, linear_gaussian.guide(0.0), linear_gaussian.x
    for objective in (
        ELBO(),
        ELBO(num_particles=3),
        IWAE(),
        MIWAE(),
        Renyi(alpha=0.5),
        Renyi(alpha=3),
        Renyi(alpha=-2),
    ):
        torch.testing.assert_close(objective.bound(*pair), linear_gaussian.evidence, rtol=1e-10, atol=1e-10)


def at_one_seed(objective, pair, guide):
    pyro.set_rng_seed(3)
    estimate = objective(*pair[:2]).estimate(*pair[2:])
    (gradient,) = torch.autograd.grad(estimate.loss, guide.shift)
    return estimate.bound, gradient


@pytest.mark.parametrize(("weighted", "plain"), [("auto", "auto"), ("pathwise", "pathwise"), ("dreg", "stl")])
def test_with_one_particle_every_bound_is_the_elbo(weighted, plain, shifted):
    value, gradient = at_one_seed(ELBO(gradient=plain), shifted, shifted[1])
    for objective in (
        IWAE(num_particles=1, gradient=weighted),
        MIWAE(num_particles=(1, 1), gradient=weighted),
        Renyi(alpha=0.5, num_particles=1, gradient=weighted),
        Renyi(alpha=-1, num_particles=1, gradient=weighted),
    ):
        other = at_one_seed(objective, shifted, shifted[1])
        torch.testing.assert_close(other[0], value, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(other[1], gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("weighted", "plain"), [("auto", "auto"), ("dreg", "stl")])
@pytest.mark.parametrize("alpha", [1 - 1e-6, 1 + 1e-6])
def test_renyi_tends_to_the_elbo_as_alpha_tends_to_one(weighted, plain, alpha, shifted):
    value, gradient = at_one_seed(ELBO(num_particles=4, gradient=plain), shifted, shifted[1])
    near = at_one_seed(Renyi(alpha=alpha, num_particles=4, gradient=weighted), shifted, shifted[1])
    # the next term is (1 - alpha) / 2 times the variance of the log-weights, here below 40
    torch.testing.assert_close(near[0], value, rtol=0, atol=4e-5)
    torch.testing.assert_close(near[1], gradient, rtol=1e-4, atol=0)


@pytest.mark.parametrize("gradient", ["auto", "pathwise", "dreg"])
def test_renyi_of_order_zero_is_iwae(gradient, shifted):
    value, slope = at_one_seed(IWAE(num_particles=4, gradient=gradient), shifted, shifted[1])
    other = at_one_seed(Renyi(alpha=0, num_particles=4, gradient=gradient), shifted, shifted[1])
    assert torch.equal(other[0], value)
    torch.testing.assert_close(other[1], slope, rtol=1e-12, atol=1e-12)


def test_miwae_with_one_group_is_iwae_and_with_single_particles_the_elbo(shifted):
    for gradient, plain in (("auto", "auto"), ("dreg", "stl")):
        one_group = at_one_seed(MIWAE(num_particles=(1, 4), gradient=gradient), shifted, shifted[1])
        singles = at_one_seed(MIWAE(num_particles=(4, 1), gradient=gradient), shifted, shifted[1])
        iwae = at_one_seed(IWAE(num_particles=4, gradient=gradient), shifted, shifted[1])
        elbo = at_one_seed(ELBO(num_particles=4, gradient=plain), shifted, shifted[1])
        for a, b in zip(one_group + singles, iwae + elbo, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_the_variance_of_dreg_falls_with_particles_faster_than_its_mean(logistic, replicated_gradients):
    def noise(objective):
        pair = logistic.build(5000)
        gradient = replicated_gradients(objective(pair.model, pair.guide), pair.data)["guide.loc"]
        return (gradient.mean() / gradient.std()).abs()

    plain, doubly = ([noise(IWAE(num_particles=k, gradient=g)) for k in (4, 64)] for g in ("pathwise", "dreg"))
    assert plain[1] < 0.5 * plain[0]  # K^(-1/2): a quarter
    assert doubly[1] > 2 * doubly[0]  # K^(+1/2): four times
