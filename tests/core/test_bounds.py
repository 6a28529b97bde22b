import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.fx.experimental.proxy_tensor import make_fx

from probgen.core.bounds import cubo, elbo, eubo, iwae, miwae, renyi
from probgen.errors import ArgumentError, ArgumentTypeError

MAKE = {"numpy": np.asarray, "torch": torch.as_tensor, "jax": jnp.asarray}
INF = np.inf

BOUNDS = {
    "elbo": lambda a: elbo(a),
    "iwae": lambda a: iwae(a),
    "renyi -1": lambda a: renyi(a, -1.0),
    "renyi 0.5": lambda a: renyi(a, 0.5),
    "renyi 2": lambda a: renyi(a, 2.0),
    "cubo 2": lambda a: cubo(a),
    "cubo 3": lambda a: cubo(a, n=3.0),
    "eubo": lambda a: eubo(a),
    "miwae": lambda a: miwae(a[None]),  # one group of all particles
}
POWERS = {"iwae": 1.0, "renyi -1": 2.0, "renyi 0.5": 0.5, "renyi 2": -1.0, "cubo 2": 2.0, "cubo 3": 3.0, "miwae": 1.0}


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=BOUNDS)
def bound(request):
    return BOUNDS[request.param]


def draw(*shape, scale=3.0, seed=0):
    return scale * np.random.default_rng(seed).normal(size=shape)


def evaluate(library, function, array):
    """Value as an array of the library; in JAX compiled as a whole, which is faster than by operation."""
    return (jax.jit(function) if library == "jax" else function)(MAKE[library](array))


def value_and_grad(library, function, array):
    """Value, and gradient of the sum over the batch, as NumPy arrays."""
    if library == "torch":
        ours = torch.tensor(array, requires_grad=True)
        value = function(ours)
        value.sum().backward()
        return value.detach().numpy(), ours.grad.numpy()

    def total(ours):
        value = function(ours)
        return value.sum(), value

    (_, value), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(jnp.asarray(array))
    return np.asarray(value), np.asarray(gradient)


differentiated = pytest.mark.parametrize("library", ["torch", "jax"])


# Agreement


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_libraries_agree(bound, library):
    array = draw(7, 4, 3)
    actual = bound(MAKE[library](array))
    assert tuple(actual.shape) == (4, 3)
    np.testing.assert_allclose(np.asarray(actual), bound(array), rtol=0, atol=1e-12)


def test_gradients_agree(bound):
    array = draw(7, 4, 3)
    ours, theirs = (value_and_grad(library, bound, array)[1] for library in ("torch", "jax"))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", POWERS)
def test_power_means_are_scipys_logsumexp(name):
    array, power = draw(7, 4), POWERS[name]
    expected = (scipy.special.logsumexp(power * array, axis=0) - np.log(7)) / power
    np.testing.assert_allclose(BOUNDS[name](array), expected, rtol=0, atol=1e-12)


def test_elbo_and_eubo_are_their_formulas():
    array = draw(7, 4)
    np.testing.assert_allclose(elbo(array), array.mean(0), rtol=0, atol=1e-14)
    np.testing.assert_allclose(eubo(array), (scipy.special.softmax(array, 0) * array).sum(0), rtol=0, atol=1e-12)


def test_miwae_is_the_mean_of_groups():
    array = draw(3, 5, 4)
    expected = (scipy.special.logsumexp(array, axis=1) - np.log(5)).mean(0)
    for make in MAKE.values():
        np.testing.assert_allclose(np.asarray(miwae(make(array))), expected, rtol=0, atol=1e-12)


def test_weights_of_one_datum_give_a_scalar(bound):
    assert bound(np.zeros(3)).shape == ()
    assert bound(torch.zeros(3)).shape == ()


def test_an_empty_batch_gives_an_empty_bound(bound):
    for library in MAKE:
        assert tuple(evaluate(library, bound, np.zeros((3, 0))).shape) == (0,)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtype_is_kept(bound, dtype):
    for library in MAKE:
        assert str(evaluate(library, bound, np.ones((3, 2), dtype)).dtype).removeprefix("torch.") == dtype


