r"""Kernelised Stein discrepancy: how far samples are from a density that is known up to its constant."""

import math
from typing import Any

import numpy as np

from probgen.core.divergences.arrays import numeric, positive, sample_pair, whole
from probgen.core.divergences.estimate import Estimate, normal_interval
from probgen.core.divergences.kernels import TestResult
from probgen.core.ops import Array
from probgen.errors import ArgumentError, nearest

__all__ = ["stein_discrepancy", "stein_test"]

_ENTRIES = 2**18  # of a block of pairs


def stein_discrepancy(
    x: Array, scores: Array, *, scale: float = 1.0, power: float = -0.5, statistic: str = "u-statistic"
) -> Estimate:
    """Squared kernelised Stein discrepancy of samples of p from a density q, by its score.

    ``E u(x, x')`` with ``u = s·s' k + s·∇'k + s'·∇k + tr ∇∇'k``, ``s = ∇ log q`` and the kernel
    ``k = (scale² + |x - x'|²)^power``. The score does not depend on q's normalising constant. With the default power it
    detects that p does not converge to q, which kernels of lighter tails do not. The U-statistic is unbiased, the
    V-statistic biased up by O(1/n). Blind to the weights of modes far apart, as all that rests on the score.

    Args:
        x: samples of p, shape [n, d] or [n].
        scores: ``∇ log q`` at the samples, same shape.
        scale: of the kernel, in the unit of x.
        power: of the kernel, in (-1, 0).
        statistic: ``"u-statistic"`` or ``"v-statistic"``.

    Returns:
        The estimate, squared; not differentiable.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: different shapes, fewer than four samples, or a kernel that does not exist.
        DataError: an entry that is not finite.

    References:
        Liu, Lee, Jordan, "A Kernelized Stein Discrepancy for Goodness-of-fit Tests", 2016, arXiv 1602.03253.
        Gorham, Mackey, "Measuring Sample Quality with Kernels", 2017, arXiv 1703.01717.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(500, 2))
        >>> good, bad = stein_discrepancy(x, -x), stein_discrepancy(x, -(x - 1.0))
        >>> print(bool(abs(good.value) < 0.05 < bad.value))
        True
    """
    _check_statistic(statistic)
    points, slopes = _points(x, scores)
    n = len(points)
    rows, diagonal = _row_sums(points, slopes, _kernel(scale, power), np.ones((n, 1)))
    sums = rows[:, 0] - diagonal
    unbiased = statistic == "u-statistic"
    value = float(sums.mean() / (n - 1) if unbiased else (sums + diagonal).mean() / n)
    error = math.sqrt(4.0 * (sums / (n - 1)).var(ddof=1) / n)
    interval = normal_interval(value, error, n - 1)
    return Estimate(value, error, interval, "none" if unbiased else "upper", n)


def stein_test(
    x: Array,
    scores: Array,
    *,
    scale: float = 1.0,
    power: float = -0.5,
    num_bootstraps: int = 500,
    seed: int | None = None,
) -> TestResult:
    """Goodness-of-fit test of the hypothesis that independent samples are of q, by a wild bootstrap.

    Compares the V-statistic with ``mean_ij w_i w_j u_ij`` for random signs w; the p-value is right as n grows.

    Args:
        x: samples, shape [n, d] or [n].
        scores: ``∇ log q`` at the samples, same shape.
        scale: as in :func:`stein_discrepancy`.
        power: as in :func:`stein_discrepancy`.
        num_bootstraps: draws of the signs; ``num_permutations`` of the result.
        seed: of the signs; None draws a fresh one.

    Raises:
        ProbgenError: as :func:`stein_discrepancy`.

    References:
        Chwialkowski, Strathmann, Gretton, "A Kernel Test of Goodness of Fit", 2016, arXiv 1602.02964.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(200, 2))
        >>> stein_test(x, -(x - 1.0), seed=0).p_value < 0.01
        True
    """
    points, slopes = _points(x, scores)
    count, n = whole("num_bootstraps", num_bootstraps), len(points)
    signs = np.random.default_rng(seed).integers(0, 2, size=(n, count)) * 2.0 - 1.0
    weights = np.concatenate([np.ones((n, 1)), signs], axis=1)
    products, _ = _row_sums(points, slopes, _kernel(scale, power), weights)
    statistics = (weights * products).sum(0) / n**2
    reached = int((statistics[1:] >= statistics[0]).sum())
    return TestResult(float(statistics[0]), (1 + reached) / (1 + count), count)


def _check_statistic(statistic: str) -> None:
    known = ("u-statistic", "v-statistic")
    if statistic not in known:
        raise ArgumentError(f"`statistic`: {statistic!r} is unknown; {nearest(str(statistic), known)}")


def _points(x: Array, scores: Array) -> tuple[Any, Any]:
    _, first, second = sample_pair(x, scores, at_least=4)
    if first.shape != second.shape:
        raise ArgumentError(f"`scores` must have the shape of `x`, got {list(scores.shape)} and {list(x.shape)}")
    return numeric(first).astype(np.float64), numeric(second).astype(np.float64)


def _kernel(scale: float, power: float) -> tuple[float, float]:
    if not isinstance(power, float) or not -1.0 < power < 0.0:
        raise ArgumentError(f"`power` must be a number between -1 and 0, got {power!r}")
    return positive("scale", scale) ** 2, power


def _row_sums(x: Any, s: Any, kernel: tuple[float, float], weights: Any) -> tuple[Any, Any]:
    """(``sum_j u_ij w_j`` for each column of weights, ``u_ii``), from blocks of rows."""
    n, dim = x.shape
    step = max(1, _ENTRIES // n)
    sums = [_stein(x[i : i + step], s[i : i + step], x, s, kernel) @ weights for i in range(0, n, step)]
    square, power = kernel
    diagonal = (s**2).sum(1) * square**power - 2.0 * power * dim * square ** (power - 1.0)
    return np.concatenate(sums), diagonal


def _stein(x: Any, s: Any, y: Any, t: Any, kernel: tuple[float, float]) -> Any:
    """The kernel u between two samples, shape [n, m]; with b = c² + r², k = b^β."""
    square, power = kernel
    r2 = np.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2.0 * x @ y.T, 0.0)
    base = square + r2
    first = 2.0 * power * base ** (power - 1.0)  # ∇k = first (x - y), ∇'k = -first (x - y)
    along = (t @ x.T).T - (t * y).sum(1) - (s * x).sum(1)[:, None] + s @ y.T  # (s' - s)·(x - y)
    second = 4.0 * power * (power - 1.0) * base ** (power - 2.0) * r2
    return (s @ t.T) * base**power + first * along - first * x.shape[1] - second
