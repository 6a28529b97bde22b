r"""Closed forms for Gaussians with full covariance, for torch, JAX and NumPy, batched and differentiable."""

import math
from typing import Any

import numpy as np

from probgen.core.divergences.arrays import linalg, numeric
from probgen.core.divergences.densities import check_alpha
from probgen.core.ops import Array, Ops, namespace
from probgen.errors import ArgumentError, ArgumentTypeError, DataError, nearest

__all__ = ["GAUSSIAN_KINDS", "frechet_distance", "gaussian_divergence"]

GAUSSIAN_KINDS = ("kl", "reverse-kl", "jeffreys", "renyi", "chi2", "reverse-chi2", "hellinger", "w2", "frechet")
"""What has a closed form for two Gaussians."""


def gaussian_divergence(
    mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array, kind: str = "kl", *, alpha: float | None = None
) -> Array:
    """A divergence of ``p = N(mean_p, cov_p)`` and ``q = N(mean_q, cov_q)``.

    ``KL(p || q) = ½ (tr(Σq⁻¹ Σp) + (μq - μp)ᵀ Σq⁻¹ (μq - μp) - d + log det Σq / det Σp)``; ``jeffreys`` is the sum of
    both directions; ``renyi`` is ``log ∫ p^alpha q^(1 - alpha) / (alpha - 1)``, from which ``chi2 = ∫ (p - q)² / q =
    exp(R_2) - 1`` and ``hellinger = 1 - ∫ √(p q) = 1 - exp(-R_½ / 2)``; ``frechet`` is the squared 2-Wasserstein
    distance ``|μp - μq|² + tr(Σp + Σq - 2 (Σp^½ Σq Σp^½)^½)`` (the convention of FID) and ``w2`` its root.

    Args:
        mean_p: shape [..., d].
        cov_p: shape [..., d, d], symmetric, positive definite.
        mean_q: shape [..., d].
        cov_q: shape [..., d, d].
        kind: one of :data:`GAUSSIAN_KINDS`.
        alpha: order of the Rényi divergence, above 0 and not 1; for no other kind.

    Returns:
        Shape [...], in nats where a logarithm is involved; inf where the integral is. The gradient of ``w2`` at p = q
        is not finite, as the root's; use ``frechet`` there.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: an unknown kind, shapes that do not fit, or an alpha that does not.
        DataError: an entry that is not finite, a covariance that is not symmetric or not positive definite.

    References:
        Gil, Alajaji, Linder, "Rényi divergence measures for commonly used univariate continuous distributions", 2013.
        Dowson, Landau, "The Fréchet distance between multivariate normal distributions", 1982.

    Example:
        >>> import numpy as np
        >>> one = np.eye(2)
        >>> print(gaussian_divergence(np.zeros(2), one, np.array([3.0, 4.0]), one, "kl"))
        12.5
    """
    if kind not in GAUSSIAN_KINDS:
        raise ArgumentError(f"`kind`: {kind!r} has no closed form; {nearest(str(kind), GAUSSIAN_KINDS)}")
    if (alpha is None) == (kind == "renyi"):
        raise ArgumentError(f"`alpha` belongs to the kind 'renyi', which needs it; got kind {kind!r}, alpha {alpha!r}")
    p, q = (mean_p, cov_p), (mean_q, cov_q)
    xp = _checked(*p, *q)
    if alpha is not None:
        return _renyi(xp, p, q, check_alpha(alpha))
    return _FORMS[kind](xp, p, q)


def frechet_distance(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array) -> Array:
    """Squared 2-Wasserstein distance of two Gaussians, the Fréchet distance as FID reports it.

    ``|μp - μq|² + tr(Σp + Σq - 2 (Σp^½ Σq Σp^½)^½)``. Covariances may be singular, as those of few samples are.

    Args:
        mean_p: shape [..., d].
        cov_p: shape [..., d, d].
        mean_q: shape [..., d].
        cov_q: shape [..., d, d].

    Returns:
        Shape [...], not a root; differentiable where the covariances are positive definite.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: shapes that do not fit.
        DataError: an entry that is not finite, or a covariance that is not symmetric.

    References:
        Dowson, Landau, "The Fréchet distance between multivariate normal distributions", 1982.

    Example:
        >>> import numpy as np
        >>> print(frechet_distance(np.zeros(1), np.array([[1.0]]), np.zeros(1), np.array([[9.0]])))
        4.0
    """
    xp = _checked(mean_p, cov_p, mean_q, cov_q, definite=False)
    return _frechet(xp, (mean_p, cov_p), (mean_q, cov_q))


Pair = tuple[Array, Array]


def _transpose(matrix: Array) -> Array:
    return matrix.swapaxes(-1, -2)


def _trace(xp: Ops, matrix: Array) -> Array:
    return xp.sum(_diagonal(matrix), axis=-1)


def _diagonal(matrix: Array) -> Array:
    return matrix.diagonal(0, -2, -1)


def _solve(cov: Array, right: Array) -> Array:
    return linalg(cov).solve(cov, right)


def _log_det(cov: Array) -> Array:
    return linalg(cov).slogdet(cov)[1]


