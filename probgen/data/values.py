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


def check_finite(values: Tensor, label: str, rows: Tensor | None = None) -> None:
    """Raises unless every element is finite.

    Args:
        values: tensor ``[N, ...]`` of any dtype.
        label: what the message calls it.
        rows: what the message calls each of the N; 0 to N - 1 if None.

    Raises:
        DataError: an infinite or undefined element; names the first one.
    """
    if values.is_floating_point() or values.is_complex():
        cure = "every value must be finite: remove or replace it"
        _check(values, label, lambda part: ~torch.isfinite(part), cure, rows)


def check_unit(values: Tensor, label: str, rows: Tensor | None = None) -> None:
    """Raises unless every element lies in [0, 1], as a probability must.

    Args:
        values: tensor ``[N, ...]`` of numbers.
        label: what the message calls it.
        rows: what the message calls each of the N; 0 to N - 1 if None.

    Raises:
        DataError: an element outside [0, 1]; names the first one.
    """
    cure = "binarization needs values in [0, 1]: scale the data, or load them with `binarize=None`"
    _check(values, label, lambda part: ~((part >= 0) & (part <= 1)), cure, rows)


def _check(
    values: Tensor, label: str, is_bad: Callable[[Tensor], Tensor], cure: str, rows: Tensor | None = None
) -> None:
    size = max(1, _CHUNK * len(values) // max(1, values.numel()))
    for first in range(0, len(values), size):
        part = values[first : first + size]
        bad = is_bad(part)
        if bad.any():
            row, *rest = index = first_index(bad)
            named = first + row if rows is None else int(rows[first + row])
            raise DataError(f"`{label}` holds {part[index].item()} at index {(named, *rest)}; {cure}")
