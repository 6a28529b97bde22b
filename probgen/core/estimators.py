r"""Gradient estimators as coefficients: what multiplies which gradient of each particle.

With ``l_k = log p(x, z_k) - log q(z_k | x)`` and ``z_k ~ q``, every estimator of this library is

    sum_k   model_k  grad_theta log p(x, z_k)                    theta: parameters of the model
          - guide_k  grad_phi log q(z_k)          z_k fixed      because log q stands in the log-weight
          + score_k  grad_phi log q(z_k)          z_k fixed      because z_k is drawn from q (score function)
          + path_k   (dl_k / dz_k) (dz_k / dphi)  phi fixed in l because z_k moves with phi (reparameterization)

and differs from the others in its four :class:`Coefficients` alone. For a bound ``f(l_1 ... l_K)`` they follow from its
first derivatives ``f_k`` and the diagonal ``f_kk`` of the second ones (:class:`Derivatives`): the term in
``grad log q`` at fixed z has the coefficient ``c_k = score_k - guide_k``, and ``E[c_k grad log q(z_k)] =
E[(dc_k / dl_k) (dl_k / dz_k) (dz_k / dphi)]`` turns it into a path.

Particles are on axis 0; nothing depends on which other data are in the batch, and
every coefficient is a constant to differentiation.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from probgen.core import bounds
from probgen.core.ops import Array, namespace
from probgen.core.weights import normalized_weights, particle_namespace
from probgen.errors import ArgumentError

__all__ = [
    "Coefficients",
    "Derivatives",
    "ciwae",
    "cubo_coefficients",
    "doubly_reparameterized",
    "elbo",
    "grouped",
    "leave_one_out",
    "miwae",
    "moments_grid",
    "pathwise",
    "power_mean",
    "score_function",
    "thermodynamic",
    "thermodynamic_value",
    "ungrouped",
    "vimco",
    "wake_coefficients",
]

Bound = Callable[[Array], Array]


class Derivatives(NamedTuple):
    """A bound of K log-weights and what its estimators need.

    Attributes:
        value: ``f``, shape [...], in nats.
        first: ``f_k = df / dl_k``, shape [K, ...].
        doubly: ``f_k - f_kk``, the first derivative minus the diagonal of the second, shape [K, ...].
    """

    value: Array
    first: Array
    doubly: Array


class Coefficients(NamedTuple):
    """What multiplies the gradients of each particle, shape [K, ...]; see the head of this module.

    Attributes:
        model: of ``log p(x, z_k)`` for theta.
        guide: of ``-log q(z_k)`` for phi, z fixed; None is 0, as where the guide is frozen.
        score: of ``log q(z_k)`` for phi, z fixed, at sites that are not reparameterized; None is 0.
        path: of the path of reparameterized sites, phi fixed in the log-weight; None is 0.
    """

    model: Array
    guide: Array | None
    score: Array | None
    path: Array | None


def elbo(log_weights: Array) -> Derivatives:
    """The ELBO ``mean_k l_k``: first derivatives 1/K, second ones 0.

    Args:
        log_weights: in nats, shape [K, ...].

    Returns:
        The value and its derivatives.

    Raises:
        ArgumentTypeError: not an array of floats.
        ArgumentError: no particle axis, or no particles.

    References:
        Roeder, Wu, Duvenaud, "Sticking the Landing", 2017, arXiv 1703.09194, for ``doubly`` = 1/K.

    Example:
        >>> import numpy as np
        >>> print(elbo(np.array([[1.0], [3.0]])).first)
        [[0.5]
         [0.5]]
    """
    value = bounds.elbo(log_weights)
    share = 0.0 * normalized_weights(log_weights) + 1.0 / log_weights.shape[0]
    return Derivatives(value, share, share)


def power_mean(log_weights: Array, power: float) -> Derivatives:
    """The bound ``f = (1/s) log mean_k exp(s l_k)``: IWAE for s = 1, Rényi for s = 1 - alpha, CUBO for s = n.

    With ``v = softmax(s l)``: ``f_k = v_k`` and ``f_k - f_kk = (1 - s) v_k + s v_k^2``.

    Args:
        log_weights: in nats, shape [K, ...].
        power: s, finite and not 0.

    Returns:
        The value and its derivatives; derivatives of 0 for a datum without any weight.

    Raises:
        ArgumentTypeError: not an array of floats.
        ArgumentError: no particle axis, no particles, or a power of 0.

    References:
        Tucker, Lawson, Gu, Maddison, "Doubly Reparameterized Gradient Estimators", 2019, arXiv 1810.04152.

    Example:
        >>> import numpy as np
        >>> print(power_mean(np.log([[1.0], [3.0]]), 1.0).doubly)  # squared weights
        [[0.0625]
         [0.5625]]
    """
    v = _powered_weights(log_weights, power)
    value = bounds.renyi(log_weights, alpha=1.0 - power)
    return Derivatives(value, v, (1.0 - power) * v + power * v**2)


def ciwae(log_weights: Array, beta: float) -> Derivatives:
    """The combination ``beta ELBO + (1 - beta) IWAE``; ``doubly`` is ``beta / K + (1 - beta) w^2``.

    Args:
        log_weights: in nats, shape [K, ...].
        beta: the share of the ELBO, in [0, 1].

    Returns:
        The value and its derivatives.

    Raises:
        ArgumentTypeError: not an array of floats.
        ArgumentError: no particle axis, or no particles.

    References:
        Rainforth et al., "Tighter Variational Bounds are Not Necessarily Better", 2018, arXiv 1802.04537.

    Example:
        >>> import numpy as np
        >>> print(ciwae(np.log([[1.0], [3.0]]), 0.5).first)
        [[0.375]
         [0.625]]
    """
    mean, tight = elbo(log_weights), power_mean(log_weights, 1.0)
    if beta == 0.0:  # 0 * -inf
        return tight
    if beta == 1.0:
        return mean
    return Derivatives(*(beta * a + (1.0 - beta) * b for a, b in zip(mean, tight, strict=True)))


def grouped(array: Array, groups: tuple[int, int]) -> Array:
    """``[M * K, ...]`` as ``[K, M, ...]``: the particles of each of M groups on axis 0.

    Example:
        >>> import numpy as np
        >>> print(grouped(np.arange(6), (2, 3)))
        [[0 3]
         [1 4]
         [2 5]]
    """
    return array.reshape(*groups, *array.shape[1:]).swapaxes(0, 1)


def ungrouped(array: Array) -> Array:
    """The inverse of :func:`grouped`: ``[K, M, ...]`` as ``[M * K, ...]``.

    Example:
        >>> import numpy as np
        >>> print(ungrouped(grouped(np.arange(6), (2, 3))))
        [0 1 2 3 4 5]
    """
    count, groups = array.shape[:2]
    return array.swapaxes(0, 1).reshape(groups * count, *array.shape[2:])


def miwae(log_weights: Array, groups: tuple[int, int]) -> Derivatives:
    """The mean over M groups of IWAE bounds of K particles; ``doubly`` is ``w^2 / M`` with w within each group.

    Args:
        log_weights: in nats, shape [M * K, ...], group by group.
        groups: (M, K).

    Returns:
        The value and its derivatives, the latter of shape [M * K, ...].

    Raises:
        ArgumentTypeError: not an array of floats.
        ArgumentError: no particle axis, or no particles.

    References:
        Rainforth et al., "Tighter Variational Bounds are Not Necessarily Better", 2018, arXiv 1802.04537.

    Example:
        >>> import numpy as np
        >>> print(miwae(np.log([[1.0], [3.0], [2.0], [2.0]]), (2, 2)).first.T)
        [[0.125 0.375 0.25  0.25 ]]
    """
    inner = power_mean(grouped(log_weights, groups), 1.0)  # [M, ...], [K, M, ...]
    return Derivatives(
        bounds.elbo(inner.value), ungrouped(inner.first) / groups[0], ungrouped(inner.doubly) / groups[0]
    )


def leave_one_out(bound: Bound, log_weights: Array) -> Array:
    """The bound of all particles but the k-th, which are independent of it: a baseline.

    Args:
        bound: from [K - 1, ...] to [...].
        log_weights: shape [K, ...].

    Returns:
        Shape [K, ...]; 0 for K = 1, and where the bound is not finite.

    References:
        Kool, van Hoof, Welling, "Buy 4 REINFORCE samples, get a baseline for free!", 2019; Mnih, Rezende, "Variational
        Inference for Monte Carlo Objectives", 2016, arXiv 1602.06725.

    Example:
        >>> import numpy as np
        >>> from probgen.core import bounds
        >>> print(leave_one_out(bounds.elbo, np.array([[1.0], [2.0], [6.0]])).T)
        [[4.  3.5 1.5]]
    """
    count = log_weights.shape[0]
    if count == 1:
        return log_weights * 0.0
    others = np.array([[j for j in range(count) if j != k] for k in range(count)]).T  # [K - 1, K]
    return _finite(bound(log_weights[others]))  # [K - 1, K, ...] -> [K, ...]


def vimco(bound: Bound, log_weights: Array) -> Array:
    """The bound with the k-th log-weight replaced by the mean of the others: a baseline.

    Args:
        bound: from [K, ...] to [...].
        log_weights: shape [K, ...], K at least 2.

    Returns:
        Shape [K, ...]; 0 where the bound is not finite.

    Raises:
        ArgumentError: fewer than two particles.

    References:
        Mnih, Rezende, "Variational Inference for Monte Carlo Objectives", 2016, arXiv 1602.06725.

    Example:
        >>> import numpy as np
        >>> from probgen.core import bounds
        >>> print(vimco(bounds.elbo, np.array([[1.0], [2.0], [6.0]])).T)
        [[4.  3.5 1.5]]
    """
    xp = particle_namespace(log_weights)
    count = log_weights.shape[0]
    if count < 2:
        raise ArgumentError("the baseline of VIMCO is made of the other particles: it needs at least 2")
    replaced = []
    for k in range(count):
        others = [log_weights[j] for j in range(count) if j != k]
        mean = sum(others[1:], others[0]) / (count - 1)
        replaced.append(xp.stack([*others, mean]))  # [K, ...], in another order, which no bound minds
    return xp.stack([_finite(bound(array)) for array in replaced])


def pathwise(derivatives: Derivatives) -> Coefficients:
    """The reparameterization gradient ``sum_k f_k dl_k``.

    Example:
        >>> import numpy as np
        >>> pathwise(elbo(np.zeros((2, 1)))).score is None
        True
    """
    return Coefficients(derivatives.first, derivatives.first, None, derivatives.first)


def doubly_reparameterized(derivatives: Derivatives) -> Coefficients:
    """DReG: the path takes ``f_k - f_kk``, theta keeps ``f_k``, and the score of log q is gone.

    References:
        Tucker, Lawson, Gu, Maddison, "Doubly Reparameterized Gradient Estimators", 2019, arXiv 1810.04152.

    Example:
        >>> import numpy as np
        >>> print(doubly_reparameterized(power_mean(np.log([[1.0], [3.0]]), 1.0)).path.T)
        [[0.0625 0.5625]]
    """
    return Coefficients(derivatives.first, None, None, derivatives.doubly)


def score_function(derivatives: Derivatives, baseline: Array | float = 0.0) -> Coefficients:
    """The score-function gradient ``sum_k (f - b_k - f_k) grad log q(z_k)``; reparameterized sites take their path.

    Args:
        derivatives: of the bound.
        baseline: ``b_k``, independent of ``z_k``, shape [K, ...].

    Returns:
        Coefficients; a datum whose bound is not finite gives no signal.

    References:
        Mnih, Rezende, "Variational Inference for Monte Carlo Objectives", 2016, arXiv 1602.06725.

    Example:
        >>> import numpy as np
        >>> print(score_function(power_mean(np.log([[1.0], [3.0]]), 1.0)).score.T.round(3))  # log 2
        [[0.693 0.693]]
    """
    xp = particle_namespace(derivatives.first)
    known = abs(derivatives.value) < math.inf
    signal = xp.where(known, xp.where(known, derivatives.value, 0.0) - baseline, 0.0)
    return Coefficients(derivatives.first, derivatives.first, signal + 0.0 * derivatives.first, derivatives.first)


def wake_coefficients(log_weights: Array, *, reparameterized: bool = False) -> Coefficients:
    """Wake-phi, also the guide's part of EUBO: ascent on ``E_p(z|x)[log q(z | x)]`` by self-normalised weights.

    ``sum_k w_k grad log q(z_k)``; reparameterized, with the same mean at every K, ``w_k - w_k^2`` on the path.

    Args:
        log_weights: in nats, shape [K, ...].
        reparameterized: give the path instead of the score.

    Returns:
        Coefficients of an ascent; ``model`` is w, for wake-theta.

    References:
        Bornschein, Bengio, "Reweighted Wake-Sleep", 2014, arXiv 1406.2751; Tucker et al., 2019, arXiv 1810.04152.

    Example:
        >>> import numpy as np
        >>> print(wake_coefficients(np.log([[1.0], [3.0]]), reparameterized=True).path.T)
        [[0.1875 0.1875]]
    """
    w = normalized_weights(log_weights)
    return Coefficients(w, None, None, w - w**2) if reparameterized else Coefficients(w, -w, None, None)


def cubo_coefficients(log_weights: Array, n: float, *, reparameterized: bool = False) -> Coefficients:
    """Descent on ``CUBO_n = (1/n) log E_q[w^n]`` by self-normalised weights ``v = softmax(n l)``.

    ``sum_k (n - 1)/n v_k grad log q(z_k)``; reparameterized, with the same mean at every K, ``(n - 1) (v_k - v_k^2)``.

    Args:
        log_weights: in nats, shape [K, ...].
        n: the order, above 1.
        reparameterized: give the path instead of the score.

    Returns:
        Coefficients of a descent for phi; ``model`` is softmax(l), of IWAE, for theta.

    References:
        Dieng, Tran, Ranganath, Paisley, Blei, "Variational Inference via chi Upper Bound Minimization", 2016, arXiv
        1611.00328.

    Example:
        >>> import numpy as np
        >>> print(cubo_coefficients(np.log([[1.0], [1.0]]), 2.0, reparameterized=True).path.T)
        [[0.25 0.25]]
    """
    w, v = normalized_weights(log_weights), _powered_weights(log_weights, n)
    if reparameterized:
        return Coefficients(w, None, None, (n - 1.0) * (v - v**2))
    return Coefficients(w, -v, -v / n, None)


def thermodynamic_value(log_weights: Array, temperatures: Sequence[Array | float], *, side: str) -> Array:
    """The thermodynamic bound ``sum_j (b_(j+1) - b_j) E_b[l]``, at the left or right end of each interval.

    ``E_b`` is the mean under self-normalised weights ``softmax(b l)``. In the limit of many particles the left sum is
    at most ``log p(x)`` and the right one at least.

    Args:
        log_weights: in nats, shape [K, ...].
        temperatures: b from 0 to 1, ascending; numbers, or arrays [...].
        side: ``"left"`` or ``"right"``.

    Returns:
        The sum, shape [...], in nats.

    References:
        Masrani, Le, Wood, "The Thermodynamic Variational Objective", 2019, arXiv 1907.00031.

    Example:
        >>> import numpy as np
        >>> print(thermodynamic_value(np.array([[1.0], [3.0]]), (0.0, 1.0), side="left"))  # the ELBO
        [2.]
    """
    total = 0.0
    for b, width in _intervals(temperatures, side):
        total = total + width * _tempered_mean(_tempered_weights(log_weights, b), log_weights)
    return total


def thermodynamic(
    log_weights: Array, temperatures: Sequence[Array | float], *, side: str, reparameterized: bool = False
) -> Coefficients:
    """The covariance gradient of the thermodynamic bound; ascent on the left sum, descent on the right one.

    With ``w = softmax(b l)``, ``m = sum w l`` and ``d_k = w_k (l_k - m)``, summed over intervals of width D:
    ``model = guide = D (w + b d)``, ``score = D d``. Reparameterized, the path takes the derivative of
    ``c_k = score_k - guide_k`` by ``l_k``; the mean is the same at every K.

    Args:
        log_weights: in nats, shape [K, ...].
        temperatures: b from 0 to 1, ascending; numbers, or arrays [...].
        side: ``"left"`` or ``"right"``.
        reparameterized: give the path instead of the score.

    Returns:
        Coefficients; for the right side those of minus the sum, for the guide alone.

    References:
        Masrani, Le, Wood, "The Thermodynamic Variational Objective", 2019, arXiv 1907.00031.

    Example:
        >>> import numpy as np
        >>> print(thermodynamic(np.array([[1.0], [3.0]]), (0.0, 1.0), side="left").score.T)  # (l - mean) / K
        [[-0.5  0.5]]
    """
    xp = particle_namespace(log_weights)
    carried, score, path = 0.0, 0.0, 0.0  # type: Array, Array, Array
    for b, width in _intervals(temperatures, side):
        w = _tempered_weights(log_weights, b)
        mean = _tempered_mean(w, log_weights)
        known = (abs(mean) < math.inf) & (w > 0.0)  # a particle of weight 0, or a mean of -inf, gives no signal
        d = xp.where(known, w * (xp.where(known, log_weights, 0.0) - xp.where(known, mean, 0.0)), 0.0)
        carried, score = carried + width * (w + b * d), score + width * d
        slope = w * (1.0 - w) + (b * (1.0 - w) - b * w) * d  # dd_k / dl_k: w' = b w (1 - w), m' = w + b d
        path = path + width * ((1.0 - b) * slope - b * w * (1.0 - w))
    sign = 1.0 if side == "left" else -1.0
    if reparameterized:
        return Coefficients(sign * carried, None, None, sign * path)
    return Coefficients(sign * carried, sign * carried, sign * score, None)


def moments_grid(log_weights: Array, intervals: int) -> list[Array | float]:
    """Temperatures between which ``E_b[l]`` rises by equal steps, for each datum; found by bisection.

    Args:
        log_weights: in nats, shape [K, ...].
        intervals: how many, at least 1.

    Returns:
        ``intervals + 1`` temperatures from 0 to 1, those inside of shape [...].

    References:
        Brekelmans, Masrani, Wood, Ver Steeg, Galstyan, "All in the Exponential Family", 2020, arXiv 2007.00642.

    Example:
        >>> import numpy as np
        >>> [float(b) for b in moments_grid(np.array([0.0, 0.0]), 1)]
        [0.0, 1.0]
    """
    xp = particle_namespace(log_weights)
    log_weights = _live(xp.stop_gradient(log_weights))

    def mean(b: Array | float) -> Array:
        return xp.sum(normalized_weights(b * log_weights) * log_weights)

    low_end, high_end = mean(0.0), mean(1.0)
    grid: list[Array | float] = [0.0]
    for j in range(1, intervals):
        target = low_end + (high_end - low_end) * (j / intervals)
        low, high = low_end * 0.0, low_end * 0.0 + 1.0
        for _ in range(30):  # to 1e-9
            middle = (low + high) / 2
            below = mean(middle) < target
            low, high = xp.where(below, middle, low), xp.where(below, high, middle)
        grid.append((low + high) / 2)
    return [*grid, 1.0]


def _intervals(temperatures: Sequence[Array | float], side: str) -> list[tuple[Array | float, Array | float]]:
    """(b at the chosen end, width) of each interval."""
    if side not in ("left", "right"):
        raise ArgumentError(f'`side` must be "left" or "right", got {side!r}')
    ends = itertools.pairwise(temperatures)
    return [(low if side == "left" else high, high - low) for low, high in ends]


def _tempered_weights(log_weights: Array, temperature: Array | float) -> Array:
    """``softmax(b l)``, where b = 0 gives 1/K also to a log-weight of -inf."""
    xp = particle_namespace(log_weights)
    scaled = xp.where(log_weights == -math.inf, log_weights, temperature * _live(log_weights))
    return normalized_weights(xp.where(temperature + 0.0 * _live(log_weights) == 0.0, 0.0, scaled))


def _tempered_mean(weights: Array, log_weights: Array) -> Array:
    """``sum w l``, a weight of 0 counting 0; -inf where a particle of weight above 0 has the log-weight -inf."""
    xp = particle_namespace(log_weights)
    mean = xp.sum(weights * xp.where(weights == 0.0, 0.0, log_weights))
    return xp.where(xp.max(xp.stop_gradient(log_weights)) == -math.inf, -math.inf, mean)


def _powered_weights(log_weights: Array, power: float) -> Array:
    """``softmax(power * l)``; 0 for a datum whose power mean has no weight."""
    xp = particle_namespace(log_weights)
    if power > 0:
        return normalized_weights(power * log_weights)
    dead = -xp.max(-xp.stop_gradient(log_weights)) == -math.inf  # [...]: a negative power of a weight of 0
    v = normalized_weights(power * xp.where(dead, 0.0, log_weights))
    return xp.where(dead, 0.0, v)


def _live(log_weights: Array) -> Array:
    """Log-weights without -inf, which 0 would multiply: no weight counts as the smallest one."""
    xp = particle_namespace(log_weights)
    top = xp.max(xp.stop_gradient(log_weights))  # [...]
    top = xp.where(top == -math.inf, 0.0, top)
    low = -xp.max(-xp.where(log_weights == -math.inf, top, log_weights))
    return xp.where(log_weights == -math.inf, low, log_weights)


def _finite(baseline: Array) -> Array:
    xp = namespace(baseline)
    return xp.where(abs(baseline) < math.inf, xp.where(abs(baseline) < math.inf, baseline, 0.0), 0.0)
