"""Quality and diversity by balls around samples: precision and recall, density and coverage.

Around each sample lies a ball that reaches to its k-th nearest neighbour in its own set. Errors are those of the
shares of samples, given the balls of the other set; what the metrics tend to depends on k and on both numbers of
samples.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from probgen.arguments import positive_int
from probgen.core.divergences.arrays import numeric
from probgen.core.divergences.estimate import Estimate, mean_estimate
from probgen.core.divergences.pairs import squared, tiles_of
from probgen.core.ops import Array, namespace
from probgen.diagnostics.features import Features, pair_of_features

__all__ = ["DensityCoverage", "PrecisionRecall", "density_coverage", "precision_recall"]


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1].

    Attributes:
        precision: of generated data inside the manifold of the real ones: quality.
        recall: of real data inside the manifold of the generated ones: diversity.
    """

    precision: Estimate
    recall: Estimate


@dataclass(frozen=True)
class DensityCoverage:
    """Quality and diversity by balls around real data alone.

    Attributes:
        density: mean number of real balls that a generated datum lies in, over k: 1 for equal distributions, above it
            where generated data crowd the dense regions.
        coverage: share of real balls with a generated datum inside.
    """

    density: Estimate
    coverage: Estimate


def precision_recall(real: Array, generated: Array, *, k: int = 3, features: Features | None = None) -> PrecisionRecall:
    """Improved precision and recall.

    The manifold of a set is the union of the balls around its samples that reach to their k-th neighbour in the set.
    One outlier, with its large ball, may raise either.

    Args:
        real: shape [n, ...].
        generated: shape [m, ...]; m = n is usual, since both shares depend on them.
        k: which neighbour.
        features: from a block of data to [b, f]; None for the data themselves.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: different dimensions, or no more than k of either.
        DataError: an entry that is not finite.

    References:
        Kynkäänniemi, Karras, Laine, Lehtinen, Aila, "Improved Precision and Recall Metric for Assessing Generative
        Models", 2019, arXiv 1904.06991.

    Example:
        >>> import numpy as np
        >>> real, generated = np.array([0.0, 1.0, 2.0, 10.0]), np.array([0.5, 0.6, 0.7, 0.8])  # a collapse
        >>> found = precision_recall(real, generated, k=1)
        >>> print(found.precision.value, found.recall.value)
        1.0 0.0
    """
    x, y, reach = _prepared(real, generated, k, features)
    precise = _counts(x, _radii(x, reach), y) > 0
    recalled = _counts(y, _radii(y, reach), x) > 0
    return PrecisionRecall(share(precise), share(recalled))


def density_coverage(real: Array, generated: Array, *, k: int = 5, features: Features | None = None) -> DensityCoverage:
    """Density and coverage.

    For equal distributions and n = m the expected density is 1 and the expected coverage
    ``1 - (n - 1) ... (n - k) / ((2n - 1) ... (2n - k))``, near ``1 - 2^-k``.

    Args:
        real: shape [n, ...].
        generated: shape [m, ...].
        k: which neighbour.
        features: from a block of data to [b, f]; None for the data themselves.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: different dimensions, or no more than k of either.
        DataError: an entry that is not finite.

    References:
        Naeem, Oh, Uh, Choi, Yoo, "Reliable Fidelity and Diversity Metrics for Generative Models", 2020,
        arXiv 2002.09797.

    Example:
        >>> import numpy as np
        >>> real, generated = np.array([0.0, 1.0, 2.0, 10.0]), np.array([0.5, 0.6, 0.7, 30.0])
        >>> found = density_coverage(real, generated, k=1)
        >>> print(found.density.value, found.coverage.value)
        1.5 0.5
    """
    x, y, reach = _prepared(real, generated, k, features)
    radii = _radii(x, reach)
    return DensityCoverage(mean_estimate(_counts(x, radii, y) / reach), share(nearest_squares(x, y) <= radii))


def share(hits: Any) -> Estimate:
    """The share of true entries, with Wilson's interval, which is not empty at 0 and 1."""
    n, value = len(hits), float(np.mean(hits))
    z2 = 1.959963984540054**2
    center, half = (value + z2 / (2 * n)) / (1 + z2 / n), math.sqrt(z2 * (value * (1 - value) + z2 / (4 * n)) / n)
    low, high = center - half / (1 + z2 / n), center + half / (1 + z2 / n)
    error = math.sqrt(value * (1 - value) / max(n - 1, 1))
    return Estimate(value, error, (min(max(low, 0.0), value), max(min(high, 1.0), value)), "none", n)


def _prepared(real: Array, generated: Array, k: int, features: Features | None) -> tuple[Any, Any, int]:
    reach = positive_int("k", k)
    x, y = points_of(real, generated, features, at_least=reach + 1)
    return x, y, reach


def points_of(real: Array, generated: Array, features: Features | None, *, at_least: int = 2) -> tuple[Any, Any]:
    """Features of both in NumPy's float64, around the mean of the real ones, so that few digits cancel."""
    x, y = (numeric(a).astype(np.float64) for a in pair_of_features(real, generated, features, at_least=at_least))
    center = x.mean(0)
    return x - center, y - center


def _radii(x: Any, k: int) -> Any:
    """Squared distance of each point to its k-th neighbour among the others, shape [n]."""
    xp, found = namespace(x), []
    for rows in tiles_of(len(x)):
        squares = squared(xp, x[rows], x)
        squares[np.arange(len(squares)), np.arange(rows.start, rows.stop)] = math.inf
        found.append(np.partition(squares, k - 1, axis=1)[:, k - 1])
    return np.concatenate(found)


def _counts(centers: Any, radii: Any, points: Any) -> Any:
    """How many balls each point lies in, shape [m]."""
    xp, tiles = namespace(points), tiles_of(len(points))
    return np.concatenate([(squared(xp, points[rows], centers) <= radii).sum(1) for rows in tiles])


def nearest_squares(x: Any, y: Any) -> Any:
    """Squared distance of each x to the nearest y, shape [n]."""
    xp = namespace(x)
    return np.concatenate([squared(xp, x[rows], y).min(1) for rows in tiles_of(len(x))])
