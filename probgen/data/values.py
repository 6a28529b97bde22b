"""Checks of a tensor's values; each names the first bad index and its value."""

from collections.abc import Callable

import torch
from torch import Tensor

from probgen.arguments import first_index
from probgen.errors import DataError

_CHUNK = 1 << 24  # elements a step, so that the masks stay small beside the data


def check_values_exist(label: str, values: Tensor) -> None:
    """Raises for a tensor on the device "meta", which has a shape and no values.

    Raises:
        DataError: naming the tensor.
    """
    if values.is_meta:
        raise DataError(f"`{label}` is on the device 'meta', which holds no values; load the data on 'cpu' or 'cuda'")


def check_finite(values: Tensor, label: str) -> None:
    """Raises unless every element is finite.

    Args:
        values: tensor ``[N, ...]`` of any dtype.
        label: what the message calls it.

    Raises:
        DataError: an infinite or undefined element; names the first one.
    """
    if values.is_floating_point() or values.is_complex():
        _check(values, label, lambda part: ~torch.isfinite(part), "every value must be finite: remove or replace it")


def check_unit(values: Tensor, label: str) -> None:
    """Raises unless every element lies in [0, 1], as a probability must.

    Args:
        values: tensor ``[N, ...]`` of numbers.
        label: what the message calls it.

    Raises:
        DataError: an element outside [0, 1]; names the first one.
    """
    cure = "binarization needs values in [0, 1]: scale the data, or load them with `binarize=None`"
    _check(values, label, lambda part: ~((part >= 0) & (part <= 1)), cure)


def _check(values: Tensor, label: str, is_bad: Callable[[Tensor], Tensor], cure: str) -> None:
    rows = max(1, _CHUNK * len(values) // max(1, values.numel()))
    for first in range(0, len(values), rows):
        part = values[first : first + rows]
        bad = is_bad(part)
        if bad.any():
            row, *rest = index = first_index(bad)
            raise DataError(f"`{label}` holds {part[index].item()} at index {(first + row, *rest)}; {cure}")
