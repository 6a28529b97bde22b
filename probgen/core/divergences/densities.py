r"""Divergences from two log-densities at samples of one of them.

Every function takes ``log p`` and ``log q`` at the same n independent samples, in nats, of any library. The densities
must be normalised. Values are differentiable in the log-densities at fixed samples (pathwise where the caller's samples
are); the error is not.

A mean whose terms have tails too heavy has a standard error that means nothing. The Pareto k-hat of the terms tells: an
estimate is refused if k-hat is above the threshold of :func:`probgen.core.weights.khat_threshold` and the largest term
has more than ``1 / sqrt(n)`` of their sum; ``heavy_tails="allow"`` says it in the note instead.
"""

import math

from probgen.core.divergences.arrays import numeric
from probgen.core.divergences.estimate import Estimate, mean_estimate, normal_interval, standard_error
from probgen.core.divergences.generators import f_values, generator
from probgen.core.ops import Array, Ops, namespace
from probgen.core.weights import khat_threshold, pareto_khat
from probgen.errors import ArgumentError, ArgumentTypeError, DataError, nearest

__all__ = ["f_from_densities", "kl_from_densities", "kl_terms", "renyi_from_densities"]

_KL_METHODS = ("k1", "k2", "k3", "control-variate")
_FEWEST_FOR_KHAT = 100


def kl_terms(log_ratio: Array, method: str = "k1") -> Array:
    """Terms whose mean over samples of p estimates ``KL(p || q)``.

    With ``l = log p - log q``: ``k1 = l``, unbiased; ``k2 = l²/2``, biased, of the order of ``E[l³]``; ``k3 = e^-l - 1
    + l``, never negative, unbiased where q has no mass outside p's support, of infinite variance where chi²(q || p) is
    infinite.

    Args:
        log_ratio: ``log p - log q`` in nats at samples of p, any shape.
        method: ``"k1"``, ``"k2"`` or ``"k3"``.

    Returns:
        The terms in nats, same shape.

    Raises:
        ArgumentError: an unknown method.

    References:
        Schulman, "Approximating KL Divergence", 2020, joschu.net/blog/kl-approx.html.

    Example:
        >>> import numpy as np
        >>> print(kl_terms(np.array([0.0, 2.0]), "k2"))
        [0. 2.]
    """
    xp = namespace(log_ratio=log_ratio)
    if method == "k1":
        return log_ratio
    if method == "k2":
        return 0.5 * log_ratio**2
    if method == "k3":
        return log_ratio + xp.expm1(-log_ratio)
    raise ArgumentError(f"`method`: {method!r} is unknown; {nearest(str(method), ('k1', 'k2', 'k3'))}")


def kl_from_densities(log_p: Array, log_q: Array, *, method: str = "k1", heavy_tails: str = "refuse") -> Estimate:
    """``KL(p || q) = E_p[log p - log q]`` from samples of p, in nats.

    Args:
        log_p: log p at samples of p, shape [n].
        log_q: log q at the same samples, shape [n].
        method: as in :func:`kl_terms`, or ``"control-variate"``: ``l - c (1 - e^-l)`` with the c of least variance from
            the same samples, a bias of O(1/n).
        heavy_tails: ``"refuse"`` or ``"allow"``.

    Returns:
        The estimate; inf where a sample of p lies outside the support of q.

    Raises:
        ArgumentTypeError: not arrays of floats.
        ArgumentError: different shapes, fewer than two samples, or an unknown method.
        DataError: NaN, +inf, a sample where p has no mass, or terms of too heavy a tail.

    Example:
        >>> import numpy as np
        >>> log_p = np.log(np.array([0.5, 0.5])); log_q = np.log(np.array([0.25, 0.25]))
        >>> print(round(kl_from_densities(log_p, log_q).value / np.log(2), 6))
        1.0
    """
    xp = _checked(log_p, log_q, "p")
    if method not in _KL_METHODS:
        raise ArgumentError(f"`method`: {method!r} is unknown; {nearest(str(method), _KL_METHODS)}")
    outside = log_q == -math.inf
    if bool(outside.any()):
        return _infinite(log_p, int(outside.sum()), "p", "q")
    ratio = log_p - log_q
    if method == "control-variate":
        terms, bias = _controlled(xp, ratio, -xp.expm1(-ratio)), "O(1/n)"
    else:
        terms, bias = kl_terms(ratio, method), "O(E[l³])" if method == "k2" else "none"
    return mean_estimate(terms, bias=bias, note=_tails(terms, heavy_tails))


