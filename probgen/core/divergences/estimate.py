"""What every estimator of a divergence returns: a value, and how wrong it may be."""

import math
from dataclasses import dataclass
from typing import Any

from probgen.core.ops import Array, namespace

__all__ = ["Estimate", "exact_estimate", "mean_estimate", "normal_interval"]


@dataclass(frozen=True)
class Estimate:
    """An estimate of a divergence, with its error.

    Attributes:
        value: the estimate, a scalar of the library that the arguments came from; differentiable where its function
            says so.
        standard_error: of the value, from sampling; 0.0 for what is computed and not sampled, NaN where it is unknown.
        interval: the 95 % confidence interval ``(low, high)``. Where ``bias`` is a rate or a side, it is one for the
            estimator's mean and not for the truth.
        bias: ``"none"``, ``"lower"`` (the expectation is at most the truth), ``"upper"``, or the rate at which the bias
            vanishes, such as ``"O(1/n)"``.
        n: samples of ``p`` (of both together where they are pooled); 0 for what is computed and not sampled.
        note: what a reader must know, such as why the value is infinite; empty where there is nothing to say.

    Example:
        >>> Estimate(0.5, 0.1, (0.3, 0.7), "none", 100).interval
        (0.3, 0.7)
    """

    value: Any
    standard_error: Any
    interval: tuple[Any, Any]
    bias: str
    n: int
    note: str = ""


def exact_estimate(value: Array, *, error: float = 0.0, note: str = "") -> Estimate:
    """An estimate of what is computed without samples, up to a numerical error.

    Args:
        value: the divergence, any shape.
        error: bound on the numerical error.
        note: goes to the estimate.

    Example:
        >>> exact_estimate(0.5).bias
        'none'
    """
    return Estimate(value, 0.0, (value - error, value + error), "none", 0, note)


def mean_estimate(terms: Array, *, bias: str = "none", note: str = "") -> Estimate:
    """The mean of independent terms: standard error ``std / sqrt(n)``, interval by Student's t.

    Args:
        terms: shape [n], of any library; the value is differentiable.
        bias: goes to the estimate.
        note: goes to the estimate.

    Returns:
        The estimate; an infinite mean has the interval ``(inf, inf)``, a single term the standard error NaN.

    Example:
        >>> import numpy as np
        >>> estimate = mean_estimate(np.array([1.0, 2.0, 3.0]))
        >>> print(estimate.value, round(estimate.standard_error, 3))
        2.0 0.577
    """
    xp = namespace(terms=terms)
    count = terms.shape[0]
    value = xp.mean(terms)
    number = float(xp.stop_gradient(value))
    if math.isinf(number):
        return Estimate(value, 0.0, (number, number), bias, count, note)
    error = standard_error(terms)
    return Estimate(value, error, normal_interval(number, error, count - 1), bias, count, note)


def standard_error(terms: Array) -> float:
    """``std / sqrt(n)`` of terms of shape [n], in the widest float; NaN for a single one."""
    xp = namespace(terms=terms)
    wide = xp.double(xp.stop_gradient(terms))
    count = wide.shape[0]
    if count < 2:
        return math.nan
    return math.sqrt(float(xp.sum((wide - xp.mean(wide)) ** 2)) / (count - 1) / count)


def normal_interval(value: float, error: float, freedom: float = math.inf) -> tuple[float, float]:
    """The 95 % interval ``value -+ t error`` with Student's quantile for so many degrees of freedom.

    Example:
        >>> low, high = normal_interval(0.0, 1.0)
        >>> print(round(high, 2))
        1.96
    """
    from scipy.special import ndtri, stdtrit  # late: scipy is not needed to import this module

    if not freedom >= 1:
        return math.nan, math.nan
    quantile = float(ndtri(0.975) if math.isinf(freedom) else stdtrit(freedom, 0.975))
    return value - quantile * error, value + quantile * error
