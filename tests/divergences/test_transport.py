"""Wasserstein distances and the Sinkhorn divergence: exact solvers, closed forms, duals, gradients, refusals."""

import itertools
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.spatial.distance
import scipy.stats
import torch

from probgen.core import divergences as core
from probgen.core.divergences import transport
from probgen.errors import ArgumentError, DataError, MissingExtra

MAKE = {"numpy": np.asarray, "torch": torch.as_tensor, "jax": jnp.asarray}


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def normal(seed, shape, shift=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(shift, scale, size=shape)


def assignment(x, y, p):
    """``W_p^p`` of samples of one size, by scipy."""
    cost = scipy.spatial.distance.cdist(x, y) ** p
    return cost[scipy.optimize.linear_sum_assignment(cost)].mean()


def linear_program(x, y, p):
    """``W_p^p`` of any sizes, by scipy."""
    n, m = len(x), len(y)
    cost = abs(x[:, None] - y[None]) ** p
    rows = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    bounds = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    return scipy.optimize.linprog(cost.ravel(), A_eq=np.concatenate(rows), b_eq=bounds).fun


# ---- one dimension


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(("n", "m"), [(7, 7), (7, 5), (6, 4), (3, 10)])
def test_quantile_formula_is_the_linear_program(p, n, m):
    x, y = normal(0, n), normal(1, m, 0.3, 2.0)
    assert core.wasserstein_1d(x, y, p=p).value ** p == pytest.approx(linear_program(x, y, p), rel=1e-9)


def test_w1_is_scipys():
    x, y = normal(0, 500), normal(1, 300, 0.3, 2.0)
    assert core.wasserstein_1d(x, y).value == pytest.approx(scipy.stats.wasserstein_distance(x, y), rel=1e-12)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(("n", "m"), [(9, 9), (8, 5)])
def test_potentials_are_dual_feasible_and_optimal(p, n, m):
    x, y = normal(0, (n, 1)), normal(1, (m, 1), 0.5, 2.0)
    f, g = transport._mean_potentials(x, y, p)
    cost = abs(x - y.T) ** p
    shift = (cost - f[:, None] - g[None]).min()  # each is fixed up to a constant
    assert f.mean() + g.mean() + shift == pytest.approx(core.wasserstein_1d(x, y, p=p).value ** p, abs=1e-12)


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda rng, n: (rng.normal(size=n), rng.normal(1.5, 2.0, size=n)), {2: math.hypot(1.5, 1.0)}),
        (lambda rng, n: (rng.laplace(size=n), rng.laplace(2.0, size=n)), {1: 2.0, 2: 2.0}),
        (lambda rng, n: (rng.uniform(0, 1, size=n), rng.uniform(0, 3, size=n)), {1: 1.0, 2: 2 / math.sqrt(3)}),
    ],
)
def test_w_of_known_pairs(draw, truth):
    x, y = draw(np.random.default_rng(0), 20_000)
    for p, value in truth.items():
        estimate = core.wasserstein_1d(x, y, p=p)
        assert abs(estimate.value - value) < 4 * estimate.standard_error + 0.005


@pytest.mark.parametrize("p", [1, 2])
def test_interval_covers(p):
    rng = np.random.default_rng(0)
    estimates = [core.wasserstein_1d(rng.normal(size=300), rng.normal(1.5, 1.0, size=200), p=p) for _ in range(1000)]
    mean = np.mean([e.value for e in estimates])
    inside = np.mean([e.interval[0] <= mean <= e.interval[1] for e in estimates])
    assert 0.92 <= inside <= 0.98  # 1000 repetitions


@pytest.mark.parametrize("p", [1, 2])
def test_metric(p):
    points = [normal(seed, 20, seed / 3, 1 + seed / 5) for seed in range(5)]
    assert core.wasserstein_1d(points[0], points[0][::-1].copy(), p=p).value == 0
    for a, b, c in itertools.permutations(points, 3):
        ab, bc, ac = (core.wasserstein_1d(*pair, p=p).value for pair in ((a, b), (b, c), (a, c)))
        assert ac <= ab + bc + 1e-12
        assert ab == pytest.approx(core.wasserstein_1d(b, a, p=p).value)
    assert core.wasserstein_1d(points[0], points[1], p=1).value <= core.wasserstein_1d(points[0], points[1], p=2).value


