"""The JAX side of the shim; :class:`probgen.core.ops.Ops` says what each function does."""

from typing import Any

import jax
import jax.numpy as jnp

exp = jnp.exp
expm1 = jnp.expm1
log = jnp.log
log1p = jnp.log1p
where = jnp.where
stop_gradient = jax.lax.stop_gradient


def sum(array: jax.Array, axis: int = 0) -> jax.Array:
    return array.sum(axis)


def mean(array: jax.Array, axis: int = 0) -> jax.Array:
    return array.mean(axis)


def max(array: jax.Array, axis: int = 0) -> jax.Array:
    return array.max(axis)


def logsumexp(array: jax.Array, axis: int = 0) -> jax.Array:
    return jax.nn.logsumexp(array, axis)


def softmax(array: jax.Array, axis: int = 0) -> jax.Array:
    return jax.nn.softmax(array, axis)


def largest(array: jax.Array, count: int) -> jax.Array:
    values, _ = jax.lax.top_k(jnp.moveaxis(array, 0, -1), count)  # [..., count], descending
    return jnp.moveaxis(values, -1, 0)[::-1]


def stack(arrays: list[jax.Array]) -> jax.Array:
    return jnp.stack(arrays)


def arange(count: int, like: jax.Array) -> jax.Array:
    return jnp.arange(count, dtype=like.dtype)


def double(array: jax.Array) -> jax.Array:
    return array.astype(jnp.result_type(float))


def cast(array: jax.Array, like: jax.Array) -> jax.Array:
    return array.astype(like.dtype)


def is_floating(array: jax.Array) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def limits(array: jax.Array) -> tuple[float, float]:
    finfo: Any = jnp.finfo  # not typed in JAX
    info = finfo(array.dtype)
    return float(info.eps), float(info.tiny)
