r"""The f-divergences ``D_f(p || q) = E_q[f(p / q)]`` by name, each with the convention it follows.

All are in nats where a logarithm is involved. ``f`` is convex with ``f(1) = 0``; with its conjugate ``f*`` any function
T gives the lower bound ``E_p[T] - E_q[f*(T)]``, which is tight at ``T = f'(p / q)``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from probgen.core.ops import Array, Ops, namespace
from probgen.errors import ArgumentError, nearest

__all__ = ["GENERATORS", "Generator", "conjugate", "f_values", "generator"]


@dataclass(frozen=True)
class Generator:
    """One f, as functions of the log-ratio ``s = log p - log q``, of which ``r = e^s``.

    Attributes:
        formula: the divergence that it gives, with its constant factors.
        value: ``(ops, s) -> f(r)``, the terms of ``E_q``.
        weighted: ``(ops, s) -> f(r) / r``, the terms of ``E_p``.
        slope: ``(ops, s) -> f'(r)``, at which the dual bound is tight.
        dual: ``(ops, t) -> f*(t)``, inf outside its domain; None where it has no elementary form.
        lost: what f(r) / r tends to as r grows: mass of p outside the support of q counts so much.
        at_zero: f(0): mass of q outside the support of p counts so much.
    """

    formula: str
    value: Callable[[Ops, Array], Array]
    weighted: Callable[[Ops, Array], Array]
    slope: Callable[[Ops, Array], Array]
    dual: Callable[[Ops, Array], Array] | None
    lost: float
    at_zero: float


def _softplus(xp: Ops, s: Array) -> Array:
    """``log(1 + e^s)``."""
    kinked = xp.where(s > 0, s, xp.where(s < 0, 0.0, 0.5 * s))  # a slope of 1/2 at 0, where that of |s| is 0
    return kinked + xp.log1p(xp.exp(-abs(s)))


def _js(xp: Ops, s: Array) -> Array:
    return 0.5 * (xp.exp(s) * s - (1.0 + xp.exp(s)) * (_softplus(xp, s) - math.log(2)))


def _js_weighted(xp: Ops, s: Array) -> Array:
    return 0.5 * (s - (1.0 + xp.exp(-s)) * (_softplus(xp, s) - math.log(2)))


def _within(xp: Ops, inside: Array, t: Array, safe: float, formula: Callable[[Array], Array]) -> Array:
    """The formula where ``inside`` holds, else inf; the others are replaced before, so that no gradient is NaN."""
    return xp.where(inside, formula(xp.where(inside, t, safe)), math.inf)


def _kl_dual(xp: Ops, t: Array) -> Array:
    return xp.exp(t - 1.0)


def _reverse_kl_dual(xp: Ops, t: Array) -> Array:
    return _within(xp, t < 0, t, -1.0, lambda u: -1.0 - xp.log(-u))


def _js_dual(xp: Ops, t: Array) -> Array:
    return _within(xp, t < 0.5 * math.log(2), t, 0.0, lambda u: -0.5 * xp.log(2.0 - xp.exp(2.0 * u)))


def _chi2_dual(xp: Ops, t: Array) -> Array:
    return xp.where(t > -2.0, t + t**2 / 4.0, -1.0)


def _reverse_chi2_dual(xp: Ops, t: Array) -> Array:
    return _within(xp, t < 1.0, t, 0.0, lambda u: 2.0 - 2.0 * (1.0 - u) ** 0.5)


def _hellinger_dual(xp: Ops, t: Array) -> Array:
    return _within(xp, t < 0, t, -1.0, lambda u: -0.25 / u - 1.0)


def _tv_dual(xp: Ops, t: Array) -> Array:
    return _within(xp, t <= 0.5, t, 0.0, lambda u: xp.where(u > -0.5, u, -0.5))


def _le_cam_dual(xp: Ops, t: Array) -> Array:
    def inner(u: Array) -> Array:
        return xp.where(u > -1.5, 2.0 - u - 2.0 * (1.0 - 2.0 * u) ** 0.5, -0.5)

    return _within(xp, t < 0.5, t, 0.0, inner)


GENERATORS: dict[str, Generator] = {
    "kl": Generator(
        "∫ p log(p / q)",
        lambda xp, s: xp.exp(s) * s,
        lambda xp, s: s,
        lambda xp, s: s + 1.0,
        _kl_dual,
        math.inf,
        0.0,
    ),
    "reverse-kl": Generator(
        "∫ q log(q / p)",
        lambda xp, s: -s,
        lambda xp, s: -s * xp.exp(-s),
        lambda xp, s: -xp.exp(-s),
        _reverse_kl_dual,
        0.0,
        math.inf,
    ),
    "jeffreys": Generator(
        "∫ (p - q) log(p / q)",
        lambda xp, s: xp.expm1(s) * s,
        lambda xp, s: -xp.expm1(-s) * s,
        lambda xp, s: s - xp.expm1(-s),
        None,
        math.inf,
        math.inf,
    ),
    "js": Generator(
        "½ KL(p || m) + ½ KL(q || m), m = (p + q) / 2; at most log 2",
        _js,
        _js_weighted,
        lambda xp, s: 0.5 * (s - _softplus(xp, s) + math.log(2)),
        _js_dual,
        0.5 * math.log(2),
        0.5 * math.log(2),
    ),
    "chi2": Generator(
        "∫ (p - q)² / q",
        lambda xp, s: xp.expm1(s) ** 2,
        lambda xp, s: xp.expm1(s) * -xp.expm1(-s),
        lambda xp, s: 2.0 * xp.expm1(s),
        _chi2_dual,
        math.inf,
        1.0,
    ),
    "reverse-chi2": Generator(
        "∫ (p - q)² / p",
        lambda xp, s: xp.expm1(s) * -xp.expm1(-s),
        lambda xp, s: xp.expm1(-s) ** 2,
        lambda xp, s: -xp.expm1(-2.0 * s),
        _reverse_chi2_dual,
        1.0,
        math.inf,
    ),
    "hellinger": Generator(
        "1 - ∫ √(p q), the square of the Hellinger distance; at most 1",
        lambda xp, s: -xp.expm1(0.5 * s),
        lambda xp, s: xp.exp(-s) - xp.exp(-0.5 * s),
        lambda xp, s: -0.5 * xp.exp(-0.5 * s),
        _hellinger_dual,
        0.0,
        1.0,
    ),
    "tv": Generator(
        "½ ∫ |p - q|; at most 1",
        lambda xp, s: 0.5 * abs(xp.expm1(s)),
        lambda xp, s: 0.5 * abs(xp.expm1(-s)),
        lambda xp, s: 0.5 - xp.where(s < 0, xp.exp(0.0 * s), 0.0),
        _tv_dual,
        0.5,
        0.5,
    ),
    "le-cam": Generator(
        "½ ∫ (p - q)² / (p + q); at most 1",
        lambda xp, s: 0.5 * xp.expm1(s) ** 2 / (1.0 + xp.exp(s)),
        lambda xp, s: 0.5 * xp.expm1(-s) ** 2 / (1.0 + xp.exp(-s)),
        lambda xp, s: 0.5 - 2.0 / (1.0 + xp.exp(s)) ** 2,
        _le_cam_dual,
        0.5,
        0.5,
    ),
}
"""The f-divergences, by name. An f is fixed up to a multiple of r - 1; mass that only one has is told by both ends."""


def generator(kind: str) -> Generator:
    """The f of that name.

    Raises:
        ArgumentError: there is none; the message has the nearest.

    Example:
        >>> generator("tv").formula
        '½ ∫ |p - q|; at most 1'
    """
    if kind not in GENERATORS:
        raise ArgumentError(f"`kind`: {kind!r} is no f-divergence; {nearest(str(kind), GENERATORS)}")
    return GENERATORS[kind]


def f_values(log_ratio: Array, kind: str) -> Array:
    """``f(r)`` for each log-ratio ``log r = log p - log q``.

    The mean over samples of q is an unbiased estimate of the divergence.

    Args:
        log_ratio: any shape, of any library; -inf where p has no mass gives f(0).
        kind: one of :data:`GENERATORS`.

    Returns:
        The same shape, differentiable.

    Raises:
        ArgumentError: an unknown kind.

    Example:
        >>> import numpy as np
        >>> print(f_values(np.log([1.0, 3.0]), "chi2").round(6))
        [0. 4.]
    """
    f, xp = generator(kind), namespace(log_ratio=log_ratio)
    none = log_ratio == -math.inf
    return xp.where(none, f.at_zero, f.value(xp, xp.where(none, 0.0, log_ratio)))


def conjugate(t: Array, kind: str) -> Array:
    """The convex conjugate ``f*(t) = sup_r (t r - f(r))`` over r >= 0, inf outside its domain.

    Args:
        t: values of a critic, any shape, of any library.
        kind: one of :data:`GENERATORS`.

    Returns:
        The same shape, differentiable inside the domain.

    Raises:
        ArgumentError: an unknown kind, or an f whose conjugate has no elementary form.

    References:
        Nowozin, Cseke, Tomioka, "f-GAN: Training Generative Neural Samplers using Variational Divergence Minimization",
        2016, arXiv 1606.00709; with other constant factors for the Jensen-Shannon and Hellinger divergences.

    Example:
        >>> import numpy as np
        >>> print(conjugate(np.array([1.0]), "kl"))
        [1.]
    """
    f = generator(kind)
    if f.dual is None:
        known = [name for name, entry in GENERATORS.items() if entry.dual is not None]
        raise ArgumentError(
            f"`kind`: the f of {kind!r} has no elementary conjugate, so that it has no dual bound; use one of "
            f"{', '.join(known)}"
        )
    return f.dual(namespace(t=t), t)
