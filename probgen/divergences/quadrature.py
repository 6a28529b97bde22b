"""Divergences of two distributions of one real number, by numerical integration."""

import math
from collections.abc import Callable

import torch
from torch.distributions import Distribution

from probgen.core.divergences.estimate import Estimate, exact_estimate
from probgen.core.divergences.generators import GENERATORS, generator
from probgen.core.ops import namespace
from probgen.divergences.distributions import landmarks, log_density, support_of
from probgen.errors import DataError

TOLERANCE = 1e-9
Integrand = Callable[[float], float]


def by_quadrature(p: Distribution, q: Distribution, kind: str, alpha: float | None) -> Estimate | str:
    """The divergence, or why it cannot be integrated; its interval is the integrator's bound on its error."""
    bounds = [support_of(p), support_of(q)]
    if bounds[0] is None or bounds[1] is None:
        return "integrates over one real number, of distributions without batch"
    low, high = min(bounds[0][0], bounds[1][0]), max(bounds[0][1], bounds[1][1])
    points: list[float] = sorted({*landmarks(p), *landmarks(q), *(end for pair in bounds if pair for end in pair)})
    points = [point for point in points if low < point < high]
    with torch.no_grad():
        if kind in GENERATORS:
            points = sorted({*points, *_crossings(p, q, points)}) if kind == "tv" else points
            return _f_divergence(p, q, kind, low, high, points)
        if kind == "renyi":
            return _renyi(p, q, float(alpha or 0.0), low, high, points)
        return _wasserstein(p, q, kind, low, high, points)


def _integral(integrand: Integrand, low: float, high: float, points: list[float]) -> tuple[float, float]:
    """(integral, bound on its error).

    Raises:
        DataError: the integrator does not converge.
    """
    from scipy.integrate import quad_vec  # late: an import of some milliseconds

    # Around the mass, in its own unit: the integrator maps an infinite range as if the unit were 1.
    center, unit = points[len(points) // 2], (points[-1] - points[0]) / 4.0
    infinite = []

    def scaled(u: float) -> float:
        value = integrand(center + unit * u)
        if math.isinf(value):
            infinite.append(u)
            return 0.0
        return value * unit

    ends, inner = [(end - center) / unit for end in (low, high)], [(point - center) / unit for point in points]
    value, error, info = quad_vec(
        scaled, *ends, points=inner, epsabs=TOLERANCE, epsrel=TOLERANCE, limit=2000, full_output=True
    )
    if infinite:
        return math.inf, 0.0
    if not info.success and not error < 1e-6 * (1.0 + abs(value)):
        raise _divergent(f"{value:.3g} with an error up to {error:.2g}")
    for sign, end in zip((-1.0, 1.0), ends, strict=True):
        if math.isinf(end) and _is_heavy([abs(u * scaled(sign * u)) for u in (1e3, 1e6)]):
            raise _divergent("the integrand falls no faster than 1 / x")
    return float(value), float(error)


def _is_heavy(tail: list[float]) -> bool:
    """Whether ``x f(x)`` does not vanish as x grows, by its value at two places."""
    return tail[1] > TOLERANCE and tail[1] >= 0.5 * tail[0]


def _divergent(finding: str) -> DataError:
    return DataError(
        f"the integral does not converge ({finding}): it may be infinite; take a bounded divergence ('js', 'tv', "
        "'hellinger') or samples"
    )


def _crossings(p: Distribution, q: Distribution, points: list[float]) -> list[float]:
    """Where p = q between two points, which is where the total variation has a kink."""
    from scipy.optimize import brentq

    def difference(x: float) -> float:
        log_p, log_q = _log_densities(p, q, x)
        return 0.0 if log_p == log_q else max(-1.0, min(1.0, log_p - log_q))

    values = [difference(point) for point in points]
    return [
        float(brentq(difference, left, right, xtol=1e-15 * (1.0 + abs(left))))
        for left, right, a, b in zip(points, points[1:], values, values[1:], strict=False)
        if a * b < 0
    ]


def _log_densities(p: Distribution, q: Distribution, x: float) -> tuple[float, float]:
    point = torch.tensor(x, dtype=torch.float64)
    return float(log_density(p, point)), float(log_density(q, point))


def _result(value: float, error: float) -> Estimate:
    note = (
        ""
        if math.isfinite(value)
        else "one has mass where the other has none, or too little: the divergence is infinite"
    )
    return exact_estimate(
        torch.tensor(value, dtype=torch.float64), error=error if math.isfinite(value) else 0, note=note
    )


def _f_divergence(
    p: Distribution, q: Distribution, kind: str, low: float, high: float, points: list[float]
) -> Estimate:
    f, one = generator(kind), torch.zeros((), dtype=torch.float64)
    xp = namespace(one)

    def integrand(x: float) -> float:
        log_p, log_q = _log_densities(p, q, x)
        mass_p, mass_q = math.exp(log_p), math.exp(log_q)
        if mass_p == mass_q == 0.0:
            return 0.0
        if log_q == -math.inf:
            return mass_p * f.lost
        if log_p == -math.inf:
            return mass_q * f.at_zero
        ratio = one + (log_p - log_q)
        return mass_p * float(f.weighted(xp, ratio)) if log_p > log_q else mass_q * float(f.value(xp, ratio))

    return _result(*_integral(integrand, low, high, points))


def _renyi(p: Distribution, q: Distribution, alpha: float, low: float, high: float, points: list[float]) -> Estimate:
    def integrand(x: float) -> float:
        log_p, log_q = _log_densities(p, q, x)
        if log_p == -math.inf or (log_q == -math.inf and alpha < 1):
            return 0.0
        return math.inf if log_q == -math.inf else math.exp(alpha * log_p + (1.0 - alpha) * log_q)

    total, error = _integral(integrand, low, high, points)
    if total <= error or math.isinf(total):
        return _result(math.inf, 0.0)
    return _result(math.log(total) / (alpha - 1.0), error / total / abs(alpha - 1.0))


def _wasserstein(
    p: Distribution, q: Distribution, kind: str, low: float, high: float, points: list[float]
) -> Estimate | str:
    """``W_1 = ∫ |F - G| dx``, ``W_2² = ∫ (F⁻¹ - G⁻¹)² du``."""
    name = "cdf" if kind == "w1" else "icdf"
    middle = torch.tensor(0.5, dtype=torch.float64)
    try:
        for distribution in (p, q):
            getattr(distribution, name)(middle if kind == "w2" else distribution.sample())
    except NotImplementedError:
        return f"needs the `{name}` of both distributions"

    def integrand(x: float) -> float:
        here, there = (_at(distribution, name, x) for distribution in (p, q))
        return abs(here - there) if kind == "w1" else (here - there) ** 2

    if kind == "w1":
        return _result(*_integral(integrand, low, high, points))
    total, error = _integral(integrand, 0.0, 1.0, [1e-9, 1e-4, 0.01, 0.1, 0.5, 0.9, 0.99, 1 - 1e-4, 1 - 1e-9])
    root = math.sqrt(max(total, 0.0))
    return _result(root, error / max(root, math.sqrt(error), 1e-300))


def _at(distribution: Distribution, name: str, x: float) -> float:
    if name == "icdf":
        inside = min(max(x, 1e-16), 1.0 - 1e-15)
        return float(distribution.icdf(torch.tensor(inside, dtype=torch.float64)))
    low, high = support_of(distribution) or (-math.inf, math.inf)
    if not low < x < high:
        return 0.0 if x <= low else 1.0
    return float(distribution.cdf(torch.tensor(x, dtype=torch.float64)))
