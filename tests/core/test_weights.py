import math
import warnings

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.fx.experimental.proxy_tensor import make_fx

from probgen.core.weights import (
    effective_sample_size,
    khat_threshold,
    normalized_weights,
    pareto_khat,
    pareto_khat_from_tail,
    tail_length,
)
from probgen.errors import ArgumentError, ArgumentTypeError

MAKE = {"numpy": np.asarray, "torch": torch.as_tensor, "jax": jnp.asarray}
INF = np.inf


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=MAKE)
def make(request):
    return MAKE[request.param]


# In JAX every new shape is compiled, which takes seconds for k-hat: its tests share shapes, all [..., 30].


def draw(*shape, scale=1.0, seed=0):
    return scale * np.random.default_rng(seed).normal(size=shape)


def arviz_khat(array):
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return np.asarray(arviz.psislw(array.T.copy())[1])  # arviz wants draws last


# Normalised weights and effective sample size


def test_normalized_weights_are_scipys_softmax(make):
    array = draw(7, 4, 3, scale=5.0)
    actual = np.asarray(normalized_weights(make(array)))
    np.testing.assert_allclose(actual, scipy.special.softmax(array, axis=0), rtol=0, atol=1e-12)


def test_normalized_weights_of_huge_and_missing_entries(make):
    array = np.array([[1e4, -INF, -INF, 1e4], [-1e4, 0.0, -INF, 1e4]], np.float32)
    np.testing.assert_array_equal(normalized_weights(make(array)), [[1, 0, 0, 0.5], [0, 1, 0, 0.5]])


def test_nothing_is_nan_where_there_is_no_weight():
    array = np.array([[-INF, 1.0], [-INF, -INF]])
    for function in (lambda a: normalized_weights(a)[0], effective_sample_size):
        ours = torch.tensor(array, requires_grad=True)
        function(ours).sum().backward()
        np.testing.assert_array_equal(ours.grad, np.zeros((2, 2)))
        np.testing.assert_array_equal(jax.grad(lambda a: function(a).sum())(jnp.asarray(array)), np.zeros((2, 2)))  # noqa: B023


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's inf - inf
@pytest.mark.parametrize("defect", [np.nan, INF])
def test_defects_show(make, defect):
    array = make(np.array([[defect, 1.0], [0.0, 1.0]]))
    np.testing.assert_array_equal(np.isnan(np.asarray(effective_sample_size(array))), [True, False])
    assert np.isnan(np.asarray(normalized_weights(array))[0, 0])


def test_effective_sample_size_is_its_formula(make):
    array = draw(7, 4)
    weights = np.exp(array)
    expected = weights.sum(0) ** 2 / (weights**2).sum(0)
    np.testing.assert_allclose(effective_sample_size(make(array)), expected, rtol=1e-13)


def test_effective_sample_size_of_equal_single_and_no_weights(make):
    array = np.full((3, 3), -INF)
    array[:, 0], array[1, 1] = -7.0, 2.0
    np.testing.assert_array_equal(effective_sample_size(make(array)), [3.0, 1.0, 0.0])


@given(arrays(np.float64, st.integers(1, 20), elements=st.floats(-800, 800) | st.just(-INF)))
def test_effective_sample_size_is_between_0_and_k(array):
    size = effective_sample_size(array)
    assert 0.0 <= size <= array.size
    assert size == 0.0 or size > 1.0 - 1e-12


def test_gradcheck():
    array = torch.tensor(draw(5, 2), requires_grad=True)
    assert torch.autograd.gradcheck(normalized_weights, array)
    assert torch.autograd.gradcheck(effective_sample_size, array)


# k-hat


@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0, 100.0])
@pytest.mark.parametrize("num_particles", [21, 100, 1000, 5000])
def test_khat_is_arvizs(make, num_particles, scale):
    array = draw(num_particles, 30, scale=scale) + 300.0 * draw(30, seed=1)
    np.testing.assert_allclose(pareto_khat(make(array)), arviz_khat(array), rtol=0, atol=1e-9)


@pytest.mark.parametrize("decimals", [1, 0])
def test_khat_with_ties_is_arvizs(make, decimals):
    array = np.round(draw(1000, 30, scale=3.0), decimals)
    np.testing.assert_allclose(pareto_khat(make(array)), arviz_khat(array), rtol=0, atol=1e-9)


