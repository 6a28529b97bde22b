"""Likelihoods against the truth: they sum or integrate to one, and their samplers draw what they score."""

import itertools

import mpmath
import numpy as np
import pyro
import pytest
import torch
from scipy import integrate, stats

from probgen.distributions import DiscretizedLogisticDistribution
from probgen.errors import ArgumentError, DataError
from probgen.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    Likelihood,
    Normal,
    NormalFixed,
    make_likelihood,
)

# Sampler tests reject a correct sampler with this probability; the seed is fixed, so they do it always or never.
FAILURE_RATE = 1e-6


def raw_outputs(likelihood: Likelihood, *batch: int, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(*batch, likelihood.num_outputs, dtype=torch.float64)


DISCRETE = [
    (Bernoulli((3,)), [0.0, 1.0]),
    (Bernoulli((1, 2, 2)), [0.0, 1.0]),
    (Categorical((3,), num_categories=4), [0, 1, 2, 3]),
    (Categorical((2, 1), num_categories=3), [0, 1, 2]),
    (DiscretizedLogistic((3,), levels=8), np.arange(8) / 7),
    (DiscretizedLogistic((2,), levels=2), [0.0, 1.0]),
    (DiscretizedLogistic((1,), levels=256), np.arange(256) / 255),
]


@pytest.mark.parametrize("scale", [0.3, 3.0, 300.0])
@pytest.mark.parametrize(("likelihood", "values"), DISCRETE, ids=lambda v: repr(v) if isinstance(v, Likelihood) else "")
def test_discrete_likelihoods_sum_to_one(likelihood: Likelihood, values: list[float], scale: float) -> None:
    size = int(np.prod(likelihood.event_shape))
    events = torch.tensor(list(itertools.product(values, repeat=size))).reshape(-1, *likelihood.event_shape)
    events = likelihood.cast(events, torch.float64)[:, None]  # [events, 1, *event]
    p = likelihood.distribution(raw_outputs(likelihood, 5, scale=scale))
    assert p.batch_shape == (5,)
    assert p.event_shape == likelihood.event_shape
    torch.testing.assert_close(p.log_prob(events).logsumexp(0), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("likelihood", [Normal((1,)), Normal((1,), min_scale=0.5), NormalFixed((1,), scale=0.3)])
def test_continuous_likelihoods_integrate_to_one(likelihood: Likelihood) -> None:
    p = likelihood.distribution(raw_outputs(likelihood))
    loc, scale = p.mean.item(), p.variance.sqrt().item()

    def density(x: float) -> float:
        return p.log_prob(torch.tensor([x], dtype=torch.float64)).exp().item()

    total, _ = integrate.quad(density, loc - 12 * scale, loc + 12 * scale, points=[loc])
    assert total == pytest.approx(1.0, abs=1e-8)


def test_raw_outputs_are_laid_out_parameter_first() -> None:
    raw = torch.randn(5, 2 * 6)
    p = Normal((2, 3), min_scale=0.1).distribution(raw)
    torch.testing.assert_close(p.mean, raw[:, :6].reshape(5, 2, 3))
    torch.testing.assert_close(p.variance.sqrt(), torch.nn.functional.softplus(raw[:, 6:]).reshape(5, 2, 3) + 0.1)
    raw = torch.randn(5, 4 * 6)
    probs = Categorical((2, 3), num_categories=4).distribution(raw).base_dist.probs
    torch.testing.assert_close(probs, raw.reshape(5, 4, 2, 3).softmax(1).movedim(1, -1))


@pytest.mark.parametrize("loc", [-3.0, 0.2, 0.5, 1.0, 40.0])
@pytest.mark.parametrize("scale", [5e-4, 0.02, 1.0, 1e5])
def test_discretized_logistic_agrees_with_50_digits(loc: float, scale: float) -> None:
    levels = 6
    x = torch.arange(levels, dtype=torch.float64) / (levels - 1)
    p = DiscretizedLogisticDistribution(
        torch.tensor(loc, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64), levels
    )
    mpmath.mp.dps = 50

    def below(edge: mpmath.mpf) -> mpmath.mpf:
        return 1 / (1 + mpmath.exp(-(edge - mpmath.mpf(loc)) / mpmath.mpf(scale)))

    def above(edge: mpmath.mpf) -> mpmath.mpf:
        return 1 / (1 + mpmath.exp((edge - mpmath.mpf(loc)) / mpmath.mpf(scale)))

    def exact(j: int) -> float:
        lower, upper = (mpmath.mpf(j + side) / (levels - 1) for side in (-0.5, 0.5))
        if j == 0:
            return float(mpmath.log(below(upper)))
        if j == levels - 1:
            return float(mpmath.log(above(lower)))
        left = lower < loc  # subtract where nothing cancels
        return float(mpmath.log(below(upper) - below(lower) if left else above(lower) - above(upper)))

    mpmath.mp.dps = 4000 if scale < 0.01 else 100
    expected = torch.tensor([exact(j) for j in range(levels)], dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(x), expected, rtol=1e-11, atol=1e-11)


def test_discretized_logistic_is_finite_and_differentiable_in_float32_far_away() -> None:
    likelihood = DiscretizedLogistic((1,))
    locs, scales = torch.meshgrid(
        torch.tensor([-1e4, -1.0, 0.5, 2.0, 1e4]), torch.tensor([-1e4, 0.0, 1e4]), indexing="ij"
    )
    raw = torch.stack([locs.flatten(), scales.flatten()], dim=-1).requires_grad_()
    for x in (0.0, 1 / 255, 128 / 255, 1.0):
        log_prob = likelihood.distribution(raw).log_prob(torch.tensor([x]))
        (gradient,) = torch.autograd.grad(log_prob.sum(), raw)
        assert torch.isfinite(log_prob).all()
        assert torch.isfinite(gradient).all()
        assert (log_prob <= 0).all()


@pytest.mark.parametrize(("loc", "scale"), [(0.4, 0.05), (0.05, 0.1), (1.2, 0.3)])
def test_discretized_logistic_samples_what_it_scores(loc: float, scale: float) -> None:
    pyro.set_rng_seed(1)
    levels, draws = 16, 50_000
    p = DiscretizedLogisticDistribution(torch.tensor(loc), torch.tensor(scale), levels)
    samples = p.sample((draws,))
    assert p.support.check(samples).all()
    counts = torch.bincount((samples * (levels - 1)).round().long(), minlength=levels).double()
    expected = p.log_prob(torch.arange(levels) / (levels - 1)).double().exp() * draws
    rare = expected < 5  # pooled, as the chi-square approximation needs
    pool = [t[~rare].tolist() + ([t[rare].sum().item()] if rare.any() else []) for t in (counts, expected)]
    pool[1] = [e * draws / sum(pool[1]) for e in pool[1]]  # float32's probabilities sum to one up to rounding
    assert stats.chisquare(*pool).pvalue > FAILURE_RATE


def test_discretized_logistic_mean_is_exact() -> None:
    p = DiscretizedLogisticDistribution(torch.randn(5).double(), torch.rand(5).double() + 0.01, 16)
    grid = torch.arange(16, dtype=torch.float64)[:, None] / 15
    torch.testing.assert_close(p.mean, (p.log_prob(grid).exp() * grid).sum(0))


def test_discretized_logistic_expands_under_plates() -> None:
    p = DiscretizedLogisticDistribution(torch.zeros(3), torch.ones(3), 4).expand([2, 3])
    assert p.batch_shape == (2, 3)
    assert p.sample().shape == (2, 3)
    assert p.expand([5, 2, 3]).log_prob(torch.zeros(3)).shape == (5, 2, 3)
    assert not p.has_rsample


def test_discretized_logistic_refuses_values_off_the_grid() -> None:
    p = DiscretizedLogisticDistribution(torch.tensor(0.5), torch.tensor(0.1), 256, validate_args=True)
    for good in (0.0, 7 / 255, 1.0):
        p.log_prob(torch.tensor(good))
    for bad in (0.5, -1 / 255, 256 / 255, float("nan")):
        with pytest.raises(ValueError, match="support"):
            p.log_prob(torch.tensor(bad))


def test_eight_and_sixteen_bit_images_are_on_the_grid() -> None:
    image = torch.arange(256, dtype=torch.uint8)[:, None]
    DiscretizedLogistic((1,)).cast(image / 255)
    DiscretizedLogistic((1,)).cast((image / 255).double(), torch.float64)  # carries float32's rounding
    deep = torch.arange(65536, dtype=torch.float32)[:, None] / 65535
    DiscretizedLogistic((1,), levels=65536).cast(deep)
    assert not DiscretizedLogistic((1,), levels=65536)._valid(deep + 0.5 / 65535).any()


@pytest.mark.parametrize("likelihood", [Bernoulli((2, 2)), Normal((2, 2)), NormalFixed((2, 2))])
def test_output_bias_gives_the_data_mean(likelihood: Likelihood) -> None:
    mean = torch.tensor([[0.1, 0.5], [0.9, 0.3]])
    torch.testing.assert_close(likelihood.distribution(likelihood.output_bias(mean)).mean, mean)
    torch.testing.assert_close(likelihood.output_bias(mean.numpy()), likelihood.output_bias(mean.tolist()))
    assert likelihood.output_bias(0.5).shape == (likelihood.num_outputs,)


def test_output_bias_of_bits_is_clipped() -> None:
    bias = Bernoulli((2,)).output_bias([0.0, 1.0])
    torch.testing.assert_close(bias.sigmoid(), torch.tensor([0.001, 0.999]))


def test_output_bias_of_categories_needs_frequencies() -> None:
    likelihood = Categorical((2,), num_categories=3)
    frequencies = torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])
    p = likelihood.distribution(likelihood.output_bias(frequencies))
    torch.testing.assert_close(p.base_dist.probs, frequencies)
    with pytest.raises(ArgumentError, match=r"`data_mean` of categorical data must be the frequencies .* \(2, 3\)"):
        likelihood.output_bias([1.0, 0.5])


