r"""Bounds on the evidence, as pure functions of log-weights.

With ``l_k = log p(x, z_k) - log q(z_k | x)`` and ``z_k ~ q(z | x)``, every function takes the particles on axis 0 and
returns one value per datum, in nats, not reduced over the batch. On the same weights, pointwise,

    ELBO <= Rényi (0 < alpha < 1) <= IWAE <= CUBO_n (n >= 1)   and   IWAE <= EUBO.

An entry of -inf is a particle of weight 0. A datum without any weight has the value -inf and gradient exactly 0, so
that it cannot turn the gradient of its whole minibatch into NaN. +inf and NaN are defects of a program and show in the
value, which is then +inf or NaN.
"""

import math
from numbers import Real

from probgen.core.ops import Array, Ops
from probgen.core.weights import normalized_weights, particle_namespace
from probgen.errors import ArgumentError, ArgumentTypeError

__all__ = ["cubo", "elbo", "eubo", "iwae", "miwae", "renyi"]


def elbo(log_weights: Array) -> Array:
    """Evidence lower bound: ``mean_k l_k``.

    An unbiased estimate of the ELBO, whose exact value is at most ``log p(x)``. One entry of -inf makes the value -inf;
    the gradient is then 1/K for the other entries and 0 for that one.

    Args:
        log_weights: ``log p(x, z) - log q(z | x)`` in nats, shape [num_particles, ...].

    Returns:
        The bound in nats, shape [...].

    Raises:
        ArgumentTypeError: not an array of floats.
        ArgumentError: no particle axis, or no particles.

    References:
        Kingma, Welling, "Auto-Encoding Variational Bayes", 2013, arXiv 1312.6114.

    Example:
        >>> import numpy as np
        >>> print(elbo(np.log([[1.0, 4.0], [1.0, 16.0]])) / np.log(2))
        [0. 3.]
    """
    xp = particle_namespace(log_weights)
    return xp.mean(xp.where(log_weights == -math.inf, -math.inf, log_weights))  # the constant -inf stops the gradient


def iwae(log_weights: Array) -> Array:
    """Importance-weighted bound: ``logsumexp_k l_k - log K``.

    In expectation ``ELBO <= IWAE_K <= IWAE_(K+1) <= log p(x)``; with one particle it is the ELBO. As an estimate of
    ``log p(x)`` it is biased downwards. Its gradient weights each particle by ``softmax_k(l)``.

    Args:
        log_weights: ``log p(x, z) - log q(z | x)`` in nats, shape [num_particles, ...].

    Returns:
        The bound in nats, shape [...]; -inf, with gradient 0, where all entries are -inf.

    Raises:
        ArgumentTypeError: not an array of floats.
        ArgumentError: no particle axis, or no particles.

    References:
        Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders", 2015, arXiv 1509.00519.

    Example:
        >>> import numpy as np
        >>> print(np.exp(iwae(np.log([[1.0, 4.0], [3.0, 6.0]]))))
        [2. 5.]
    """
    return _log_power_mean(particle_namespace(log_weights), log_weights, 1.0)


def miwae(log_weights: Array) -> Array:
    """Multiply importance-weighted bound: ``mean_m (logsumexp_k l_mk - log K)``.

    The mean of M independent IWAE bounds with K particles each: the same expectation as IWAE_K, at less variance. With
    M = 1 it is IWAE, with K = 1 the ELBO.

    Args:
        log_weights: ``log p(x, z) - log q(z | x)`` in nats, shape [M, K, ...].

    Returns:
        The bound in nats, shape [...]. A group m without any weight makes the value -inf and gets gradient 0.

    Raises:
        ArgumentTypeError: not an array of floats.
        ArgumentError: fewer than two axes, or no particles.

    References:
        Rainforth, Kosiorek, Le, Maddison, Igl, Wood, Teh, "Tighter Variational Bounds are Not Necessarily Better",
        2018, arXiv 1802.04537.

    Example:
        >>> import numpy as np
        >>> log_weights = np.log([[1.0, 3.0], [8.0, 8.0]])  # two groups of two particles
        >>> print(miwae(log_weights) / np.log(2))
        2.0
    """
    particle_namespace(log_weights, axes=("M", "K"))
    return elbo(iwae(log_weights.swapaxes(0, 1)))  # [K, M, ...] -> [M, ...] -> [...]


def renyi(log_weights: Array, alpha: float) -> Array:
    """Rényi bound: ``(logsumexp_k (1 - alpha) l_k - log K) / (1 - alpha)``.

    With alpha = 0 it is IWAE; it tends to the ELBO as alpha tends to 1. The exact bound (infinitely many particles) is
    at most ``log p(x)`` for alpha >= 0 and at least ``log p(x)`` for alpha < 0. This mean of K particles is in
    expectation a lower bound for alpha >= 0 and *neither* bound for alpha < 0.

    Args:
        log_weights: ``log p(x, z) - log q(z | x)`` in nats, shape [num_particles, ...].
        alpha: order of the divergence, any finite number but 1.

    Returns:
        The bound in nats, shape [...]. It is -inf, with gradient 0, where all entries are -inf; for alpha > 1 (a
        negative power of the weights), where any entry is.

    Raises:
        ArgumentTypeError: `log_weights` is not an array of floats, or `alpha` not a Python number.
        ArgumentError: no particle axis, no particles, or an `alpha` that is 1 or not finite.

    References:
        Li, Turner, "Rényi Divergence Variational Inference", 2016, arXiv 1602.02311.

    Example:
        >>> import numpy as np
        >>> print(np.exp(renyi(np.log([[1.0], [9.0]]), alpha=0.5)))  # ((1 + 3) / 2)^2
        [4.]
    """
    xp = particle_namespace(log_weights)
    power = 1.0 - _finite("alpha", alpha)
    if power == 0.0:
        raise ArgumentError("`alpha` must not be 1, where the Rényi bound is defined as its limit: use `elbo` instead")
    return _log_power_mean(xp, log_weights, power)


