r"""Divergences of two samples by kernels: maximum mean discrepancy and energy distance, with a permutation test.

``MMD² = E k(x, x') + E k(y, y') - 2 E k(x, y)``, squared, of the kernel's own unit. The energy distance is the MMD² of
the kernel ``-|x - y|``. Pairs are formed in blocks: memory grows with n, not with n², as long as no gradient is asked
for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probgen.core.divergences.arrays import like, numeric, positive, sample_pair, whole
from probgen.core.divergences.estimate import Estimate, mean_estimate, normal_interval
from probgen.core.divergences.pairs import (
    Kernel,
    centred,
    cross_sums,
    gaussian,
    negative_distance,
    own_sums,
    squared,
    tiles_of,
    values_of,
)
from probgen.core.ops import Array, Ops, namespace
from probgen.errors import ArgumentError, nearest

__all__ = ["TestResult", "energy_distance", "median_bandwidth", "mmd2", "two_sample_test"]

_STATISTICS = ("u-statistic", "v-statistic", "linear-time")
_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the median, for the multi-scale kernel

Bandwidth = float | Sequence[float] | str


@dataclass(frozen=True)
class TestResult:
    """A test of the hypothesis that two distributions are equal.

    Attributes:
        statistic: its value on the data.
        p_value: at most a with probability at most a under the hypothesis, for every a and n.
        num_permutations: how many random ones the value was compared with.
    """

    __test__ = False  # for pytest, which takes the name for a test

    statistic: float
    p_value: float
    num_permutations: int


def mmd2(x: Array, y: Array, *, bandwidth: Bandwidth = "median", statistic: str = "u-statistic") -> Estimate:
    """Squared maximum mean discrepancy with the kernel ``mean_s exp(-|x - y|² / (2 s²))``.

    The U-statistic is unbiased (and may be negative), the V-statistic is biased up by O(1/n) and never negative, the
    linear-time one is unbiased, of larger error, from n/2 disjoint pairs. The standard error is that of the first-order
    term, which vanishes as p = q: test with :func:`two_sample_test`. A bandwidth chosen from the data makes the
    estimate one for the kernel with this bandwidth.

    Args:
        x: samples of p, shape [n, d] or [n].
        y: samples of q, shape [m, d] or [m]; n must be m for the linear-time statistic.
        bandwidth: ``"median"`` (of the distances between all samples), ``"multi-scale"`` (¼, ½, 1, 2 and 4 medians), a
            number, or several, over which the kernel is averaged.
        statistic: ``"u-statistic"``, ``"v-statistic"`` or ``"linear-time"``.

    Returns:
        The estimate; its value is differentiable in x and y (at a constant bandwidth), with memory in n m.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: different dimensions, too few samples, unknown names, or a bandwidth that is not positive.
        DataError: an entry that is not finite.

    References:
        Gretton, Borgwardt, Rasch, Schölkopf, Smola, "A Kernel Two-Sample Test", 2012, JMLR 13.

    Example:
        >>> import numpy as np
        >>> x, y = np.random.default_rng(0).normal(size=(2, 500, 2))
        >>> estimate = mmd2(x, y + 1.0, bandwidth=1.0)
        >>> truth = 2 / 3 * (1 - np.exp(-1 / 3))  # 2 (1 + 2 / s²)^(-d/2) (1 - exp(-|Δ|² / (2 (s² + 2))))
        >>> print(abs(estimate.value - truth) < 3 * estimate.standard_error)
        True
    """
    xp, first, second = sample_pair(x, y, at_least=4)
    if statistic not in _STATISTICS:
        raise ArgumentError(f"`statistic`: {statistic!r} is unknown; {nearest(str(statistic), _STATISTICS)}")
    kernel = gaussian(_bandwidths(first, second, bandwidth))
    if statistic == "linear-time":
        return _linear_time(xp, first, second, kernel)
    return _discrepancy(xp, first, second, kernel, unbiased=statistic == "u-statistic")


def energy_distance(x: Array, y: Array, *, statistic: str = "u-statistic") -> Estimate:
    """Energy distance ``2 E|x - y| - E|x - x'| - E|y - y'|`` in the unit of the data (scipy's is its square root).

    Zero only for equal distributions with finite means; no kernel is to be chosen. Statistics and error as in
    :func:`mmd2`.

    Args:
        x: samples of p, shape [n, d] or [n].
        y: samples of q, shape [m, d] or [m].
        statistic: ``"u-statistic"``, ``"v-statistic"`` or ``"linear-time"``.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: different dimensions, too few samples, or an unknown name.
        DataError: an entry that is not finite.

    References:
        Székely, Rizzo, "Energy statistics: A class of statistics based on distances", 2013.

    Example:
        >>> import numpy as np
        >>> x = np.array([0.0, 0.0, 0.0, 0.0])
        >>> print(energy_distance(x, x + 1.0).value)
        2.0
    """
    xp, first, second = sample_pair(x, y, at_least=4)
    if statistic not in _STATISTICS:
        raise ArgumentError(f"`statistic`: {statistic!r} is unknown; {nearest(str(statistic), _STATISTICS)}")
    if statistic == "linear-time":
        return _linear_time(xp, first, second, negative_distance)
    return _discrepancy(xp, first, second, negative_distance, unbiased=statistic == "u-statistic")


def two_sample_test(
    x: Array,
    y: Array,
    *,
    kind: str = "mmd2",
    bandwidth: Bandwidth = "median",
    num_permutations: int = 200,
    seed: int | None = None,
) -> TestResult:
    """Permutation test of the hypothesis p = q by the U-statistic of the MMD² or of the energy distance.

    Under the hypothesis the p-value ``(1 + #{permuted >= observed}) / (1 + num_permutations)`` is exact for every n,
    also with the median bandwidth, which does not depend on the labels.

    Args:
        x: samples of p, shape [n, d] or [n].
        y: samples of q, shape [m, d] or [m].
        kind: ``"mmd2"`` or ``"energy"``.
        bandwidth: as in :func:`mmd2`.
        num_permutations: random permutations; the p-value is at least ``1 / (1 + num_permutations)``.
        seed: of the permutations; None draws a fresh one.

    Raises:
        ProbgenError: as :func:`mmd2`.

    References:
        Phipson, Smyth, "Permutation p-values should never be zero", 2010, arXiv 1603.05766.

    Example:
        >>> import numpy as np
        >>> x, y = np.random.default_rng(0).normal(size=(2, 50, 2))
        >>> two_sample_test(x, y + 2.0, seed=0).p_value < 0.01
        True
    """
    xp, first, second = sample_pair(x, y, at_least=4)
    count = whole("num_permutations", num_permutations)
    kinds = ("mmd2", "energy")
    if kind not in kinds:
        raise ArgumentError(f"`kind`: {kind!r} has no test; {nearest(str(kind), kinds)}")
    kernel = negative_distance if kind == "energy" else gaussian(_bandwidths(first, second, bandwidth))
    pooled = centred(xp, *(xp.stop_gradient(a) for a in (first, second)))
    n, m = first.shape[0], second.shape[0]
    labels = np.zeros((n + m, count + 1))
    labels[:n, 0] = 1.0  # the observed labels come first
    rng = np.random.default_rng(seed)
    for b in range(1, count + 1):
        labels[rng.permutation(n + m)[:n], b] = 1.0
    statistics = _permuted(xp, pooled, kernel, labels, n, m)
    rounding = 1e-9 if str(first.dtype).endswith("float64") else 1e-5
    reached = statistics[1:] >= statistics[0] - rounding * (1e-3 + abs(statistics[0]))
    return TestResult(float(statistics[0]), (1 + int(reached.sum())) / (1 + count), count)


def median_bandwidth(x: Array, y: Array, *, at_most: int = 1000) -> float:
    """Median of the distances between all samples of both, from ``at_most`` of each, evenly spaced in their order.

    Args:
        x: shape [n, d] or [n].
        y: shape [m, d] or [m].
        at_most: how many of each are looked at.

    Raises:
        ArgumentError: more than half of the distances are 0; give a number.

    Example:
        >>> import numpy as np
        >>> median_bandwidth(np.array([0.0, 0.0]), np.array([2.0, 2.0]))
        2.0
    """
    _, first, second = sample_pair(x, y)
    parts = [numeric(a)[:: max(1, math.ceil(a.shape[0] / at_most))].astype(np.float64) for a in (first, second)]
    pooled = np.concatenate(parts)
    pooled = pooled - pooled.mean(0)
    squares = squared(namespace(pooled), pooled, pooled)[np.triu_indices(len(pooled), 1)]
    median = math.sqrt(float(np.median(squares)))
    if not median > 0:
        raise ArgumentError("`bandwidth`: the median distance between samples is 0, too many are equal; give a number")
    return median


def _bandwidths(x: Array, y: Array, bandwidth: Bandwidth) -> list[float]:
    if isinstance(bandwidth, str):
        if bandwidth not in ("median", "multi-scale"):
            raise ArgumentError(
                f"`bandwidth`: {bandwidth!r} is unknown; {nearest(bandwidth, ('median', 'multi-scale'))}"
            )
        median = median_bandwidth(x, y)
        return [median] if bandwidth == "median" else [scale * median for scale in _SCALES]
    several = list(bandwidth) if isinstance(bandwidth, Sequence) else [bandwidth]
    if not several:
        raise ArgumentError("`bandwidth` must name at least one, got none")
    return [positive("bandwidth", value) for value in several]


def _discrepancy(xp: Ops, x: Array, y: Array, kernel: Kernel, *, unbiased: bool) -> Estimate:
    n, m = x.shape[0], y.shape[0]
    pooled = centred(xp, x, y)
    x, y = pooled[:n], pooled[n:]
    own_x, own_y = own_sums(xp, x, kernel), own_sums(xp, y, kernel)
    sums_x, sums_y = cross_sums(xp, x, y, kernel)
    to_y, to_x = sums_x / m, sums_y / n
    if unbiased:
        value = xp.mean(own_x) / (n - 1) + xp.mean(own_y) / (m - 1) - xp.mean(to_y) - xp.mean(to_x)
    else:
        diagonal = kernel(xp, x[0, 0] * 0.0)
        value = (xp.mean(own_x) + diagonal) / n + (xp.mean(own_y) + diagonal) / m - xp.mean(to_y) - xp.mean(to_x)
    terms = (2.0 * (own_x / (n - 1) - to_y), 2.0 * (own_y / (m - 1) - to_x))
    error = math.sqrt(sum(_variance(term) / len(term) for term in terms))
    interval = normal_interval(float(xp.stop_gradient(value)), error, min(n, m) - 1)
    return Estimate(value, error, interval, "none" if unbiased else "upper", n)


def _variance(terms: Array) -> float:
    return float(numeric(terms).astype(np.float64).var(ddof=1))


def _linear_time(xp: Ops, x: Array, y: Array, kernel: Kernel) -> Estimate:
    if x.shape[0] != y.shape[0]:
        raise ArgumentError(f"the linear-time statistic pairs the samples: {x.shape[0]} of x and {y.shape[0]} of y")
    pairs = x.shape[0] // 2
    (a, b), (c, d) = ((z[0 : 2 * pairs : 2], z[1 : 2 * pairs : 2]) for z in (x, y))

    def k(left: Array, right: Array) -> Array:
        return kernel(xp, xp.sum((left - right) ** 2, axis=1))

    return mean_estimate(k(a, b) + k(c, d) - k(a, d) - k(b, c))


def _permuted(xp: Ops, pooled: Array, kernel: Kernel, labels: Any, n: int, m: int) -> Any:
    """The U-statistic under every column of labels, from one pass over the pairs."""
    ones = like(np.concatenate([labels, np.ones((n + m, 1))], axis=1), pooled)
    inside, cross, total = np.zeros(labels.shape[1]), np.zeros(labels.shape[1]), 0.0
    tiles = tiles_of(n + m)
    for i, rows in enumerate(tiles):
        products = np.zeros((rows.stop - rows.start, labels.shape[1] + 1))  # K a for each labelling, and K 1
        for j, columns in enumerate(tiles):
            values = values_of(xp, pooled[rows], pooled[columns], kernel, same=i == j)
            products += numeric(values @ ones[columns])
        inside += (labels[rows] * products[:, :-1]).sum(0)
        cross += labels[rows].T @ products[:, -1]
        total += products[:, -1].sum()
    between = cross - inside
    others = total - 2.0 * cross + inside
    return inside / (n * (n - 1)) + others / (m * (m - 1)) - 2.0 * between / (n * m)