def _distance(xp: Ops, cov: Array, difference: Array) -> Array:
    """``δᵀ Σ⁻¹ δ``."""
    return xp.sum(difference * _solve(cov, difference[..., None])[..., 0], axis=-1)


def _kl(xp: Ops, p: Pair, q: Pair) -> Array:
    trace = _trace(xp, _solve(q[1], p[1]))
    spread = _log_det(q[1]) - _log_det(p[1])
    return 0.5 * (trace + _distance(xp, q[1], q[0] - p[0]) - p[0].shape[-1] + spread)


def _renyi(xp: Ops, p: Pair, q: Pair, alpha: float) -> Array:
    """``α/2 δᵀ Σ*⁻¹ δ - (log det Σ* - (1-α) log det Σp - α log det Σq) / (2 (α-1))`` with ``Σ* = α Σq + (1-α) Σp``."""
    mixed = alpha * q[1] + (1.0 - alpha) * p[1]
    exists = _smallest_eigenvalue(mixed) > 0
    mixed = xp.where(exists[..., None, None], mixed, q[1])
    spread = _log_det(mixed) - (1.0 - alpha) * _log_det(p[1]) - alpha * _log_det(q[1])
    value = 0.5 * alpha * _distance(xp, mixed, q[0] - p[0]) - spread / (2.0 * (alpha - 1.0))
    return xp.where(exists, value, math.inf)


def _smallest_eigenvalue(cov: Array) -> Array:
    xp = namespace(cov)
    return linalg(cov).eigvalsh(xp.stop_gradient(cov))[..., 0]


def _chi2(xp: Ops, p: Pair, q: Pair) -> Array:
    return xp.expm1(_renyi(xp, p, q, 2.0))


def _factor(cov: Array) -> Array:
    """A matrix L with ``L Lᵀ = Σ``: Cholesky's, or where a covariance is singular the symmetric root."""
    xp = namespace(cov)
    values, vectors = linalg(cov).eigh(xp.stop_gradient(cov))
    rounding = cov.shape[-1] * xp.limits(cov)[0]
    if bool((values[..., 0] > rounding * values[..., -1]).all()):
        return linalg(cov).cholesky(cov)
    return (vectors * xp.where(values > 0, values, 0.0)[..., None, :] ** 0.5) @ _transpose(vectors)


def _frechet(xp: Ops, p: Pair, q: Pair) -> Array:
    # tr (Σp^½ Σq Σp^½)^½ is the sum of the singular values of Lpᵀ Lq for any factors. Unlike an eigenvector's, its
    # derivative exists where eigenvalues are equal.
    overlap = xp.sum(linalg(p[1]).svdvals(_transpose(_factor(p[1])) @ _factor(q[1])), axis=-1)
    between = xp.sum((p[0] - q[0]) ** 2, axis=-1)
    value = between + _trace(xp, p[1]) + _trace(xp, q[1]) - 2.0 * overlap
    return xp.where(value > 0, value, 0.0 * value)  # rounding below 0


_FORMS: dict[str, Any] = {
    "kl": _kl,
    "reverse-kl": lambda xp, p, q: _kl(xp, q, p),
    "jeffreys": lambda xp, p, q: _kl(xp, p, q) + _kl(xp, q, p),
    "chi2": _chi2,
    "reverse-chi2": lambda xp, p, q: _chi2(xp, q, p),
    "hellinger": lambda xp, p, q: -xp.expm1(-0.5 * _renyi(xp, p, q, 0.5)),
    "frechet": _frechet,
    "w2": lambda xp, p, q: _frechet(xp, p, q) ** 0.5,
}


def _checked(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array, *, definite: bool = True) -> Ops:
    named = {"mean_p": mean_p, "cov_p": cov_p, "mean_q": mean_q, "cov_q": cov_q}
    xp = namespace(**named)
    for name, array in named.items():
        if not xp.is_floating(array):
            raise ArgumentTypeError(f"`{name}` must have a floating-point dtype, got {array.dtype}: convert it")
        dim = mean_p.shape[-1] if mean_p.ndim else 0
        fits = (dim, dim) if name.startswith("cov") else (dim,)
        if dim == 0 or tuple(array.shape[-len(fits) :]) != fits:
            raise ArgumentError(f"`{name}` needs the shape [..., {', '.join(map(str, fits))}], got {list(array.shape)}")
        if not np.isfinite(numeric(array)).all():
            raise DataError(f"`{name}` must be finite, got NaN or an infinite entry")
    for name in ("cov_p", "cov_q"):
        _check_covariance(xp, name, named[name], definite=definite)
    return xp


def _check_covariance(xp: Ops, name: str, cov: Array, *, definite: bool) -> None:
    values = numeric(cov)
    rounding = math.sqrt(xp.limits(cov)[0]) * abs(values).max()
    if (abs(values - values.swapaxes(-1, -2)) > rounding).any():
        raise DataError(f"`{name}` must be symmetric: take (c + c.T) / 2")
    smallest = float(np.linalg.eigvalsh(values).min())
    if smallest <= 0 if definite else smallest < -rounding:
        kind = "definite" if definite else "semi-definite"
        raise DataError(f"`{name}` must be positive {kind}, got the eigenvalue {smallest:.3g}")