# Identities


def test_equal_weights_give_their_logarithm(bound):
    np.testing.assert_array_equal(bound(np.full((6, 2), -83.7)), [-83.7, -83.7])


def test_one_particle_gives_the_elbo(bound):
    array = draw(1, 5)
    np.testing.assert_allclose(bound(array), array[0], rtol=0, atol=1e-14)


def test_renyi_of_order_0_is_iwae():
    array = draw(7, 4)
    np.testing.assert_array_equal(renyi(array, 0.0), iwae(array))


def test_renyi_of_order_1_minus_n_is_cubo():
    array = draw(7, 4)
    np.testing.assert_array_equal(renyi(array, -1.0), cubo(array, 2.0))


@pytest.mark.parametrize("gap", [1e-4, 1e-8, 1e-12, -1e-4, -1e-8, -1e-12])
def test_renyi_tends_to_the_elbo(gap):
    # log mean exp(s l) / s = mean l + s var(l) / 2 + O(s^2 range^3)
    array = draw(7, 4)
    expected = elbo(array) + gap * array.var(0) / 2
    np.testing.assert_allclose(renyi(array, 1.0 - gap), expected, rtol=0, atol=1e4 * gap**2 + 1e-13)


def test_renyi_near_order_1_is_accurate_in_float32():
    array = draw(50, 4).astype(np.float32)
    np.testing.assert_allclose(renyi(array, 1.0 - 1e-6), elbo(array), rtol=0, atol=2e-5)


def test_miwae_of_one_group_is_iwae_and_of_one_particle_the_elbo():
    array = draw(6, 4)
    np.testing.assert_array_equal(miwae(array[None]), iwae(array))
    np.testing.assert_allclose(miwae(array[:, None]), elbo(array), rtol=0, atol=1e-14)


WEIGHTS = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 3)), elements=st.floats(-50, 50))


@given(WEIGHTS, st.floats(0.001, 0.999), st.floats(1.0, 5.0))
def test_bounds_are_ordered_pointwise(array, alpha, n):
    slack = 1e-12
    assert (elbo(array) <= renyi(array, alpha) + slack).all()
    assert (renyi(array, alpha) <= iwae(array) + slack).all()
    assert (iwae(array) <= cubo(array, n) + slack).all()
    assert (iwae(array) <= eubo(array) + slack).all()


@given(WEIGHTS, st.floats(-3.0, 3.0), st.floats(0.1, 3.0))
def test_renyi_falls_as_alpha_rises(array, alpha, step):
    if alpha != 1.0 and alpha + step != 1.0:
        assert (renyi(array, alpha + step) <= renyi(array, alpha) + 1e-11).all()


@given(WEIGHTS, st.floats(-1e3, 1e3))
def test_a_constant_factor_shifts_every_bound(array, shift):
    for function in BOUNDS.values():
        np.testing.assert_allclose(function(array + shift), function(array) + shift, rtol=0, atol=1e-11)


def test_elbo_and_iwae_bound_the_evidence_of_a_gaussian():
    # z ~ N(0, 1), x | z ~ N(z, 1), x = 1, q = N(0.2, 1): evidence, ELBO and CUBO_2 in closed form.
    evidence = scipy.stats.norm.logpdf(1.0, 0.0, np.sqrt(2.0))
    divergence = 0.5 * (2.0 - 1.0 + 2.0 * 0.3**2 - np.log(2.0))  # KL(N(0.2, 1) || N(0.5, 1/2))
    z = np.random.default_rng(0).normal(0.2, 1.0, size=(10, 200_000))
    log_joint = scipy.stats.norm.logpdf(z) + scipy.stats.norm.logpdf(1.0, z)
    array = log_joint - scipy.stats.norm.logpdf(z, 0.2)
    for values, exact in [(elbo(array), evidence - divergence), (np.exp(iwae(array)), np.exp(evidence))]:
        error = values.std() / np.sqrt(values.size)
        assert abs(values.mean() - exact) < 5 * error  # fails once in a million seeds
    means = [iwae(array[:k]).mean() for k in (1, 2, 5, 10)]
    assert means == sorted(means)
    assert means[-1] < evidence


