"""Bounds from a critic's outputs: tight at the best critic, below the truth elsewhere, and what a classifier tells."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch.distributions import Laplace, Normal

from probgen import divergence
from probgen.core import divergences as core
from probgen.errors import ArgumentError, ArgumentTypeError, DataError

KINDS = [kind for kind, entry in core.GENERATORS.items() if entry.dual is not None]
WIDE = torch.float64


def normals(shift=1.0):
    return Normal(torch.zeros((), dtype=WIDE), 1.0), Normal(torch.full((), shift, dtype=WIDE), 1.0)


def draws(p, q, n, seed):
    torch.manual_seed(seed)
    x, y = p.sample((n,)), q.sample((n,))
    return [(p.log_prob(z) - q.log_prob(z)).numpy() for z in (x, y)]


# ---- the duals


@pytest.mark.parametrize("kind", KINDS)
def test_dual_at_the_slope_is_the_conjugate(kind):
    s = np.linspace(-3, 3, 13)
    s = s[s != 0] if kind == "tv" else s
    f = core.generator(kind)
    xp = core.critics.namespace(s)
    slope = f.slope(xp, s)
    assert np.allclose(core.critics._DUAL_AT_SLOPE[kind](xp, s), core.conjugate(slope, kind), rtol=1e-9, atol=1e-12)
    assert np.allclose(core.conjugate(slope, kind), np.exp(s) * slope - core.f_values(s, kind), rtol=1e-9, atol=1e-9)
    found, expected = (f_of(kind, s, slope) for f_of in (by_log_ratio, by_slope))
    assert found.value == pytest.approx(expected.value, rel=1e-9)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-9)


def by_log_ratio(kind, s, slope):
    return core.f_dual_from_log_ratio(s, s, kind)


def by_slope(kind, s, slope):
    return core.f_dual(slope, slope, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pair", [normals(), (Laplace(*normals()[0].loc.new([0.0, 1.0])), normals(0.5)[1])])
def test_tight_at_the_density_ratio(kind, pair):
    truth = float(divergence(*pair, kind=kind, method="quadrature").value) if finite(kind, pair) else None
    if truth is None:
        return
    found = core.f_dual_from_log_ratio(*draws(*pair, 20_000, 0), kind, heavy_tails="allow")
    assert abs(found.value - truth) < 4 * found.standard_error
    assert found.bias == "lower"
    assert found.n == 20_000


def finite(kind, pair):
    """Whether the divergence, and the variance of its dual, are finite."""
    return isinstance(pair[0], Normal) or kind in ("js", "tv", "le-cam", "hellinger", "reverse-kl")


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_critic_is_below(kind):
    p, q = normals(0.7)
    truth = float(divergence(p, q, kind=kind).value)
    for wrong in (lambda s: 0.3 * s, lambda s: 0.5 * s + 0.4, np.tanh):
        found = core.f_dual_from_log_ratio(*(wrong(s) for s in draws(p, q, 20_000, 1)), kind)
        assert found.value < truth + 3 * found.standard_error


def test_intervals_of_a_dual_cover_the_bound():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(2000):
        x, y = rng.normal(size=(2, 200))  # p is N(0, 1), q is N(0.5, 1): s = 1/8 - z/2
        found = core.nwj(1.125 - x / 2, 1.125 - (y + 0.5) / 2, heavy_tails="allow")
        inside += found.interval[0] <= 0.125 <= found.interval[1]
    assert 0.93 <= inside / 2000 <= 0.97


def test_donsker_varadhan_is_biased_upwards_by_what_its_note_says():
    rng, excess, predicted, covered = np.random.default_rng(0), [], [], []
    s_p = 0.5 - scipy.stats.norm.ppf((np.arange(20) + 0.5) / 20)  # of mean ½, the truth for N(0, 1) and N(1, 1)
    for _ in range(2500):
        found = core.donsker_varadhan(s_p, 0.5 - rng.normal(1.0, 1.0, size=20), heavy_tails="allow")
        excess.append(found.value - 0.5)
        predicted.append(float(found.note.split("by about ")[1].split(";")[0]))
        covered.append(found.interval[0] <= 0.5 <= found.interval[1])
    error = np.std(excess) / math.sqrt(2500)
    asymptotic = (math.e - 1) / (2 * 20)  # Var(e^s) / 2m under q, chi² of the pair
    assert np.mean(excess) > 4 * error
    assert abs(np.mean(excess) - asymptotic) < 3 * error + 0.4 * asymptotic  # the next order
    assert np.mean(predicted) == pytest.approx(asymptotic, rel=0.4)
    assert np.mean(covered) > 0.85


def test_nwj_is_donsker_varadhan_of_a_normalised_critic():
    s_p, s_q = draws(*normals(), 300, 0)
    constant = np.log(np.mean(np.exp(s_q)))
    assert core.nwj(1 + s_p - constant, 1 + s_q - constant, heavy_tails="allow").value == pytest.approx(
        core.donsker_varadhan(s_p, s_q, heavy_tails="allow").value
    )


def test_js_of_a_classifier():
    s_p, s_q = draws(*normals(), 500, 0)
    entropy = np.mean(np.log1p(np.exp(-s_p))) + np.mean(np.log1p(np.exp(s_q)))
    assert core.js_from_classifier(s_p, s_q).value == pytest.approx(math.log(2) - entropy / 2)
    perfect = core.js_from_classifier(np.full(5, 800.0), np.full(5, -800.0))
    assert perfect.value == pytest.approx(math.log(2))
    assert core.js_from_classifier(-s_p, -s_q).value < 0


def test_total_variation_is_the_accuracy():
    s_p, s_q = draws(*normals(), 500, 0)
    accuracy = core.classifier_two_sample_test(s_p, s_q, statistic="accuracy", num_permutations=1).statistic
    assert core.f_dual_from_log_ratio(s_p, s_q, "tv").value == pytest.approx(2 * accuracy - 1)


def test_density_ratio_of_unbalanced_classes():
    logits = np.log(np.array([3.0, 0.5]))
    np.testing.assert_allclose(np.exp(core.log_density_ratio(logits, 300, 100)), [1.0, 1 / 6])


# ---- identities

MIRRORED = {"kl": "reverse-kl", "reverse-kl": "kl", "chi2": "reverse-chi2", "reverse-chi2": "chi2"}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_exchanged_sides_exchange_the_divergence(kind, seed):
    s_p, s_q = np.random.default_rng(seed).normal(size=(2, 9))
    here, there = (
        core.f_dual_from_log_ratio(s_p, s_q, kind),
        core.f_dual_from_log_ratio(-s_q, -s_p, MIRRORED.get(kind, kind)),
    )
    assert here.value == pytest.approx(there.value, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_that_sees_no_difference_gives_zero(kind):
    s = np.zeros(5)
    assert core.f_dual_from_log_ratio(s, s, kind).value == pytest.approx(0.0, abs=1e-12)
    same = np.random.default_rng(0).normal(size=200)  # equal samples: no critic gives more than 0
    assert core.f_dual_from_log_ratio(same, same, kind, heavy_tails="allow").value <= 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_data_processing(kind):
    # Of two dimensions the critic sees one: tight for the marginals, and below the divergence of both.
    one, two = (float(divergence(*normals(shift), kind=kind).value) for shift in (0.5, 0.5 * math.sqrt(2)))
    found = core.f_dual_from_log_ratio(*draws(*normals(0.5), 20_000, 3), kind, heavy_tails="allow")
    assert abs(found.value - one) < 4 * found.standard_error
    assert found.value < two - 4 * found.standard_error


# ---- libraries and gradients


@pytest.mark.parametrize("kind", [*KINDS, "donsker-varadhan", "kantorovich-rubinstein"])
def test_gradients_and_libraries(kind):
    s_p, s_q = np.random.default_rng(0).normal(size=(2, 7))
    function = {
        "donsker-varadhan": core.donsker_varadhan,
        "kantorovich-rubinstein": lambda a, b: core.kantorovich_rubinstein(a, b, 2.0),
    }.get(kind, lambda a, b: core.f_dual_from_log_ratio(a, b, kind))
    leaves = [torch.tensor(s, requires_grad=True) for s in (s_p, s_q)]
    assert torch.autograd.gradcheck(lambda a, b: function(a, b).value, leaves)
    function(*leaves).value.backward()
    with jax.enable_x64(True):
        found = jax.grad(lambda a, b: function(a, b).value, argnums=(0, 1))(jnp.asarray(s_p), jnp.asarray(s_q))
    for gradient, leaf in zip(found, leaves, strict=True):
        np.testing.assert_allclose(np.asarray(gradient), leaf.grad.numpy(), atol=1e-12)
    assert function(s_p, s_q).value == pytest.approx(function(*leaves).value.item())


def test_gradient_of_js_at_equality_is_zero():
    # The slope of softplus at 0 is ½, also in the formula that does not overflow.
    for s in (torch.zeros(1, dtype=WIDE, requires_grad=True), torch.full((1,), 1e-12, dtype=WIDE, requires_grad=True)):
        core.f_values(s, "js").sum().backward()
        assert abs(s.grad.item()) < 1e-9


# ---- Kantorovich and Rubinstein


def test_kantorovich_rubinstein_of_a_shift():
    x = np.random.default_rng(0).normal(size=500)
    found = core.kantorovich_rubinstein(-3.0 * x, -3.0 * (x + 2.0), 3.0)
    assert found.value == pytest.approx(2.0)
    assert found.value == pytest.approx(float(core.wasserstein_1d(x, x + 2.0, p=1).value))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_over_the_measured_slope_it_is_at_most_the_empirical_distance(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(20, 2)), rng.normal(0.5, 1.0, size=(25, 2))
    pooled = np.concatenate([x, y])
    t = np.sin(pooled @ rng.normal(size=2)) + rng.normal() * pooled[:, 0]
    slope = core.lipschitz_constant(pooled, t)
    distances = scipy.spatial.distance.cdist(pooled, pooled) + np.eye(45)
    assert slope == pytest.approx((abs(t[:, None] - t) / distances).max())
    value = core.kantorovich_rubinstein(t[:20], t[20:], slope).value
    assert value <= float(core.wasserstein_exact(x, y, p=1).value) + 1e-9


def test_slope_of_many_samples_and_of_ties():
    x = np.random.default_rng(0).normal(size=(2500, 3))
    assert core.lipschitz_constant(x, x @ np.array([3.0, 0.0, 4.0])) == pytest.approx(5.0, rel=0.02)
    assert core.lipschitz_constant(np.array([1.0, 1.0, 2.0]), np.array([0.0, 1.0, 0.0])) == math.inf
    assert core.lipschitz_constant(np.array([1.0, 1.0, 2.0]), np.array([0.0, 0.0, 3.0])) == pytest.approx(3.0)


# ---- the test by a classifier


def test_statistics_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores_p, scores_q = rng.integers(-3, 5, size=60).astype(float), rng.integers(-4, 4, size=45).astype(float)
    labels, scores = np.repeat([1, 0], [60, 45]), np.concatenate([scores_p, scores_q])
    auc = core.classifier_two_sample_test(scores_p, scores_q, seed=0)
    assert auc.statistic == pytest.approx(roc_auc_score(labels, scores))
    shifted = core.classifier_two_sample_test(scores_p + 0.5, scores_q + 0.5, statistic="accuracy", seed=0)
    assert shifted.statistic == pytest.approx(balanced_accuracy_score(labels, scores + 0.5 > 0))
    oracle = scipy.stats.mannwhitneyu(scores_p, scores_q, alternative="greater").pvalue
    many = core.classifier_two_sample_test(scores_p, scores_q, num_permutations=5000, seed=0).p_value
    assert abs(many - oracle) < 4 * math.sqrt(oracle / 5000) + 0.002


def test_p_values_are_uniform_under_the_hypothesis():
    found = {"auc": [], "accuracy": []}
    for seed in range(400):
        scores = np.random.default_rng(seed).normal(size=(2, 40))
        for statistic, values in found.items():
            test = core.classifier_two_sample_test(*scores, statistic=statistic, num_permutations=99, seed=seed)
            values.append(test.p_value)
    assert scipy.stats.kstest(found["auc"], "uniform").pvalue > 0.01
    for level in (0.05, 0.2):  # the coarse one is valid, not uniform; four standard deviations
        assert np.mean(np.array(found["accuracy"]) <= level) < level + 4 * math.sqrt(level * (1 - level) / 400)


def test_power_grows_with_the_shift():
    def power(shift):
        p_values = []
        for seed in range(60):
            scores = np.random.default_rng(seed).normal(size=(2, 40))
            p_values.append(core.classifier_two_sample_test(scores[0] + shift, scores[1], num_permutations=99, seed=0))
        return np.mean([result.p_value <= 0.05 for result in p_values])

    found = [power(shift) for shift in (0.0, 0.5, 1.5)]
    assert found[0] < 0.2 < 0.5 < found[1] < 0.97 < found[2]


# ---- refusals

GOOD = np.array([0.1, -0.2, 0.3])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: core.f_dual(GOOD, GOOD, "jeffreys"), ArgumentError, "no elementary conjugate.*sum of 'kl' and 'rev"),
        (lambda: core.f_dual_from_log_ratio(GOOD, GOOD, "jeffreys"), ArgumentError, "no dual bound"),
        (lambda: core.f_dual(GOOD, GOOD, "hellingr"), ArgumentError, "did you mean 'hellinger'"),
        (lambda: core.f_dual(GOOD, GOOD, "reverse-kl"), DataError, "`t_p` is 0.1 at sample 0, outside the domain"),
        (lambda: core.f_dual(-1 - GOOD, GOOD, "reverse-kl"), DataError, "`t_q` is 0.1 at sample 0, outside"),
        (lambda: core.nwj(GOOD, GOOD[:1]), ArgumentError, "`t_q` must have the shape"),
        (lambda: core.nwj(GOOD[:, None], GOOD), ArgumentError, r"`t_p` must have the shape \[n\].*got \[3, 1\]"),
        (lambda: core.nwj(GOOD, np.array([0.0, np.nan])), DataError, "`t_q` must be finite, got nan at sample 1"),
        (lambda: core.donsker_varadhan(np.array([0.0, np.inf]), GOOD), DataError, "got inf at sample 1"),
        (lambda: core.donsker_varadhan(np.arange(3), GOOD), ArgumentTypeError, "floating-point"),
        (lambda: core.donsker_varadhan(torch.zeros(3), GOOD), ArgumentTypeError, "one library"),
        (lambda: core.kantorovich_rubinstein(GOOD, GOOD, 0.0), ArgumentError, "`lipschitz`"),
        (lambda: core.lipschitz_constant(GOOD, GOOD[:2]), ArgumentError, r"`t` must have the shape \[3\]"),
        (lambda: core.classifier_two_sample_test(GOOD, GOOD, statistic="auk"), ArgumentError, "did you mean 'auc'"),
        (lambda: core.classifier_two_sample_test(GOOD[:1], GOOD), ArgumentError, "`scores_p`"),
        (lambda: core.log_density_ratio(GOOD, 0, 1), ArgumentError, "`count_p`"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_heavy_tails_of_a_critic():
    s_q = np.random.default_rng(0).standard_cauchy(500) * 3
    for function in (core.nwj, core.donsker_varadhan):
        with pytest.raises(DataError, match="tails too heavy"):
            function(GOOD, s_q.clip(-300, 300))
        assert "tails too heavy" in function(GOOD, s_q.clip(-300, 300), heavy_tails="allow").note
