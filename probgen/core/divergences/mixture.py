"""f-divergences from samples of both distributions and both log-densities: sees the mass of either."""

import math

from probgen.core.divergences.densities import _checked, _tails
from probgen.core.divergences.estimate import Estimate, mean_estimate, normal_interval
from probgen.core.divergences.generators import generator
from probgen.core.ops import Array, namespace

__all__ = ["f_from_both"]


def f_from_both(
    log_p_x: Array, log_q_x: Array, log_p_y: Array, log_q_y: Array, kind: str = "js", *, heavy_tails: str = "refuse"
) -> Estimate:
    """``D_f(p || q) = E_m[f(p / q) q / m]`` under the mixture ``m = (p + q) / 2``, half of its samples from each.

    Unbiased for every f, disjoint supports included; for the Jensen-Shannon, Hellinger, total variation and Le Cam
    divergences the terms are bounded, so that no tail can be too heavy.

    Args:
        log_p_x: log p at samples of p, shape [n].
        log_q_x: log q at the same.
        log_p_y: log p at samples of q, shape [m].
        log_q_y: log q at the same.
        kind: one of ``GENERATORS``, where its constant factors are stated.
        heavy_tails: ``"refuse"`` or ``"allow"``.

    Returns:
        The estimate, differentiable in the log-densities at fixed samples; inf where mass that only one has makes it
        so.

    Raises:
        ArgumentTypeError: not arrays of floats.
        ArgumentError: different shapes, fewer than two samples of either, or an unknown kind.
        DataError: NaN, +inf, a sample where its own density is 0, or terms of too heavy a tail.

    Example:
        >>> import numpy as np
        >>> here, nowhere = np.zeros(3), np.full(3, -np.inf)  # disjoint supports
        >>> print(round(float(np.exp(f_from_both(here, nowhere, nowhere, here, "js").value)), 6))
        2.0
    """
    _checked(log_p_x, log_q_x, "p")
    _checked(log_p_y, log_q_y, "q")
    f = generator(kind)
    bounded = math.isfinite(f.lost) and math.isfinite(f.at_zero)
    parts = [_terms(log_p_x, log_q_x, kind), _terms(log_p_y, log_q_y, kind)]
    here, there = (mean_estimate(terms) for terms in parts)
    value = 0.5 * (here.value + there.value)
    if _infinite(parts[0]) or _infinite(parts[1]):
        reason = "a sample of one lies outside the support of the other: the divergence is infinite"
        return Estimate(value, 0.0, (math.inf, math.inf), "none", here.n, reason)
    note = "; ".join(filter(None, (_tails(terms, heavy_tails) for terms in parts if not bounded)))
    error = 0.5 * math.hypot(here.standard_error, there.standard_error)
    xp = namespace(value)
    freedom = min(here.n, there.n) - 1
    return Estimate(value, error, normal_interval(float(xp.stop_gradient(value)), error, freedom), "none", here.n, note)


def _terms(log_p: Array, log_q: Array, kind: str) -> Array:
    """``2 f(r) / (1 + r)``, from the side on which nothing overflows."""
    xp, f = namespace(log_p), generator(kind)
    only_p, only_q = log_q == -math.inf, log_p == -math.inf
    ratio = xp.where(only_p | only_q, 0.0, log_p - xp.where(only_p, 0.0, log_q))
    above = ratio > 0
    high, low = xp.where(above, ratio, 0.0), xp.where(above, 0.0, ratio)
    terms = xp.where(
        above, f.weighted(xp, high) * 2.0 / (1.0 + xp.exp(-high)), f.value(xp, low) * 2.0 / (1.0 + xp.exp(low))
    )
    return xp.where(only_p, 2.0 * f.lost, xp.where(only_q, 2.0 * f.at_zero, terms))


def _infinite(terms: Array) -> bool:
    xp = namespace(terms)
    return float(xp.max(xp.stop_gradient(terms))) == math.inf