@pytest.mark.parametrize(
    ("mean", "message"),
    [([0.5], "shape"), (float("nan"), "finite"), ([0.5, 1.5], r"must lie in \[0, 1\]")],
)
def test_a_data_mean_that_does_not_fit_is_refused(mean: object, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Bernoulli((2,)).output_bias(mean)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.float64])
def test_cast_gives_the_networks_dtype(dtype: torch.dtype) -> None:
    x = torch.ones(3, 2, dtype=dtype)
    assert Bernoulli((2,)).cast(x).dtype == torch.float32
    assert Normal((2,)).cast(x, torch.float64).dtype == torch.float64
    if not dtype.is_floating_point:
        assert Categorical((2,), num_categories=2).cast(x, torch.float64).dtype == torch.long


@pytest.mark.parametrize(
    ("likelihood", "x", "message"),
    [
        (Bernoulli((2,)), torch.zeros(3, 4), r"`x` must have shape \[batch, 2\], got \[3, 4\]"),
        (Bernoulli((2,)), torch.zeros(2), r"got \[2\]; for one datum use `x\[None\]`"),
        (Bernoulli((1, 2, 2)), torch.zeros(3, 4), r"use `x.reshape\(-1, 1, 2, 2\)`"),
        (Bernoulli((2,)), torch.zeros(()), r"got \[\]"),
        (Bernoulli((2,)), torch.zeros(0, 2), "at least one datum"),
        (Bernoulli((2,)), [[0.0, 1.0]], r"must be a torch.Tensor, got list"),
        (Bernoulli((2,)), torch.zeros(3, 2, dtype=torch.complex64), "real numbers, got dtype torch.complex64"),
        (Bernoulli((2,)), torch.tensor([[0.0, 1.0], [1.0, 2.0]]), r"0 or 1 .*, got 2.0 at index \(1, 1\)"),
        (Normal((2,)), torch.tensor([[0.0, float("nan")]]), r"must be finite, got nan at index \(0, 1\)"),
        (Categorical((1,), num_categories=3), torch.tensor([[3]]), r"one of \{0, ..., 2\}, got 3 at index \(0, 0\)"),
        (
            Categorical((1,), num_categories=3),
            torch.tensor([[1.0]]),
            r"integers, got dtype torch.float32.*`x.long\(\)`",
        ),
        (DiscretizedLogistic((1,)), torch.tensor([[7]]), r"divide whole numbers by 255; .*, got 7.0"),
    ],
)
def test_data_that_do_not_fit_are_refused(likelihood: Likelihood, x: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        likelihood.cast(x)


def test_values_are_not_read_without_pyros_validation() -> None:
    with pyro.validation_enabled(False):
        Bernoulli((1,)).cast(torch.full((1, 1), 2.0))
        with pytest.raises(DataError, match="shape"):
            Bernoulli((1,)).cast(torch.zeros(1, 2))


def test_half_precision_outputs_are_scored_in_float32() -> None:
    raw = torch.zeros(3, 2, dtype=torch.bfloat16)
    assert Bernoulli((2,)).distribution(raw).log_prob(torch.ones(3, 2)).dtype == torch.float32


def test_likelihoods_are_found_by_name_spec_or_instance() -> None:
    assert isinstance(make_likelihood("bernoulli", (4,)), Bernoulli)
    assert make_likelihood("normal:min_scale=0.25", (4,)).min_scale == 0.25  # type: ignore[attr-defined]
    assert isinstance(make_likelihood("normal_fixed:scale=2", 4), NormalFixed)  # type: ignore[arg-type]
    own = DiscretizedLogistic((4,), levels=4)
    assert make_likelihood(own, [4]) is own
    assert set(map(type, (make_likelihood(n, (1,)) for n in set(LIKELIHOODS) - {"categorical"}))) == set(
        LIKELIHOODS.values()
    ) - {Categorical}


@pytest.mark.parametrize(
    ("likelihood", "message"),
    [
        ("bernouli", "did you mean 'bernoulli'"),
        ("normal:min_scal=1", "`normal` takes no argument `min_scal`; did you mean 'min_scale'"),
        ("categorical", "`categorical` needs `num_categories`"),
        ("normal:min_scale=0", "`min_scale` must be a finite number above 0, got 0"),
        ("normal-fixed:scale=inf", "`scale` must be a finite number above 0"),
        ("discretized-logistic:levels=1", "`levels` must be a whole number of at least 2, got 1"),
        ("discretized-logistic:levels=100000", "at most 65536"),
        ("categorical:num_categories=1", "at least 2"),
        (Bernoulli((3,)), r"`likelihood` is for events \(3,\), but `event_shape` is \(4,\)"),
        (3, "a spec must be a string"),
    ],
)
def test_likelihoods_that_cannot_work_are_refused(likelihood: object, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make_likelihood(likelihood, (4,))  # type: ignore[arg-type]
