"""Distances of feature sets by their moments and by a polynomial kernel: FID and KID on any features."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from probgen.arguments import positive_int
from probgen.core.divergences.arrays import numeric
from probgen.core.divergences.estimate import Estimate, normal_interval
from probgen.core.divergences.pairs import joined, tiles_of
from probgen.core.ops import Array, Ops, namespace
from probgen.diagnostics.features import Features, pair_of_features
from probgen.divergences import divergence

__all__ = ["frechet", "kid"]


def frechet(real: Array, generated: Array, *, features: Features | None = None) -> Estimate:
    """Fréchet distance ``|μ - ν|² + tr(Σ + Τ - 2 (Σ^½ Τ Σ^½)^½)`` of the features' moments, not a root: FID.

    Zero if both have the same mean and covariance, whatever else differs. Biased upwards as O(1/n), more with more
    features: compare at one n. The standard error is a jackknife's, over 16 groups.

    Args:
        real: shape [n, ...].
        generated: shape [m, ...].
        features: from a block of data to [b, f]; None for the data themselves.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: different dimensions, or fewer than 4 of either.
        DataError: an entry that is not finite.

    References:
        Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, "GANs Trained by a Two Time-Scale Update Rule Converge to a
        Local Nash Equilibrium", 2017, arXiv 1706.08500.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(500, 2))
        >>> print(frechet(x, x + [3.0, 4.0]).value.round(6))
        25.0
    """
    x, y = pair_of_features(real, generated, features, at_least=4)
    found = divergence(x, y, kind="frechet")
    if min(x.shape[0], y.shape[0]) > x.shape[1]:
        return found
    return replace(found, note=f"no more samples than the {x.shape[1]} features: singular covariances, a large bias")


def kid(real: Array, generated: Array, *, features: Features | None = None, degree: int = 3) -> Estimate:
    """Kernel distance KID: the unbiased MMD² of the kernel ``(x · y / f + 1)^degree`` of f features; may be negative.

    The U-statistic over all pairs, of which the mean over random subsets is a noisy version. The standard error is that
    of the first-order term, which vanishes as the two distributions get equal. A polynomial has heavy tails: on a
    hundred samples the interval covers some 85 %, not 95 %.

    Args:
        real: shape [n, ...].
        generated: shape [m, ...].
        features: from a block of data to [b, f]; None for the data themselves.
        degree: of the polynomial: it compares moments up to this one.

    Returns:
        The estimate; its value is differentiable, with memory in n m.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: different dimensions, fewer than 4 of either, or a degree below 1.
        DataError: an entry that is not finite.

    References:
        Bińkowski, Sutherland, Arbel, Gretton, "Demystifying MMD GANs", 2018, arXiv 1801.01401.

    Example:
        >>> import numpy as np
        >>> x, y = np.random.default_rng(0).normal(size=(2, 500, 2))
        >>> estimate = kid(x, y + 1.0)
        >>> print(bool(estimate.interval[0] > 0), estimate.bias)
        True none
    """
    power = positive_int("degree", degree)
    x, y = pair_of_features(real, generated, features, at_least=4)
    xp, n, m = namespace(x), x.shape[0], y.shape[0]

    def kernel(inner: Array) -> Array:
        return (inner / x.shape[1] + 1.0) ** power

    own_x, own_y = (_row_sums(xp, a, a, kernel) - kernel(xp.sum(a * a, axis=1)) for a in (x, y))
    to_y, to_x = _row_sums(xp, x, y, kernel) / m, _row_sums(xp, y, x, kernel) / n
    value = xp.mean(own_x) / (n - 1) + xp.mean(own_y) / (m - 1) - xp.mean(to_y) - xp.mean(to_x)
    influences = (2.0 * (own_x / (n - 1) - to_y), 2.0 * (own_y / (m - 1) - to_x))
    error = math.sqrt(sum(float(numeric(a).astype(np.float64).var(ddof=1)) / len(a) for a in influences))
    number = float(xp.stop_gradient(value))
    return Estimate(value, error, normal_interval(number, error, min(n, m) - 1), "none", n)


def _row_sums(xp: Ops, x: Array, y: Array, kernel: Callable[[Array], Array]) -> Array:
    """``sum_j k(x_i, y_j)``, shape [n], in tiles."""
    return joined(
        [
            sum((xp.sum(kernel(x[rows] @ y[columns].T), axis=1) for columns in tiles_of(y.shape[0])), 0.0)
            for rows in tiles_of(x.shape[0])
        ]
    )