def f_from_densities(
    log_p: Array,
    log_q: Array,
    kind: str = "kl",
    *,
    samples_from: str = "q",
    method: str = "plain",
    heavy_tails: str = "refuse",
) -> Estimate:
    """``D_f(p || q) = E_q[f(p / q)] = E_p[f(p / q) q / p]`` for the f of a name.

    Unbiased from samples of q if p has no mass outside q's support, or an f that does not count it; from samples of p
    if q has none outside p's support, or an f(0) of 0. Mass that no sample can see is otherwise missing.

    Args:
        log_p: log p at the samples, shape [n].
        log_q: log q at the samples, shape [n].
        kind: one of ``GENERATORS``, where its constant factors are stated.
        samples_from: ``"q"`` or ``"p"``.
        method: ``"plain"``, or ``"control-variate"``: subtracts the multiple of ``p / q - 1`` (of mean 0 under q) or
            ``q / p - 1`` (under p) of least variance, a bias of O(1/n).
        heavy_tails: ``"refuse"`` or ``"allow"``.

    Returns:
        The estimate; inf where a sample lies outside the other's support and f counts it so.

    Raises:
        ArgumentTypeError: not arrays of floats.
        ArgumentError: different shapes, fewer than two samples, an unknown name.
        DataError: NaN, +inf, a sample where its own density is 0, or terms of too heavy a tail.

    Example:
        >>> import numpy as np
        >>> log_p, log_q = np.log([0.75, 0.25]), np.log([0.5, 0.5])  # both points once: the exact mean under q
        >>> print(f_from_densities(log_p, log_q, "tv").value.round(6))
        0.25
    """
    own, other = _sides(samples_from)
    f = generator(kind)
    if method not in ("plain", "control-variate"):
        raise ArgumentError(f"`method`: {method!r} is unknown; {nearest(str(method), ('plain', 'control-variate'))}")
    xp = _checked(log_p, log_q, own)
    outside = (log_p if own == "q" else log_q) == -math.inf
    at_edge = f.at_zero if own == "q" else f.lost
    if at_edge == math.inf and bool(outside.any()):
        return _infinite(log_p, int(outside.sum()), own, other)
    ratio = xp.where(outside, 0.0, log_p - log_q)
    terms = f_values(ratio, kind) if own == "q" else f.weighted(xp, ratio)
    terms = xp.where(outside, at_edge, terms)
    bias = "none"
    if method == "control-variate":
        centred = xp.where(outside, -1.0, xp.expm1(ratio if own == "q" else -ratio))
        terms, bias = _controlled(xp, terms, centred), "O(1/n)"
    return mean_estimate(terms, bias=bias, note=_tails(terms, heavy_tails))


def renyi_from_densities(
    log_p: Array, log_q: Array, alpha: float, *, samples_from: str = "p", heavy_tails: str = "refuse"
) -> Estimate:
    """Rényi divergence ``log ∫ p^alpha q^(1 - alpha) / (alpha - 1)``, in nats.

    The logarithm of a mean: by Jensen's inequality the expectation is at most the truth for alpha > 1 and at least the
    truth for alpha < 1. The standard error is that of the delta method.

    Args:
        log_p: log p at the samples, shape [n].
        log_q: log q at the samples, shape [n].
        alpha: order, above 0 and not 1.
        samples_from: ``"p"`` (mean of ``(p/q)^(alpha - 1)``) or ``"q"`` (of ``(p/q)^alpha``).
        heavy_tails: ``"refuse"`` or ``"allow"``.

    Raises:
        ArgumentTypeError: not arrays of floats.
        ArgumentError: different shapes, fewer than two samples, an alpha outside the range.
        DataError: NaN, +inf, a sample where its own density is 0, or terms of too heavy a tail.

    References:
        van Erven, Harremoës, "Rényi Divergence and Kullback-Leibler Divergence", 2014, arXiv 1206.2459.

    Example:
        >>> import numpy as np
        >>> log_p, log_q = np.log([0.75, 0.25]), np.log([0.5, 0.5])
        >>> print(round(float(np.exp(renyi_from_densities(log_p, log_q, 2.0, samples_from="q").value)), 6))
        1.25
    """
    own, other = _sides(samples_from)
    order = check_alpha(alpha)
    xp = _checked(log_p, log_q, own)
    power = order if own == "q" else order - 1.0
    outside = (log_p if own == "q" else log_q) == -math.inf
    if own == "p" and power > 0 and bool(outside.any()):
        return _infinite(log_p, int(outside.sum()), own, other)
    logs = xp.where(outside, -math.inf, power * (log_p - xp.where(outside, 0.0, log_q)))
    return log_mean_estimate(logs, 1.0 / (order - 1.0), _tails(logs, heavy_tails, is_log=True))


def check_alpha(alpha: float) -> float:
    """A finite order above 0 that is not 1, or an ArgumentError."""
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf or alpha == 1:
        raise ArgumentError(f"`alpha` must be a finite number above 0 other than 1 (where it is the KL), got {alpha!r}")
    return float(alpha)


