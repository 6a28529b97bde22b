r"""Importance weights and what they say about a guide: effective sample size and Pareto k-hat.

Every function takes log-weights ``l_k = log p(x, z_k) - log q(z_k | x)`` with the particles on axis 0 and works on each
datum apart: nothing depends on which other data are in the batch.
"""

import math
import operator

from probgen.core.ops import Array, Ops, namespace
from probgen.errors import ArgumentError, ArgumentTypeError

__all__ = [
    "effective_sample_size",
    "khat_threshold",
    "normalized_weights",
    "pareto_khat",
    "pareto_khat_from_tail",
    "particle_namespace",
    "tail_length",
]

_FEWEST_IN_TAIL = 5  # below this no Pareto distribution is fitted (Vehtari et al.)
_PRIOR_COUNT = 10  # the weak prior on the shape counts as ten draws at 1/2 (Vehtari et al.)
_PRIOR_SHAPE = 0.5


def particle_namespace(log_weights: Array, axes: tuple[str, ...] = ("num_particles",)) -> Ops:
    """Check log-weights and return the functions of their library.

    Args:
        log_weights: array of floats whose first axes are `axes`.
        axes: names of the particle axes, for the message.

    Returns:
        The side of :mod:`probgen.core.ops` that fits the array.

    Raises:
        ArgumentTypeError: not an array of floats.
        ArgumentError: a particle axis is missing or has length 0.

    Example:
        >>> import numpy as np
        >>> particle_namespace(np.zeros((5, 2))).max(np.ones(3))
        np.float64(1.0)
    """
    xp = namespace(log_weights=log_weights)
    got = f"got shape {list(log_weights.shape)}"
    if not xp.is_floating(log_weights):
        raise ArgumentTypeError(f"`log_weights` must have a floating-point dtype, got {log_weights.dtype}: convert it")
    if log_weights.ndim < len(axes):
        raise ArgumentError(
            f"`log_weights` needs the shape [{', '.join(axes)}, ...], {got}: add the particle axes first"
        )
    if 0 in log_weights.shape[: len(axes)]:
        raise ArgumentError(f"`log_weights` needs at least one particle on each axis of {list(axes)}, {got}")
    return xp


def normalized_weights(log_weights: Array) -> Array:
    """Self-normalised importance weights: ``w_k = exp(l_k) / sum_j exp(l_j)``.

    Expectations under these weights are biased by O(1/K); see :func:`pareto_khat` for when they can be trusted at all.

    Args:
        log_weights: ``log p(x, z) - log q(z | x)`` in nats, shape [num_particles, ...].

    Returns:
        Weights that sum to 1 over axis 0, shape [num_particles, ...]; zeros, with gradient 0, where all entries are
        -inf. An entry of +inf or NaN gives NaN.

    Raises:
        ArgumentTypeError: not an array of floats.
        ArgumentError: no particle axis, or no particles.

    References:
        Owen, "Monte Carlo theory, methods and examples", 2013, chapter 9.2.

    Example:
        >>> import numpy as np
        >>> print(normalized_weights(np.log([[1.0], [3.0]])))
        [[0.25]
         [0.75]]
    """
    xp = particle_namespace(log_weights)
    dead = xp.max(xp.stop_gradient(log_weights)) == -math.inf  # [...]
    return xp.where(dead, 0.0, xp.softmax(xp.where(dead, 0.0, log_weights)))


def effective_sample_size(log_weights: Array) -> Array:
    """Effective sample size of importance weights: ``(sum_k w_k)^2 / sum_k w_k^2``.

    K draws with these weights estimate an expectation about as well as this many draws from the posterior. It is an
    estimate from the same draws: too high when no draw has hit the region where the weights are large.

    Args:
        log_weights: ``log p(x, z) - log q(z | x)`` in nats, shape [num_particles, ...].

    Returns:
        Number of draws between 1 and num_particles, shape [...]; 0 where all entries are -inf.

    Raises:
        ArgumentTypeError: not an array of floats.
        ArgumentError: no particle axis, or no particles.

    References:
        Kong, "A note on importance sampling using standardized weights", 1992, University of Chicago, report 348.

    Example:
        >>> import numpy as np
        >>> print(effective_sample_size(np.log([[1.0, 1.0], [1.0, 3.0]])))
        [2.  1.6]
    """
    xp = particle_namespace(log_weights)
    weights = normalized_weights(log_weights)
    total, squares = xp.sum(weights), xp.sum(weights**2)  # 1 and at least 1/K, or both 0
    size = total**2 / xp.where(squares == 0.0, 1.0, squares)
    return xp.where(size > weights.shape[0], float(weights.shape[0]), size)  # rounding may exceed K


def tail_length(num_particles: int) -> int:
    """Number of largest weights that k-hat is fitted to: ``ceil(min(S / 5, 3 sqrt(S)))``.

    Args:
        num_particles: number of draws S, at least 1.

    Returns:
        The length M of the tail.

    Raises:
        ArgumentTypeError: not an integer.
        ArgumentError: smaller than 1.

    References:
        Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto Smoothed Importance Sampling", 2015, arXiv 1507.02646.

    Example:
        >>> tail_length(100), tail_length(5000)
        (20, 213)
    """
    draws = _num_draws(num_particles)
    return math.ceil(min(draws / 5, 3 * math.sqrt(draws)))


