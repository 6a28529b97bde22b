"""Estimates from samples alone, by neighbours and kernels: truth, coverage, tests' p-values, memory, refusals."""

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch

from probgen.core import divergences as core
from probgen.core.divergences import pairs
from probgen.core.ops import namespace
from probgen.errors import ArgumentError, ArgumentTypeError, DataError

MAKE = {"numpy": np.asarray, "torch": torch.as_tensor, "jax": jnp.asarray}


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def normal(seed, shape, shift=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(shift, scale, size=shape)


def coverage(estimates, truth):
    return sum(low <= truth <= high for low, high in (e.interval for e in estimates)) / len(estimates)


# ---- neighbours


@pytest.mark.parametrize(("dim", "bias"), [(1, 0.02), (2, 0.05)])
def test_kl_neighbors_on_gaussians(dim, bias):
    x, y = normal(0, (4000, dim)), normal(1, (4000, dim), 0.5)
    estimate = core.kl_from_neighbors(x, y)
    assert abs(estimate.value - dim / 8) < bias + 4 * estimate.standard_error


def test_kl_neighbors_on_laplace_and_uniform():
    rng = np.random.default_rng(0)
    x, y = rng.laplace(0, 1, 5000), rng.laplace(1, 1, 5000)
    estimate = core.kl_from_neighbors(x, y)
    assert abs(estimate.value - math.exp(-1)) < 0.02 + 4 * estimate.standard_error  # e^-δ + δ - 1 for δ = 1
    x, y = rng.uniform(0, 1, 5000), rng.uniform(0, 2, 5000)
    estimate = core.kl_from_neighbors(x, y)
    assert abs(estimate.value - math.log(2)) < 0.02 + 4 * estimate.standard_error


def test_kl_neighbors_bias_shrinks_with_n():
    truth, biases = 5 / 8, []
    for n, repetitions in ((300, 12), (10_000, 2)):
        draws = [(normal([i, 0], (n, 5)), normal([i, 1], (n, 5), 0.5)) for i in range(repetitions)]
        biases.append(truth - np.mean([core.kl_from_neighbors(x, y).value for x, y in draws]))
    assert biases[0] > 1.5 * biases[1] > 0


@pytest.mark.parametrize("dim", [1, 2])
def test_intervals_of_neighbors_cover_the_mean_of_the_estimator(dim):
    kl, renyi, entropy = [], [], []
    for i in range(300):
        x, y = normal([i, 0], (400, dim)), normal([i, 1], (400, dim), 0.5)
        kl.append(core.kl_from_neighbors(x, y))
        renyi.append(core.renyi_from_neighbors(x, y, 0.5))
        entropy.append(core.entropy_from_neighbors(x))
    for estimates in (kl, renyi, entropy):  # 300 repetitions: four standard deviations below 95 %; may be too wide
        assert coverage(estimates, np.mean([float(e.value) for e in estimates])) >= 0.90


@pytest.mark.parametrize("alpha", [0.5, 1.5])
def test_renyi_neighbors(alpha):
    x, y = normal(0, 5000), normal(1, 5000, 0.5)
    estimate = core.renyi_from_neighbors(x, y, alpha)
    assert abs(estimate.value - alpha / 8) < 0.02 + 4 * estimate.standard_error


def test_renyi_neighbors_tends_to_kl():
    x, y = normal(0, (500, 2)), normal(1, (500, 2), 0.5)
    kl = core.kl_from_neighbors(x, y, k=3).value
    # ψ-corrections cancel in the KL: at alpha = 1 -+ δ the two orders average to it.
    around = [core.renyi_from_neighbors(x, y, 1 + sign * 1e-5, k=3).value for sign in (-1, 1)]
    assert np.mean(around) == pytest.approx(kl, abs=1e-3)


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda rng: rng.normal(size=(4000, 2)), math.log(2 * math.pi * math.e)),
        (lambda rng: rng.laplace(0, 2, size=4000), 1 + math.log(4)),
        (lambda rng: rng.uniform(0, 3, size=(4000, 1)), math.log(3)),
        (lambda rng: rng.exponential(size=4000), 1.0),
    ],
)
def test_entropy(draw, truth):
    estimate = core.entropy_from_neighbors(draw(np.random.default_rng(0)))
    assert abs(estimate.value - truth) < 0.02 + 4 * estimate.standard_error


def test_entropy_of_a_scaled_sample():
    x = normal(0, (300, 3))
    shift = core.entropy_from_neighbors(5.0 * x).value - core.entropy_from_neighbors(x).value
    assert shift == pytest.approx(3 * math.log(5))


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.9])
def test_mutual_information(correlation):
    z = normal(0, (2, 3000))
    x, y = z[0], correlation * z[0] + math.sqrt(1 - correlation**2) * z[1]
    estimate = core.mutual_information(x, y)
    assert abs(estimate.value - -0.5 * math.log(1 - correlation**2)) < 0.01 + 4 * estimate.standard_error


