r"""Variational bounds of divergences from a critic's outputs at samples of both distributions.

Every function takes the critic at n independent samples of p and at m of q, of any library. The critic must not have
been trained on these samples: only then are the duals unbiased for a lower bound. Values are differentiable in the
outputs, so that the same functions train the critic; errors are not. Intervals are for the bound that this critic
gives, at most the divergence.
"""

import math
from collections.abc import Callable

from probgen.core.divergences.arrays import numeric, one_sample, positive
from probgen.core.divergences.densities import _tails
from probgen.core.divergences.estimate import Estimate, normal_interval, standard_error
from probgen.core.divergences.generators import _softplus, conjugate, generator
from probgen.core.divergences.pairs import squared, tiles_of
from probgen.core.ops import Array, Ops, namespace
from probgen.errors import ArgumentError, ArgumentTypeError, DataError

__all__ = ["donsker_varadhan", "f_dual", "f_dual_from_log_ratio", "kantorovich_rubinstein", "lipschitz_constant", "nwj"]


def donsker_varadhan(t_p: Array, t_q: Array, *, heavy_tails: str = "refuse") -> Estimate:
    """The bound ``E_p[T] - log E_q[e^T] <= KL(p || q)``, in nats; tight at ``T = log p / q + constant``.

    The logarithm of a mean makes the plug-in estimate biased upwards by about ``Var(e^T) / (2 m E[e^T]²)``, so that on
    few samples it exceeds the bound, and may exceed the divergence; the note says by how much. The standard error is
    that of the delta method. MINE maximises this bound.

    Args:
        t_p: the critic at samples of p, shape [n].
        t_q: the critic at samples of q, shape [m].
        heavy_tails: ``"refuse"`` or ``"allow"`` terms ``e^T`` whose mean cannot be trusted.

    Returns:
        The estimate, of bias ``"O(1/n) upwards"`` about a lower bound.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: other shapes, or fewer than two samples of either.
        DataError: an output that is not finite, or terms of too heavy a tail.

    References:
        Donsker, Varadhan, "Asymptotic evaluation of certain Markov process expectations for large time IV", 1983.
        Belghazi, Baratin, Rajeswar, Ozair, Bengio, Courville, Hjelm, "Mutual Information Neural Estimation", 2018,
        arXiv 1801.04062.

    Example:
        >>> import numpy as np
        >>> print(donsker_varadhan(np.array([2.0, 2.0]), np.array([0.0, 0.0])).value)
        2.0
    """
    xp = checked_outputs(t_p, t_q)
    note = _tails(t_q, heavy_tails, is_log=True)
    value = xp.mean(t_p) - (xp.logsumexp(t_q) - math.log(t_q.shape[0]))
    weights = xp.double(xp.stop_gradient(t_q))
    weights = xp.exp(weights - xp.max(weights))
    relative = standard_error(weights) / float(xp.mean(weights))  # of E_q[e^T]
    excess = f"a lower bound, of which the estimate is biased upwards by about {relative**2 / 2:.2g}"
    error = math.hypot(standard_error(t_p), relative)
    return _estimate(value, error, t_p, t_q, "O(1/n) upwards", "; ".join(filter(None, (excess, note))))


def nwj(t_p: Array, t_q: Array, *, heavy_tails: str = "refuse") -> Estimate:
    """The bound ``E_p[T] - E_q[e^(T - 1)] <= KL(p || q)``, in nats; tight at ``T = 1 + log p / q``.

    An unbiased estimate of a lower bound, of larger variance than :func:`donsker_varadhan`: the dual of the f of
    ``"kl"``.

    Args:
        t_p: the critic at samples of p, shape [n].
        t_q: the critic at samples of q, shape [m].
        heavy_tails: as in :func:`f_dual`.

    Raises:
        ProbgenError: as :func:`f_dual`.

    References:
        Nguyen, Wainwright, Jordan, "Estimating divergence functionals and the likelihood ratio by convex risk
        minimization", 2010, arXiv 0809.0853.

    Example:
        >>> import numpy as np
        >>> print(nwj(np.array([1.0, 1.0]), np.array([1.0, 1.0])).value)
        0.0
    """
    return f_dual(t_p, t_q, "kl", heavy_tails=heavy_tails)


