r"""Divergences, entropy and mutual information from nearest neighbours among samples.

No density is needed. All are biased, with a rate that worsens with the dimension, and not differentiable; scipy's k-d
trees do the search, which slows beyond some 15 dimensions. Samples must come from densities: ties are refused.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from probgen.core.divergences.arrays import like, numeric, one_sample, sample_pair, whole
from probgen.core.divergences.densities import check_alpha
from probgen.core.divergences.estimate import Estimate, normal_interval
from probgen.core.ops import Array
from probgen.errors import ArgumentError, DataError

__all__ = ["entropy_from_neighbors", "kl_from_neighbors", "mutual_information", "renyi_from_neighbors"]

_BLOCKS = 16  # of which the spread gives an error
_GROUPS = 8  # that a jackknife leaves out


def kl_from_neighbors(x: Array, y: Array, *, k: int = 5) -> Estimate:
    """``KL(p || q)`` from k-th nearest neighbours: ``d/n sum_i log(ν_i / ρ_i) + log(m / (n - 1))``, in nats.

    ρ_i is the distance of x_i to its k-th neighbour among the other x, ν_i among the y. Biased, as O(n^(-1/d)) or
    faster for smooth densities of bounded support, mostly downwards where the tails of p and q differ. The standard
    error adds the spread of the terms over x to that of how often each y is a neighbour.

    Args:
        x: samples of p, shape [n, d] or [n].
        y: samples of q, shape [m, d] or [m].
        k: which neighbour: more of them for less variance and more bias.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: different dimensions, or no more than k samples.
        DataError: an entry that is not finite, or ties.

    References:
        Wang, Kulkarni, Verdú, "Divergence Estimation for Multidimensional Densities via k-Nearest-Neighbor Distances",
        2009, IEEE Transactions on Information Theory 55(5).

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=2000), rng.normal(1.0, 1.0, size=2000)
        >>> print(abs(kl_from_neighbors(x, y).value - 0.5) < 0.1)
        True
    """
    rho, nu, counts = _distances(x, y, k)
    n, m, dim = len(rho), len(counts), _dim(x)
    terms = dim * (np.log(nu) - np.log(rho)) + math.log(m / (n - 1))
    weights = counts * (m / (k * n))  # about p / q at each y
    variance = terms.var(ddof=1) / n + weights.var(ddof=1) / m
    return _estimate(x, float(terms.mean()), math.sqrt(variance), _rate(dim), n)


def renyi_from_neighbors(x: Array, y: Array, alpha: float, *, k: int = 5) -> Estimate:
    """Rényi divergence ``log ∫ p^alpha q^(1 - alpha) / (alpha - 1)`` from k-th nearest neighbours, in nats.

    The integral is the mean over x of ``((n - 1) ρ^d / (m ν^d))^(1 - alpha)`` times
    ``Γ(k)² / (Γ(k - alpha + 1) Γ(k + alpha - 1))``. Biased, as O(n^(-1/d)) or faster.

    Args:
        x: samples of p, shape [n, d] or [n].
        y: samples of q, shape [m, d] or [m].
        alpha: order, above 0, not 1, with ``|alpha - 1| < k``.
        k: which neighbour.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: different dimensions, no more than k samples, or an alpha outside the range.
        DataError: an entry that is not finite, or ties.

    References:
        Póczos, Schneider, "On the Estimation of alpha-Divergences", 2011, AISTATS.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=2000), rng.normal(1.0, 1.0, size=2000)
        >>> print(abs(renyi_from_neighbors(x, y, 0.5).value - 0.25) < 0.06)
        True
    """
    order = check_alpha(alpha)
    if not abs(order - 1.0) < whole("k", k):
        raise ArgumentError(f"`alpha` must be nearer to 1 than `k`, got alpha {alpha} with k {k}: raise k")
    rho, nu, counts = _distances(x, y, k)
    n, m, dim = len(rho), len(counts), _dim(x)
    constant = 2 * math.lgamma(k) - math.lgamma(k - order + 1.0) - math.lgamma(k + order - 1.0)
    logs = (1.0 - order) * (dim * (np.log(rho) - np.log(nu)) + math.log((n - 1) / m)) + constant
    top = logs.max()
    terms = np.exp(logs - top)
    value = (top + math.log(terms.mean())) / (order - 1.0)
    # The y of neighbourhood j enter the mean with the factor (p/q)^alpha (1 - alpha): the influence of its density.
    ratio = (counts * (m / (k * n))) ** order
    weights = ratio / ratio.mean()
    variance = terms.var(ddof=1) / n / terms.mean() ** 2 / (order - 1.0) ** 2 + weights.var(ddof=1) / m
    return _estimate(x, float(value), math.sqrt(variance), _rate(dim), n)


def entropy_from_neighbors(x: Array, *, k: int = 5) -> Estimate:
    """Differential entropy ``-∫ p log p`` by Kozachenko and Leonenko, in nats.

    ``ψ(n) - ψ(k) + log c_d + d/n sum_i log ρ_i`` with the volume c_d of the unit ball. Biased, as O(n^(-1/d)) or
    faster. The standard error is from the spread of up to 16 disjoint blocks; NaN below ``8 (k + 1)`` samples.

    Args:
        x: samples, shape [n, d] or [n].
        k: which neighbour.

    Raises:
        ArgumentTypeError: not an array of floats.
        ArgumentError: no more than k samples.
        DataError: an entry that is not finite, or ties.

    References:
        Kozachenko, Leonenko, "Sample Estimate of the Entropy of a Random Vector", 1987, Problems of Information
        Transmission 23(2).

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).uniform(0.0, 2.0, size=2000)
        >>> print(abs(entropy_from_neighbors(x).value - np.log(2)) < 0.1)
        True
    """
    points = numeric(one_sample("x", x, at_least=whole("k", k) + 1)).astype(np.float64)
    return _with_block_error(x, points, lambda rows: _entropy(points[rows], k), k, _rate(points.shape[1]))


def _entropy(points: Any, k: int) -> float:
    from scipy.special import digamma

    n, dim = points.shape
    rho = _apart(_tree(points).query(points, [k + 1])[0][:, 0], "x")
    volume = 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim + 1.0)
    return float(digamma(n) - digamma(k) + volume + dim * np.log(rho).mean())


def mutual_information(x: Array, y: Array, *, k: int = 5) -> Estimate:
    """Mutual information ``KL(p(x, y) || p(x) p(y))`` by Kraskov, Stögbauer and Grassberger's first estimator, in nats.

    ``ψ(k) + ψ(n) - mean(ψ(n_x + 1) + ψ(n_y + 1))``, where n_x and n_y count the points nearer than the k-th neighbour
    of the joint space (maximum norm) in each margin. The bias vanishes for independent x and y; it is downwards for
    strong dependence, where k must be much smaller than n. The standard error is a
    jackknife's over 8 groups, which repeats the search 8 times and is up to half too large.

    Args:
        x: shape [n, d] or [n].
        y: shape [n, e] or [n], the partner of each x.
        k: which neighbour.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: different numbers of samples, or no more than k of them.
        DataError: an entry that is not finite, or ties.

    References:
        Kraskov, Stögbauer, Grassberger, "Estimating Mutual Information", 2004, arXiv cond-mat/0305641.

    Example:
        >>> import numpy as np
        >>> x, y = np.random.default_rng(0).normal(size=(2, 1000))
        >>> print(abs(mutual_information(x, y).value) < 0.1)
        True
    """
    few = whole("k", k) + 1
    left, right = (numeric(one_sample(name, a, at_least=few)).astype(np.float64) for name, a in (("x", x), ("y", y)))
    if len(left) != len(right):
        raise ArgumentError(f"`x` and `y` must be pairs, got {len(left)} and {len(right)} samples")
    value, n = _information(left, right, k), len(left)
    groups = np.array_split(np.random.default_rng(0).permutation(n), _GROUPS)
    if n - len(groups[0]) <= k:
        return _estimate(x, value, math.nan, "O(n^(-1/2))", n)
    parts = np.array([_information(np.delete(left, rows, 0), np.delete(right, rows, 0), k) for rows in groups])
    return _estimate(x, value, parts.std() * math.sqrt(_GROUPS - 1), "O(n^(-1/2))", n, _GROUPS - 1)


def _information(left: Any, right: Any, k: int) -> float:
    from scipy.special import digamma

    joint = np.concatenate([left, right], axis=1)
    radius = _apart(_tree(joint).query(joint, [k + 1], p=math.inf)[0][:, 0], "(x, y)")
    inside = np.nextafter(radius, 0.0)  # strictly nearer; a point counts itself, which is the + 1 of the formula
    near = [_tree(margin).query_ball_point(margin, inside, p=math.inf, return_length=True) for margin in (left, right)]
    return float(digamma(k) + digamma(len(left)) - (digamma(near[0]) + digamma(near[1])).mean())


def _with_block_error(x: Array, points: Any, estimator: Callable[[Any], float], k: int, bias: str) -> Estimate:
    """The estimate of all points, and its error from that of random blocks of them.

    The terms of neighbouring points depend on each other, so that their spread says too little.
    """
    n = len(points)
    value = estimator(np.arange(n))
    blocks = min(_BLOCKS, n // (4 * (k + 1)))
    if blocks < 2:
        return _estimate(x, value, math.nan, bias, n)
    order = np.random.default_rng(0).permutation(n)
    parts = np.array([estimator(rows) for rows in np.array_split(order, blocks)])
    return _estimate(x, value, parts.std(ddof=1) / math.sqrt(blocks), bias, n, blocks - 1)


def _tree(points: Any) -> Any:
    from scipy.spatial import cKDTree  # late: importing probgen does not load scipy.spatial

    return cKDTree(points)


def _distances(x: Array, y: Array, k: int) -> tuple[Any, Any, Any]:
    """(distance of each x to its k-th x, to its k-th y, how often each y is among the k nearest)."""
    _, first, second = sample_pair(x, y, at_least=whole("k", k) + 1)
    here, there = (numeric(a).astype(np.float64) for a in (first, second))
    rho = _tree(here).query(here, [k + 1])[0][:, 0]
    nu, index = _tree(there).query(here, list(range(1, k + 1)))
    counts = np.bincount(index.ravel(), minlength=len(there))
    return _apart(rho, "x"), _apart(nu[:, -1], "x and y"), counts


def _apart(distances: Any, where: str) -> Any:
    if not (distances > 0).all():
        raise DataError(
            f"{int((distances == 0).sum())} samples of {where} have their neighbours at distance 0: nearest neighbours "
            "need samples of a density, without ties; raise k, or use 'mmd2' or a discrete divergence"
        )
    return distances


def _dim(x: Array) -> int:
    return 1 if x.ndim == 1 else int(x.shape[1])


def _rate(dim: int) -> str:
    return "O(1/n)" if dim == 1 else f"O(n^(-1/{dim}))"


def _estimate(x: Array, value: float, error: float, bias: str, n: int, freedom: int = 0) -> Estimate:
    return Estimate(like(np.float64(value), x), error, normal_interval(value, error, freedom or n - 1), bias, n)
