"""Closed forms against quadrature, torch, scipy, and what must hold of every divergence."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from torch.distributions import MultivariateNormal, kl_divergence

import probgen
from probgen.core import divergences as core
from probgen.errors import ArgumentError, ArgumentTypeError, DataError

MAKE = {"numpy": np.asarray, "torch": torch.as_tensor, "jax": jnp.asarray}
SYMMETRIC = ("jeffreys", "js", "hellinger", "tv", "le-cam")


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def gaussian(seed, dim, spread=0.3):
    rng = np.random.default_rng(seed)
    root = np.eye(dim) + spread * rng.normal(size=(dim, dim)) / math.sqrt(dim)
    return rng.normal(size=dim), root @ root.T


def categorical(seed, size=5):
    return np.random.default_rng(seed).dirichlet(np.ones(size))


def options(kind):
    return {"alpha": 0.7} if kind == "renyi" else {}


# ---- discrete


@pytest.mark.parametrize("kind", core.GENERATORS)
def test_discrete_is_the_definition(kind):
    p, q = categorical(0), categorical(1)
    expected = (q * core.f_values(np.log(p / q), kind)).sum()
    assert core.discrete_divergence(p, q, kind) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("kl", lambda p, q: scipy.stats.entropy(p, q)),
        ("reverse-kl", lambda p, q: scipy.stats.entropy(q, p)),
        ("jeffreys", lambda p, q: ((p - q) * np.log(p / q)).sum()),
        ("js", lambda p, q: scipy.stats.entropy((p + q) / 2) - (scipy.stats.entropy(p) + scipy.stats.entropy(q)) / 2),
        ("chi2", lambda p, q: (p**2 / q).sum() - 1),
        ("reverse-chi2", lambda p, q: (q**2 / p).sum() - 1),
        ("hellinger", lambda p, q: 1 - np.sqrt(p * q).sum()),
        ("tv", lambda p, q: np.maximum(p - q, 0).sum()),
        ("le-cam", lambda p, q: 1 - 2 * (p * q / (p + q)).sum()),
        ("renyi", lambda p, q: np.log((p**0.7 * q**0.3).sum()) / (0.7 - 1)),
    ],
)
def test_discrete_by_hand(kind, formula):
    p, q = categorical(2), categorical(3)
    assert core.discrete_divergence(p, q, kind, **options(kind)) == pytest.approx(formula(p, q), rel=1e-11)


@pytest.mark.parametrize("kind", core.DISCRETE_KINDS)
def test_discrete_in_every_library(kind):
    p, q = np.stack([categorical(i) for i in range(3)]), categorical(7)
    expected = core.discrete_divergence(p, q, kind, **options(kind))
    assert expected.shape == (3,)
    for make in MAKE.values():
        actual = core.discrete_divergence(make(p), make(q), kind, **options(kind))
        np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-13)


@pytest.mark.parametrize("kind", core.DISCRETE_KINDS)
def test_zero_for_equal_and_positive_otherwise(kind):
    p, q = categorical(0), categorical(1)
    assert abs(core.discrete_divergence(p, p, kind, **options(kind))) < 1e-15
    assert core.discrete_divergence(p, q, kind, **options(kind)) > 1e-3


@pytest.mark.parametrize("kind", SYMMETRIC)
def test_symmetry(kind):
    p, q = categorical(0), categorical(1)
    assert core.discrete_divergence(p, q, kind) == pytest.approx(core.discrete_divergence(q, p, kind), rel=1e-13)


@pytest.mark.parametrize(
    ("kind", "there", "back"),
    [
        ("kl", math.inf, math.log(2)),
        ("reverse-kl", math.log(2), math.inf),
        ("jeffreys", math.inf, math.inf),
        ("chi2", math.inf, 1.0),
        ("reverse-chi2", 1.0, math.inf),
        ("hellinger", 1 - math.sqrt(0.5), 1 - math.sqrt(0.5)),
        ("tv", 0.5, 0.5),
        ("le-cam", 1 / 3, 1 / 3),
    ],
)
def test_mass_that_only_one_has(kind, there, back):
    p, q = np.array([0.5, 0.5]), np.array([1.0, 0.0])
    assert core.discrete_divergence(p, q, kind) == pytest.approx(there)
    assert core.discrete_divergence(q, p, kind) == pytest.approx(back)


def test_disjoint_supports_reach_the_maxima():
    p, q = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    maxima = {"js": math.log(2), "hellinger": 1.0, "tv": 1.0, "le-cam": 1.0, "kl": math.inf}
    assert {kind: float(core.discrete_divergence(p, q, kind)) for kind in maxima} == pytest.approx(maxima)


@pytest.mark.parametrize("kind", core.DISCRETE_KINDS)
def test_data_processing(kind):
    channel = np.random.default_rng(0).dirichlet(np.ones(4), size=5)
    for seed in range(20):
        p, q = categorical(seed), categorical(100 + seed)
        before, after = (
            core.discrete_divergence(a, b, kind, **options(kind)) for a, b in ((p, q), (p @ channel, q @ channel))
        )
        assert after <= before + 1e-12


def test_root_of_js_and_tv_obey_the_triangle_inequality():
    points = [categorical(seed) for seed in range(6)]
    for a, b, c in itertools.permutations(points, 3):
        for kind, power in (("js", 0.5), ("hellinger", 0.5), ("tv", 1.0), ("le-cam", 0.5)):
            ab, bc, ac = (core.discrete_divergence(*pair, kind) ** power for pair in ((a, b), (b, c), (a, c)))
            assert ac <= ab + bc + 1e-12


def test_renyi_tends_to_kl_and_grows():
    p, q = categorical(0), categorical(1)
    orders = [0.1, 0.5, 0.999999, 1.000001, 2.0, 5.0]
    values = [float(core.discrete_divergence(p, q, "renyi", alpha=alpha)) for alpha in orders]
    assert values == sorted(values)
    assert values[2] == pytest.approx(float(core.discrete_divergence(p, q, "kl")), rel=1e-5)


@pytest.mark.parametrize("kind", core.DISCRETE_KINDS)
def test_gradient_on_the_simplex(kind):
    logits = torch.tensor(np.random.default_rng(0).normal(size=(2, 4)), requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a: core.discrete_divergence(*torch.softmax(a, -1), kind, **options(kind)), (logits,)
    )


def test_bernoulli_is_categorical():
    p, q = torch.tensor([0.2, 0.9]), torch.tensor([0.5, 0.6])
    expected = kl_divergence(torch.distributions.Bernoulli(p), torch.distributions.Bernoulli(q))
    torch.testing.assert_close(core.bernoulli_divergence(p, q), expected)


@pytest.mark.parametrize(
    ("p", "q", "kind", "error", "message"),
    [
        (np.array([0.5, 0.6]), np.array([0.5, 0.5]), "kl", DataError, r"`p` must sum to one .* got 1\.1"),
        (np.array([0.5, 0.5]), np.array([1.5, -0.5]), "kl", DataError, r"`q` must hold probabilities, got -0\.5"),
        (np.array([0.5, 0.5]), np.array([np.nan, 0.5]), "kl", DataError, "`q` must hold probabilities, got nan"),
        (np.array([0.5, 0.5]), np.array([1.0]), "kl", ArgumentError, "one number of categories"),
        (np.array([1, 0]), np.array([1, 0]), "kl", ArgumentTypeError, "floating-point"),
        (np.array([0.5, 0.5]), np.array([0.5, 0.5]), "helinger", ArgumentError, "did you mean 'hellinger'"),
        (np.array([0.5, 0.5]), np.array([0.5, 0.5]), "renyi", ArgumentError, "needs it"),
    ],
)
def test_discrete_refusals(p, q, kind, error, message):
    with pytest.raises(error, match=message):
        core.discrete_divergence(p, q, kind)


# ---- Gaussian


@pytest.mark.parametrize("dim", [1, 2, 10])
def test_gaussian_kl_is_torchs(dim):
    (m, a), (n, b) = gaussian(0, dim), gaussian(1, dim)
    p, q = (MultivariateNormal(torch.tensor(mean), torch.tensor(cov)) for mean, cov in ((m, a), (n, b)))
    assert core.gaussian_divergence(m, a, n, b) == pytest.approx(float(kl_divergence(p, q)), rel=1e-10)
    assert core.gaussian_divergence(m, a, n, b, "reverse-kl") == pytest.approx(float(kl_divergence(q, p)), rel=1e-10)
    both = float(kl_divergence(q, p) + kl_divergence(p, q))
    assert core.gaussian_divergence(m, a, n, b, "jeffreys") == pytest.approx(both, rel=1e-10)


@pytest.mark.parametrize("dim", [1, 2, 10])
def test_frechet_is_scipys_formula(dim):
    (m, a), (n, b) = gaussian(0, dim), gaussian(1, dim)
    expected = ((m - n) ** 2).sum() + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert core.gaussian_divergence(m, a, n, b, "frechet") == pytest.approx(expected, rel=1e-9)
    assert core.gaussian_divergence(m, a, n, b, "w2") ** 2 == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", ["renyi", "chi2", "reverse-chi2", "hellinger", "kl", "jeffreys"])
def test_gaussian_forms_are_their_integrals(kind):
    (m, a), (n, b) = gaussian(0, 2, 0.1), gaussian(1, 2, 0.1)
    grid = np.linspace(-12, 12, 601)
    points = np.stack(np.meshgrid(grid, grid), -1)
    log_p, log_q = (scipy.stats.multivariate_normal(*pair).logpdf(points) for pair in ((m, a), (n, b)))
    cell = (grid[1] - grid[0]) ** 2
    if kind == "renyi":
        expected = np.log((np.exp(0.7 * log_p + 0.3 * log_q)).sum() * cell) / (0.7 - 1)
    else:
        expected = (np.exp(log_q) * core.f_values(log_p - log_q, kind)).sum() * cell
    assert core.gaussian_divergence(m, a, n, b, kind, **options(kind)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", core.GAUSSIAN_KINDS)
def test_gaussian_in_every_library_and_batch(kind):
    pairs = [gaussian(i, 3, 0.1) for i in range(4)]
    m, a = (np.stack(part) for part in zip(*pairs[:2], strict=True))
    n, b = (np.stack(part) for part in zip(*pairs[2:], strict=True))
    each = [core.gaussian_divergence(m[i], a[i], n[i], b[i], kind, **options(kind)) for i in range(2)]
    for make in MAKE.values():
        actual = core.gaussian_divergence(*map(make, (m, a, n, b)), kind, **options(kind))
        np.testing.assert_allclose(np.asarray(actual), each, rtol=1e-11)


@pytest.mark.parametrize("kind", core.GAUSSIAN_KINDS)
def test_gaussian_gradients(kind):
    (m, a), (n, b) = gaussian(0, 2, 0.2), gaussian(1, 2, 0.2)
    roots = [np.linalg.cholesky(cov) for cov in (a, b)]
    leaves = [torch.tensor(value, requires_grad=True) for value in (m, roots[0], n, roots[1])]

    def value(m, a, n, b):
        return core.gaussian_divergence(m, a @ a.T, n, b @ b.T, kind, **options(kind))

    assert torch.autograd.gradcheck(value, leaves)


def test_frechet_gradient_exists_where_eigenvalues_are_equal():
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    eye = torch.eye(3, dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    core.frechet_distance(zero, eye * scale, zero, eye).backward()  # 3 (√s - 1)²
    assert scale.grad.item() == pytest.approx(3 * (1 - 1 / math.sqrt(2)), rel=1e-12)


def test_frechet_of_singular_covariances():
    a, b = np.diag([1.0, 0.0]), np.diag([0.0, 4.0])
    assert core.frechet_distance(np.zeros(2), a, np.zeros(2), b) == pytest.approx(5.0)


def test_chi2_is_infinite_where_its_integral_is():
    one, wide = np.array([[1.0]]), np.array([[2.5]])
    zero = np.zeros(1)
    assert core.gaussian_divergence(zero, wide, zero, one, "chi2") == math.inf
    assert core.gaussian_divergence(zero, one, zero, wide, "chi2") == pytest.approx(2.5 / math.sqrt(4.0) - 1)


@pytest.mark.parametrize("kind", core.GAUSSIAN_KINDS)
def test_gaussian_is_zero_for_equal(kind):
    m, a = gaussian(0, 3)
    assert abs(core.gaussian_divergence(m, a, m, a, kind, **options(kind))) < (1e-6 if kind == "w2" else 1e-13)


def test_w2_obeys_the_triangle_inequality():
    points = [gaussian(seed, 3) for seed in range(5)]
    for a, b, c in itertools.permutations(points, 3):
        ab, bc, ac = (core.gaussian_divergence(*x, *y, "w2") for x, y in ((a, b), (b, c), (a, c)))
        assert ac <= ab + bc + 1e-9


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"cov_p": np.array([[1.0, 0.5], [0.0, 1.0]])}, DataError, "`cov_p` must be symmetric"),
        ({"cov_q": np.diag([1.0, -1.0])}, DataError, "`cov_q` must be positive definite, got the eigenvalue -1"),
        ({"mean_q": np.zeros(3)}, ArgumentError, r"`mean_q` needs the shape \[\.\.\., 2\], got \[3\]"),
        ({"mean_p": np.array([np.nan, 0.0])}, DataError, "`mean_p` must be finite"),
        ({"cov_p": torch.eye(2)}, ArgumentTypeError, "one library"),
        ({"kind": "tv"}, ArgumentError, "no closed form"),
        ({"kind": "renyi", "alpha": 1.0}, ArgumentError, "other than 1"),
    ],
)
def test_gaussian_refusals(change, error, message):
    arguments = {"mean_p": np.zeros(2), "cov_p": np.eye(2), "mean_q": np.zeros(2), "cov_q": np.eye(2)}
    with pytest.raises(error, match=message):
        core.gaussian_divergence(**(arguments | change))


def test_public_name():
    assert probgen.divergence is probgen.divergences.divergence
