import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import torch

from probgen.core.ops import namespace
from probgen.errors import ArgumentTypeError

MAKE = {"numpy": np.asarray, "torch": torch.as_tensor, "jax": jnp.asarray}

OPERATIONS = {
    "exp": lambda xp, a: xp.exp(a),
    "expm1": lambda xp, a: xp.expm1(a),
    "log": lambda xp, a: xp.log(abs(a)),
    "log1p": lambda xp, a: xp.log1p(abs(a)),
    "where": lambda xp, a: xp.where(a > 0.0, -1.0, a),
    "sum": lambda xp, a: xp.sum(a, axis=1),
    "mean": lambda xp, a: xp.mean(a),
    "max": lambda xp, a: xp.max(a, axis=1),
    "logsumexp": lambda xp, a: xp.logsumexp(a, axis=1),
    "softmax": lambda xp, a: xp.softmax(a),
    "largest": lambda xp, a: xp.largest(a, 3),
    "stack": lambda xp, a: xp.stack([a, 2 * a]),
    "arange": lambda xp, a: xp.arange(4, a),
    "stop_gradient": lambda xp, a: xp.stop_gradient(a),
    "double": lambda xp, a: xp.double(a),
    "cast": lambda xp, a: xp.cast(a > 0.0, a),
}


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=MAKE)
def library(request):
    return request.param


@pytest.mark.parametrize("name", OPERATIONS)
def test_sides_agree(name, library):
    array = np.random.default_rng(0).normal(size=(5, 4))
    expected = OPERATIONS[name](namespace(array), array)
    ours = MAKE[library](array)
    actual = OPERATIONS[name](namespace(ours), ours)
    assert type(actual) is type(ours)
    assert str(actual.dtype).removeprefix("torch.") == "float64"
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "double"])
def test_dtype_is_kept(name, dtype, library):
    array = MAKE[library](np.ones((5, 4), dtype))
    assert str(OPERATIONS[name](namespace(array), array).dtype).removeprefix("torch.") == dtype


@pytest.mark.parametrize(
    "column",
    [[1e4, -1e4, 0.0], [-np.inf, 0.0, 1.0], [-np.inf] * 3, [np.inf, 0.0, 1.0], [np.nan, 0.0, -np.inf]],
    ids=str,
)
def test_logsumexp_is_scipys(column, library):
    array = np.array([column, column]).T
    ours = MAKE[library](array)
    actual = np.asarray(namespace(ours).logsumexp(ours))
    np.testing.assert_allclose(actual, scipy.special.logsumexp(array, axis=0), rtol=1e-15)


def test_softmax_without_weight_is_nan_in_every_library(library):
    array = MAKE[library](np.full((2, 3), -np.inf))
    assert np.isnan(np.asarray(namespace(array).softmax(array))).all()


def test_nan_counts_as_largest(library):
    array = MAKE[library](np.array([1.0, np.nan, np.inf, 3.0]))
    np.testing.assert_array_equal(np.asarray(namespace(array).largest(array, 3)), [3.0, np.inf, np.nan])


@pytest.mark.parametrize(
    ("dtype", "floating"), [("float16", True), ("float32", True), ("int32", False), ("bool", False)]
)
def test_is_floating(dtype, floating, library):
    array = MAKE[library](np.ones(2, dtype))
    assert namespace(array).is_floating(array) is floating


def test_limits(library):
    array = MAKE[library](np.ones(2, np.float32))
    assert namespace(array).limits(array) == (float(np.finfo(np.float32).eps), float(np.finfo(np.float32).tiny))


def test_double_without_x64_is_float32_and_does_not_warn():
    with jax.enable_x64(False):
        array = jnp.ones(2)
        assert namespace(array).double(array).dtype == jnp.float32


def test_numpy_reductions_to_one_number_are_scalars():
    assert isinstance(namespace(np.ones(3)).where(np.float64(1.0) > 0.0, 1.0, 2.0), np.float64)


def test_numpy_scalars_and_tracers_are_arrays():
    assert namespace(np.float64(1.0), np.ones(2)).__name__.endswith("numpy")
    jax.jit(lambda array: namespace(array).sum(array))(jnp.ones(2))
    torch.func.vmap(lambda array: namespace(array).sum(array))(torch.ones(2, 2))


@pytest.mark.parametrize("value", [[1.0, 2.0], 1.0, None, "a"], ids=str)
def test_what_is_no_array_is_refused(value):
    with pytest.raises(ArgumentTypeError) as error:
        namespace(log_weights=value)
    assert str(error.value) == (
        f"`log_weights` must be a torch.Tensor, jax.Array or numpy.ndarray, got {type(value).__name__}: "
        "convert it first, for example with numpy.asarray"
    )


def test_mixed_libraries_are_refused():
    with pytest.raises(ArgumentTypeError) as error:
        namespace(p=torch.ones(2), q=np.ones(2))
    assert str(error.value) == (
        "arrays of one library are needed, got `p` of torch, `q` of numpy: convert them to one library first"
    )
    with pytest.raises(ArgumentTypeError, match="argument 1 of jax, argument 2 of torch"):
        namespace(jnp.ones(2), torch.ones(2))


def test_no_array_at_all_is_refused():
    with pytest.raises(ArgumentTypeError, match="at least one array"):
        namespace()


IMPORTS = {
    "": "torch jax",
    "import numpy; bounds.renyi(numpy.zeros(3), 0.5); weights.effective_sample_size(numpy.zeros(30));": "torch jax",
    "import torch; bounds.renyi(torch.zeros(3), 0.5); weights.effective_sample_size(torch.zeros(30));": "jax",
    "import jax; bounds.renyi(jax.numpy.zeros(3), 0.5); weights.effective_sample_size(jax.numpy.zeros(30));": "torch",
}


@pytest.mark.parametrize(("statement", "absent"), IMPORTS.items())
def test_a_user_of_one_library_never_imports_another(statement, absent):
    script = f"from probgen.core import bounds, weights; {statement} import sys; "
    script += f"sys.exit(' '.join(sorted(set({absent.split()}) & set(sys.modules))) or 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert done.returncode == 0
