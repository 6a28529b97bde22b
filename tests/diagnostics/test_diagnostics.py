"""Metrics of sets: by hand, against other libraries, at known truths, and what they refuse."""

import importlib
import math
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from probgen.data import load
from probgen.diagnostics import (
    density_coverage,
    digits_classifier,
    digits_features,
    frechet,
    kid,
    memorization_test,
    mode_coverage,
    precision_recall,
)
from probgen.errors import ArgumentError, ArgumentTypeError, DataError

MAKE = {"numpy": np.asarray, "torch": torch.as_tensor, "jax": jnp.asarray}
ROOT = Path(__file__).resolve().parents[2]


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


# ---- moments and kernels


def test_frechet_by_its_formula():
    x, y = normal(0, 60, 4), normal(1, 80, 4) @ np.diag([1.0, 2.0, 0.5, 1.0]) + 0.3
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    found = frechet(x, y)
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found.bias == "O(1/n)"
    assert found.interval[0] < found.value < found.interval[1]
    assert found.note == ""
    assert "singular covariances" in frechet(x[:4], y).note
    assert abs(frechet(x, x).value) < 1e-9


def test_frechet_sees_two_moments_alone():
    rng = np.random.default_rng(0)
    gaussian, uniform = rng.normal(size=(4000, 1)), rng.uniform(-math.sqrt(3), math.sqrt(3), size=(4000, 1))
    assert frechet(gaussian, uniform).value < 0.01
    assert precision_recall(gaussian, uniform).recall.value < 0.97


def test_kid_by_hand():
    x, y = np.array([[0.0], [1.0], [1.0], [0.0]]), np.array([[1.0], [1.0], [1.0], [1.0]])
    # (x x' + 1)³ is 8 for two ones, else 1: pairs of x: 2 of 12 ordered are (1, 1); of y all; across half are.
    expected = (2 * 8 + 10) / 12 + 8 - 2 * 4.5
    assert kid(x, y).value == pytest.approx(expected)


@pytest.mark.parametrize("library", MAKE)
def test_kid_against_scikit_learns_kernel(library):
    x, y = normal(0, 30, 5).astype("float32"), (normal(1, 40, 5) + 0.5).astype("float32")
    xx, yy, xy = (polynomial_kernel(a.astype(float), b.astype(float)) for a, b in ((x, x), (y, y), (x, y)))
    np.fill_diagonal(xx, 0.0)
    np.fill_diagonal(yy, 0.0)
    expected = xx.sum() / (30 * 29) + yy.sum() / (40 * 39) - 2 * xy.mean()
    found = kid(MAKE[library](x), MAKE[library](y))
    assert float(found.value) == pytest.approx(expected, rel=1e-4)
    assert type(MAKE[library](x)) in type(found.value).__mro__ or isinstance(found.value, np.generic)


def test_kid_is_unbiased_and_its_error_right():
    truth = kid_of_shifted_gaussians(1.0)
    found = [kid(normal([i, 0], 400, 1), normal([i, 1], 400, 1) + 1.0) for i in range(300)]
    values = np.array([e.value for e in found])
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(300)
    inside = np.mean([e.interval[0] <= truth <= e.interval[1] for e in found])
    assert 0.88 <= inside <= 0.99  # 300 repetitions, four standard deviations
    assert min(e.value for e in (kid(normal([i, 0], 50, 1), normal([i, 1], 50, 1)) for i in range(20))) < 0


def kid_of_shifted_gaussians(shift):
    """From the moments of N(0, 1) and N(shift, 1): ``sum_j binom(3, j) (E x^j - E y^j)²`` in one dimension."""
    moments = [[1.0, 0.0, 1.0, 0.0], [1.0, shift, 1 + shift**2, 3 * shift + shift**3]]
    return sum(math.comb(3, j) * (moments[0][j] - moments[1][j]) ** 2 for j in range(4))