def khat_threshold(num_particles: int) -> float:
    """Largest k-hat with which S importance weights can be trusted: ``min(1 - 1 / log10 S, 0.7)``.

    Args:
        num_particles: number of draws S, at least 1.

    Returns:
        The threshold; -inf, its limit, for a single draw.

    Raises:
        ArgumentTypeError: not an integer.
        ArgumentError: smaller than 1.

    References:
        Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto Smoothed Importance Sampling", 2024, arXiv 1507.02646.

    Example:
        >>> khat_threshold(100), khat_threshold(5000)
        (0.5, 0.7)
    """
    draws = _num_draws(num_particles)
    return min(1 - 1 / math.log10(draws), 0.7) if draws > 1 else -math.inf


def pareto_khat(log_weights: Array) -> Array:
    """Pareto k-hat of each datum: the shape of a generalised Pareto distribution fitted to its largest weights.

    ``1/k`` is the number of moments that the weights have: above 1/2 their variance is infinite, above 1 their mean.
    Importance-weighted estimates are unreliable where k-hat exceeds :func:`khat_threshold`. The fit is that of Zhang
    and Stephens with a weak prior towards 1/2, as in arviz's ``psislw``. It is a diagnostic, with gradient 0, computed
    in float64 where library and device have it; in JAX without x64 in float32, to about 1e-4.

    Args:
        log_weights: ``log p(x, z) - log q(z | x)`` in nats, shape [num_particles, ...].

    Returns:
        k-hat, shape [...], with these special values, so that "k-hat <= threshold" is false whenever nothing is known:

        - -inf: the tail has no spread beyond rounding, as with a perfect guide (arviz: inf);
        - +inf: fewer than 5 draws exceed the rest, or a weight is infinite, or all are 0 (entries all -inf): the guide
          has missed the datum, which is the worst there is, not something unknown;
        - NaN: too few draws (a tail shorter than 5, that is fewer than 21 draws; arviz: inf), or an entry is NaN.

    Raises:
        ArgumentTypeError: not an array of floats of at least 32 bits.
        ArgumentError: no particle axis, or no particles.

    References:
        Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto Smoothed Importance Sampling", 2015, arXiv 1507.02646.
        Zhang, Stephens, "A New and Efficient Estimation Method for the Generalized Pareto Distribution", Technometrics
        51(3), 2009.

    Example:
        >>> import numpy as np
        >>> exponential = np.random.default_rng(0).exponential(size=(5000, 2))
        >>> print(pareto_khat(np.array([0.1, 1.5]) * exponential) < khat_threshold(5000))  # shapes 0.1 and 1.5
        [ True False]
    """
    xp = particle_namespace(log_weights)
    num_particles = log_weights.shape[0]
    return pareto_khat_from_tail(xp.largest(log_weights, _kept(num_particles)), num_particles)


def pareto_khat_from_tail(tail: Array, num_particles: int) -> Array:
    """Pareto k-hat from the largest log-weights alone, for evaluation that streams over the draws.

    The smallest entry given is the cutoff above which the distribution is fitted.

    Args:
        tail: the M + 1 largest of each datum's log-weights, in any order, shape [M + 1, ...] with
            M = ``tail_length(num_particles)``; all of them if there are fewer.
        num_particles: number of draws S that they are the largest of.

    Returns:
        k-hat, shape [...], exactly as :func:`pareto_khat` of all draws.

    Raises:
        ArgumentTypeError: `tail` is not an array of floats of at least 32 bits, or `num_particles` not an integer.
        ArgumentError: `tail` has another length on axis 0.

    References:
        As in :func:`pareto_khat`.

    Example:
        >>> import numpy as np
        >>> log_weights = np.random.default_rng(0).normal(size=(1000, 3))
        >>> largest = np.sort(log_weights, axis=0)[-(tail_length(1000) + 1) :]
        >>> bool(np.all(pareto_khat_from_tail(largest, 1000) == pareto_khat(log_weights)))
        True
    """
    xp = namespace(tail=tail)
    _check_tail(xp, tail, num_particles)
    tail = xp.stop_gradient(tail)
    top = xp.max(tail)  # [...]
    if tail_length(num_particles) < _FEWEST_IN_TAIL:
        return top * math.nan
    proper = abs(top) < math.inf
    khat = _khat(xp, xp.where(proper, tail, 0.0))
    # Where the largest entry is not finite: +inf for a weight of +inf or all of them 0, NaN for NaN.
    return xp.where(proper, xp.cast(khat, tail), abs(top))