# ---- slices


def test_sliced_in_one_dimension_is_exact():
    x, y = normal(0, (50, 1)), normal(1, (40, 1), 1.0)
    for p in (1, 2):
        expected = core.wasserstein_1d(x, y, p=p)
        for function in (core.sliced_wasserstein, core.max_sliced_wasserstein):
            found = function(x, y, p=p, seed=0)
            assert found.value == pytest.approx(expected.value, rel=1e-12)
            assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-6)


@pytest.mark.parametrize("dim", [2, 10])
def test_sliced_of_a_shift(dim):
    x = normal(0, (100, dim))
    estimate = core.sliced_wasserstein(x, x + 1.0, num_projections=2000, seed=0)  # mean (θ·1)² = 1
    assert abs(estimate.value - 1.0) < 4 * estimate.standard_error
    assert core.max_sliced_wasserstein(x, x + 1.0, seed=0).value == pytest.approx(math.sqrt(dim), rel=1e-9)


@pytest.mark.parametrize("p", [1, 2])
def test_sliced_is_below_max_sliced_is_below_exact(p):
    x, y = normal(0, (40, 3)), normal(1, (40, 3)) * [1.0, 3.0, 1.0]
    sliced = core.sliced_wasserstein(x, y, p=p, seed=0).value
    largest = core.max_sliced_wasserstein(x, y, p=p, seed=0).value
    assert sliced < largest < assignment(x, y, p) ** (1 / p)


def test_max_sliced_finds_the_direction():
    x, y = normal(0, (400, 2)), normal(1, (400, 2)) * [1.0, 3.0]
    angles = np.linspace(0, math.pi, 721)
    best = max(core.wasserstein_1d(x @ a, y @ a, p=2).value for a in np.stack([np.cos(angles), np.sin(angles)], 1))
    found = core.max_sliced_wasserstein(x, y, seed=0).value
    assert best * (1 - 1e-9) <= found <= best * 1.001


def test_sliced_in_blocks_is_the_same(monkeypatch):
    x, y = normal(0, (60, 3)), normal(1, (50, 3), 1.0)
    expected = core.sliced_wasserstein(x, y, seed=0)
    monkeypatch.setattr(transport, "_ENTRIES", 110 * 7)
    found = core.sliced_wasserstein(x, y, seed=0)
    assert found.value == pytest.approx(expected.value, rel=1e-13)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-12)


def test_interval_of_slices_covers():
    rng = np.random.default_rng(0)
    draws = [(rng.normal(size=(200, 3)), rng.normal(1.0, 1.0, size=(200, 3))) for _ in range(500)]
    estimates = [core.sliced_wasserstein(x, y, num_projections=30, seed=i) for i, (x, y) in enumerate(draws)]
    mean = np.mean([float(e.value) ** 2 for e in estimates]) ** 0.5
    inside = np.mean([e.interval[0] <= mean <= e.interval[1] for e in estimates])
    assert 0.91 <= inside <= 0.99  # 500 repetitions


@pytest.mark.parametrize("library", MAKE)
def test_every_library_gives_the_same(library):
    x, y = normal(0, (30, 2)), normal(1, (20, 2), 0.5)
    calls = [
        lambda a, b: core.wasserstein_1d(a[:, 0], b[:, 1], p=2),
        lambda a, b: core.sliced_wasserstein(a, b, p=1, seed=0),
        lambda a, b: core.max_sliced_wasserstein(a, b, seed=0),
        lambda a, b: core.sinkhorn_divergence(a, b, epsilon=0.5),
    ]
    a, b = (MAKE[library](z) for z in (x, y))
    for call in calls:
        assert float(call(a, b).value) == pytest.approx(float(call(x, y).value), rel=1e-10)
        assert call(a, b).standard_error == pytest.approx(call(x, y).standard_error, rel=1e-8)