def test_mutual_information_is_sklearns():
    from sklearn.feature_selection import mutual_info_regression

    z = normal(0, (2, 500))
    x, y = z[0], 0.8 * z[0] + 0.6 * z[1]
    # sklearn scales and perturbs by 1e-10, and scaling moves the maximum norm: give it unit variances.
    x, y = x / x.std(), y / y.std()
    expected = mutual_info_regression(x[:, None], y, n_neighbors=3, random_state=0)[0]
    assert core.mutual_information(x, y, k=3).value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("library", MAKE)
def test_neighbors_in_every_library(library):
    x, y = normal(0, (200, 2)), normal(1, (200, 2), 0.5)
    a, b = (MAKE[library](z) for z in (x, y))
    for call in (
        core.kl_from_neighbors,
        lambda u, v: core.renyi_from_neighbors(u, v, 0.5),
        lambda u, v: core.entropy_from_neighbors(u),
        core.mutual_information,
    ):
        assert float(call(a, b).value) == pytest.approx(float(call(x, y).value), rel=1e-12)
        assert type(call(a, b).value) in (type(a), np.float64, np.ndarray)


# ---- kernels


def gaussian_mmd2(dim, shift, scale, bandwidth):
    """Of N(0, 1)^d and N(shift, scale²)^d."""

    def mean(variance, delta):
        total = bandwidth**2 + variance
        return (bandwidth**2 / total) ** (dim / 2) * math.exp(-dim * delta**2 / (2 * total))

    return mean(2, 0) + mean(2 * scale**2, 0) - 2 * mean(1 + scale**2, shift)


@pytest.mark.parametrize("statistic", ["u-statistic", "linear-time"])
@pytest.mark.parametrize("dim", [1, 2, 10])
def test_mmd_interval_covers(statistic, dim):
    shift = 1.0 / math.sqrt(dim)
    truth, bandwidth = gaussian_mmd2(dim, shift, 1.2, math.sqrt(dim)), math.sqrt(dim)
    rng, estimates = np.random.default_rng(0), []
    for _ in range(2000):
        x, y = rng.normal(size=(100, dim)), rng.normal(shift, 1.2, size=(80 if statistic[0] == "u" else 100, dim))
        estimates.append(core.mmd2(x, y, bandwidth=bandwidth, statistic=statistic))
    values = np.array([e.value for e in estimates])
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(len(values))  # unbiased
    assert 0.93 <= coverage(estimates, truth) <= 0.97


@pytest.mark.parametrize("statistic", ["u-statistic", "linear-time"])
def test_energy_interval_covers(statistic):
    def distance(variance, delta):  # E|N(delta, variance)|
        spread = math.sqrt(variance)
        return spread * math.sqrt(2 / math.pi) * math.exp(-(delta**2) / (2 * variance)) + delta * math.erf(
            delta / spread / math.sqrt(2)
        )

    truth = 2 * distance(1 + 1.5**2, 2.0) - distance(2, 0) - distance(2 * 1.5**2, 0)
    rng = np.random.default_rng(0)
    draws = [(rng.normal(size=150), rng.normal(2.0, 1.5, size=150)) for _ in range(2000)]
    estimates = [core.energy_distance(x, y, statistic=statistic) for x, y in draws]
    assert 0.93 <= coverage(estimates, truth) <= 0.97


def test_energy_is_scipys():
    x, y = normal(0, 60), normal(1, 40, 0.5)
    expected = scipy.stats.energy_distance(x, y) ** 2
    assert core.energy_distance(x, y, statistic="v-statistic").value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("bandwidth", [0.7, (0.5, 2.0), "median", "multi-scale"])
def test_mmd_is_the_double_sum(bandwidth):
    x, y = normal(0, (30, 2)), normal(1, (20, 2), 0.5)
    median = np.median(scipy.spatial.distance.pdist(np.concatenate([x, y])))
    widths = {"median": (median,), "multi-scale": (median / 4, median / 2, median, 2 * median, 4 * median)}.get(
        bandwidth if isinstance(bandwidth, str) else "", bandwidth if isinstance(bandwidth, tuple) else (bandwidth,)
    )

    def k(a, b):
        squares = scipy.spatial.distance.cdist(a, b, "sqeuclidean")
        return np.mean([np.exp(-squares / (2 * width**2)) for width in widths], axis=0)

    v = k(x, x).mean() + k(y, y).mean() - 2 * k(x, y).mean()
    u = (k(x, x).sum() - 30) / (30 * 29) + (k(y, y).sum() - 20) / (20 * 19) - 2 * k(x, y).mean()
    assert core.mmd2(x, y, bandwidth=bandwidth).value == pytest.approx(u, abs=1e-13)
    assert core.mmd2(x, y, bandwidth=bandwidth, statistic="v-statistic").value == pytest.approx(v, abs=1e-13)


