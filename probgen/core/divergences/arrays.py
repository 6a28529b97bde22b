"""Array functions beyond :mod:`probgen.core.ops` that divergences of samples need, and the checks of samples."""

import math
import operator
from typing import Any

import numpy as np

from probgen.core.ops import Array, Ops, namespace
from probgen.errors import ArgumentError, ArgumentTypeError, DataError

__all__: list[str] = []  # inside the package alone


def library(array: Array) -> str:
    """``torch``, ``jax`` or ``numpy``."""
    side: Any = namespace(array)  # a module
    return str(side.__name__.rpartition("_")[2])


def linalg(array: Array) -> Any:
    """The module ``linalg`` of the array's library; all three have cholesky, eigh, slogdet and solve."""
    kind = library(array)
    if kind == "torch":
        import torch

        return torch.linalg
    if kind == "jax":
        import jax.numpy as jnp

        return jnp.linalg
    return np.linalg


def sort(array: Array) -> Array:
    """Ascending along axis 0; differentiable."""
    kind = library(array)
    if kind == "torch":
        return array.sort(dim=0).values
    return np.sort(array, axis=0) if kind == "numpy" else array.sort(axis=0)


def numeric(array: Array) -> Any:
    """The values as a NumPy array, constant to differentiation; under ``jax.grad`` too, not under ``jax.jit``."""
    constant = namespace(array).stop_gradient(array)
    return constant.cpu().numpy() if library(array) == "torch" else np.asarray(constant)


def like(values: Any, array: Array) -> Array:
    """NumPy values as an array of another one's library and device, and of its dtype where they are floats."""
    kind = library(array)
    values = np.asarray(values)
    floats = values.dtype.kind == "f"
    if kind == "torch":
        import torch

        return torch.as_tensor(values, dtype=array.dtype if floats else None, device=array.device)
    if kind == "jax":
        import jax.numpy as jnp

        return jnp.asarray(values, dtype=array.dtype if floats else None)
    return values.astype(array.dtype) if floats else values


def sample_pair(x: Array, y: Array, *, at_least: int = 2) -> tuple[Ops, Array, Array]:
    """Two samples of one library and dimension as arrays [n, d] and [m, d].

    Raises:
        ArgumentTypeError: not arrays of floats, or arrays of two libraries or dtypes.
        ArgumentError: other than one or two axes, different dimensions, or too few samples.
        DataError: an entry is not finite.
    """
    xp = namespace(x=x, y=y)
    first, second = one_sample("x", x, at_least=at_least), one_sample("y", y, at_least=at_least)
    if x.dtype != y.dtype:
        raise ArgumentTypeError(f"`x` and `y` must have one dtype, got {x.dtype} and {y.dtype}: convert one of them")
    if first.shape[1] != second.shape[1]:
        raise ArgumentError(
            f"`x` and `y` must have one dimension, got {first.shape[1]} (shape {list(x.shape)}) and {second.shape[1]} "
            f"(shape {list(y.shape)})"
        )
    return xp, first, second


def one_sample(name: str, x: Array, *, at_least: int = 2) -> Array:
    """A sample as an array [n, d]; one axis stands for d = 1."""
    xp = namespace(**{name: x})
    if not xp.is_floating(x):
        raise ArgumentTypeError(f"`{name}` must have a floating-point dtype, got {x.dtype}: convert it")
    if x.ndim not in (1, 2) or 0 in tuple(x.shape)[1:]:
        raise ArgumentError(f"`{name}` must have the shape [n, d] or [n], got {list(x.shape)}: flatten each datum")
    if x.shape[0] < at_least:
        raise ArgumentError(f"`{name}` has {x.shape[0]} samples, and this method needs at least {at_least}")
    refuse_nonfinite(name, x)
    return x[:, None] if x.ndim == 1 else x


def refuse_nonfinite(name: str, x: Array) -> None:
    """Raises a DataError with the first entry that is NaN or infinite."""
    xp = namespace(x)
    bad = ~(abs(xp.stop_gradient(x)) < math.inf)
    if bool(bad.any()):
        index = [int(i) for i in np.argwhere(numeric(bad))[0]]
        raise DataError(f"`{name}` must be finite, got {float(x[tuple(index)])} at index {index}")


def whole(name: str, value: Any, *, at_least: int = 1) -> int:
    """A whole number of at least ``at_least``, or an ArgumentError."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < at_least:
        raise ArgumentError(f"`{name}` must be a whole number of at least {at_least}, got {value!r}")
    return operator.index(value)


def positive(name: str, value: Any) -> float:
    """A finite number above 0, or an ArgumentError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ArgumentError(f"`{name}` must be a finite number above 0, got {value!r}")
    return float(value)
