"""Data that lie in memory, whatever their container: a length, a device, and batches by index."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probgen.errors import ArgumentTypeError, DataError

Batch: TypeAlias = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
Indices: TypeAlias = Tensor | slice


@runtime_checkable
class InMemory(Protocol):
    """What a training loop needs of data that it can index: these three verbs and nothing else."""

    def __len__(self) -> int:
        """The number of data."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """The same data on ``device``."""
        ...

    def batch(self, indices: Indices, generator: torch.Generator | None = None) -> Batch:
        """The data at ``indices``: a tensor for ``model(b)``, a tuple for ``model(*b)``, a dict for ``model(**b)``.

        Args:
            indices: integers ``[B]`` or a slice.
            generator: where randomness comes from, on the device of the data; ignored by data that have none.
        """
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Arrays:
    """Tensors of one length: one, a tuple of them, or a dictionary; batches are of the same kind.

    Attributes:
        values: the tensors, each ``[N, ...]``.
    """

    values: Batch

    def __len__(self) -> int:
        return len(next(iter(named(self.values).values())))

    def __repr__(self) -> str:
        return f"Arrays({', '.join(f'{k}: {tuple(v.shape)} {v.dtype}' for k, v in named(self.values).items())})"

    def to(self, device: torch.device | str) -> "Arrays":
        """The same data on ``device``."""
        return Arrays(_map(lambda values: values.to(device), self.values))

    def batch(self, indices: Indices, generator: torch.Generator | None = None) -> Batch:
        """The data at ``indices``; nothing is random, and ``generator`` is ignored."""
        return _map(lambda values: values[indices], self.values)


def as_dataset(data: Any) -> InMemory:
    """Gives tensors and NumPy arrays the verbs of data in memory; what has them already comes back as it is.

    NumPy arrays become tensors that share their memory wherever torch can. The dtype stays: models cast.

    Args:
        data: a tensor or array ``[N, ...]``, a tuple or dictionary of them, or an :class:`InMemory`.

    Returns:
        The data behind ``len``, ``.to(device)`` and ``.batch(indices, generator)``.

    Raises:
        ArgumentTypeError: anything else, such as a DataLoader, a list or a generator.
        DataError: no array, an array without a first dimension or of objects, or unequal lengths.

    Example:
        >>> data = as_dataset({"x": np.zeros((5, 2)), "y": torch.arange(5)})
        >>> len(data), data.batch(slice(3, 5))["y"]
        (5, tensor([3, 4]))
    """
    if isinstance(data, InMemory):
        return data
    if not is_in_memory(data):
        raise ArgumentTypeError(
            "`data` must be a tensor, a NumPy array, a tuple of them, a dictionary from argument names to them, or an "
            f"object with `__len__`, `to` and `batch`, got {describe(data)}"
        )
    values = tensors(data)
    check_lengths(named(values))
    return Arrays(values)


def is_in_memory(data: Any) -> bool:
    """Whether ``data`` can be indexed: arrays, tuples and dictionaries of them, and every :class:`InMemory`.

    DataLoaders and other iterables that can be gone through again, lists of batches among them, are streams, and
    one-shot iterators are not data at all: False for both.

    Example:
        >>> is_in_memory((torch.zeros(3, 2), torch.zeros(3))), is_in_memory(iter([torch.zeros(3)]))
        (True, False)
    """
    if isinstance(data, tuple):
        return bool(data) and all(_is_array(values) for values in data)
    if isinstance(data, dict):
        return bool(data) and all(isinstance(k, str) and _is_array(v) for k, v in data.items())
    return _is_array(data) or isinstance(data, InMemory)


def describe(data: Any) -> str:
    """The type of ``data``, with those of its members where it is a tuple or dictionary."""
    members = data.values() if isinstance(data, dict) else data if isinstance(data, tuple) else None
    inside = "" if members is None else f" of {', '.join(type(v).__name__ for v in members) or 'nothing'}"
    return type(data).__name__ + inside


def tensors(data: Any) -> Batch:
    """The tensors of arrays, or of a tuple or dictionary of arrays, without copying where torch can."""
    if isinstance(data, dict):
        return {name: _tensor(values, f"data[{name!r}]") for name, values in data.items()}
    if isinstance(data, tuple):
        return tuple(_tensor(values, f"data[{i}]") for i, values in enumerate(data))
    return _tensor(data, "data")


def named(values: Batch) -> dict[str, Tensor]:
    """The tensors under the names that messages use: ``data``, ``data[0]`` or ``data['x']``."""
    if isinstance(values, dict):
        return {f"data[{name!r}]": tensor for name, tensor in values.items()}
    if isinstance(values, tuple):
        return {f"data[{i}]": tensor for i, tensor in enumerate(values)}
    return {"data": values}


def check_lengths(values: dict[str, Tensor]) -> None:
    """Raises unless all tensors have a first dimension of one length.

    Raises:
        DataError: a scalar, or unequal lengths.
    """
    scalar = next((label for label, tensor in values.items() if tensor.ndim == 0), None)
    if scalar is not None:
        raise DataError(f"`{scalar}` is a scalar: data need a first dimension, one datum a row")
    lengths = {label: len(tensor) for label, tensor in values.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"`{label}` has {n}" for label, n in lengths.items())
        raise DataError(f"all parts of the data must have one length, but {listed}")


def _is_array(values: Any) -> bool:
    return isinstance(values, Tensor | np.ndarray)


def _map(function: Callable[[Tensor], Tensor], values: Batch) -> Batch:
    if isinstance(values, dict):
        return {name: function(tensor) for name, tensor in values.items()}
    if isinstance(values, tuple):
        return tuple(function(tensor) for tensor in values)
    return function(values)


def _tensor(values: Tensor | npt.NDArray[Any], label: str) -> Tensor:
    if isinstance(values, Tensor):
        return values
    if values.dtype.kind not in "biufc":
        raise DataError(f"`{label}` is an array of dtype {values.dtype}: numbers or bools are required")
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    # torch cannot share memory that is read-only or runs backwards.
    shareable = native.flags.writeable and all(stride >= 0 for stride in native.strides)
    return torch.from_numpy(native if shareable else native.copy())