def _khat(xp: Ops, tail: Array) -> Array:
    """k-hat of tails [M + 1, ...] whose largest entry is finite, in the widest float."""
    eps, _ = xp.limits(tail)  # of the dtype in which the weights were computed
    ordered = xp.largest(xp.double(tail), tail.shape[0])  # ascending
    top = ordered[-1]  # [...]
    flat = top - ordered[0] <= 4 * eps * xp.where(abs(top) > 1.0, abs(top), 1.0)  # a few units of rounding
    excess, count = _excesses(xp, ordered - top)
    fitted = count >= _FEWEST_IN_TAIL
    # What cannot be fitted is replaced by a constant tail, so that no NaN or warning arises on the way.
    shape = _pareto_shape(xp, xp.where(fitted, excess, 1.0), xp.where(fitted, count, float(excess.shape[0])))
    return xp.where(flat, -math.inf, xp.where(fitted, shape, math.inf))


def _excesses(xp: Ops, tail: Array) -> tuple[Array, Array]:
    """Excesses of the weights over the cutoff, [M, ...], 0 for ties with it, and the number [...] that are not ties.

    The first of the ascending entries [M + 1, ...] is the cutoff, but at least the smallest normal number.
    """
    _, tiny = xp.limits(tail)
    cutoff = xp.where(tail[0] > math.log(tiny), tail[0], math.log(tiny))
    above = tail[1:] > cutoff
    gap = xp.where(above, cutoff - tail[1:], 0.0)
    excess = xp.exp(tail[1:]) * -xp.expm1(gap)  # exp(l) - exp(cutoff), without cancellation
    return excess, xp.cast(xp.sum(above), tail)


def _pareto_shape(xp: Ops, excess: Array, count: Array) -> Array:
    """Zhang and Stephens' estimate of the shape, from ascending excesses [M, ...] of which the last `count` are in use.

    The profile likelihood of ``b = -k / sigma`` is averaged over a grid of b; the shape at a given b is
    ``mean log(1 - b excess)``. Excesses of 0 add nothing to that sum.
    """
    eps, _ = xp.limits(excess)
    b, extra = _grid(xp, excess, count)
    b = xp.where(b == 0.0, eps / excess[-1], b)  # the likelihood has a removable 0/0 there

    def shape_at(value: Array) -> Array:
        return xp.sum(xp.log1p(-value * excess)) / count

    # One pass per grid point (about 45): all at once would need as many times the memory of the tail.
    shapes = xp.stack([shape_at(value) for value in b])
    log_likelihood = count * (xp.log(-b / shapes) - shapes - 1.0)
    weights = xp.softmax(xp.where(extra, -math.inf, log_likelihood))
    weights = xp.where(weights < 10 * eps, 0.0, weights)
    posterior_mean = xp.sum(weights * b) / xp.sum(weights)
    return (count * shape_at(posterior_mean) + _PRIOR_COUNT * _PRIOR_SHAPE) / (count + _PRIOR_COUNT)


def _grid(xp: Ops, excess: Array, count: Array) -> tuple[Array, Array]:
    """Zhang and Stephens' grid of b, [G, ...], and which of its points are beyond the grid of a datum with ties."""
    length = excess.shape[0]
    _, tiny = xp.limits(excess)
    quartile_rank = (count / 4 + 0.5) // 1 - 1.0  # among the excesses in use
    is_quartile = _index(xp, length, count) == length - count + quartile_rank
    quartile = xp.sum(xp.where(is_quartile, excess, 0.0))
    quartile = xp.where(quartile > 64 * tiny, quartile, 64 * tiny)  # 1 / quartile must not overflow
    size = 30 + (count + 0.5) ** 0.5 // 1  # [...]; 1/2 more, lest the root of a square be rounded down
    point = _index(xp, 30 + math.isqrt(length), count) + 1.0  # [G, 1, ...]
    extra = point > size
    point = xp.where(extra, size, point)
    return (1.0 - (size / (point - 0.5)) ** 0.5) / (3.0 * quartile) + 1.0 / excess[-1], extra


def _index(xp: Ops, length: int, like: Array) -> Array:
    """``0 ... length - 1`` on a new axis 0 before those of an array."""
    return xp.arange(length, like).reshape((length,) + (1,) * like.ndim)


def _check_tail(xp: Ops, tail: Array, num_particles: int) -> None:
    if not xp.is_floating(tail) or xp.limits(tail)[0] > 1e-6:
        raise ArgumentTypeError(
            f"k-hat needs log-weights in float32 or float64, got {tail.dtype}: compute them in float32"
        )
    if tail.ndim == 0 or tail.shape[0] != _kept(num_particles):
        raise ArgumentError(
            f"`tail` must hold the {_kept(num_particles)} largest of {num_particles} log-weights on axis 0, "
            f"got shape {list(tail.shape)}: keep min(tail_length(num_particles) + 1, num_particles) of them"
        )


def _kept(num_particles: int) -> int:
    return min(tail_length(num_particles) + 1, _num_draws(num_particles))


def _num_draws(num_particles: int) -> int:
    try:
        draws = operator.index(num_particles)
    except TypeError:
        got = type(num_particles).__name__
        raise ArgumentTypeError(f"`num_particles` must be an integer, got {got}: pass int(num_particles)") from None
    if draws < 1:
        raise ArgumentError(f"`num_particles` must be at least 1, got {draws}")
    return draws
