"""The NumPy side of the shim; :class:`probgen.core.ops.Ops` says what each function does."""

from typing import Any

import numpy as np

exp = np.exp
expm1 = np.expm1
log = np.log
log1p = np.log1p


def where(condition: Any, yes: Any, no: Any) -> Any:
    return np.where(condition, yes, no)[()]  # a scalar, not a 0-d array, as NumPy's reductions return


def sum(array: Any, axis: int = 0) -> Any:
    return np.sum(array, axis)


def mean(array: Any, axis: int = 0) -> Any:
    return np.mean(array, axis)


def max(array: Any, axis: int = 0) -> Any:
    return np.max(array, axis)


def _finite_peak(array: Any, axis: int) -> Any:
    peak = np.max(array, axis, keepdims=True)
    return np.where(np.isfinite(peak), peak, 0)  # inf - inf is NaN: where the peak is infinite, do not shift


def logsumexp(array: Any, axis: int = 0) -> Any:
    peak = _finite_peak(array, axis)
    with np.errstate(divide="ignore"):  # log 0 = -inf is meant
        return np.log(np.sum(np.exp(array - peak), axis)) + np.squeeze(peak, axis)


def softmax(array: Any, axis: int = 0) -> Any:
    unnormalized = np.exp(array - _finite_peak(array, axis))
    with np.errstate(invalid="ignore"):  # 0/0 and inf/inf are NaN in the other libraries, without a warning
        return unnormalized / np.sum(unnormalized, axis, keepdims=True)


def largest(array: Any, count: int) -> Any:
    start = array.shape[0] - count
    return np.sort(np.partition(array, start, axis=0)[start:], axis=0)


def stack(arrays: list[Any]) -> Any:
    return np.stack(arrays)


def arange(count: int, like: Any) -> Any:
    return np.arange(count, dtype=like.dtype)


def stop_gradient(array: Any) -> Any:
    return array


def double(array: Any) -> Any:
    return array.astype(np.float64)


def cast(array: Any, like: Any) -> Any:
    return array.astype(like.dtype)


def is_floating(array: Any) -> bool:
    return np.issubdtype(array.dtype, np.floating)


def limits(array: Any) -> tuple[float, float]:
    info = np.finfo(array.dtype)
    return float(info.eps), float(info.tiny)
