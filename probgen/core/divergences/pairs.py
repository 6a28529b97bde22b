"""Kernels, and their sums over all pairs of samples, in tiles: memory grows with n, not with n²."""

from collections.abc import Callable

import numpy as np

from probgen.core.divergences.arrays import like
from probgen.core.ops import Array, Ops

__all__: list[str] = []  # inside the package alone

_TILE = 1024  # samples on each side of a block of pairs: larger ones leave the cache, and fragment the memory

Kernel = Callable[[Ops, Array], Array]  # of squared distances


def gaussian(bandwidths: list[float]) -> Kernel:
    def kernel(xp: Ops, squares: Array) -> Array:
        total = xp.exp(squares * (-0.5 / bandwidths[0] ** 2))
        for bandwidth in bandwidths[1:]:
            total = total + xp.exp(squares * (-0.5 / bandwidth**2))
        return total / len(bandwidths)

    return kernel


def negative_distance(xp: Ops, squares: Array) -> Array:
    apart = squares > 0
    return -xp.where(apart, xp.where(apart, squares, 1.0) ** 0.5, 0.0)


def squared(xp: Ops, x: Array, y: Array) -> Array:
    """Squared distances [n, m], by one product of matrices; both should be centred."""
    squares = xp.sum(x**2, axis=1)[:, None] + xp.sum(y**2, axis=1)[None, :] - 2.0 * (x @ y.T)
    return xp.where(squares > 0, squares, 0.0)


def centred(xp: Ops, x: Array, y: Array) -> Array:
    """Both samples, one below the other, around their common mean: fewer digits cancel in the distances."""
    pooled = concatenated(x, y)
    return pooled - xp.mean(pooled)


def concatenated(x: Array, y: Array) -> Array:
    """``[x; y]`` in the library of x."""
    if isinstance(x, np.ndarray):
        return np.concatenate([x, y])
    if hasattr(x, "detach"):
        import torch

        return torch.cat([x, y])
    import jax.numpy as jnp

    return jnp.concatenate([x, y])


def tiles_of(count: int) -> list[slice]:
    return [slice(start, min(start + _TILE, count)) for start in range(0, count, _TILE)]


def values_of(xp: Ops, x: Array, y: Array, kernel: Kernel, *, same: bool) -> Array:
    """The kernel between two tiles; 0 on the diagonal where both are the same."""
    values = kernel(xp, squared(xp, x, y))
    return xp.where(like(np.eye(x.shape[0], dtype=bool), x), 0.0, values) if same else values


def own_sums(xp: Ops, x: Array, kernel: Kernel) -> Array:
    """``sum_(j != i) k(x_i, x_j)``, shape [n], from the tiles on one side of the diagonal."""
    tiles = tiles_of(x.shape[0])
    sums: list[Array] = [0.0] * len(tiles)
    for i, rows in enumerate(tiles):
        for j, columns in enumerate(tiles[i:], i):
            values = values_of(xp, x[rows], x[columns], kernel, same=i == j)
            sums[i] = sums[i] + xp.sum(values, axis=1)
            if i != j:
                sums[j] = sums[j] + xp.sum(values, axis=0)
    return joined(sums)


def cross_sums(xp: Ops, x: Array, y: Array, kernel: Kernel) -> tuple[Array, Array]:
    """(``sum_j k(x_i, y_j)``, shape [n]; ``sum_i k(x_i, y_j)``, shape [m])."""
    tiles = tiles_of(x.shape[0]), tiles_of(y.shape[0])
    sums: tuple[list[Array], list[Array]] = ([0.0] * len(tiles[0]), [0.0] * len(tiles[1]))
    for i, rows in enumerate(tiles[0]):
        for j, columns in enumerate(tiles[1]):
            values = values_of(xp, x[rows], y[columns], kernel, same=False)
            sums[0][i] = sums[0][i] + xp.sum(values, axis=1)
            sums[1][j] = sums[1][j] + xp.sum(values, axis=0)
    return joined(sums[0]), joined(sums[1])


def joined(parts: list[Array]) -> Array:
    joined = parts[0]
    for part in parts[1:]:
        joined = concatenated(joined, part)
    return joined