# Gradients


@differentiated
def test_gradient_of_iwae_is_the_normalized_weights(library):
    array = draw(7, 4)
    _, gradient = value_and_grad(library, iwae, array)
    np.testing.assert_allclose(gradient, scipy.special.softmax(array, 0), rtol=0, atol=1e-14)


@differentiated
@pytest.mark.parametrize("name", POWERS)
def test_gradients_of_power_means_are_tempered_weights(name, library):
    array = draw(7, 4)
    _, gradient = value_and_grad(library, BOUNDS[name], array)
    np.testing.assert_allclose(gradient, scipy.special.softmax(POWERS[name] * array, 0), rtol=0, atol=1e-14)


@differentiated
def test_gradient_of_eubo_goes_through_the_weights(library):
    array = draw(7, 4)
    value, gradient = value_and_grad(library, eubo, array)
    expected = scipy.special.softmax(array, 0) * (1.0 + array - value)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-12)


def test_gradcheck(bound):
    array = torch.tensor(draw(5, 2), requires_grad=True)
    assert torch.autograd.gradcheck(bound, array)
    assert torch.autograd.gradgradcheck(bound, array)


# Extreme weights


@differentiated
def test_huge_weights_in_float32(bound, library):
    array = np.array([[1e4, -1e4, 1e4], [-1e4, -1e4, 1e4], [0.0, -1e4, 1e4]], np.float32)
    value, gradient = value_and_grad(library, bound, array)
    expected = bound(array.astype(np.float64))
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient.sum(0), 1.0, rtol=1e-5)  # since a shift of l shifts the bound
    np.testing.assert_allclose(gradient[:, 1:], 1 / 3, rtol=1e-5)


@differentiated
def test_a_datum_without_weight_has_no_gradient(bound, library):
    array = np.array([[-INF, 1.0], [-INF, 2.0], [-INF, 0.5]])
    value, gradient = value_and_grad(library, bound, array)
    assert value[0] == -INF
    assert (gradient[:, 0] == 0.0).all()
    alone, gradient_alone = value_and_grad(library, bound, array[:, 1:])
    np.testing.assert_allclose(value[1:], alone, rtol=1e-14)
    np.testing.assert_allclose(gradient[:, 1:], gradient_alone, rtol=1e-14)


@differentiated
@pytest.mark.parametrize("name", [name for name in BOUNDS if name not in ("elbo", "renyi 2")])
def test_particles_without_weight_count_as_zero(name, library):
    array = np.array([[-INF, 1.0], [1.0, -INF], [0.5, 2.0]])
    value, gradient = value_and_grad(library, BOUNDS[name], array)
    nearly, nearly_gradient = value_and_grad(library, BOUNDS[name], np.where(array == -INF, -800.0, array))
    np.testing.assert_allclose(value, nearly, rtol=0, atol=1e-14)
    np.testing.assert_allclose(gradient, nearly_gradient, rtol=0, atol=1e-14)
    assert (gradient[array == -INF] == 0.0).all()


@differentiated
def test_one_particle_without_weight_makes_the_elbo_minus_infinite(library):
    value, gradient = value_and_grad(library, elbo, np.array([-INF, 1.0]))
    assert value == -INF
    np.testing.assert_array_equal(gradient, [0.0, 0.5])


@differentiated
def test_one_particle_without_weight_makes_renyi_above_1_minus_infinite(library):
    value, gradient = value_and_grad(library, lambda a: renyi(a, 2.0), np.array([-INF, 1.0]))
    assert value == -INF
    np.testing.assert_array_equal(gradient, [0.0, 0.0])


@differentiated
def test_one_group_without_weight_makes_miwae_minus_infinite(library):
    value, gradient = value_and_grad(library, miwae, np.array([[-INF, -INF], [1.0, 1.0]]))
    assert value == -INF
    np.testing.assert_array_equal(gradient, [[0.0, 0.0], [0.25, 0.25]])


