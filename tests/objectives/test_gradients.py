"""Gradients of every objective and estimator, against the exact gradient of the expected K-sample bound."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from probgen.core.estimators import leave_one_out, score_function
from probgen.core.estimators import power_mean as core_power_mean
from probgen.objectives import ELBO, IWAE, MIWAE, MaximumLikelihood, Renyi

REPLICATES = 20_000


def exact_gradients(problem, case, expected_bound):
    leaves, terms = problem.exact()
    bound = expected_bound(case.bound, case.particles, *terms(case.beta))
    gradients = torch.autograd.grad(bound, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return bound.item(), dict(zip(leaves, gradients, strict=True))


def check(problem, case, expected_bound, replicated_gradients, assert_mean, replicates=REPLICATES):
    _, exact = exact_gradients(problem, case, expected_bound)
    pair = problem.build(replicates)
    gradients = replicated_gradients(case.objective()(pair.model, pair.guide), pair.data)
    assert set(gradients) == set(exact)
    for name, gradient in gradients.items():
        assert_mean(gradient, exact[name])


def test_gradients_equal_quadrature(logistic, continuous_case, expected_bound, replicated_gradients, assert_mean):
    check(logistic, continuous_case, expected_bound, replicated_gradients, assert_mean)


def test_gradients_of_a_discrete_latent_equal_enumeration(
    mixture, discrete_case, expected_bound, replicated_gradients, assert_mean
):
    check(mixture, discrete_case, expected_bound, replicated_gradients, assert_mean)


def test_gradients_of_discrete_and_continuous_latents_equal_enumeration_with_quadrature(
    mixed, mixed_case, expected_bound, replicated_gradients, assert_mean
):
    check(mixed, mixed_case, expected_bound, replicated_gradients, assert_mean)


@pytest.mark.parametrize("problem", ["logistic", "mixture"])
@pytest.mark.parametrize("objective", [ELBO(num_particles=2), IWAE(num_particles=2), Renyi(alpha=-1, num_particles=2)])
def test_bounds_equal_quadrature_and_enumeration(problem, objective, request, power_mean, expected_bound, assert_mean):
    problem = request.getfixturevalue(problem)
    _, terms = problem.exact()
    combine = {"ELBO": lambda weights: weights.mean(0), "IWAE": power_mean(0), "Renyi": power_mean(-1)}[
        type(objective).__name__
    ]
    pair = problem.build(REPLICATES)
    assert_mean(objective.bound(pair.model, pair.guide, pair.data), expected_bound(combine, 2, *terms(1.0)))


@pytest.mark.parametrize("alpha", [0, 0.5, -1])
def test_the_baseline_takes_a_constant_out_of_a_score_function_gradient(alpha, power_mean):
    weights = torch.randn(3, 10)
    scores = []
    for constant in (0.0, 1000.0):
        baseline = leave_one_out(power_mean(alpha), weights + constant)
        scores.append(score_function(core_power_mean(weights + constant, 1 - alpha), baseline).score)
    torch.testing.assert_close(*scores, rtol=0, atol=1e-9)


def test_the_baseline_is_the_bound_of_the_other_particles(power_mean):
    weights = torch.randn(4, 3)
    for combine in (power_mean(0), power_mean(0.5), lambda w: w.mean(0)):
        expected = torch.stack([combine(weights[[j for j in range(4) if j != k]]) for k in range(4)])
        torch.testing.assert_close(leave_one_out(combine, weights), expected, rtol=1e-12, atol=1e-12)
    assert not leave_one_out(power_mean(0), weights[:1]).any()


def test_renyi_with_a_discrete_guide_moves_the_guide_at_order_zero(mixture, replicated_gradients, assert_mean):
    pair = mixture.build(REPLICATES)
    gradients = replicated_gradients(Renyi(alpha=0, num_particles=2)(pair.model, pair.guide), pair.data)
    assert (gradients["guide.logits"].mean(0).abs() > 0.01).any()


def test_stl_gradient_has_no_variance_at_the_exact_posterior(linear_gaussian):
    guide = linear_gaussian.guide()
    ELBO(num_particles=3, gradient="stl")(linear_gaussian.model, guide)(linear_gaussian.x).backward()
    assert guide.shift.grad.abs().max() < 1e-12


def test_maximum_likelihood_gradient_is_that_of_the_log_density(mixture):
    means = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    x = torch.tensor([0.3, -0.2, 1.1, 2.0])

    def model(x):
        with pyro.plate("data", len(x)):
            components = dist.Normal(means, 1.0)
            pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), components), obs=x)

    loss = MaximumLikelihood()(model)(x)
    exact = torch.logsumexp(-0.5 * (x[:, None] - means) ** 2, 1).sum()
    exact_gradient = torch.autograd.grad(exact, means)[0]
    torch.testing.assert_close(torch.autograd.grad(-loss, means)[0], exact_gradient, rtol=0, atol=1e-14)


RUNS = 20  # with 19 degrees of freedom |t| > 8 once in 6 million numbers


@pytest.mark.parametrize(
    ("objective", "particles"), [(ELBO(num_particles=500), 1), (MIWAE(num_particles=(500, 2)), 2)], ids=["elbo", "iwae"]
)
def test_gradients_of_a_discrete_global_latent_equal_enumeration(objective, particles, expected_bound, assert_mean):
    x = torch.tensor([0.9, -0.2])

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.upper = nn.Parameter(torch.tensor(0.4))
            self.lower = nn.Parameter(torch.tensor([-0.3, 0.6]))

        def forward(self):
            b = pyro.sample("b", dist.Bernoulli(logits=self.upper))
            with pyro.plate("data", 2):
                pyro.sample("z", dist.Bernoulli(logits=self.lower * (1 + b)))

    def model():
        b = pyro.sample("b", dist.Bernoulli(0.3))
        with pyro.plate("data", 2):
            z = pyro.sample("z", dist.Bernoulli(0.2 + 0.5 * b))
            pyro.sample("x", dist.Normal(z + b, 1.0), obs=x)

    guide = Guide()
    parameters = list(guide.parameters())
    b, z = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3))).split([1, 2], dim=1)  # all eight states
    log_q = dist.Bernoulli(logits=guide.upper).log_prob(b)[:, 0]
    log_q = log_q + dist.Bernoulli(logits=guide.lower * (1 + b)).log_prob(z).sum(1)
    log_p = dist.Bernoulli(0.3).log_prob(b)[:, 0] + dist.Bernoulli(0.2 + 0.5 * b).log_prob(z).sum(1)
    weights = log_p + dist.Normal(z + b, 1.0).log_prob(x).sum(1) - log_q
    bound = expected_bound(lambda w: w.logsumexp(0) - math.log(particles), particles, log_q, weights)
    exact = torch.autograd.grad(bound, parameters)
    runs = [torch.autograd.grad(-objective(model, guide)(), parameters) for _ in range(RUNS)]
    for replicates, value in zip(zip(*runs, strict=True), exact, strict=True):
        assert_mean(torch.stack(replicates), value, bound=8.0)
