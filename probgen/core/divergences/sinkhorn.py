r"""The Sinkhorn divergence: entropic transport between samples, debiased, in the log domain, with annealing."""

import math
from dataclasses import dataclass

from probgen.core.divergences.arrays import numeric, positive, sample_pair, whole
from probgen.core.divergences.estimate import Estimate, normal_interval
from probgen.core.divergences.kernels import _variance
from probgen.core.divergences.pairs import concatenated, squared
from probgen.core.ops import Array, Ops
from probgen.errors import ArgumentError, DataError

__all__ = ["Potentials", "sinkhorn_divergence", "sinkhorn_potentials"]


_RELAXATION = 1.6  # of the updates near the end: fewer rounds, the same fixed point (Thibault et al., arXiv 1711.01851)


@dataclass(frozen=True)
class Potentials:
    """Dual potentials of the entropic transport between two samples.

    Attributes:
        f: at the x, shape [n].
        g: at the y, shape [m].
        epsilon: the entropy's weight that they are for.
        error: largest change of f in the last round, in units of epsilon or of the largest cost if that is less.
    """

    f: Array
    g: Array
    epsilon: float
    error: float


def sinkhorn_divergence(
    x: Array,
    y: Array,
    *,
    epsilon: float,
    annealing: float = 0.5,
    tolerance: float = 1e-3,
    max_iterations: int = 10_000,
) -> Estimate:
    """Debiased entropic transport cost ``S = OT_ε(x, y) - ½ OT_ε(x, x) - ½ OT_ε(y, y)`` with the cost ``|x - y|²``.

    ``OT_ε = min over plans of E|x - y|² + ε KL(plan || product)``. S is not negative, 0 only for equal empirical
    distributions, and tends to the *squared* W_2 as epsilon tends to 0 and to the squared distance of the means as
    epsilon grows. The cost has no factor ½: an ``epsilon`` here is twice that of ``|x - y|²/2``. Biased in the samples
    as O(1/n) at a given epsilon; the standard error is that of the dual potentials, and does not hold where p = q.

    Args:
        x: samples of p, shape [n, d] or [n].
        y: samples of q, shape [m, d] or [m].
        epsilon: weight of the entropy, in the squared unit of the data.
        annealing: epsilon starts at the largest cost and shrinks by this factor each round; 1 begins at the target.
        tolerance: the rounds end when no potential moves by more than this times epsilon (or the largest cost); the
            plan's marginals are then right to this relative error, gradients to about as much, the value to more.
        max_iterations: of the rounds.

    Returns:
        The estimate; its value has first derivatives in x and y (by the envelope theorem; second ones are not given).
        Memory grows with n m.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: different dimensions, fewer than two samples, or an epsilon that the dtype cannot resolve.
        DataError: an entry that is not finite, or no convergence.

    References:
        Feydy, Séjourné, Vialard, Amari, Trouvé, Peyré, "Interpolating between Optimal Transport and MMD using Sinkhorn
        Divergences", 2019, arXiv 1810.08278.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(50, 2))
        >>> print(sinkhorn_divergence(x, x + np.array([3.0, 4.0]), epsilon=1.0).value.round(4))  # a shift is exact
        25.0
    """
    xp, first, second = sample_pair(x, y)
    n, m = first.shape[0], second.shape[0]
    pooled = concatenated(first, second)
    pooled = pooled - xp.stop_gradient(xp.mean(pooled))
    first, second = pooled[:n], pooled[n:]
    options = _options(epsilon, annealing, tolerance, max_iterations)
    (between, f, g), (own_x, a, _), (own_y, b, _) = (
        _cost(xp, left, right, *options) for left, right in ((first, second), (first, first), (second, second))
    )
    value = between - 0.5 * own_x - 0.5 * own_y
    error = math.sqrt(_variance(f - a) / n + _variance(g - b) / m)
    interval = normal_interval(float(xp.stop_gradient(value)), error, min(n, m) - 1)
    return Estimate(value, error, interval, "O(1/n)", n)


