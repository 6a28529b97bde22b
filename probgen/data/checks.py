"""What training asks of its data before the first step."""

from typing import Any

from torch import Tensor

from probgen.data.dataset import Dataset
from probgen.data.memory import Arrays, as_dataset, check_lengths, named
from probgen.data.values import check_finite, check_unit, check_values_exist
from probgen.errors import DataError


def validate(data: Any) -> None:
    """Raises unless ``data`` can be trained on: not empty, of one length, finite, and without gradients.

    Of an :class:`~probgen.data.InMemory` that is not ours, only the length is known.

    Args:
        data: what :func:`probgen.data.as_dataset` takes.

    Raises:
        ArgumentTypeError: not data in memory.
        DataError: empty, of unequal lengths, not finite, a leaf or result of autograd, or to be binarized dynamically
            and outside [0, 1]. Names the part, and the first bad index with its value.

    Example:
        >>> import torch
        >>> validate(torch.tensor([[0.0, 1.0], [0.0, float("nan")]]))
        Traceback (most recent call last):
        probgen.errors.DataError: `data` holds nan at index (1, 1); every value must be finite: remove or replace it
    """
    dataset = as_dataset(data)
    if len(dataset) == 0:
        raise DataError("`data` is empty: at least one datum is required")
    members = _members(dataset)
    check_lengths(members)
    for label, values in members.items():
        _check_tensor(label, values)
    if isinstance(dataset, Dataset) and dataset.binarize == "dynamic":
        check_unit(dataset.x, "data.x")


def _members(dataset: Any) -> dict[str, Tensor]:
    if isinstance(dataset, Arrays):
        return named(dataset.values)
    if isinstance(dataset, Dataset):
        return {"data.x": dataset.x} | ({} if dataset.y is None else {"data.y": dataset.y})
    return {}


def _check_tensor(label: str, values: Tensor) -> None:
    if values.requires_grad:
        raise DataError(f"`{label}` requires gradients: data must not; pass `{label}.detach()`")
    check_values_exist(label, values)
    if values.numel() == 0:
        raise DataError(f"`{label}` is empty: it has shape {tuple(values.shape)}")
    check_finite(values, label)