def log_mean_estimate(logs: Array, factor: float, note: str = "") -> Estimate:
    """``factor * log mean exp(logs)`` with the standard error of the delta method."""
    xp = namespace(logs=logs)
    count = logs.shape[0]
    top = xp.max(xp.stop_gradient(logs))
    if float(top) == -math.inf:
        infinite = factor * -math.inf
        reason = "no sample of one lies in the support of the other: the divergence is infinite"
        return Estimate(factor * xp.sum(logs), 0.0, (infinite, infinite), "none", count, reason)
    value = factor * (xp.logsumexp(logs) - math.log(count))
    weights = xp.exp(logs - top)
    error = abs(factor) * standard_error(weights) / float(xp.mean(xp.stop_gradient(weights)))
    interval = normal_interval(float(xp.stop_gradient(value)), error, count - 1)
    return Estimate(value, error, interval, "lower" if factor > 0 else "upper", count, note)


def _sides(samples_from: str) -> tuple[str, str]:
    if samples_from not in ("p", "q"):
        raise ArgumentError(f"`samples_from` must be 'p' or 'q', got {samples_from!r}")
    return samples_from, "q" if samples_from == "p" else "p"


def _checked(log_p: Array, log_q: Array, own: str) -> Ops:
    """Refuses log-densities that cannot be: only the other density may be 0 at a sample."""
    xp = namespace(log_p=log_p, log_q=log_q)
    if log_p.ndim != 1 or log_p.shape != log_q.shape or log_p.shape[0] < 2:
        raise ArgumentError(
            "`log_p` and `log_q` must have one shape [n] with n at least 2, got "
            f"{list(log_p.shape)} and {list(log_q.shape)}: sum each datum's log-density first"
        )
    for name, array in (("p", log_p), ("q", log_q)):
        if not xp.is_floating(array):
            raise ArgumentTypeError(f"`log_{name}` must have a floating-point dtype, got {array.dtype}: convert it")
        values = numeric(array)
        bad = ~(values < math.inf) | ((values == -math.inf) if name == own else False)
        if bad.any():
            index = int(bad.argmax())
            why = f": the samples must be of {own}, where its density is not 0" if name == own else ""
            raise DataError(f"`log_{name}` is {values[index]} at sample {index}{why}")
    return xp


def _infinite(like: Array, count: int, own: str, other: str) -> Estimate:
    xp = namespace(like)
    note = f"{count} of {like.shape[0]} samples of {own} lie outside the support of {other}: the divergence is infinite"
    value = xp.mean(xp.where(like == like, math.inf, like))
    return Estimate(value, 0.0, (math.inf, math.inf), "none", like.shape[0], note)


def _controlled(xp: Ops, terms: Array, control: Array) -> Array:
    """Terms less the multiple of a control of mean 0 that makes their variance least; the multiple is constant."""
    fixed, centred = xp.stop_gradient(terms), xp.stop_gradient(control)
    centred = centred - xp.mean(centred)
    spread = xp.sum(centred**2)
    slope = xp.sum(centred * fixed) / xp.where(spread > 0, spread, 1.0)
    return terms - slope * control


def _tails(terms: Array, heavy_tails: str, *, is_log: bool = False) -> str:
    """Refuses terms whose mean cannot be trusted, or says so."""
    if heavy_tails not in ("refuse", "allow"):
        raise ArgumentError(f"`heavy_tails` must be 'refuse' or 'allow', got {heavy_tails!r}")
    xp = namespace(terms)
    count = terms.shape[0]
    if count < _FEWEST_FOR_KHAT:
        return ""
    sizes = xp.double(abs(xp.stop_gradient(terms))) if not is_log else xp.double(xp.stop_gradient(terms))
    logs = sizes if is_log else xp.where(sizes > 0, xp.log(xp.where(sizes > 0, sizes, 1.0)), -math.inf)
    khat = float(pareto_khat(logs))
    share = math.exp(float(xp.max(logs)) - float(xp.logsumexp(logs))) if float(xp.max(logs)) > -math.inf else 0.0
    if not khat > khat_threshold(count) or share < count**-0.5:  # bounded terms of several sizes have a large k-hat too
        return ""
    finding = (
        f"the terms have tails too heavy for their mean: Pareto k-hat {khat:.2f}, trustworthy up to "
        f"{khat_threshold(count):.2f}"
    )
    if heavy_tails == "refuse":
        raise DataError(
            f"{finding}; take a divergence that is bounded ('js', 'tv', 'hellinger'), samples of the other "
            "distribution, a closed form, or heavy_tails='allow'"
        )
    return finding