@pytest.mark.parametrize("library", MAKE)
def test_kernels_in_every_library_and_in_blocks(library, monkeypatch):
    x, y = normal(0, (30, 2)), normal(1, (20, 2), 0.5)
    calls = [
        lambda a, b: core.mmd2(a, b),
        lambda a, b: core.mmd2(a, b[:20], statistic="v-statistic"),
        lambda a, b: core.mmd2(a[:20], b, statistic="linear-time"),
        lambda a, b: core.energy_distance(a, b),
        lambda a, b: core.stein_discrepancy(a, -a),
    ]
    expected = [call(x, y) for call in calls]
    p_value = core.two_sample_test(x, y, seed=0).p_value
    monkeypatch.setattr(pairs, "_TILE", 16)
    monkeypatch.setattr("probgen.core.divergences.stein._ENTRIES", 600)
    a, b = (MAKE[library](z) for z in (x, y))
    for call, known in zip(calls, expected, strict=True):
        assert float(call(a, b).value) == pytest.approx(float(known.value), rel=1e-11)
        assert call(a, b).standard_error == pytest.approx(known.standard_error, rel=1e-9)
    assert core.two_sample_test(a, b, seed=0).p_value == p_value


@pytest.mark.parametrize("statistic", ["u-statistic", "v-statistic", "linear-time"])
def test_kernel_gradients(statistic):
    x, y = (torch.tensor(normal(i, (6, 2)), requires_grad=True) for i in range(2))
    assert torch.autograd.gradcheck(lambda a, b: core.mmd2(a, b, bandwidth=1.0, statistic=statistic).value, (x, y))
    assert torch.autograd.gradcheck(lambda a, b: core.energy_distance(a, b, statistic=statistic).value, (x, y))


def test_v_statistic_is_zero_for_one_sample_and_not_negative():
    x = normal(0, (50, 2))
    assert abs(core.mmd2(x, x, statistic="v-statistic").value) < 1e-14
    assert abs(core.energy_distance(x, x, statistic="v-statistic").value) < 1e-6  # the root of rounding
    assert min(core.mmd2(normal(i, 20), normal(99 + i, 20), statistic="v-statistic").value for i in range(50)) > 0


@pytest.mark.parametrize("kind", ["mmd2", "energy"])
def test_p_values_are_uniform_under_the_null(kind):
    rng = np.random.default_rng(0)
    values = []
    for seed in range(400):
        x, y = rng.normal(size=(12, 2)), rng.normal(size=(9, 2))
        values.append(core.two_sample_test(x, y, kind=kind, num_permutations=99, seed=seed).p_value)
    jittered = np.array(values) - rng.uniform(0, 0.01, size=len(values))  # of the grid 1/100, ..., 1
    assert scipy.stats.kstest(jittered, "uniform").pvalue > 1e-3


def test_power():
    x = normal(0, (60, 2))
    reached = [
        core.two_sample_test(normal(i, (60, 2)), normal(99 + i, (60, 2), 0.7), seed=i).p_value for i in range(50)
    ]
    assert np.mean(np.array(reached) < 0.05) > 0.9
    assert core.two_sample_test(x, x + 3.0, kind="energy", num_permutations=99, seed=0).p_value == 0.01


def test_the_test_uses_the_u_statistic():
    x, y = normal(0, (20, 2)), normal(1, (15, 2), 0.5)
    expected = core.mmd2(x, y).value
    assert core.two_sample_test(x, y, num_permutations=1, seed=0).statistic == pytest.approx(expected, rel=1e-10)


