"""Where minibatches come from: data in memory, which stay on the device, or a stream."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probgen.arguments import first_index, positive_int
from probgen.data import InMemory, as_dataset, is_in_memory, validate
from probgen.data.memory import tensors
from probgen.data.values import check_values_exist
from probgen.errors import ArgumentTypeError, DataError

Call = tuple[tuple[Any, ...], dict[str, Any]]


def as_call(batch: Any) -> Call:
    """A batch as arguments: a tensor -> ``model(b)``, a tuple or list -> ``model(*b)``, a dict -> ``model(**b)``."""
    if isinstance(batch, dict):
        return (), batch
    if isinstance(batch, tuple | list):
        return tuple(batch), {}
    return (batch,), {}


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch on the device: tensors and arrays, also inside tuples, lists and dictionaries.

    Raises:
        DataError: an array of something else than numbers, or a tensor without values.
    """
    batch = _as_tensors(batch)
    for name, value in _arguments(batch):
        check_values_exist(f"argument {name!r} of a batch", value)
    return _map(lambda value: value.to(device, non_blocking=True), batch)


def _as_tensors(batch: Any) -> Any:
    return _map(tensors, batch)


def _map(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _map(function, member) for name, member in value.items()}
    if isinstance(value, tuple | list):
        members = (_map(function, member) for member in value)
        return list(members) if isinstance(value, list) else tuple(members)
    return function(value) if isinstance(value, Tensor | np.ndarray) else value


def size_of(batch: Any) -> int:
    """The number of data in a batch: the length of its first tensor; 1 where it has none."""
    args, kwargs = as_call(batch)
    return next((len(v) for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.dim() > 0), 1)


class Batches:
    """Minibatches of data in memory, shuffled afresh every epoch; the last one may be smaller.

    Args:
        data: what :func:`probgen.data.as_dataset` takes; moved to the device once.
        batch_size: data per batch.
        device: where the data lie.
        shuffle: False keeps the order, as evaluation wants.
    """

    def __init__(self, data: Any, batch_size: int, device: torch.device, *, shuffle: bool = True) -> None:
        dataset = as_dataset(data)
        validate(dataset)
        self.data: InMemory = dataset.to(device)
        self.batch_size = min(batch_size, len(self.data))
        self.device = device
        self.shuffle = shuffle

    def __len__(self) -> int:
        return -(-len(self.data) // self.batch_size)

    def epoch(self, generator: torch.Generator) -> Iterator[Any]:
        """One pass over the data; order and fresh binarizations come from ``generator``, on the device."""
        count = len(self.data)
        order = torch.randperm(count, generator=generator, device=self.device) if self.shuffle else None
        for start in range(0, count, self.batch_size):
            stop = min(start + self.batch_size, count)
            yield self.data.batch(slice(start, stop) if order is None else order[start:stop], generator)


class Stream:
    """Minibatches from an iterable that can be gone through again, such as a DataLoader.

    Attributes:
        check: refuses batches, before they are moved to the device; None until the first has been tried.
    """

    def __init__(self, data: Iterable[Any], device: torch.device) -> None:
        self.data = data
        self.device = device
        self.check: Callable[[tuple[Any, ...], dict[str, Any]], None] | None = None

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def epoch(self, generator: torch.Generator) -> Iterator[Any]:
        """One pass; the iterable has its own order."""
        empty = True
        for batch in self.data:
            empty = False
            batch = _as_tensors(batch)
            _check(batch)
            if self.check is not None:
                self.check(*as_call(batch))
            yield to_device(batch, self.device)
        if empty:
            raise DataError("`data` gave no batch; a stream must be an iterable that starts afresh every epoch")


def open_batches(data: Any, batch_size: int, device: torch.device, *, shuffle: bool = True) -> Batches | Stream:
    """Data in memory or a stream, told apart.

    Raises:
        ArgumentError: a batch size that is no whole number of at least 1.
        ArgumentTypeError: a one-shot iterator, a list of numbers, or something that cannot be iterated over.
        DataError: empty data, or values that are not finite.
    """
    batch_size = positive_int("batch_size", batch_size)
    if is_in_memory(data) or isinstance(data, tuple | dict | str | bytes):  # the last four hold no batches
        return Batches(data, batch_size, device, shuffle=shuffle)
    if not isinstance(data, Iterable):
        raise ArgumentTypeError(
            "`data` must be a tensor, an array, a tuple or dict of them, or an iterable of batches (a torch Dataset "
            f"needs a DataLoader), got {type(data).__name__}"
        )
    if isinstance(data, list) and _is_number_in_lists(data):
        raise ArgumentTypeError("`data` is a list of numbers, which holds no batches; pass `torch.tensor(data)`")
    if isinstance(data, Iterator):
        raise ArgumentTypeError(
            "`data` is a one-shot iterator, which a second epoch would find empty; pass the iterable itself (a "
            "DataLoader, a list of batches), or all data as a tensor"
        )
    return Stream(data, device)


def _is_number_in_lists(data: Any) -> bool:
    while isinstance(data, list) and data:
        data = data[0]
    return isinstance(data, int | float)


def _arguments(batch: Any) -> Iterator[tuple[int | str, Tensor]]:
    args, kwargs = as_call(batch)
    named: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    yield from ((name, value) for name, value in named if isinstance(value, Tensor))


def _check(batch: Any) -> None:
    for name, value in _arguments(batch):
        check_values_exist(f"argument {name!r} of a batch", value)
        if value.requires_grad:
            raise DataError(f"argument {name!r} of a batch requires gradients: data must not; detach it")
        if not bool(torch.isfinite(value).all()):
            index = first_index(~torch.isfinite(value))
            raise DataError(
                f"argument {name!r} of a batch holds {value[index].item()} at index {index}; data must be finite"
            )