def cubo(log_weights: Array, n: float = 2.0) -> Array:
    """Chi upper bound: ``(logsumexp_k n l_k - log K) / n``.

    Only the exact expectation ``(1/n) log E_q[w^n]``, for n >= 1, is an upper bound of ``log p(x)``. This estimate from
    K particles is biased downwards and is no bound: with one particle it is the ELBO. Minimise it over the guide only.
    It is the Rényi bound with alpha = 1 - n; for 0 < n < 1 that is a lower bound.

    Args:
        log_weights: ``log p(x, z) - log q(z | x)`` in nats, shape [num_particles, ...].
        n: order of the moment, positive.

    Returns:
        The estimate in nats, shape [...]; -inf, with gradient 0, where all entries are -inf.

    Raises:
        ArgumentTypeError: `log_weights` is not an array of floats, or `n` not a Python number.
        ArgumentError: no particle axis, no particles, or an `n` that is not positive and finite.

    References:
        Dieng, Tran, Ranganath, Paisley, Blei, "Variational Inference via chi Upper Bound Minimization", 2016, arXiv
        1611.00328.

    Example:
        >>> import numpy as np
        >>> print(np.exp(cubo(np.log([[1.0], [7.0]]))))  # the root mean square of the weights
        [5.]
    """
    xp = particle_namespace(log_weights)
    power = _finite("n", n)
    if power <= 0.0:
        raise ArgumentError(f"`n` must be positive, got {n}: for other orders use `renyi` with alpha = 1 - n")
    return _log_power_mean(xp, log_weights, power)


def eubo(log_weights: Array) -> Array:
    """Evidence upper bound, self-normalised: ``sum_k w_k l_k`` with ``w = softmax_k(l)``.

    Only the exact expectation under the posterior, ``E_p(z|x)[l] = log p(x) + KL(p(z|x) || q(z|x))``, is an upper bound
    of ``log p(x)``. This estimate weights K particles of q instead; it is biased downwards (by O(1/K)) and no bound:
    with one particle it is the ELBO. Minimise it over the guide only. The gradient is that of the formula, through the
    weights as well.

    Args:
        log_weights: ``log p(x, z) - log q(z | x)`` in nats, shape [num_particles, ...].

    Returns:
        The estimate in nats, shape [...]; entries of -inf count 0, and where all are it is -inf with gradient 0. An
        entry of +inf gives NaN.

    Raises:
        ArgumentTypeError: not an array of floats.
        ArgumentError: no particle axis, or no particles.

    References:
        Ji, Shen, "Stochastic Variational Inference via Upper Bound", 2019, arXiv 1912.00650.

    Example:
        >>> import numpy as np
        >>> print(np.exp(eubo(np.log([[1.0, 8.0], [1.0, 8.0]]))))
        [1. 8.]
    """
    xp = particle_namespace(log_weights)
    top = xp.max(xp.stop_gradient(log_weights))  # [...]
    dead = top == -math.inf
    shift = xp.where(dead, 0.0, top)  # keeps the digits of large log-weights in the gradient
    relative = xp.where(log_weights == -math.inf, 0.0, log_weights - shift)  # 0 * -inf is meant to be 0
    return xp.where(dead, -math.inf, shift + xp.sum(normalized_weights(log_weights) * relative))


def _log_power_mean(xp: Ops, log_weights: Array, power: float) -> Array:
    """``(1/s) log mean_k exp(s l_k)`` over axis 0: IWAE for s = 1, Rényi for s = 1 - alpha, CUBO for s = n."""
    constant = xp.stop_gradient(log_weights)
    top = xp.max(constant)  # [...]
    peak = top if power > 0 else -xp.max(-constant)  # the entry that dominates the mean
    dead = peak == -math.inf  # no weight at all; for a negative power, one weight of 0 suffices
    shift = xp.where(abs(peak) < math.inf, peak, 0.0)
    # The data without weight are replaced before the arithmetic: masking the result alone leaves NaN in the gradient.
    scaled = power * (xp.where(dead, 0.0, log_weights) - shift)
    value = xp.where(dead, -math.inf, shift + _log_mean_exp(xp, scaled) / power)
    # A negative power turns a weight of +inf into 0, which would hide it.
    return value if power > 0 else value + xp.where(top < math.inf, 0.0, top)


def _log_mean_exp(xp: Ops, array: Array) -> Array:
    """``log mean_k exp(a_k)`` over axis 0 for entries up to 0.

    Near 0 as ``log1p(mean expm1)``: the usual form has an error of about machine epsilon, which a Rényi bound divides
    by ``1 - alpha`` (some tenths of a nat in float32 at alpha = 1 - 1e-6).
    """
    deficit = xp.mean(xp.expm1(array))  # in (-1, 0]
    near = deficit > -0.5
    usual = xp.logsumexp(array) - math.log(array.shape[0])
    return xp.where(near, xp.log1p(xp.where(near, deficit, 0.0)), usual)


def _finite(name: str, value: object) -> float:
    if not isinstance(value, Real):
        raise ArgumentTypeError(f"`{name}` must be a Python number, got {type(value).__name__}: pass float({name})")
    if not math.isfinite(value):
        raise ArgumentError(f"`{name}` must be finite, got {value}")
    return float(value)