def test_memory_is_bounded():
    program = """
import resource, numpy as np
from probgen.core.divergences import mmd2
x = np.random.default_rng(0).normal(size=(2, 12_000, 2)).astype("float32")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mmd2(x[0], x[1], bandwidth=1.0)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 250  # MB; all pairs of one sample with another are 576


# ---- Stein


def test_stein_is_its_formula():
    x = torch.tensor(normal(0, (8, 3)), requires_grad=True)
    scores = torch.tensor(normal(1, (8, 3)))

    def k(a, b):
        return (1.5**2 + ((a - b) ** 2).sum()) ** -0.4

    total = torch.zeros((8, 8), dtype=torch.float64)
    for i in range(8):
        for j in range(8):
            a, b = x[i].detach().requires_grad_(), x[j].detach().requires_grad_()
            first, second = torch.autograd.grad(k(a, b), (a, b), create_graph=True)
            trace = sum(torch.autograd.grad(first[d], b, retain_graph=True)[0][d] for d in range(3))
            total[i, j] = scores[i] @ scores[j] * k(a, b) + scores[i] @ second + scores[j] @ first + trace
    options = {"scale": 1.5, "power": -0.4}
    v = core.stein_discrepancy(x, scores, statistic="v-statistic", **options)
    assert v.value == pytest.approx(total.mean().item(), rel=1e-10)
    u = core.stein_discrepancy(x, scores, **options)
    assert u.value == pytest.approx((total.sum() - total.trace()).item() / 56, rel=1e-10)


def test_stein_interval_covers():
    rng = np.random.default_rng(0)
    sets = [rng.normal(size=(150, 2)) for _ in range(1000)]
    estimates = [core.stein_discrepancy(x, -(x - 0.7)) for x in sets]
    z = rng.normal(size=(40, 1500, 2))  # truth: the mean of many more
    truth = np.mean([core.stein_discrepancy(x, -(x - 0.7)).value for x in z])
    assert 0.92 <= coverage(estimates, truth) <= 0.98


def test_stein_is_zero_in_mean_for_the_right_density():
    values = [core.stein_discrepancy(x, -x).value for x in (normal(i, (50, 2)) for i in range(400))]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values))


def test_stein_p_values():
    values = [core.stein_test(x, -x, num_bootstraps=99, seed=i).p_value for i, x in enumerate(normal(0, (400, 60, 1)))]
    jittered = np.array(values) - np.random.default_rng(0).uniform(0, 0.01, size=len(values))
    assert scipy.stats.kstest(jittered, "uniform").pvalue > 1e-3
    wrong = [core.stein_test(x, -(x - 0.7), num_bootstraps=99, seed=0).p_value for x in normal(1, (40, 60, 1))]
    assert np.mean(np.array(wrong) < 0.05) > 0.9


# ---- refusals


@pytest.mark.parametrize("function", [core.kl_from_neighbors, core.mmd2, core.energy_distance, core.sliced_wasserstein])
@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (np.zeros((9, 2)), np.zeros((9, 3)), ArgumentError, "one dimension, got 2 .* and 3"),
        (np.full((9, 2), np.nan), np.zeros((9, 2)), DataError, r"`x` must be finite, got nan at index \[0, 0\]"),
        (np.zeros((9, 2)), torch.zeros((9, 2)), ArgumentTypeError, "one library"),
        (np.zeros((1, 2)), np.zeros((9, 2)), ArgumentError, "`x` has 1 samples, .* at least"),
        (np.zeros((9, 2, 2)), np.zeros((9, 2)), ArgumentError, r"shape \[n, d\]"),
        (np.zeros((9, 2), int), np.zeros((9, 2), int), ArgumentTypeError, "floating-point"),
        (np.zeros((9, 2)), np.zeros((9, 2), "float32"), ArgumentTypeError, "one dtype"),
    ],
)
def test_refusals(function, x, y, error, message):
    with pytest.raises(error, match=message):
        function(x, y)


def test_other_refusals():
    x = normal(0, (20, 2))
    ties = np.zeros((20, 2))
    with pytest.raises(DataError, match="neighbours at distance 0"):
        core.kl_from_neighbors(ties, x)
    with pytest.raises(ArgumentError, match="nearer to 1 than `k`"):
        core.renyi_from_neighbors(x, x + 1, 3.0, k=2)
    with pytest.raises(ArgumentError, match="must be pairs, got 20 and 10"):
        core.mutual_information(x, x[:10])
    with pytest.raises(ArgumentError, match="did you mean 'u-statistic'"):
        core.mmd2(x, x, statistic="u-statstic")
    with pytest.raises(ArgumentError, match="did you mean 'median'"):
        core.mmd2(x, x, bandwidth="mediann")
    with pytest.raises(ArgumentError, match="above 0"):
        core.mmd2(x, x, bandwidth=-1.0)
    with pytest.raises(ArgumentError, match="the median distance between samples is 0"):
        core.mmd2(ties, ties)
    with pytest.raises(ArgumentError, match="pairs the samples"):
        core.mmd2(x, x[:10], statistic="linear-time")
    with pytest.raises(ArgumentError, match="did you mean 'energy'"):
        core.two_sample_test(x, x, kind="energi")
    with pytest.raises(ArgumentError, match="`scores` must have the shape of `x`"):
        core.stein_discrepancy(x, x[:10])
    with pytest.raises(ArgumentError, match="between -1 and 0"):
        core.stein_discrepancy(x, x, power=1.0)
    assert namespace(x)