def f_dual(t_p: Array, t_q: Array, kind: str = "kl", *, heavy_tails: str = "refuse") -> Estimate:
    """The bound ``E_p[T] - E_q[f*(T)] <= D_f(p || q)``; tight at ``T = f'(p / q)``.

    Args:
        t_p: the critic at samples of p, shape [n], inside the domain of f*.
        t_q: the critic at samples of q, shape [m].
        kind: one of ``GENERATORS`` that has a conjugate; there its constant factors are stated.
        heavy_tails: ``"refuse"`` or ``"allow"`` terms whose mean cannot be trusted, which the note then says.

    Returns:
        The estimate, of bias ``"lower"``.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: other shapes, fewer than two samples of either, an unknown kind, or an f without a dual.
        DataError: an output that is not finite or outside the domain of f*, or terms of too heavy a tail.

    References:
        Nowozin, Cseke, Tomioka, "f-GAN: Training Generative Neural Samplers using Variational Divergence Minimization",
        2016, arXiv 1606.00709.

    Example:
        >>> import numpy as np
        >>> print(f_dual(np.array([0.5, 0.5]), np.array([-0.5, -0.5]), "tv").value)  # disjoint supports
        1.0
    """
    checked_outputs(t_p, t_q)
    refuse_without_dual(kind)
    for name, outputs in (("t_p", t_p), ("t_q", t_q)):
        outside = numeric(conjugate(outputs, kind)) == math.inf
        if outside.any():
            index = int(outside.argmax())
            raise DataError(
                f"`{name}` is {numeric(outputs)[index]} at sample {index}, outside the domain of the conjugate of the "
                f"f of {kind!r}: let the critic give log-ratios, and call `f_dual_from_log_ratio`"
            )
    return _dual(t_p, conjugate(t_q, kind), heavy_tails)


def f_dual_from_log_ratio(s_p: Array, s_q: Array, kind: str = "kl", *, heavy_tails: str = "refuse") -> Estimate:
    """The bound of :func:`f_dual` for a critic s of ``log p / q``: ``T = f'(e^s)``, ``f*(T) = e^s f'(e^s) - f(e^s)``.

    Any real s is allowed, and the same s is best for every f. For the total variation T is a step, which has no
    gradient: there the bound is twice a classifier's balanced accuracy, less 1.

    Args:
        s_p: the critic at samples of p, shape [n].
        s_q: the critic at samples of q, shape [m].
        kind: as in :func:`f_dual`.
        heavy_tails: as in :func:`f_dual`.

    Raises:
        ProbgenError: as :func:`f_dual`.

    Example:
        >>> import numpy as np
        >>> s_p, s_q = np.log([3.0, 3.0]), np.log([1 / 3, 1 / 3])
        >>> print(f_dual_from_log_ratio(s_p, s_q, "reverse-kl").value.round(6))  # E_q[1 - s] - E_p[e^-s]
        1.765279
    """
    checked_outputs(s_p, s_q)
    refuse_without_dual(kind)
    return _dual(dual_terms(s_p, kind)[0], dual_terms(s_q, kind)[1], heavy_tails)


def kantorovich_rubinstein(t_p: Array, t_q: Array, lipschitz: float) -> Estimate:
    """The bound ``(E_p[T] - E_q[T]) / L <= W_1(p, q)`` for a critic of Lipschitz constant L, in the unit of the data.

    Args:
        t_p: the critic at samples of p, shape [n].
        t_q: the critic at samples of q, shape [m].
        lipschitz: L, or an upper bound of it. With one that is too small, such as the largest slope that was seen
            (:func:`lipschitz_constant`), the value is no bound.

    Returns:
        The estimate, of bias ``"lower"``.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: other shapes, fewer than two samples of either, or an L that is not above 0.
        DataError: an output that is not finite.

    References:
        Villani, "Optimal Transport: Old and New", 2009, section 5. Arjovsky, Chintala, Bottou, "Wasserstein GAN", 2017,
        arXiv 1701.07875.

    Example:
        >>> import numpy as np
        >>> x = np.array([0.0, 1.0])
        >>> print(kantorovich_rubinstein(2.0 * (x + 3.0), 2.0 * x, 2.0).value)  # T = 2 x
        3.0
    """
    checked_outputs(t_p, t_q)
    constant = positive("lipschitz", lipschitz)
    return _dual(t_p / constant, t_q / constant, "refuse", check_tails=False)


