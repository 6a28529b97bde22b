"""Critics that are trained on one half: below the truth on the other, near it, seeded; tests by classifiers."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch
from torch.distributions import Independent, Normal

from probgen import divergence
from probgen.core import divergences as core
from probgen.core.divergences.critics import dual_terms
from probgen.divergences import classifier_test, density_ratio
from probgen.divergences.training import Critic, Settings, lipschitz_bound, mean_difference, train
from probgen.errors import ArgumentError, ArgumentTypeError, DataError

KINDS = [kind for kind, entry in core.GENERATORS.items() if entry.dual is not None]
SMALL = {"hidden": (16,), "num_steps": 80, "learning_rate": 1e-2}


def pair(dim=2, shift=0.7):
    return tuple(Independent(Normal(torch.full((dim,), s), 1.0), 1) for s in (0.0, shift))


@pytest.fixture(scope="module")
def repetitions():
    """Twenty critics of log p / q, each with fresh outputs on held-out samples."""
    found = []
    for seed in range(20):
        torch.manual_seed(seed)
        p, q = pair()
        log_ratio = density_ratio(p.sample((500,)), q.sample((500,)), seed=seed, **SMALL)
        found.append((log_ratio(p.sample((500,))), log_ratio(q.sample((500,)))))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_duals_are_not_above_the_truth(repetitions, kind):
    p, q = pair()
    truth = divergence(p, q, kind=kind, num_samples=100_000, seed=0)
    found = [core.f_dual_from_log_ratio(*outputs, kind, heavy_tails="allow") for outputs in repetitions]
    values = np.array([e.value.item() for e in found])
    above = float(truth.value) + 4 * float(truth.standard_error)
    assert values.mean() < above + 3 * values.std(ddof=1) / math.sqrt(20)
    assert all(e.value < above + 4 * e.standard_error for e in found)
    bounded = kind in ("js", "tv", "le-cam", "hellinger", "kl", "reverse-kl")
    assert values.mean() > (0.8 if bounded else 0.3) * float(truth.value)  # and near it


def test_donsker_varadhan_is_above_its_bound_on_few_samples(repetitions):
    # Of the same critics: the plug-in on 20 samples, against the bound itself from all of them.
    excess = []
    for s_p, s_q in repetitions:
        bound = float(core.donsker_varadhan(s_p, s_q, heavy_tails="allow").value)
        few = [core.donsker_varadhan(s_p, part, heavy_tails="allow").value.item() for part in s_q.split(20)]
        excess.append(np.mean(few) - bound)
    assert np.mean(excess) > 4 * np.std(excess, ddof=1) / math.sqrt(20)
    assert 0.005 < np.mean(excess) < 0.1  # about (e^0.98 - 1) / 40


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("kl", {}),
        ("kl", {"bound": "donsker-varadhan"}),
        ("kl", {"bound": "donsker-varadhan", "objective": "bound"}),
        ("kl", {"objective": "bound"}),
        ("js", {"objective": "bound"}),
        ("tv", {"objective": "bound"}),
        ("w1", {}),
    ],
)
def test_the_entry_point(kind, options):
    p, q = pair()
    truth = math.sqrt(2) * 0.7 if kind == "w1" else float(divergence(p, q, kind=kind, num_samples=50_000).value)
    small = {**SMALL, "num_steps": 120}
    found = divergence(p, q, kind=kind, method="critic", num_samples=3000, seed=0, **options, **small)
    assert 0.6 * truth < found.value < truth + 4 * found.standard_error
    assert found.n == 1500
    assert found.bias == ("O(1/n) upwards" if "bound" in options else "lower")
    again = divergence(p, q, kind=kind, method="critic", num_samples=3000, seed=0, **options, **small)
    assert found == again


@pytest.mark.parametrize("dim", [1, 10])
def test_other_dimensions(dim):
    p, q = pair(dim, 1.0 / math.sqrt(dim))
    for kind, truth in (("kl", 0.5), ("w1", 1.0)):
        found = divergence(p, q, kind=kind, method="critic", num_samples=3000, seed=1, num_steps=120)
        assert 0.6 * truth < found.value < truth + 4 * found.standard_error


def test_equal_distributions():
    p, _ = pair()
    for kind in ("kl", "js", "w1"):
        found = divergence(p, p, kind=kind, method="critic", num_samples=1000, seed=0, **SMALL)
        assert found.value < 4 * found.standard_error + 0.01


def test_critic_of_wasserstein_is_lipschitz():
    torch.manual_seed(0)
    x, y = torch.randn(200, 3, dtype=torch.float64) * 5, torch.randn(200, 3, dtype=torch.float64)
    critic = Critic(torch.cat([x, y]), Settings((15, 8)), is_ratio=False)
    train(critic, x, y, mean_difference, Settings(num_steps=30))
    assert lipschitz_bound(critic) == pytest.approx(1.0, abs=1e-5)
    points = torch.cat([x, y])
    assert core.lipschitz_constant(points, critic(points)) <= lipschitz_bound(critic) + 1e-6
    leaf = points.clone().requires_grad_()
    slopes = torch.autograd.grad(critic(leaf).sum(), leaf)[0].norm(dim=1)
    assert slopes.max() <= 1 + 1e-6


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray, torch.as_tensor])
def test_samples_of_every_library(make):
    x, y = np.random.default_rng(0).normal(size=(2, 200)).astype("float32")
    found = divergence(make(x), make(y + 1), kind="js", seed=0, **SMALL)  # the first that samples allow
    assert isinstance(found.value, type(make(x)))
    assert float(found.value) == pytest.approx(float(divergence(x, y + 1, kind="js", seed=0, **SMALL).value), rel=1e-5)


def test_gradient_reaches_held_out_samples():
    torch.manual_seed(0)
    x, y = torch.randn(200, 2, requires_grad=True), torch.randn(200, 2) + 1.0
    divergence(x, y, kind="kl", method="critic", seed=0, **SMALL).value.backward()
    moved = x.grad.norm(dim=1) > 0
    assert moved.sum() == 100
    assert x.grad.sum(0).max() < 0  # away from y


def test_disjoint_supports_are_told():
    x = np.random.default_rng(0).uniform(size=(200, 1))
    found = divergence(x, x + 3.0, kind="kl", method="critic", seed=0, **SMALL)
    assert "supports may be disjoint" in found.note
    assert found.value > 2
    js = divergence(x, x + 3.0, kind="js", method="critic", seed=0, **SMALL)
    assert 0.8 * math.log(2) < js.value <= math.log(2)


def test_scale_of_the_data_does_not_matter():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 400, 2)) + np.array([[[0.0]], [[1.0]]])
    small, large = (divergence(s * x, s * y, kind="kl", method="critic", seed=0, **SMALL).value for s in (1, 1e6))
    assert large == pytest.approx(small, rel=1e-3)
    constant = np.concatenate([x, np.ones((400, 1))], axis=1)
    assert np.isfinite(divergence(constant, constant, kind="kl", method="critic", seed=0, **SMALL).value)


def test_generators_are_left_alone():
    before = torch.get_rng_state()
    x = np.random.default_rng(0).normal(size=(50, 2))
    classifier_test(x, x, seed=3, **SMALL)
    density_ratio(x, x, seed=3, **SMALL)
    assert torch.equal(torch.get_rng_state(), before)


def test_soft_step_of_the_total_variation_stays_below():
    s = torch.linspace(-5, 5, 11, dtype=torch.float64)
    hard, soft = dual_terms(s, "tv")[0], 0.5 * torch.tanh(0.5 * s)
    assert (soft.abs() <= hard.abs() + 1e-12).all()


# ---- tests by a classifier


def test_p_values_of_a_trained_classifier_are_uniform():
    p_values = []
    for seed in range(60):
        x, y = np.random.default_rng(seed).normal(size=(2, 60, 1))
        found = classifier_test(x, y, num_permutations=199, seed=seed, hidden=(8,), num_steps=10)
        p_values.append(found.p_value)
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 0.01


def test_power_of_a_trained_classifier():
    found = []
    for seed in range(8):
        x, y = np.random.default_rng(seed).normal(size=(2, 300, 2))
        found.append(classifier_test(x, 2.0 * y, num_permutations=199, seed=seed, **SMALL).p_value)  # equal means
    assert np.mean(np.array(found) < 0.05) > 0.8


# ---- refusals

X = np.random.default_rng(0).normal(size=(40, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: divergence(X, X, kind="jeffreys", method="critic"), ArgumentError, "no elementary conjugate"),
        (lambda: divergence(X, X[:, :1], method="critic"), ArgumentError, "one dimension"),
        (lambda: divergence(X, X[:10], method="critic"), ArgumentError, "`y` has 10 samples.*at least 20"),
        (lambda: divergence(X, X * np.nan, method="critic"), DataError, "`y` must be finite"),
        (lambda: divergence(X, X, method="critic", hiden=(3,)), ArgumentError, "did you mean 'hidden'"),
        (lambda: divergence(X, X, method="critic", num_steps=0), ArgumentError, "`num_steps`"),
        (lambda: divergence(X, X, method="critic", hidden=()), ArgumentError, "`hidden` must have at least 1"),
        (lambda: divergence(X, X, method="critic", learning_rate=-1.0), ArgumentError, "`learning_rate`"),
        (lambda: divergence(X, X, method="critic", objective="gan"), ArgumentError, "`objective`: 'gan' is unknown"),
        (lambda: divergence(X, X, method="critic", bound="mine"), ArgumentError, "`bound`: 'mine' is unknown"),
        (
            lambda: divergence(X, X, kind="js", method="critic", bound="donsker-varadhan"),
            ArgumentError,
            "'donsker-varadhan' is one of 'kl'",
        ),
        (
            lambda: divergence(X, X, kind="w1", method="critic", objective="bound"),
            ArgumentError,
            "`objective` is no argument for kind 'w1'",
        ),
        (lambda: classifier_test(X, X, steps=3), ArgumentError, "`steps` is no setting.*'num_steps'"),
        (lambda: classifier_test(X, X, statistic="acuracy"), ArgumentError, "did you mean 'accuracy'"),
        (lambda: classifier_test(X, X.astype("float32")), ArgumentTypeError, "one dtype"),
        (lambda: density_ratio(X, torch.as_tensor(X)), ArgumentTypeError, "one library"),
        (lambda: density_ratio((abs, None), X), ArgumentError, "a critic needs samples of `p`"),
        (lambda: divergence(X[:, :, None], X[:, :, None], method="critic"), ArgumentError, "flatten each datum"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
