"""Estimates from log-densities and samples: generators and their duals, unbiasedness, coverage, tails."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from probgen.core import divergences as core
from probgen.core.divergences.generators import GENERATORS
from probgen.core.ops import namespace
from probgen.errors import ArgumentError, ArgumentTypeError, DataError

MAKE = {"numpy": np.asarray, "torch": torch.as_tensor, "jax": jnp.asarray}
RATIOS = np.linspace(-3, 3, 25)  # of log p / q; none is 0


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


# ---- generators


@pytest.mark.parametrize("kind", GENERATORS)
def test_generator_is_consistent(kind):
    f, xp, s = GENERATORS[kind], namespace(RATIOS), RATIOS[RATIOS != 0]
    value = core.f_values(s, kind)
    np.testing.assert_allclose(f.weighted(xp, s), value * np.exp(-s), rtol=1e-9, atol=1e-14)
    step = 1e-6
    slope = (f.value(xp, s + step) - f.value(xp, s - step)) / (2 * step) * np.exp(-s)
    np.testing.assert_allclose(f.slope(xp, s), slope, rtol=1e-5, atol=1e-8)
    assert abs(core.f_values(np.zeros(1), kind)[0]) < 1e-15
    assert (np.diff(f.slope(xp, s)) >= -1e-12).all()  # convex


@pytest.mark.parametrize("kind", GENERATORS)
def test_generator_at_its_ends(kind):
    f, xp = GENERATORS[kind], namespace(RATIOS)
    with np.errstate(over="ignore"):
        near_zero, near_infinity = f.value(xp, np.array([-60.0]))[0], f.weighted(xp, np.array([60.0]))[0]
    for limit, value in ((f.at_zero, near_zero), (f.lost, near_infinity)):
        assert value > 50 if math.isinf(limit) else value == pytest.approx(limit, abs=1e-10)
    assert core.f_values(np.array([-np.inf]), kind)[0] == f.at_zero


@pytest.mark.parametrize("kind", [kind for kind in GENERATORS if GENERATORS[kind].dual])
def test_conjugate_is_the_supremum(kind):
    f, xp = GENERATORS[kind], namespace(RATIOS)
    s = np.linspace(-12, 12, 200_001)
    value, ratio = f.value(xp, s), np.exp(s)
    for t in f.slope(xp, RATIOS)[::4]:
        assert core.conjugate(np.array([t]), kind)[0] == pytest.approx((t * ratio - value).max(), abs=2e-6)


@pytest.mark.parametrize("kind", [kind for kind in GENERATORS if GENERATORS[kind].dual])
def test_dual_bound_is_a_bound_and_tight(kind):
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(4), size=2)
    f, xp = GENERATORS[kind], namespace(p)
    exact = core.discrete_divergence(p, q, kind)
    best = f.slope(xp, np.log(p / q))
    assert p @ best - q @ core.conjugate(best, kind) == pytest.approx(exact, abs=1e-12)
    for _ in range(50):
        critic = best + rng.normal(scale=0.3, size=4)
        assert p @ critic - q @ core.conjugate(critic, kind) <= exact + 1e-12


@pytest.mark.parametrize("kind", GENERATORS)
def test_generators_in_every_library(kind):
    expected = core.f_values(RATIOS, kind)
    for make in MAKE.values():
        np.testing.assert_allclose(np.asarray(core.f_values(make(RATIOS), kind)), expected, rtol=1e-12, atol=1e-15)


def test_conjugate_outside_its_domain_and_without_a_formula():
    assert core.conjugate(np.array([1.0]), "reverse-kl")[0] == math.inf
    with pytest.raises(ArgumentError, match="'jeffreys' has no elementary conjugate"):
        core.conjugate(np.zeros(1), "jeffreys")
    with pytest.raises(ArgumentError, match="did you mean 'chi2'"):
        core.f_values(np.zeros(1), "ch2")


# ---- estimates against Gaussians: p = N(0, 1)^d, q = N(shift, s²)^d


def pair(dim, shift=0.3, scale=1.1):
    shift = shift / math.sqrt(dim)

    def log_p(x):
        return (-0.5 * x**2 - 0.5 * math.log(2 * math.pi)).sum(-1)

    def log_q(x):
        return (-0.5 * ((x - shift) / scale) ** 2 - math.log(scale) - 0.5 * math.log(2 * math.pi)).sum(-1)

    gaussians = np.zeros(dim), np.eye(dim), np.full(dim, shift), scale**2 * np.eye(dim)
    return (
        log_p,
        log_q,
        lambda rng, n: rng.normal(size=(n, dim)),
        lambda rng, n: rng.normal(shift, scale, (n, dim)),
        gaussians,
    )


def exact(kind, gaussians, **options):
    dim = len(gaussians[0])
    if kind in core.GAUSSIAN_KINDS:
        return float(core.gaussian_divergence(*gaussians, kind, **options))
    import scipy.integrate
    import scipy.stats

    if dim > 1:
        pytest.skip("no closed form")
    p, q = scipy.stats.norm(), scipy.stats.norm(gaussians[2][0], math.sqrt(gaussians[3][0, 0]))
    return scipy.integrate.quad(
        lambda x: q.pdf(x) * core.f_values(np.array([p.logpdf(x) - q.logpdf(x)]), kind)[0], -12, 12, limit=500
    )[0]


REPETITIONS = 2000
# A right 95 % interval covers in 1900 +- 9.7 of them; 1860 to 1940 are four standard deviations.


def coverage(estimates, truth):
    return sum(low <= truth <= high for low, high in (e.interval for e in estimates)) / len(estimates)


@pytest.mark.parametrize("dim", [1, 2, 10])
@pytest.mark.parametrize("method", ["k1", "k3"])
def test_kl_interval_covers(method, dim):
    log_p, log_q, draw, _, gaussians = pair(dim, scale=0.95)  # of k3, E_p[(q / p)^4] is finite
    rng = np.random.default_rng(dim)
    x = draw(rng, REPETITIONS * 400).reshape(REPETITIONS, 400, dim)
    estimates = [
        core.kl_from_densities(p, q, method=method, heavy_tails="allow")
        for p, q in zip(log_p(x), log_q(x), strict=True)
    ]
    assert 0.93 <= coverage(estimates, exact("kl", gaussians)) <= 0.97
    assert {e.bias for e in estimates} == {"none"}


@pytest.mark.parametrize("kind", GENERATORS)
def test_f_divergence_interval_covers(kind):
    log_p, log_q, _, draw, gaussians = pair(1, scale=1.05)
    rng = np.random.default_rng(0)
    x = draw(rng, REPETITIONS * 400).reshape(REPETITIONS, 400, 1)
    estimates = [
        core.f_from_densities(p, q, kind, heavy_tails="allow") for p, q in zip(log_p(x), log_q(x), strict=True)
    ]
    assert 0.93 <= coverage(estimates, exact(kind, gaussians)) <= 0.97


@pytest.mark.parametrize("kind", ["js", "hellinger", "tv", "le-cam", "kl"])
def test_interval_from_both_covers(kind):
    log_p, log_q, draw_p, draw_q, gaussians = pair(1, shift=1.0)
    rng = np.random.default_rng(0)
    x, y = (draw(rng, REPETITIONS * 100).reshape(REPETITIONS, 100, 1) for draw in (draw_p, draw_q))
    four = zip(log_p(x), log_q(x), log_p(y), log_q(y), strict=True)
    estimates = [core.f_from_both(*arrays, kind, heavy_tails="allow") for arrays in four]
    assert 0.93 <= coverage(estimates, exact(kind, gaussians)) <= 0.97


@pytest.mark.parametrize("samples_from", ["p", "q"])
@pytest.mark.parametrize("kind", GENERATORS)
def test_both_sides_and_the_control_variate_agree(kind, samples_from):
    log_p, log_q, draw_p, draw_q, gaussians = pair(1)
    x = (draw_p if samples_from == "p" else draw_q)(np.random.default_rng(0), 40_000)
    plain, controlled = (
        core.f_from_densities(log_p(x), log_q(x), kind, samples_from=samples_from, method=method, heavy_tails="allow")
        for method in ("plain", "control-variate")
    )
    truth = exact(kind, gaussians)
    for estimate in (plain, controlled):  # four standard errors: one failure in 16,000
        assert abs(estimate.value - truth) < 4 * estimate.standard_error
    assert controlled.standard_error <= plain.standard_error * (1 + 1e-9)


@pytest.mark.parametrize("kind", GENERATORS)
def test_exact_on_a_finite_space(kind):
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    expected = core.discrete_divergence(p, q, kind)
    under_q, under_p = np.repeat([0, 1, 2], (q * 4).astype(int)), np.repeat([0, 1, 2], (p * 4).astype(int))
    logs = np.log(p), np.log(q)
    assert core.f_from_densities(*(a[under_q] for a in logs), kind).value == pytest.approx(expected)
    assert core.f_from_densities(*(a[under_p] for a in logs), kind, samples_from="p").value == pytest.approx(expected)
    both = [a[index] for index in (under_p, under_q) for a in logs]
    assert core.f_from_both(*both, kind).value == pytest.approx(expected)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
@pytest.mark.parametrize("samples_from", ["p", "q"])
@pytest.mark.parametrize("dim", [1, 2, 10])
def test_renyi(alpha, samples_from, dim):
    log_p, log_q, draw_p, draw_q, gaussians = pair(dim, scale=1.05)
    x = (draw_p if samples_from == "p" else draw_q)(np.random.default_rng(1), 40_000)
    estimate = core.renyi_from_densities(log_p(x), log_q(x), alpha, samples_from=samples_from)
    assert abs(estimate.value - exact("renyi", gaussians, alpha=alpha)) < 4 * estimate.standard_error
    assert estimate.bias == ("lower" if alpha > 1 else "upper")


@pytest.mark.parametrize("alpha", [0.5, 3.0])
def test_renyi_bias_has_the_stated_sign(alpha):
    log_p, log_q, draw, _, gaussians = pair(1, shift=1.0)
    x = draw(np.random.default_rng(0), 20_000 * 5).reshape(20_000, 5, 1)
    ratios = (alpha - 1) * (log_p(x) - log_q(x))  # [20,000, 5]
    values = np.log(np.exp(ratios).mean(1)) / (alpha - 1)
    mean, error = values.mean(), values.std() / math.sqrt(len(values))
    truth = exact("renyi", gaussians, alpha=alpha)
    assert (truth - mean) * (1 if alpha > 1 else -1) > 4 * error
    first = core.renyi_from_densities(log_p(x[0]), log_q(x[0]), alpha).value
    assert first == pytest.approx(values[0])


def test_renyi_interval_covers():
    log_p, log_q, draw, _, gaussians = pair(2)
    x = draw(np.random.default_rng(0), 1000 * 400).reshape(1000, 400, 2)
    estimates = [core.renyi_from_densities(log_p(a), log_q(a), 0.5, heavy_tails="allow") for a in x]
    truth = exact("renyi", gaussians, alpha=0.5)
    assert 0.92 <= coverage(estimates, truth) <= 0.98  # 1000 repetitions


def test_terms_by_hand():
    ratio = np.array([-1.0, 0.0, 2.0])
    np.testing.assert_allclose(core.kl_terms(ratio, "k1"), ratio)
    np.testing.assert_allclose(core.kl_terms(ratio, "k2"), ratio**2 / 2)
    np.testing.assert_allclose(core.kl_terms(ratio, "k3"), np.exp(-ratio) - 1 + ratio)
    assert (core.kl_terms(RATIOS, "k3") >= 0).all()


def test_k2_has_less_variance_and_a_bias():
    log_p, log_q, draw, _, gaussians = pair(1, shift=1.0)
    x = draw(np.random.default_rng(0), 100_000)
    k1, k2, k3 = (core.kl_from_densities(log_p(x), log_q(x), method=m, heavy_tails="allow") for m in ("k1", "k2", "k3"))
    truth = exact("kl", gaussians)
    assert abs(k1.value - truth) < 4 * k1.standard_error
    assert abs(k3.value - truth) < 4 * k3.standard_error
    assert abs(k2.value - truth) > 4 * k2.standard_error
    assert k2.bias == "O(E[l³])"


@pytest.mark.parametrize("library", MAKE)
def test_every_library_gives_the_same(library):
    log_p, log_q, draw, _, _ = pair(2)
    x = draw(np.random.default_rng(0), 500)
    arrays = [log_p(x), log_q(x)]
    ours = [MAKE[library](a) for a in arrays]
    for call in (
        lambda a: core.kl_from_densities(*a, method="control-variate"),
        lambda a: core.f_from_densities(*a, "js", samples_from="p", heavy_tails="allow"),
        lambda a: core.renyi_from_densities(*a, 0.5),
        lambda a: core.f_from_both(*a, *a, "tv"),
    ):
        expected, actual = call(arrays), call(ours)
        assert type(actual.value) is type(namespace(ours[0]).mean(ours[0]))
        np.testing.assert_allclose(float(actual.value), float(expected.value), rtol=1e-12)
        np.testing.assert_allclose(actual.standard_error, expected.standard_error, rtol=1e-10)


@pytest.mark.parametrize("kind", GENERATORS)
def test_gradients(kind):
    rng = np.random.default_rng(0)
    logs = [torch.tensor(rng.normal(size=6), requires_grad=True) for _ in range(4)]
    assert torch.autograd.gradcheck(lambda p, q: core.f_from_densities(p, q, kind).value, logs[:2])
    assert torch.autograd.gradcheck(lambda p, q: core.f_from_densities(p, q, kind, samples_from="p").value, logs[:2])
    assert torch.autograd.gradcheck(lambda *a: core.f_from_both(*a, kind).value, logs)


@pytest.mark.parametrize("method", ["k1", "k2", "k3"])
def test_kl_gradients(method):
    rng = np.random.default_rng(0)
    logs = [torch.tensor(rng.normal(size=6), requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda p, q: core.kl_from_densities(p, q, method=method).value, logs)
    assert torch.autograd.gradcheck(lambda p, q: core.renyi_from_densities(p, q, 0.5).value, logs)


# ---- what is refused, or said


def test_outside_the_support_is_infinite_and_said():
    log_p, log_q = np.zeros(4), np.array([0.0, 0.0, -np.inf, 0.0])
    for estimate in (
        core.kl_from_densities(log_p, log_q),
        core.f_from_densities(log_p, log_q, "chi2", samples_from="p"),
        core.renyi_from_densities(log_p, log_q, 2.0),
    ):
        assert estimate.value == math.inf
        assert estimate.interval == (math.inf, math.inf)
        assert "1 of 4 samples of p lie outside the support of q" in estimate.note
    assert "outside the support" in core.f_from_both(log_p, log_q, log_p, log_p, "kl").note
    assert core.f_from_densities(log_p, log_q, "tv", samples_from="p").value == pytest.approx(0.125)


def test_renyi_of_disjoint_supports():
    none = np.full(5, -np.inf)
    assert core.renyi_from_densities(none, np.zeros(5), 0.5, samples_from="q").value == math.inf


def test_heavy_tails_are_refused_or_said():
    rng = np.random.default_rng(0)
    x = rng.standard_cauchy(2000)
    log_p, log_q = -np.log(np.pi * (1 + x**2)), -0.5 * x**2 - 0.5 * math.log(2 * math.pi)  # an infinite KL
    with pytest.raises(DataError, match=r"tails too heavy .* k-hat"):
        core.kl_from_densities(log_p, log_q)
    assert "tails too heavy" in core.kl_from_densities(log_p, log_q, heavy_tails="allow").note
    with pytest.raises(DataError, match="tails too heavy"):
        core.renyi_from_densities(log_p, log_q, 2.0)


def test_bounded_terms_are_never_refused():
    rng = np.random.default_rng(0)
    x, y = rng.standard_cauchy(2000), rng.normal(size=2000)
    cauchy, normal = (lambda z: -np.log(np.pi * (1 + z**2))), (lambda z: -0.5 * z**2 - 0.5 * math.log(2 * math.pi))
    for kind in ("js", "tv", "hellinger", "le-cam"):
        estimate = core.f_from_both(cauchy(x), normal(x), cauchy(y), normal(y), kind)
        assert 0 < estimate.value < 1


@pytest.mark.parametrize(
    ("log_p", "log_q", "error", "message"),
    [
        (np.array([0.0, np.nan]), np.zeros(2), DataError, "`log_p` is nan at sample 1"),
        (np.array([0.0, -np.inf]), np.zeros(2), DataError, "`log_p` is -inf at sample 1: the samples must be of p"),
        (np.zeros(2), np.array([np.inf, 0.0]), DataError, "`log_q` is inf at sample 0"),
        (np.zeros(2), np.zeros(3), ArgumentError, r"one shape \[n\]"),
        (np.zeros(1), np.zeros(1), ArgumentError, "n at least 2"),
        (np.zeros(2), torch.zeros(2), ArgumentTypeError, "one library"),
        (np.zeros(2, int), np.zeros(2, int), ArgumentTypeError, "floating-point"),
    ],
)
def test_refusals(log_p, log_q, error, message):
    with pytest.raises(error, match=message):
        core.kl_from_densities(log_p, log_q)


def test_unknown_names():
    logs = np.zeros(3), np.zeros(3)
    with pytest.raises(ArgumentError, match="did you mean 'control-variate'"):
        core.kl_from_densities(*logs, method="control-variat")
    with pytest.raises(ArgumentError, match="k1, k2, k3"):
        core.kl_terms(logs[0], "k4")
    with pytest.raises(ArgumentError, match="'p' or 'q'"):
        core.f_from_densities(*logs, samples_from="m")
    with pytest.raises(ArgumentError, match="'refuse' or 'allow'"):
        core.kl_from_densities(*(np.zeros(200), np.zeros(200)), heavy_tails="no")
    with pytest.raises(ArgumentError, match="other than 1"):
        core.renyi_from_densities(*logs, 1.0)