def test_kid_in_tiles_is_kid_in_one():
    x, y = normal(0, 1500, 2), normal(1, 1100, 2)
    xx, yy, xy = ((a @ b.T / 2 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    expected = (xx.sum() - np.trace(xx)) / (1500 * 1499) + (yy.sum() - np.trace(yy)) / (1100 * 1099) - 2 * xy.mean()
    assert kid(x, y).value == pytest.approx(expected, rel=1e-9)


def test_kid_has_a_gradient():
    x, y = torch.as_tensor(normal(0, 6, 2)).requires_grad_(), torch.as_tensor(normal(1, 5, 2))
    assert torch.autograd.gradcheck(lambda a: kid(a, y).value, x)


# ---- balls


def test_precision_and_recall_by_hand():
    real = np.array([0.0, 1.0, 2.0, 10.0])  # balls of radius 1, 1, 1, 8
    generated = np.array([0.5, 2.9, 11.0, 20.0])  # of radius 2.4, 2.4, 8.1, 9
    found = precision_recall(real, generated, k=1)
    assert found.precision.value == 0.75  # 20 is outside
    assert found.recall.value == 1.0  # 0, 1 and 2 near 0.5, 10 near 11
    assert found.recall.interval[0] < 0.6  # of four
    assert precision_recall(real, generated - 100.0, k=1).precision.value == 0.0


def test_density_and_coverage_by_hand():
    real = np.array([0.0, 1.0, 2.0, 10.0])
    found = density_coverage(real, np.array([0.5, 2.9, 11.0, 20.0]), k=1)
    assert found.density.value == pytest.approx((2 + 2 + 1 + 0) / 4)  # 0.5 in two, 2.9 in that of 2 and that of 10
    assert found.coverage.value == 1.0


@pytest.mark.parametrize("k", [1, 4])
def test_balls_against_scikit_learn(k):
    x, y = normal(0, 1200, 3) + 1e3, normal(1, 900, 3) * 1.3 + 1e3  # more than one tile, away from 0
    radii = [NearestNeighbors(n_neighbors=k + 1).fit(a).kneighbors(a)[0][:, -1] for a in (x, y)]
    across = scipy.spatial.distance.cdist(x, y)
    inside_x, inside_y = across <= radii[0][:, None], across <= radii[1]
    both, dense = precision_recall(x, y, k=k), density_coverage(x, y, k=k)
    assert both.precision.value == inside_x.any(0).mean()
    assert both.recall.value == inside_y.any(1).mean()
    assert dense.density.value == pytest.approx(inside_x.sum(0).mean() / k)
    assert dense.coverage.value == inside_x.any(1).mean()


def test_equal_distributions_have_the_expected_density_and_coverage():
    n, k = 100, 5
    found = [density_coverage(normal([i, 0], n, 2), normal([i, 1], n, 2), k=k) for i in range(200)]
    density, coverage = (np.array([getattr(e, name).value for e in found]) for name in ("density", "coverage"))
    expected = 1 - math.prod((n - j) / (2 * n - j) for j in range(1, k + 1))
    assert abs(density.mean() - 1) < 4 * density.std() / math.sqrt(200)
    assert abs(coverage.mean() - expected) < 4 * coverage.std() / math.sqrt(200)


def test_collapse_and_noise_are_told_apart():
    x = normal(0, 300, 2)
    collapsed, spread = (
        precision_recall(x, x[:1] + 0.01 * normal(1, 300, 2)),
        precision_recall(x, 4 * normal(1, 300, 2)),
    )
    assert collapsed.precision.value > 0.9 > 0.1 > collapsed.recall.value
    assert spread.precision.value < 0.5 < spread.recall.value
    outlier = np.concatenate([x, [[50.0, 50.0]]])  # one real outlier: precision rises, coverage does not
    far = normal(1, 300, 2) + 20.0
    assert precision_recall(outlier, far).precision.value > 0.9
    assert density_coverage(outlier, far).coverage.value < 0.05


@pytest.mark.parametrize("library", MAKE)
def test_every_library(library):
    x, y = normal(0, 50, 3).astype("float32"), normal(1, 50, 3).astype("float32")
    for function in (precision_recall, density_coverage):
        assert function(MAKE[library](x), MAKE[library](y)) == function(x, y)
    assert mode_coverage(MAKE[library](x), MAKE[library](y), 1.0) == mode_coverage(x, y, 1.0)


# ---- modes


def ring(num_modes=8, radius=2.0):
    angles = 2 * np.pi * np.arange(num_modes) / num_modes
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_modes_of_the_mixture_itself():
    rng, means = np.random.default_rng(0), ring()
    labels = rng.integers(8, size=5000)
    found = mode_coverage(means[labels] + 0.05 * rng.normal(size=(5000, 2)), means, 0.05)
    assert found.modes_hit == found.num_modes == 8
    assert found.high_quality.interval[0] - 0.002 < scipy.stats.chi2.cdf(9, 2) < found.high_quality.interval[1] + 0.002
    assert sum(found.counts) == round(found.high_quality.value * 5000)
    assert found.kl < 0.005


def test_modes_that_are_dropped():
    means = ring()
    samples = np.repeat(means[:2], [30, 10], axis=0) + 0.01
    found = mode_coverage(samples, means, 0.05)
    assert found.modes_hit == 2
    assert found.counts == (30, 10, 0, 0, 0, 0, 0, 0)
    assert found.kl == pytest.approx(0.75 * math.log(6) + 0.25 * math.log(2))
    assert mode_coverage(samples, means, 0.05, at_least=20).modes_hit == 1
    nowhere = mode_coverage(samples + 9.0, means, 0.05)
    assert nowhere.modes_hit == 0
    assert math.isnan(nowhere.kl)
    assert nowhere.high_quality.interval[1] > 0.02  # of 40


def test_scales_and_covariances_agree():
    samples, means = normal(0, 200, 2) * 2, np.array([[0.0, 0.0], [3.0, 1.0]])
    one = mode_coverage(samples, means, [0.5, 0.5], weights=[0.5, 0.5])
    assert one == mode_coverage(samples, means, 0.5)
    assert one == mode_coverage(samples, means, np.stack([0.25 * np.eye(2)] * 2))
    cov = np.array([[2.0, 0.9], [0.9, 0.6]])
    found = mode_coverage(samples, means[:1], cov[None], within=1.0)
    inside = np.einsum("ni,ij,nj->n", samples, np.linalg.inv(cov), samples) <= 1
    assert found.counts == (inside.sum(),)


def test_one_dimension():
    assert mode_coverage(np.array([0.0, 2.9, 3.1]), np.array([0.0]), 1.0).counts == (2,)


# ---- memorisation


def test_p_values_are_uniform_without_memory():
    p_values = []
    for seed in range(150):
        train, held_out, fresh = normal(seed, 3, 40, 2)
        p_values.append(memorization_test(train, held_out, fresh, num_permutations=199, seed=seed).p_value)
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 0.01


def test_copies_are_found():
    train, held_out, fresh = normal(0, 3, 300, 2)
    copied = memorization_test(train, held_out, train + 1e-3, seed=0)
    assert copied.p_value < 0.01
    assert copied.nearer > 0.95
    assert copied.copies.value > 0.9
    far = memorization_test(train, held_out, 5 * fresh, seed=0)
    assert far.nearer < 0.5
    assert far.p_value > 0.5
    part = memorization_test(train, held_out, np.concatenate([train[:75] + 1e-4, 2 * fresh[75:]]), seed=0)
    assert part.copies.interval[0] > 0.1  # though
    assert part.nearer < 0.6


def test_nearer_is_the_rank_statistic():
    train, held_out, fresh = normal(0, 3, 50, 1)
    distances = [scipy.spatial.distance.cdist(a, train).min(1) for a in (held_out, fresh)]
    expected = scipy.stats.mannwhitneyu(*distances).statistic / 2500
    assert memorization_test(train, held_out, fresh, num_permutations=9, seed=0).nearer == pytest.approx(expected)


# ---- features


def test_stated_accuracy_of_the_digits_classifier():
    data = load("digits", split="test")
    right = (digits_classifier()(data.x).argmax(1) == data.y).float().mean().item()
    stated = float(digits_classifier.__doc__.split("right on ")[1].split(" %")[0])
    assert 100 * right == pytest.approx(stated, abs=0.2)  # less than one digit of 360


def test_digits_features_separate_what_the_pixels_blur():
    data = load("digits", split="valid+test")
    features = digits_features(data.x)
    assert features.shape == (720, 32)
    first, second = (precision_recall(data.x[::2], data.x[1::2], features=f, k=3) for f in (None, digits_features))
    assert min(first.precision.value, second.precision.value) > 0.7
    noisy = (data.x + 0.3 * torch.randn_like(data.x)).clamp(0, 1)
    for metric in (frechet, kid):
        close = metric(data.x[::2], data.x[1::2], features=digits_features)
        away = metric(data.x[::2], noisy[1::2], features=digits_features)
        assert away.value > close.value + 3 * close.standard_error
    images = data.x.reshape(-1, 1, 8, 8)
    torch.testing.assert_close(digits_features(images), features)
    np.testing.assert_allclose(digits_features(images.numpy()), features.numpy(), rtol=1e-5)
    assert isinstance(digits_features(jnp.asarray(data.x[:2].numpy())), jnp.ndarray)


def test_features_of_a_batch_are_those_of_one():
    x, calls = torch.rand(2500, 64), []

    def features(block):
        calls.append(len(block))
        return block[:, :3]

    assert frechet(x, x[:100], features=features).value == frechet(x[:, :3], x[:100, :3]).value
    assert calls == [1000, 1000, 500, 100]


def test_gradient_reaches_the_data():
    x = torch.rand(40, 64, requires_grad=True)
    kid(torch.rand(40, 64), x, features=digits_features).value.backward()
    assert x.grad.abs().sum() > 0


def test_integers_are_for_feature_functions():
    images = np.zeros((10, 4), dtype=np.uint8)
    with pytest.raises(ArgumentTypeError, match="`real` must have a floating-point dtype"):
        kid(images, images)
    assert kid(images, images, features=lambda a: a.astype(float)).value == pytest.approx(0)


@pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="needs the folder benchmarks/ of the repository")
def test_the_script_trains_what_is_shipped(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = importlib.import_module("digits_features")
    assert script.main(["--num-epochs", "3", "--path", str(tmp_path / "digits.safetensors")]) == 0
    assert "of the test split" in capsys.readouterr().out
    written = (tmp_path / "digits.safetensors").stat().st_size
    assert written == (Path(sys.modules["probgen.diagnostics"].__file__).parent / "digits.safetensors").stat().st_size


# ---- refusals

X = normal(0, 20, 3)


@pytest.mark.parametrize("metric", [frechet, kid, precision_recall, density_coverage])
@pytest.mark.parametrize(
    ("real", "generated", "features", "error", "message"),
    [
        (X, X[:, :2], None, ArgumentError, "one dimension"),
        (X, X[:3], None, ArgumentError, "`generated` has 3 samples"),
        (X, np.where(X > 2, np.nan, X) * np.nan, None, DataError, "`generated` must be finite"),
        (X, torch.as_tensor(X), None, ArgumentTypeError, "one library"),
        (X, X.astype("float32"), None, ArgumentTypeError, "one dtype"),
        ([1.0], X, None, ArgumentTypeError, "got list"),
        (X, X, 3, ArgumentTypeError, "`features` must be a function"),
        (X, X, lambda a: a.sum(), ArgumentError, r"`features` must map \[20, 3\] to \[20, f\], got \[\]"),
        (X, X, lambda a: None, ArgumentTypeError, "the result of `features`"),
        (X, X, lambda a: a / 0.0, DataError, "must be finite"),
    ],
)
def test_refusals_of_sets(metric, real, generated, features, error, message):
    with np.errstate(all="ignore"), pytest.raises(error, match=message):
        metric(real, generated, features=features)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kid(X, X, degree=0), ArgumentError, "`degree`"),
        (lambda: precision_recall(X, X, k=0), ArgumentError, "`k`"),
        (lambda: density_coverage(X, X, k=20), ArgumentError, "needs at least 21"),
        (lambda: mode_coverage(X, X[:, :2], 1.0), ArgumentError, "one dimension"),
        (lambda: mode_coverage(X, X, 0.0), DataError, "`scale` must be finite and above 0"),
        (lambda: mode_coverage(X, X, [1.0, 2.0]), ArgumentError, r"`scale` must be a number or have the shape \[20\]"),
        (lambda: mode_coverage(X, X[:1], -np.eye(3)[None]), DataError, "positive definite"),
        (lambda: mode_coverage(X, X[:2], 1.0, weights=[0.5, 0.6]), ArgumentError, "with the sum 1"),
        (lambda: mode_coverage(X, X, 1.0, within=0), ArgumentError, "`within`"),
        (lambda: mode_coverage(X * np.nan, X, 1.0), DataError, "`samples` must be finite"),
        (lambda: memorization_test(X, X[:, :2], X), ArgumentError, "one dimension"),
        (lambda: memorization_test(X, X, X, num_permutations=0), ArgumentError, "`num_permutations`"),
        (lambda: memorization_test(X, X * np.inf, X), DataError, "finite"),
        (lambda: digits_features(np.full((2, 64), 16.0)), DataError, r"`x` must lie in \[0, 1\], got values up to 16"),
        (lambda: digits_features(X), ArgumentError, "64 values a datum"),
        (lambda: digits_features(np.zeros((2, 64), dtype=int)), ArgumentTypeError, "floating-point"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