def lipschitz_constant(x: Array, t: Array) -> float:
    """The largest slope ``|T(x_i) - T(x_j)| / |x_i - x_j|`` of a critic between samples: at most its constant.

    Divided by it, the difference of the means over the same samples is at most the W_1 of the two *empirical*
    distributions, by duality on these points. In blocks: memory grows with n, not with n².

    Args:
        x: samples of both distributions, shape [n, d] or [n].
        t: the critic at them, shape [n].

    Returns:
        The slope; inf where equal samples have different outputs.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: other shapes, or fewer than two samples.
        DataError: an entry that is not finite.

    Example:
        >>> import numpy as np
        >>> x = np.array([0.0, 1.0, 3.0])
        >>> print(round(lipschitz_constant(x, 2.0 * x), 6))
        2.0
    """
    if t.ndim != 1 or len(t) != len(x):
        raise ArgumentError(f"`t` must have the shape [{len(x)}], one output a sample, got {list(t.shape)}")
    namespace(x=x, t=t)
    found, heights = (numeric(one_sample(name, a)).astype("float64") for name, a in (("x", x), ("t", t)))
    found = found - found.mean(0)
    xp, tiles, steepest = namespace(found), tiles_of(len(found)), 0.0
    for i, rows in enumerate(tiles):
        for columns in tiles[i:]:
            squares = squared(xp, found[rows], found[columns])
            rises = (heights[rows] - heights[columns].T) ** 2
            apart = squares > 1e-24 * (found**2).sum(1).max()
            if bool((rises[~apart] > 0).any()):
                return math.inf
            steepest = max(steepest, float((rises[apart] / squares[apart]).max(initial=0.0)))
    return math.sqrt(steepest)


def _le_cam(u: Array) -> Array:
    """``f*(f'(r))`` from ``u = 1 / (1 + r)``."""
    return 1.5 - 4.0 * u + 2.0 * u**2


# kind -> (ops, s) -> f*(f'(e^s)), each in the form that neither cancels nor overflows early
_DUAL_AT_SLOPE: dict[str, Callable[[Ops, Array], Array]] = {
    "kl": lambda xp, s: xp.exp(s),
    "reverse-kl": lambda xp, s: s - 1.0,
    "js": lambda xp, s: 0.5 * (_softplus(xp, s) - math.log(2)),
    "chi2": lambda xp, s: xp.expm1(2.0 * s),
    "reverse-chi2": lambda xp, s: -2.0 * xp.expm1(-s),
    "hellinger": lambda xp, s: 0.5 * xp.exp(0.5 * s) - 1.0,
    "tv": lambda xp, s: generator("tv").slope(xp, s),
    "le-cam": lambda xp, s: _le_cam(1.0 / (1.0 + xp.exp(s))),
}


def dual_terms(s: Array, kind: str) -> tuple[Array, Array]:
    """``(f'(e^s), f*(f'(e^s)))``, unchecked: the terms over samples of p, and of q."""
    xp = namespace(s)
    return generator(kind).slope(xp, s), _DUAL_AT_SLOPE[kind](xp, s)


def refuse_without_dual(kind: str) -> None:
    """Raises an ArgumentError for an f that is unknown or whose conjugate has no elementary form."""
    if generator(kind).dual is None:
        known = ", ".join(_DUAL_AT_SLOPE)
        raise ArgumentError(
            f"`kind`: the f of {kind!r} has no elementary conjugate, so that it has no dual bound; use one of {known}"
            + ("; Jeffreys' divergence is the sum of 'kl' and 'reverse-kl'" if kind == "jeffreys" else "")
        )


def checked_outputs(t_p: Array, t_q: Array, names: tuple[str, str] = ("t_p", "t_q")) -> Ops:
    """Refuses outputs of a critic that are not two vectors of finite floats of one library."""
    xp = namespace(**dict(zip(names, (t_p, t_q), strict=True)))
    for name, outputs in zip(names, (t_p, t_q), strict=True):
        if not xp.is_floating(outputs):
            raise ArgumentTypeError(f"`{name}` must have a floating-point dtype, got {outputs.dtype}: convert it")
        if outputs.ndim != 1 or outputs.shape[0] < 2:
            raise ArgumentError(
                f"`{name}` must have the shape [n] with n at least 2, one output a sample, got {list(outputs.shape)}"
            )
        values = numeric(outputs)
        bad = ~(abs(values) < math.inf)
        if bad.any():
            raise DataError(f"`{name}` must be finite, got {values[bad.argmax()]} at sample {int(bad.argmax())}")
    return xp


def _dual(rewards: Array, costs: Array, heavy_tails: str, *, check_tails: bool = True) -> Estimate:
    """``mean(rewards) - mean(costs)`` of independent samples."""
    xp = namespace(rewards, costs)
    notes = [_tails(terms, heavy_tails) for terms in (rewards, costs)] if check_tails else []
    error = math.hypot(standard_error(rewards), standard_error(costs))
    value = xp.mean(rewards) - xp.mean(costs)
    return _estimate(value, error, rewards, costs, "lower", "; ".join(filter(None, notes)))


def _estimate(value: Array, error: float, p: Array, q: Array, bias: str, note: str) -> Estimate:
    number, freedom = float(namespace(value).stop_gradient(value)), min(p.shape[0], q.shape[0]) - 1
    return Estimate(value, error, normal_interval(number, error, freedom), bias, p.shape[0], note)