@pytest.mark.parametrize("library", MAKE)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's inf - inf
def test_infinite_weights_show(bound, library):
    value = np.asarray(evaluate(library, bound, np.array([[INF, INF, INF], [1.0, INF, -INF]])))
    assert not (value < INF).any()


@pytest.mark.parametrize("library", MAKE)
@pytest.mark.parametrize("name", [*POWERS, "elbo"])
def test_an_infinite_weight_makes_the_bound_infinite(name, library):
    assert np.asarray(evaluate(library, BOUNDS[name], np.array([INF, 1.0]))) == INF


@pytest.mark.parametrize("library", MAKE)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_nan_shows(bound, library):
    array = np.array([[np.nan, np.nan, np.nan, 1.0], [1.0, -INF, INF, 1.0]])
    value = np.asarray(evaluate(library, bound, array))
    np.testing.assert_array_equal(np.isnan(value), [True, True, True, False])


# Tracing


def test_bounds_can_be_traced_by_torch(bound):
    first, second = torch.tensor(draw(6, 3)), torch.tensor(draw(6, 3, seed=1))
    second[:, 0] = -INF
    torch.testing.assert_close(make_fx(bound)(first)(second), bound(second), rtol=0, atol=0)
    torch.testing.assert_close(torch.func.vmap(bound, in_dims=1)(second), bound(second))


def test_bounds_can_be_traced_by_jax(bound):
    array = jnp.asarray(draw(6, 3)).at[:, 0].set(-INF)
    expected = bound(array)
    np.testing.assert_allclose(jax.jit(bound)(array), expected, rtol=1e-14)
    np.testing.assert_allclose(jax.jit(jax.vmap(bound, in_axes=1))(array), expected, rtol=1e-14)


# Refusals


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: iwae([1.0]), ArgumentTypeError, "`log_weights` must be a torch.Tensor, jax.Array or numpy.ndarray"),
        (
            lambda: iwae(np.array([1, 2])),
            ArgumentTypeError,
            "`log_weights` must have a floating-point dtype, got int64",
        ),
        (
            lambda: elbo(torch.tensor(1.0)),
            ArgumentError,
            "`log_weights` needs the shape [num_particles, ...], got shape []: add the particle axes first",
        ),
        (
            lambda: eubo(np.zeros((0, 4))),
            ArgumentError,
            "`log_weights` needs at least one particle on each axis of ['num_particles'], got shape [0, 4]",
        ),
        (lambda: miwae(np.zeros(4)), ArgumentError, "`log_weights` needs the shape [M, K, ...], got shape [4]"),
        (lambda: miwae(np.zeros((2, 0))), ArgumentError, "at least one particle on each axis of ['M', 'K']"),
        (
            lambda: renyi(np.zeros(3), 1.0),
            ArgumentError,
            "`alpha` must not be 1, where the Rényi bound is defined as its limit: use `elbo` instead",
        ),
        (lambda: renyi(np.zeros(3), np.nan), ArgumentError, "`alpha` must be finite, got nan"),
        (lambda: renyi(np.zeros(3), -INF), ArgumentError, "`alpha` must be finite, got -inf"),
        (
            lambda: renyi(np.zeros(3), torch.tensor(0.5)),
            ArgumentTypeError,
            "`alpha` must be a Python number, got Tensor: pass float(alpha)",
        ),
        (lambda: cubo(np.zeros(3), 0), ArgumentError, "`n` must be positive, got 0: for other orders use `renyi`"),
        (lambda: cubo(np.zeros(3), -1.0), ArgumentError, "`n` must be positive, got -1.0"),
        (lambda: cubo(np.zeros(3), "2"), ArgumentTypeError, "`n` must be a Python number, got str"),
        (lambda: cubo(np.zeros(3), INF), ArgumentError, "`n` must be finite, got inf"),
    ],
)
def test_refusals_say_what_to_do(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert message in str(error.value)
