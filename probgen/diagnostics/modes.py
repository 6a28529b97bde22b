"""How many modes of a known mixture are hit, and how many samples lie near one."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from probgen.arguments import positive_float, positive_int
from probgen.core.divergences.arrays import numeric, one_sample
from probgen.core.divergences.estimate import Estimate
from probgen.core.ops import Array
from probgen.diagnostics.manifolds import share
from probgen.errors import ArgumentError, DataError

__all__ = ["ModeCoverage", "mode_coverage"]


@dataclass(frozen=True)
class ModeCoverage:
    """What samples make of a mixture.

    Attributes:
        modes_hit: how many modes have at least so many samples near them.
        num_modes: how many there are.
        high_quality: the share of samples that are near a mode.
        counts: samples near each mode, each counted at its nearest.
        kl: ``KL(counts || weights)`` in nats, 0 where the samples near modes are spread as the mixture's weights; NaN
            where there are none.
    """

    modes_hit: int
    num_modes: int
    high_quality: Estimate
    counts: tuple[int, ...]
    kl: float


def mode_coverage(
    samples: Array, means: Array, scale: Any, *, weights: Any = None, within: float = 3.0, at_least: int = 1
) -> ModeCoverage:
    """Modes hit and the share of high-quality samples, those within three standard deviations of a mode.

    In d dimensions the share of a Gaussian mixture's own samples is the chi² probability of ``within²`` with d degrees
    of freedom (0.989 in two), and not 1.

    Args:
        samples: shape [n, d] or [n].
        means: of the modes, shape [K, d] or [K].
        scale: standard deviation of every mode, one number; or one for each, shape [K]; or covariances [K, d, d].
        weights: of the modes, shape [K], summing to 1; None for equal ones.
        within: standard deviations (Mahalanobis distance) that count as near.
        at_least: samples that make a mode hit.

    Raises:
        ArgumentTypeError: not arrays of floats.
        ArgumentError: shapes that do not fit, or weights that do not sum to 1.
        DataError: an entry that is not finite, or a scale that is not positive.

    References:
        Srivastava, Valkov, Russell, Gutmann, Sutton, "VEEGAN: Reducing Mode Collapse in GANs using Implicit Variational
        Learning", 2017, arXiv 1705.07761.

    Example:
        >>> import numpy as np
        >>> found = mode_coverage(np.array([0.1, -0.2, 5.0]), np.array([0.0, 10.0]), 0.5)
        >>> print(found.modes_hit, found.num_modes, round(found.high_quality.value, 3), found.counts)
        1 2 0.667 (2, 0)
    """
    x = numeric(one_sample("samples", samples, at_least=1)).astype(np.float64)
    centers = numeric(one_sample("means", means, at_least=1)).astype(np.float64)
    if x.shape[1] != centers.shape[1]:
        raise ArgumentError(
            f"`samples` and `means` must have one dimension, got {x.shape[1]} (shape {list(samples.shape)}) and "
            f"{centers.shape[1]} (shape {list(means.shape)})"
        )
    reach, fewest = positive_float("within", within), positive_int("at_least", at_least)
    shares = _weights(weights, len(centers))
    factors = _factors(scale, *centers.shape)
    distances = np.stack([_distances(x, *pair) for pair in zip(centers, factors, strict=True)])  # [K, n]
    near = distances.min(0) <= reach
    counts = np.bincount(distances.argmin(0)[near], minlength=len(centers))
    return ModeCoverage(
        int((counts >= fewest).sum()), len(centers), share(near), tuple(map(int, counts)), _kl(counts, shares)
    )


def _distances(x: Any, center: Any, factor: Any) -> Any:
    """Mahalanobis distances, from a lower factor of the covariance."""
    from scipy.linalg import solve_triangular  # late: an import of some milliseconds

    return np.linalg.norm(solve_triangular(factor, (x - center).T, lower=True), axis=0)


def _factors(scale: Any, count: int, dim: int) -> Any:
    """Lower factors of the covariances, shape [K, d, d]."""
    values = np.asarray(numeric(scale) if hasattr(scale, "dtype") else scale, dtype=np.float64)
    if values.shape not in ((), (count,), (count, dim, dim)):
        raise ArgumentError(
            f"`scale` must be a number or have the shape [{count}] or [{count}, {dim}, {dim}], got {list(values.shape)}"
        )
    if values.ndim < 3:
        if not bool(((values > 0) & (values < math.inf)).all()):
            raise DataError(f"`scale` must be finite and above 0, got {scale!r}")
        return np.eye(dim) * np.broadcast_to(values, (count,))[:, None, None]
    try:
        return np.linalg.cholesky(values)
    except np.linalg.LinAlgError:
        raise DataError("`scale` must hold positive definite covariances, and one is not") from None


def _weights(weights: Any, count: int) -> Any:
    if weights is None:
        return np.full(count, 1.0 / count)
    values = np.asarray(numeric(weights) if hasattr(weights, "dtype") else weights, dtype=np.float64)
    if values.shape != (count,) or not bool((values > 0).all()) or not abs(values.sum() - 1.0) < 1e-5:
        raise ArgumentError(f"`weights` must be {count} numbers above 0 with the sum 1, got {weights!r}")
    return values


def _kl(counts: Any, weights: Any) -> float:
    total = counts.sum()
    if total == 0:
        return math.nan
    seen = counts > 0
    shares = counts[seen] / total
    return max(0.0, float((shares * np.log(shares / weights[seen])).sum()))
