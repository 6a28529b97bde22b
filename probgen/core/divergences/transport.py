r"""Wasserstein distances of two samples: exact in one dimension by quantiles, sliced, max-sliced, and exact by POT.

``W_p = (inf over plans of E|x - y|^p)^(1/p)``, not raised to the power p, in the unit of the data. For POT's ``emd2``
and the Fréchet distance, which are squared, take the square.
"""

import math
from typing import Any

import numpy as np

from probgen.core.divergences.arrays import like, numeric, sample_pair, sort, whole
from probgen.core.divergences.estimate import Estimate, normal_interval
from probgen.core.ops import Array, Ops, namespace
from probgen.errors import ArgumentError, DataError, MissingExtra

__all__ = ["max_sliced_wasserstein", "sliced_wasserstein", "wasserstein_1d", "wasserstein_exact"]

_ENTRIES = 2**22


def wasserstein_1d(x: Array, y: Array, *, p: int = 1) -> Estimate:
    """``W_p`` of two samples in one dimension: ``(∫_0^1 |F⁻¹(u) - G⁻¹(u)|^p du)^(1/p)``, by sorting.

    Exact for the two empirical distributions, of any sizes. For those that they are of it is biased up, as O(n^(-1/2))
    if they are equal, else as O(1/n) or near. The standard error is that of the dual potentials (delta method); it does
    not hold where p = q.

    Args:
        x: samples of p, shape [n] or [n, 1].
        y: samples of q, shape [m] or [m, 1].
        p: 1 or 2.

    Returns:
        The estimate; differentiable where it is not 0.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: more than one dimension, fewer than two samples, or another p.
        DataError: an entry that is not finite.

    References:
        del Barrio, Gordaliza, Loubes, "A central limit theorem for L_p transportation cost on the real line", 2019,
        arXiv 1807.06796.

    Example:
        >>> import numpy as np
        >>> print(wasserstein_1d(np.array([0.0, 1.0]), np.array([3.0, 5.0]), p=2).value.round(6))
        3.535534
    """
    xp, first, second = sample_pair(x, y)
    if first.shape[1] != 1:
        raise ArgumentError(f"`wasserstein_1d` needs one dimension, got {first.shape[1]}: use `sliced_wasserstein`")
    _check_power(p)
    value = _powers(xp, first, second, p)[0]
    potentials = _mean_potentials(numeric(first), numeric(second), p)
    return _estimate(value, _spread(potentials), p, min(first.shape[0], second.shape[0]) - 1, first.shape[0])