@pytest.mark.parametrize("p", [1, 2])
def test_gradients(p):
    x, y = (torch.tensor(normal(i, (n, 2), i), requires_grad=True) for i, n in enumerate((6, 4)))
    assert torch.autograd.gradcheck(lambda a, b: core.wasserstein_1d(a[:, 0], b[:, 0], p=p).value, (x, y))
    assert torch.autograd.gradcheck(lambda a, b: core.sliced_wasserstein(a, b, p=p, seed=0).value, (x, y))
    options = {"num_steps": 200, "seed": 0}
    assert torch.autograd.gradcheck(
        lambda a, b: core.max_sliced_wasserstein(a, b, p=p, **options).value, (x, y), atol=1e-4
    )


# ---- Sinkhorn


def test_sinkhorn_is_the_regularised_program():
    x, y, epsilon = normal(0, (5, 2)), normal(1, (4, 2), 1.0), 0.8
    cost = scipy.spatial.distance.cdist(x, y, "sqeuclidean")

    def dual(v):
        f, g = v[:5, None], v[None, 5:]
        return -(f.mean() + g.mean() - epsilon * (np.exp((f + g - cost) / epsilon).mean() - 1))

    expected = -scipy.optimize.minimize(dual, np.zeros(9), options={"gtol": 1e-9}).fun
    found = core.sinkhorn_potentials(x, y, epsilon=epsilon, tolerance=1e-10)
    assert found.f.mean() + found.g.mean() == pytest.approx(expected, abs=1e-7)
    plan = np.exp((found.f[:, None] + found.g[None] - cost) / epsilon) / 20
    np.testing.assert_allclose(plan.sum(1), 1 / 5, atol=1e-9)
    np.testing.assert_allclose(plan.sum(0), 1 / 4, atol=1e-9)
    primal = (plan * cost).sum() + epsilon * (plan * np.log(plan * 20)).sum()
    assert primal == pytest.approx(expected, abs=1e-7)  # the duality gap is closed


