"""Divergences of discrete distributions: exact sums over the categories on the last axis."""

import math
from collections.abc import Callable

from probgen.core.divergences.arrays import numeric
from probgen.core.divergences.densities import check_alpha
from probgen.core.divergences.generators import GENERATORS
from probgen.core.ops import Array, Ops, namespace
from probgen.errors import ArgumentError, ArgumentTypeError, DataError, nearest

__all__ = ["DISCRETE_KINDS", "bernoulli_divergence", "discrete_divergence"]

DISCRETE_KINDS = (*GENERATORS, "renyi")
"""What has an exact sum over categories."""


def discrete_divergence(p: Array, q: Array, kind: str = "kl", *, alpha: float | None = None) -> Array:
    """A divergence of two categorical distributions, in nats where a logarithm is involved.

    The conventions are those of ``GENERATORS``: Jensen-Shannon is at most log
    2, ``hellinger`` is ``1 - sum √(p q)``, ``chi2`` is ``sum (p - q)² / q``, ``tv`` has the factor ½; ``renyi`` is
    ``log sum p^alpha q^(1 - alpha) / (alpha - 1)``.

    Args:
        p: probabilities, shape [..., k], that sum to one.
        q: probabilities, shape [..., k].
        kind: one of :data:`DISCRETE_KINDS`.
        alpha: order of the Rényi divergence, above 0 and not 1; for no other kind.

    Returns:
        Shape [...], differentiable inside the simplex; inf where the definition is.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: an unknown kind, different shapes, or an alpha that does not fit.
        DataError: a probability that is NaN or negative, or mass that does not sum to one.

    Example:
        >>> import numpy as np
        >>> print(discrete_divergence(np.array([1.0, 0.0]), np.array([0.5, 0.5]), "kl") / np.log(2))
        1.0
    """
    xp = namespace(p=p, q=q)
    if kind not in DISCRETE_KINDS:
        raise ArgumentError(f"`kind`: {kind!r} has no exact sum; {nearest(str(kind), DISCRETE_KINDS)}")
    if (alpha is None) == (kind == "renyi"):
        raise ArgumentError(f"`alpha` belongs to the kind 'renyi', which needs it; got kind {kind!r}, alpha {alpha!r}")
    if p.ndim == 0 or p.shape[-1:] != q.shape[-1:]:
        raise ArgumentError(f"`p` and `q` need one number of categories, got {list(p.shape)} and {list(q.shape)}")
    _check_mass("p", p)
    _check_mass("q", q)
    if alpha is not None:
        return _renyi(xp, p, q, check_alpha(alpha))
    return _SUMS[kind](xp, p, q)


def bernoulli_divergence(p: Array, q: Array, kind: str = "kl", *, alpha: float | None = None) -> Array:
    """A divergence of two Bernoulli distributions: :func:`discrete_divergence` of ``(1 - p, p)``.

    Args:
        p: probability of 1, any shape.
        q: probability of 1, any shape that broadcasts.
        kind: one of :data:`DISCRETE_KINDS`.
        alpha: order of the Rényi divergence.

    Returns:
        Elementwise, shape [...].

    Raises:
        ProbgenError: as :func:`discrete_divergence`.

    Example:
        >>> import numpy as np
        >>> print(bernoulli_divergence(np.array(0.75), np.array(0.5), "tv"))
        0.25
    """
    return discrete_divergence(_both(p), _both(q), kind, alpha=alpha)


def _both(p: Array) -> Array:
    """``(1 - p, p)`` on a new last axis."""
    p = p[..., None]
    xp = namespace(p)
    return xp.where(xp.arange(2, p) > 0, p, 1.0 - p)


def _check_mass(name: str, p: Array) -> None:
    xp = namespace(p)
    if not xp.is_floating(p):
        raise ArgumentTypeError(f"`{name}` must have a floating-point dtype, got {p.dtype}: convert it")
    values = numeric(p)
    if not (values >= 0).all():
        raise DataError(f"`{name}` must hold probabilities, got {values[~(values >= 0)][0]}")
    total = values.sum(-1)
    off = abs(total - 1.0) > math.sqrt(xp.limits(p)[0])
    if off.any():
        raise DataError(f"`{name}` must sum to one over the last axis, got {total[off].flat[0]}: divide by the sum")


def _relative(xp: Ops, p: Array, q: Array) -> Array:
    """``p log(p / q)``, 0 where p is 0, inf where only q is."""
    log_p, log_q = (xp.log(xp.where(a > 0, a, 1.0)) for a in (p, q))
    return xp.where((p > 0) & (q <= 0), math.inf, p * (log_p - log_q))


def _kl(xp: Ops, p: Array, q: Array) -> Array:
    return xp.sum(_relative(xp, p, q), axis=-1)


def _quotient(xp: Ops, above: Array, below: Array) -> Array:
    """``above / below``, 0 where both are 0, inf where only ``below`` is."""
    return xp.where(below > 0, above / xp.where(below > 0, below, 1.0), xp.where(above > 0, math.inf, 0.0))


def _js(xp: Ops, p: Array, q: Array) -> Array:
    middle = 0.5 * (p + q)
    return 0.5 * (_kl(xp, p, middle) + _kl(xp, q, middle))


def _root(xp: Ops, p: Array) -> Array:
    """The square root, with gradient 0 at 0."""
    return xp.where(p > 0, xp.where(p > 0, p, 1.0) ** 0.5, 0.0)


def _renyi(xp: Ops, p: Array, q: Array, alpha: float) -> Array:
    both = (p > 0) & (q > 0)
    log_p, log_q = (xp.log(xp.where(both, a, 1.0)) for a in (p, q))
    terms = xp.where(both, xp.exp(alpha * log_p + (1.0 - alpha) * log_q), 0.0)
    if alpha > 1:
        terms = xp.where((p > 0) & (q <= 0), math.inf, terms)
    total = xp.sum(terms, axis=-1)
    logs = xp.where(total > 0, xp.log(xp.where(total > 0, total, 1.0)), -math.inf)
    return logs / (alpha - 1.0)


_SUMS: dict[str, Callable[[Ops, Array, Array], Array]] = {
    "kl": _kl,
    "reverse-kl": lambda xp, p, q: _kl(xp, q, p),
    "jeffreys": lambda xp, p, q: _kl(xp, p, q) + _kl(xp, q, p),
    "js": _js,
    "chi2": lambda xp, p, q: xp.sum(_quotient(xp, (p - q) ** 2, q), axis=-1),
    "reverse-chi2": lambda xp, p, q: xp.sum(_quotient(xp, (p - q) ** 2, p), axis=-1),
    "hellinger": lambda xp, p, q: 0.5 * xp.sum((_root(xp, p) - _root(xp, q)) ** 2, axis=-1),
    "tv": lambda xp, p, q: 0.5 * xp.sum(abs(p - q), axis=-1),
    "le-cam": lambda xp, p, q: 0.5 * xp.sum(_quotient(xp, (p - q) ** 2, p + q), axis=-1),
}