def sliced_wasserstein(
    x: Array, y: Array, *, p: int = 2, num_projections: int = 50, seed: int | None = None
) -> Estimate:
    """Sliced Wasserstein distance: ``(mean over directions θ of W_p(θ·x, θ·y)^p)^(1/p)``.

    Directions are uniform on the sphere. At most ``W_p``; no rescaling with the dimension is done. Biased up as
    :func:`wasserstein_1d`, whatever the dimension. The standard error has both parts: samples and directions.

    Args:
        x: samples of p, shape [n, d].
        y: samples of q, shape [m, d].
        p: 1 or 2.
        num_projections: how many directions.
        seed: of the directions; None draws fresh ones.

    Returns:
        The estimate; differentiable where it is not 0.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: different dimensions, fewer than two samples, or another p.
        DataError: an entry that is not finite.

    References:
        Bonneel, Rabin, Peyré, Pfister, "Sliced and Radon Wasserstein Barycenters of Measures", 2015.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(1000, 3))
        >>> print(abs(sliced_wasserstein(x, x + 1.0, seed=0).value - 1.0) < 0.3)  # a shift by δ: |δ| / √d
        True
    """
    xp, first, second = sample_pair(x, y)
    _check_power(p)
    directions = _directions(first, whole("num_projections", num_projections), seed)  # [d, L]
    step = max(1, _ENTRIES // (first.shape[0] + second.shape[0]))
    powers, potentials = [], [np.zeros(first.shape[0]), np.zeros(second.shape[0])]
    for start in range(0, num_projections, step):
        block = directions[:, start : start + step]
        left, right = first @ block, second @ block
        part = _powers(xp, left, right, p)
        powers += [part[i] for i in range(part.shape[0])]
        for total, values in zip(potentials, _mean_potentials(numeric(left), numeric(right), p), strict=True):
            total += values * block.shape[1] / num_projections
    values = xp.stack(powers)
    between = numeric(values).astype(np.float64).var(ddof=1) / num_projections if num_projections > 1 else 0.0
    if first.shape[1] == 1:
        between = 0.0
    return _estimate(xp.mean(values), _spread(potentials) + between, p, first.shape[0] - 1, first.shape[0])


def max_sliced_wasserstein(
    x: Array, y: Array, *, p: int = 2, num_starts: int = 10, num_steps: int = 50, seed: int | None = None
) -> Estimate:
    """Max-sliced Wasserstein distance: the largest ``W_p(θ·x, θ·y)`` over directions θ.

    Ascends from random directions by ``θ <- sum_i w_i |t_i|^(p-1) sign(t_i) (x_i - y_σ(i))``, normalised, with t the
    differences of matched projections. The best direction found is at most the largest one of these samples; that one
    is itself biased up, as O((d/n)^(1/2)), since it is chosen on the samples.

    Args:
        x: samples of p, shape [n, d].
        y: samples of q, shape [m, d].
        p: 1 or 2.
        num_starts: random starting directions, besides the difference of the means.
        num_steps: of the ascent.
        seed: of the directions; None draws fresh ones.

    Returns:
        The estimate, with the standard error at the direction found; differentiable there (by the envelope theorem).

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: different dimensions, fewer than two samples, or another p.
        DataError: an entry that is not finite.

    References:
        Deshpande et al., "Max-Sliced Wasserstein Distance and its use for GANs", 2019, arXiv 1904.05877.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(200, 3))
        >>> print(max_sliced_wasserstein(x, x + np.array([3.0, 4.0, 0.0]), seed=0).value.round(6))
        5.0
    """
    xp, first, second = sample_pair(x, y)
    _check_power(p)
    left, right = numeric(first).astype(np.float64), numeric(second).astype(np.float64)
    directions = _starts(left, right, whole("num_starts", num_starts), seed)
    best, found = -1.0, directions[:, :1]
    for _ in range(whole("num_steps", num_steps)):
        powers, gradients = _ascent(left, right, directions, p)
        if powers.max() > best * (1.0 + 1e-12):
            best, found = float(powers.max()), directions[:, [int(powers.argmax())]]
        elif best >= 0.0 and powers.max() >= best * (1.0 - 1e-12):
            break  # the best direction no longer moves
        directions = gradients / np.maximum(np.linalg.norm(gradients, axis=0), 1e-300)
    direction = like(found, first)
    value = _powers(xp, first @ direction, second @ direction, p)[0]
    potentials = _mean_potentials(left @ found, right @ found, p)
    rate = f"O(({first.shape[1]}/n)^(1/2))"
    return _estimate(value, _spread(potentials), p, first.shape[0] - 1, first.shape[0], rate)


def wasserstein_exact(x: Array, y: Array, *, p: int = 2, max_iterations: int = 10**7) -> Estimate:
    """``W_p`` of two samples in any dimension, exact for the empirical distributions, by POT's network simplex.

    Biased up, as O(n^(-1/d)) for d > 2p; memory in n m, time about in n³. The standard error is that of the dual
    potentials (delta method); it does not hold where p = q.

    Args:
        x: samples of p, shape [n, d] or [n].
        y: samples of q, shape [m, d] or [m].
        p: 1 or 2, the power of the Euclidean distance.
        max_iterations: of the network simplex.

    Returns:
        The estimate; differentiable where it is not 0 (by the plan, which is constant nearby).

    Raises:
        MissingExtra: POT is not installed.
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: different dimensions, fewer than two samples, or another p.
        DataError: an entry that is not finite, or no convergence.

    References:
        Bonneel et al., "Displacement Interpolation Using Lagrangian Mass Transport", 2011; Flamary et al., "POT: Python
        Optimal Transport", 2021, JMLR 22.
    """
    xp, first, second = sample_pair(x, y)
    _check_power(p)
    ot = _pot()
    n, m = first.shape[0], second.shape[0]
    left, right = (numeric(a).astype(np.float64) for a in (first, second))
    cost = np.sqrt(np.maximum(((left[:, None, :] - right[None]) ** 2).sum(-1), 0.0)) ** p if left.size < 2**16 else None
    cost = ot.dist(left, right, metric="euclidean") ** p if cost is None else cost
    plan, log = ot.emd(np.full(n, 1 / n), np.full(m, 1 / m), cost, numItermax=max_iterations, log=True)
    if log["warning"] is not None:
        raise DataError(f"POT did not converge: {log['warning']}; raise `max_iterations` or take fewer samples")
    rows, columns = np.nonzero(plan)
    squares = xp.sum((first[rows] - second[columns]) ** 2, axis=1)
    apart = squares > 0
    costs = squares if p == 2 else xp.where(apart, xp.where(apart, squares, 1.0) ** 0.5, 0.0)
    value = xp.sum(costs * like(plan[rows, columns], first))
    dim = first.shape[1]
    rate = f"O(n^(-1/{dim}))" if dim > 2 * p else "O(n^(-1/2))"
    return _estimate(value, _spread([log["u"], log["v"]]), p, min(n, m) - 1, n, rate)


def _pot() -> Any:
    try:
        import ot
    except ImportError as error:
        raise MissingExtra('exact transport needs POT: pip install "probgen[ot]"') from error
    return ot


def _check_power(p: int) -> None:
    if p not in (1, 2) or isinstance(p, bool):
        raise ArgumentError(f"`p` must be 1 or 2, got {p!r}")


def _coupling(n: int, m: int) -> tuple[Any, Any, Any]:
    """The monotone plan of n and m equal masses: (index in x, index in y, mass), in order, in whole numbers."""
    edges = np.union1d(np.arange(n + 1, dtype=np.int64) * m, np.arange(m + 1, dtype=np.int64) * n)
    return edges[:-1] // m, edges[:-1] // n, np.diff(edges) / (n * m)


def _powers(xp: Ops, x: Array, y: Array, p: int) -> Array:
    """``W_p^p`` of each column, shape [L]."""
    x, y = sort(x), sort(y)
    if x.shape[0] == y.shape[0]:
        return xp.mean(abs(x - y) if p == 1 else (x - y) ** 2)
    i, j, mass = _coupling(x.shape[0], y.shape[0])
    difference = x[i] - y[j]
    return xp.sum((abs(difference) if p == 1 else difference**2) * like(mass, x)[:, None])


def _mean_potentials(x: Any, y: Any, p: int) -> list[Any]:
    """Dual potentials at each sample, mean over the columns: [n] and [m]."""
    orders = x.argsort(0), y.argsort(0)
    values = [np.take_along_axis(a, order, 0).astype(np.float64) for a, order in zip((x, y), orders, strict=True)]
    steps = _sorted_potentials(values[0], values[1], p), _sorted_potentials(values[1], values[0], p)
    means = []
    for order, potential in zip(orders, steps, strict=True):
        scattered = np.empty_like(potential)
        np.put_along_axis(scattered, order, potential, 0)
        means.append(scattered.mean(1))
    return means


def _sorted_potentials(x: Any, y: Any, p: int) -> Any:
    """``f_(i+1) - f_i = c(x_(i+1), y_j) - c(x_i, y_j)`` with the y_j that the monotone plan passes between the two.

    Where the plan steps on in both at once, either y will do; the mean of both is as optimal, and knows no direction.
    """
    n, m = len(x), len(y)
    passed = np.arange(1, n) * m
    partners = y[-(-passed // n) - 1], y[passed // n]  # before and after a common step, else the same
    steps = sum(abs(x[1:] - partner) ** p - abs(x[:-1] - partner) ** p for partner in partners) / 2.0
    return np.concatenate([np.zeros_like(x[:1]), np.cumsum(steps, axis=0)])


def _spread(potentials: Any) -> float:
    """Variance of ``W_p^p``: of the dual potentials over the samples."""
    return float(sum(np.asarray(values).var(ddof=1) / len(values) for values in potentials))


def _estimate(power: Array, variance: float, p: int, freedom: float, n: int, bias: str = "O(n^(-1/2))") -> Estimate:
    """``W_p`` from ``W_p^p``, with the error of the delta method."""
    xp = namespace(power)
    positive = power > 0
    root = power if p == 1 else xp.where(positive, xp.where(positive, power, 1.0) ** 0.5, 0.0 * power)
    number = float(xp.stop_gradient(root))
    error = math.sqrt(variance) / (p * number ** (p - 1)) if number > 0 else math.nan
    low, high = normal_interval(number, error, freedom)
    return Estimate(root, error, (max(0.0, low), high), bias, n)


def _directions(x: Array, count: int, seed: int | None) -> Array:
    draws = np.random.default_rng(seed).normal(size=(x.shape[1], count))
    return like(draws / np.linalg.norm(draws, axis=0), x)


def _starts(x: Any, y: Any, count: int, seed: int | None) -> Any:
    means = x.mean(0) - y.mean(0)
    draws = np.random.default_rng(seed).normal(size=(x.shape[1], count))
    starts = np.concatenate([means[:, None], draws], axis=1) if np.linalg.norm(means) > 0 else draws
    return starts / np.linalg.norm(starts, axis=0)


def _ascent(x: Any, y: Any, directions: Any, p: int) -> tuple[Any, Any]:
    """(``W_p^p`` along each direction, its gradients [d, L] up to a factor)."""
    i, j, mass = _coupling(len(x), len(y))
    left, right = (x @ directions).argsort(0)[i], (y @ directions).argsort(0)[j]  # [pairs, L]
    powers, gradients = [], []
    for column in range(directions.shape[1]):
        difference = x[left[:, column]] - y[right[:, column]]
        t = difference @ directions[:, column]
        powers.append(mass @ abs(t) ** p)
        gradients.append((mass * abs(t) ** (p - 1) * np.sign(t)) @ difference)
    return np.array(powers), np.stack(gradients, axis=1)