def test_sinkhorn_tends_to_the_squared_w2_and_to_the_means():
    x, y = normal(0, (30, 2)), normal(1, (30, 2), 0.5)
    exact = assignment(x, y, 2)
    errors = [abs(core.sinkhorn_divergence(x, y, epsilon=epsilon).value - exact) for epsilon in (1.0, 0.1, 0.02)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02 * exact
    means = ((x.mean(0) - y.mean(0)) ** 2).sum()
    assert core.sinkhorn_divergence(x, y, epsilon=1e4).value == pytest.approx(means, rel=1e-3)


def test_sinkhorn_is_a_divergence():
    x, y = normal(0, (30, 2)), normal(1, (20, 2), 0.5)
    assert abs(core.sinkhorn_divergence(x, x[::-1].copy(), epsilon=0.1).value) < 1e-4
    there, back = (core.sinkhorn_divergence(*pair, epsilon=0.1).value for pair in ((x, y), (y, x)))
    assert there == pytest.approx(back, abs=1e-4)
    for seed in range(10):
        assert core.sinkhorn_divergence(normal(seed, (20, 2)), normal(seed + 99, (20, 2)), epsilon=0.5).value > 0


def test_sinkhorn_of_a_far_shift_in_float32():
    x = normal(0, (50, 2)).astype("float32") + np.float32(1000.0)
    assert core.sinkhorn_divergence(x, x + np.float32(2.0), epsilon=0.5).value == pytest.approx(8.0, rel=1e-3)


@pytest.mark.parametrize("epsilon", [0.3, 2.0])
def test_sinkhorn_gradients(epsilon):
    x, y = (torch.tensor(normal(i, (n, 2), i), requires_grad=True) for i, n in enumerate((6, 4)))
    assert torch.autograd.gradcheck(
        lambda a, b: core.sinkhorn_divergence(a, b, epsilon=epsilon, tolerance=1e-11).value, (x, y), atol=1e-6
    )


def test_sinkhorn_gradients_in_jax():
    x, y = normal(0, (6, 2)), normal(1, (4, 2), 1.0)
    leaf = torch.tensor(x, requires_grad=True)
    core.sinkhorn_divergence(leaf, torch.tensor(y), epsilon=0.5, tolerance=1e-10).value.backward()
    step = np.zeros_like(x)
    step[2, 1] = 1e-5
    above, below = (core.sinkhorn_divergence(x + s * step, y, epsilon=0.5, tolerance=1e-12).value for s in (1, -1))
    assert leaf.grad[2, 1].item() == pytest.approx((above - below) / 2e-5, rel=1e-5)


def test_interval_of_sinkhorn_covers():
    rng = np.random.default_rng(0)
    draws = [(rng.normal(size=(60, 2)), rng.normal(1.0, 1.0, size=(60, 2))) for _ in range(300)]
    estimates = [core.sinkhorn_divergence(x, y, epsilon=2.0, tolerance=1e-4) for x, y in draws]
    mean = np.mean([e.value for e in estimates])
    assert 0.90 <= np.mean([e.interval[0] <= mean <= e.interval[1] for e in estimates]) <= 0.99  # 300 repetitions


# ---- POT


def test_without_pot_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(MissingExtra, match=r'pip install "probgen\[ot\]"'):
        core.wasserstein_exact(np.zeros((3, 2)), np.ones((3, 2)))


@pytest.mark.parametrize("p", [1, 2])
def test_exact_is_scipys_assignment(p):
    pytest.importorskip("ot", reason="needs POT")
    x, y = normal(0, (30, 3)), normal(1, (30, 3), 0.5)
    estimate = core.wasserstein_exact(x, y, p=p)
    assert estimate.value**p == pytest.approx(assignment(x, y, p), rel=1e-10)
    u, v = normal(2, 12), normal(3, 8, 1.0)
    assert core.wasserstein_exact(u, v, p=p).value == pytest.approx(core.wasserstein_1d(u, v, p=p).value, rel=1e-10)


@pytest.mark.parametrize("p", [1, 2])
def test_exact_gradients(p):
    pytest.importorskip("ot", reason="needs POT")
    x, y = (torch.tensor(normal(i, (n, 2), i), requires_grad=True) for i, n in enumerate((6, 4)))
    assert torch.autograd.gradcheck(lambda a, b: core.wasserstein_exact(a, b, p=p).value, (x, y))


def test_exact_interval_covers():
    pytest.importorskip("ot", reason="needs POT")
    rng = np.random.default_rng(0)
    draws = [(rng.normal(size=(80, 2)), rng.normal(1.5, 1.0, size=(80, 2))) for _ in range(300)]
    estimates = [core.wasserstein_exact(x, y) for x, y in draws]
    mean = np.mean([float(e.value) ** 2 for e in estimates]) ** 0.5
    assert 0.90 <= np.mean([e.interval[0] <= mean <= e.interval[1] for e in estimates]) <= 0.99


# ---- refusals


def test_refusals():
    x, y = normal(0, (20, 2)), normal(1, (20, 2), 5.0)
    with pytest.raises(ArgumentError, match="needs one dimension, got 2: use `sliced_wasserstein`"):
        core.wasserstein_1d(x, y)
    with pytest.raises(ArgumentError, match="`p` must be 1 or 2, got 3"):
        core.sliced_wasserstein(x, y, p=3)
    with pytest.raises(ArgumentError, match=r"`epsilon` = 1e-05 is too small for float32.*take at least"):
        core.sinkhorn_divergence(x.astype("float32"), y.astype("float32"), epsilon=1e-5)
    with pytest.raises(ArgumentError, match="`epsilon` must be a finite number above 0"):
        core.sinkhorn_divergence(x, y, epsilon=0.0)
    with pytest.raises(ArgumentError, match="`annealing`"):
        core.sinkhorn_divergence(x, y, epsilon=1.0, annealing=2.0)
    with pytest.raises(DataError, match="have not converged"):
        core.sinkhorn_divergence(x, y, epsilon=0.01, max_iterations=3)
    with pytest.raises(ArgumentError, match="`num_projections`"):
        core.sliced_wasserstein(x, y, num_projections=0)