def sinkhorn_potentials(
    x: Array,
    y: Array,
    *,
    epsilon: float,
    annealing: float = 0.5,
    tolerance: float = 1e-3,
    max_iterations: int = 10_000,
) -> Potentials:
    """Dual potentials of ``OT_ε(x, y)`` with the cost ``|x - y|²``.

    The plan is ``exp((f_i + g_j - |x_i - y_j|²) / ε) / (n m)``;
    ``mean f + mean g`` is ``OT_ε`` once they have converged.

    Args:
        x: samples of p, shape [n, d] or [n].
        y: samples of q, shape [m, d] or [m].
        epsilon: as in :func:`sinkhorn_divergence`.
        annealing: as in :func:`sinkhorn_divergence`.
        tolerance: as in :func:`sinkhorn_divergence`.
        max_iterations: as in :func:`sinkhorn_divergence`.

    Raises:
        ProbgenError: as :func:`sinkhorn_divergence`.

    Example:
        >>> import numpy as np
        >>> found = sinkhorn_potentials(np.array([0.0, 1.0]), np.array([2.0, 3.0]), epsilon=0.01)
        >>> print((found.f.mean() + found.g.mean()).round(2))
        4.01
    """
    xp, first, second = sample_pair(x, y)
    costs = squared(xp, *(xp.stop_gradient(a - xp.mean(first)) for a in (first, second)))
    return _solve(xp, costs, *_options(epsilon, annealing, tolerance, max_iterations), same=False)


def _options(
    epsilon: float, annealing: float, tolerance: float, max_iterations: int
) -> tuple[float, float, float, int]:
    if not isinstance(annealing, (int, float)) or not 0 < annealing <= 1:
        raise ArgumentError(f"`annealing` must be a number above 0 and at most 1, got {annealing!r}")
    return (
        positive("epsilon", epsilon),
        float(annealing),
        positive("tolerance", tolerance),
        whole("max_iterations", max_iterations),
    )


def _cost(
    xp: Ops, x: Array, y: Array, epsilon: float, annealing: float, tolerance: float, rounds: int
) -> tuple[Array, Array, Array]:
    """(OT_ε with its gradient, f, g): the dual objective at the potentials, which are constant to differentiation.

    The dual's maximum does not move to first order with its potentials, so that its gradient is the plan's mean of the
    cost's. It is a lower bound of OT_ε also before convergence.
    """
    costs = squared(xp, x, y)
    found = _solve(xp, xp.stop_gradient(costs), epsilon, annealing, tolerance, rounds, same=x is y)
    f, g = found.f, found.g
    densities = xp.exp((f[:, None] + g[None, :] - costs) / epsilon)  # of the plan, against the product
    mass = xp.mean(xp.mean(densities))
    return xp.mean(f) + xp.mean(g) - epsilon * (mass - 1.0), f, g


def _solve(
    xp: Ops, costs: Array, epsilon: float, annealing: float, tolerance: float, rounds: int, *, same: bool
) -> Potentials:
    """Updates of the potentials (in turns; averaged for one sample with itself), from a large epsilon to the target."""
    largest = float(numeric(costs).max())
    _check_resolution(xp, costs, epsilon, largest)
    tolerance = max(tolerance, 8.0 * xp.limits(costs)[0] * max(largest / epsilon, 1.0))
    f, g = xp.mean(costs, axis=1) * 0.0, xp.mean(costs) * 0.0
    current, change = max(epsilon, largest) if annealing < 1 else epsilon, math.inf
    for _ in range(rounds):
        step = _soft_minimum(xp, costs, g, current) - f
        change = float(xp.max(abs(step))) / max(min(current, largest), 1e-300)
        if current == epsilon and change <= tolerance:
            return Potentials(f, g, epsilon, change)
        if same:
            f = g = f + 0.5 * step
        else:
            ahead = _RELAXATION if current == epsilon and change < 1.0 else 1.0
            f = f + ahead * step
            g = g + ahead * (_soft_minimum(xp, costs.T, f, current) - g)
        current = max(epsilon, current * annealing)
    raise DataError(
        f"Sinkhorn's rounds have not converged: the potentials still move by {change:.2g} epsilon after {rounds} "
        "rounds; raise `epsilon`, `tolerance` or `max_iterations`"
    )


def _soft_minimum(xp: Ops, costs: Array, potential: Array, epsilon: float) -> Array:
    """``-ε log mean_j exp((g_j - c_ij) / ε)``, shape [n]."""
    return -epsilon * (xp.logsumexp((potential[None, :] - costs) / epsilon, axis=1) - math.log(costs.shape[1]))


def _check_resolution(xp: Ops, costs: Array, epsilon: float, largest: float) -> None:
    smallest = 1e3 * xp.limits(costs)[0] * largest
    if epsilon < smallest:
        raise ArgumentError(
            f"`epsilon` = {epsilon:.3g} is too small for {costs.dtype}: the costs reach {largest:.3g}, and their "
            f"rounding errors are no longer small beside it; take at least {smallest:.3g}, float64, or exact transport"
        )
