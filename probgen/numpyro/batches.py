"""Data as JAX arrays, and minibatches as arguments of programs."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from probgen.arguments import positive_int
from probgen.errors import ArgumentTypeError, DataError

Batch = Any  # an array, a tuple of arrays, or a dict of arrays


def as_arrays(data: Any) -> Batch:
    """An array, or a tuple or dict of arrays ``[N, ...]``, on JAX's device.

    Raises:
        ArgumentTypeError: something else.
        DataError: no data, or arrays of different lengths.
    """
    if isinstance(data, Mapping):
        arrays: Batch = {str(name): _array(value) for name, value in data.items()}
    else:
        arrays = tuple(map(_array, data)) if isinstance(data, tuple) else _array(data)
    lengths = {len(leaf) for leaf in jax.tree.leaves(arrays)}
    if len(lengths) != 1:
        raise DataError(f"the arrays of `data` must have one length, got {sorted(lengths) or 'none'}")
    if lengths == {0}:
        raise DataError("`data` is empty: at least one datum is required")
    return arrays


def _array(value: Any) -> Array:
    if not hasattr(value, "__array__") and not isinstance(value, list):
        raise ArgumentTypeError(
            f"`data` must be an array, or a tuple or dict of arrays of equal length, got {type(value).__name__}"
        )
    array = np.asarray(value) if not isinstance(value, jax.Array) else value
    if array.ndim == 0:
        raise DataError("`data` must have a dimension of data, [N, ...], got a number")
    return jnp.asarray(array)


def size_of(batch: Batch) -> int:
    """The number of data."""
    return len(jax.tree.leaves(batch)[0])


def take(batch: Batch, index: Any) -> Batch:
    """The data at an index or a slice."""
    return jax.tree.map(lambda leaf: leaf[index], batch)


def as_call(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of programs: an array -> ``model(b)``, a tuple -> ``model(*b)``, a dict -> ``model(**b)``."""
    if isinstance(batch, dict):
        return (), batch
    return (batch if isinstance(batch, tuple) else (batch,)), {}


def checked_batch_size(batch_size: Any, total: int) -> int:
    """The size of a minibatch, at most all data."""
    return min(positive_int("batch_size", batch_size), total)