@pytest.mark.parametrize("alive", [0.5, 0.05, 0.02])
def test_khat_with_missing_weights_is_arvizs(make, alive):
    array = np.where(np.random.default_rng(1).random((1000, 30)) < alive, draw(1000, 30, scale=3.0), -INF)
    np.testing.assert_allclose(pareto_khat(make(array)), arviz_khat(array), rtol=0, atol=1e-9)


def test_khat_of_a_tail_of_equal_weights_is_finite():
    # 100 of 1200 weights are twice the others. In the grid of b one point is 0, where the likelihood is 0/0.
    array = np.where(np.arange(1200) < 100, math.log(2.0), 0.0)
    assert np.isfinite(pareto_khat(array))


def test_khat_of_a_tail_near_the_smallest_number_is_finite():
    array = np.full(1000, -2000.0)
    array[:50], array[0] = math.log(np.finfo(float).tiny) + 0.01, 0.0  # excesses of 0.01 tiny: their inverse overflows
    assert 1.0 < pareto_khat(array) < INF


def test_khat_does_not_depend_on_the_batch():
    array = draw(200, 1000, scale=2.0)
    together = pareto_khat(array)
    alone = [pareto_khat(array[:, i]) for i in range(1000)]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-12)  # the order of summation differs


def test_khat_keeps_the_batch_shape(make):
    array = draw(50, 3, 4)
    khat = np.asarray(pareto_khat(make(array)))
    np.testing.assert_allclose(khat, np.reshape(pareto_khat(array.reshape(50, 12)), (3, 4)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
def test_khat_of_one_datum_and_of_none(make):
    assert pareto_khat(make(draw(50))).shape == ()
    assert pareto_khat(make(np.zeros((50, 0, 4)))).shape == (0, 4)


@pytest.mark.parametrize("shape", [0.1, 0.5, 0.9, 1.5])
def test_khat_recovers_the_shape_of_pareto_weights(shape):
    # Weights u^-k have a Pareto tail above every cutoff. The posterior mean is shrunk towards 1/2 by 10 / (M + 10); the
    # maximum-likelihood estimate has asymptotic variance (1 + k)^2 / M (Smith 1987), and a bias of the order 1 / M.
    draws, data = 5000, 400
    khat = pareto_khat(-shape * np.log(np.random.default_rng(3).random((draws, data))))
    tail = tail_length(draws)
    expected = (tail * shape + 10 * 0.5) / (tail + 10)
    spread = (1 + shape) / math.sqrt(tail)
    assert abs(khat.mean() - expected) < 5 * spread / math.sqrt(data) + 2 / tail
    # The standard deviation of n values that are nearly normal has the relative standard error 1 / sqrt(2 n).
    assert khat.std() == pytest.approx(spread, rel=5 / math.sqrt(2 * data))


def test_khat_in_float32_is_close():
    array = draw(1000, 30, scale=2.0).astype(np.float32)
    exact = arviz_khat(array.astype(np.float64))
    for make in MAKE.values():
        khat = pareto_khat(make(array))
        assert str(khat.dtype).removeprefix("torch.") == "float32"
        np.testing.assert_allclose(khat, exact, rtol=1e-7)  # computed in float64, rounded at the end
    with jax.enable_x64(False):
        np.testing.assert_allclose(jax.jit(pareto_khat)(array), exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, -83.7, 1e4])
def test_khat_of_a_perfect_guide_is_minus_infinite(make, value):
    array = np.full((1000, 30), value)
    np.testing.assert_array_equal(pareto_khat(make(array)), np.full(30, -INF))
    array[:3] += np.spacing(max(1.0, value))  # rounding; taken for outliers, it would make the guide a hopeless one
    np.testing.assert_array_equal(pareto_khat(make(array)), np.full(30, -INF))


def test_khat_of_too_few_draws_is_nan(make):
    assert np.isnan(np.asarray(pareto_khat(make(draw(20, 30))))).all()
    assert np.isfinite(np.asarray(pareto_khat(make(draw(21, 30))))).all()
    assert np.isnan(np.asarray(pareto_khat(make(draw(1, 30))))).all()


def test_khat_of_hopeless_and_broken_data(make):
    array = draw(1000, 30)
    array[:, 0] = -INF
    array[1:, 1] = -INF
    array[4:, 2] = 0.0
    array[:4, 2] = [1.0, 2.0, 3.0, 4.0]
    array[0, 3] = INF
    array[0, 4] = np.nan
    array[:2, 5] = np.nan, INF
    expected = [INF, INF, INF, INF, np.nan, np.nan]
    khat = np.asarray(pareto_khat(make(array)))
    np.testing.assert_array_equal(khat[:6], expected)
    np.testing.assert_allclose(khat[6:], arviz_khat(array[:, 6:]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("num_particles", [1, 15, 100, 5000])
def test_khat_from_the_tail_is_khat_of_all(make, num_particles):
    array = draw(num_particles, 30, scale=2.0)
    kept = min(tail_length(num_particles) + 1, num_particles)
    tail = np.random.default_rng(1).permutation(np.sort(array, axis=0)[-kept:])
    np.testing.assert_array_equal(pareto_khat_from_tail(make(tail), num_particles), pareto_khat(make(array)))


def test_khat_of_a_stream_that_keeps_the_tail_is_khat_of_all():
    array = draw(5000, 6, scale=2.0)
    kept = tail_length(5000) + 1
    tail = array[:kept]
    for start in range(kept, 5000, 100):
        tail = np.sort(np.concatenate([tail, array[start : start + 100]]), axis=0)[-kept:]
    np.testing.assert_array_equal(pareto_khat_from_tail(tail, 5000), pareto_khat(array))


def test_khat_can_be_traced_and_has_no_gradient():
    array = draw(100, 3)
    expected = pareto_khat(array)
    assert not pareto_khat(torch.tensor(array, requires_grad=True)).requires_grad
    traced = make_fx(pareto_khat)(torch.tensor(draw(100, 3, seed=1)))
    np.testing.assert_allclose(traced(torch.tensor(array)), expected, rtol=0, atol=1e-12)
    total = jax.jit(jax.value_and_grad(lambda a: pareto_khat(a).sum()))
    value, gradient = total(jnp.asarray(array))
    assert value == pytest.approx(expected.sum(), abs=1e-12)
    np.testing.assert_array_equal(gradient, np.zeros((100, 3)))


# Lengths and thresholds


def test_tail_lengths():
    assert [tail_length(s) for s in (1, 5, 15, 20, 21, 100, 225, 226, 1000, 5000)] == [
        1,
        1,
        3,
        4,
        5,
        20,
        45,
        46,
        95,
        213,
    ]
    assert tail_length(np.int64(100)) == 20


def test_khat_thresholds():
    assert khat_threshold(1) == -INF
    assert khat_threshold(10) == 0.0
    assert khat_threshold(100) == 0.5
    assert khat_threshold(2000) == pytest.approx(1 - 1 / math.log10(2000))
    assert khat_threshold(10_000) == 0.7


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: normalized_weights([0.0]), ArgumentTypeError, "`log_weights` must be a torch.Tensor"),
        (lambda: effective_sample_size(np.float64(1.0)), ArgumentError, "`log_weights` needs the shape [num_particles"),
        (lambda: pareto_khat(torch.zeros(0, 3)), ArgumentError, "at least one particle"),
        (lambda: pareto_khat(torch.zeros(50, 3, dtype=torch.bfloat16)), ArgumentTypeError, "got torch.bfloat16"),
        (lambda: tail_length(2.5), ArgumentTypeError, "`num_particles` must be an integer, got float"),
        (lambda: tail_length(0), ArgumentError, "`num_particles` must be at least 1, got 0"),
        (lambda: khat_threshold(-3), ArgumentError, "`num_particles` must be at least 1, got -3"),
        (
            lambda: pareto_khat_from_tail(np.zeros((20, 3)), 100),
            ArgumentError,
            "`tail` must hold the 21 largest of 100 log-weights on axis 0, got shape [20, 3]: "
            "keep min(tail_length(num_particles) + 1, num_particles) of them",
        ),
        (lambda: pareto_khat_from_tail(np.float64(1.0), 100), ArgumentError, "got shape []"),
        (lambda: pareto_khat_from_tail(np.zeros(21, int), 100), ArgumentTypeError, "got int64"),
    ],
)
def test_refusals_say_what_to_do(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert message in str(error.value)
