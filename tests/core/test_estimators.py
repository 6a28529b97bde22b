"""Coefficients against automatic differentiation, and one formula on three libraries."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.autograd.functional import hessian, jacobian

from probgen.core import bounds, estimators
from probgen.errors import ArgumentError

LOG_WEIGHTS = torch.tensor([0.3, -1.2, 2.1, 0.4, -0.7, 1.0], dtype=torch.float64)

BOUNDS = {
    "elbo": (bounds.elbo, estimators.elbo),
    "iwae": (bounds.iwae, lambda w: estimators.power_mean(w, 1.0)),
    "renyi 0.5": (lambda w: bounds.renyi(w, 0.5), lambda w: estimators.power_mean(w, 0.5)),
    "renyi 2": (lambda w: bounds.renyi(w, 2.0), lambda w: estimators.power_mean(w, -1.0)),
    "renyi -1": (lambda w: bounds.renyi(w, -1.0), lambda w: estimators.power_mean(w, 2.0)),
    "ciwae": (
        lambda w: 0.3 * bounds.elbo(w) + 0.7 * bounds.iwae(w),
        lambda w: estimators.ciwae(w, 0.3),
    ),
    "miwae": (
        lambda w: bounds.miwae(w.reshape(2, 3, *w.shape[1:])),
        lambda w: estimators.miwae(w, (2, 3)),
    ),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_derivatives_equal_those_of_automatic_differentiation(name):
    bound, derivatives = BOUNDS[name]
    got = derivatives(LOG_WEIGHTS[:, None])
    first, second = jacobian(bound, LOG_WEIGHTS), hessian(bound, LOG_WEIGHTS).diagonal()
    torch.testing.assert_close(got.value[0], bound(LOG_WEIGHTS), rtol=1e-13, atol=0)
    torch.testing.assert_close(got.first[:, 0], first, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(got.doubly[:, 0], first - second, rtol=1e-10, atol=1e-14)


SELF_NORMALISED = {
    "wake": estimators.wake_coefficients,
    "cubo": lambda w, reparameterized=False: estimators.cubo_coefficients(w, 2.5, reparameterized=reparameterized),
    "tvo left": lambda w, reparameterized=False: estimators.thermodynamic(
        w, (0.0, 0.2, 0.7, 1.0), side="left", reparameterized=reparameterized
    ),
    "tvo right": lambda w, reparameterized=False: estimators.thermodynamic(
        w, (0.0, 0.2, 0.7, 1.0), side="right", reparameterized=reparameterized
    ),
}


@pytest.mark.parametrize("name", SELF_NORMALISED)
def test_the_path_takes_the_derivative_of_what_multiplies_the_score(name):
    make = SELF_NORMALISED[name]

    def direct(w):
        found = make(w)
        return (0.0 if found.score is None else found.score) - found.guide

    path = make(LOG_WEIGHTS, reparameterized=True).path
    torch.testing.assert_close(path, jacobian(direct, LOG_WEIGHTS).diagonal(), rtol=1e-10, atol=1e-14)


def test_the_thermodynamic_gradient_tends_to_that_of_the_exact_sum():
    """Three states in the shares of their probability: the gradient of the limit, by automatic differentiation."""
    temperatures = (0.0, 0.3, 1.0)
    log_p, log_q = (
        torch.tensor([0.1, -1.0, 0.6], dtype=torch.float64),
        torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log(),
    )

    def exact(log_p, log_q, side):
        weights = log_p - log_q
        total = 0.0
        for low, high in itertools.pairwise(temperatures):
            b = low if side == "left" else high
            total = total + (high - low) * (torch.softmax(log_q + b * weights, 0) * weights).sum()
        return total

    many = torch.repeat_interleave(torch.arange(3), torch.tensor([2, 5, 3]))  # exact shares of q
    for side, sign in (("left", 1.0), ("right", -1.0)):
        of_p, of_q = jacobian(lambda p, q, side=side: exact(p, q, side), (log_p, log_q))
        got = estimators.thermodynamic((log_p - log_q)[many], temperatures, side=side)
        by_state = [torch.zeros(3).double().index_add(0, many, part) for part in (got.model, got.score - got.guide)]
        torch.testing.assert_close(by_state[0], sign * of_p, rtol=1e-9, atol=1e-9)
        # Adding a constant to log q does nothing to what is normalised: compare up to a multiple of q's own score.
        q = log_q.exp()
        difference = by_state[1] - sign * of_q
        torch.testing.assert_close(difference / q, (difference / q).mean().expand(3), rtol=1e-6, atol=1e-9)


def test_the_same_on_three_libraries():
    numbers = np.random.default_rng(0).normal(size=(6, 4))
    functions = [
        lambda w: estimators.miwae(w, (2, 3)),
        lambda w: estimators.ciwae(w, 0.3),
        lambda w: estimators.score_function(estimators.power_mean(w, 0.5), estimators.vimco(bounds.iwae, w)),
        lambda w: estimators.score_function(estimators.elbo(w), estimators.leave_one_out(bounds.elbo, w)),
        lambda w: estimators.wake_coefficients(w, reparameterized=True),
        lambda w: estimators.cubo_coefficients(w, 2.0),
        lambda w: estimators.thermodynamic(w, estimators.moments_grid(w, 3), side="left", reparameterized=True),
    ]
    with jax.enable_x64():
        for function in functions:
            want = function(numbers)
            for other in (function(torch.from_numpy(numbers)), jax.jit(function)(jnp.asarray(numbers))):
                for a, b in zip(want, other, strict=True):
                    assert (a is None) == (b is None)
                    if a is not None:
                        np.testing.assert_allclose(np.asarray(b), a, rtol=1e-8, atol=1e-12)


def test_moments_are_equally_far_apart():
    log_weights = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grid = estimators.moments_grid(log_weights, 4)
    moments = torch.stack([(torch.softmax(b * log_weights, 0) * log_weights).sum(0) for b in grid])
    steps = moments.diff(dim=0)
    torch.testing.assert_close(steps, steps.mean(0).expand_as(steps), rtol=1e-6, atol=1e-7)


def test_the_left_sum_is_below_and_the_right_sum_above_the_log_of_the_mean():
    log_weights = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    truth = bounds.iwae(log_weights)
    grid = [j / 200 for j in range(201)]
    left = estimators.thermodynamic_value(log_weights, grid, side="left")
    right = estimators.thermodynamic_value(log_weights, grid, side="right")
    assert (left < truth).all()
    assert (truth < right).all()
    # Each misses at most the last width times the rise of the integrand.
    assert (right - left < (log_weights.amax(0) - bounds.elbo(log_weights)) / 200).all()


def test_vimco_puts_the_geometric_mean_of_the_other_weights():
    for k in range(6):
        others = torch.cat([LOG_WEIGHTS[:k], LOG_WEIGHTS[k + 1 :]])
        replaced = LOG_WEIGHTS.clone()
        replaced[k] = others.mean()
        want = replaced.logsumexp(0) - math.log(6)
        torch.testing.assert_close(estimators.vimco(bounds.iwae, LOG_WEIGHTS)[k], want, rtol=1e-13, atol=0)
    with pytest.raises(ArgumentError, match="needs at least 2"):
        estimators.vimco(bounds.iwae, LOG_WEIGHTS[:1])


def test_a_datum_without_weight_gets_no_gradient():
    dead = torch.full((4, 1), -math.inf, dtype=torch.float64)
    for derivatives in (estimators.power_mean(dead, 1.0), estimators.power_mean(dead, -1.0)):
        assert derivatives.value.item() == -math.inf
        assert not derivatives.first.any()
        assert not estimators.score_function(derivatives, estimators.leave_one_out(bounds.iwae, dead)).score.any()
    found = estimators.thermodynamic(dead, (0.0, 0.5, 1.0), side="left", reparameterized=True)
    assert all(torch.isfinite(part).all() for part in found if part is not None)
    assert estimators.thermodynamic_value(dead, (0.0, 1.0), side="left").item() == -math.inf


def test_an_unknown_side_is_refused():
    with pytest.raises(ArgumentError, match='`side` must be "left" or "right"'):
        estimators.thermodynamic_value(LOG_WEIGHTS, (0.0, 1.0), side="middle")
