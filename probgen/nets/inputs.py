"""Checks of data: each returns the tensor in the networks' dtype or says what was required and what came."""

import math
from typing import Any

import torch
from torch import Tensor

from probgen.arguments import first_index
from probgen.errors import DataError

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def cast_event(
    x: Any,
    event_shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    name: str = "x",
    device: torch.device | None = None,
) -> Tensor:
    """A batch of events in ``dtype``; booleans, integers and floats of any width are cast.

    Args:
        x: ``[B, *event_shape]``.
        event_shape: the shape of one datum.
        dtype: what to return; an integer one takes booleans and integers only.
        name: the argument, for the message.
        device: where the data must lie, or None for anywhere.

    Returns:
        ``[B, *event_shape]`` in ``dtype``, on the device of ``x``.

    Raises:
        DataError: not a tensor, of another rank or shape, empty, of a dtype that cannot be cast, or on another device.

    Example:
        >>> cast_event(torch.ones(3, 4, dtype=torch.uint8), (4,), torch.float32).dtype
        torch.float32
    """
    _check_tensor(x, name)
    _check_shape(x, event_shape, name)
    _check_dtype(x, dtype, name)
    if device is not None and x.device != device:
        raise DataError(f"`{name}` is on {x.device}, the parameters are on {device}; use `{name}.to('{device}')`")
    return x.to(dtype)


def _check_tensor(x: Any, name: str) -> None:
    if not isinstance(x, Tensor):
        raise DataError(f"`{name}` must be a torch.Tensor, got {type(x).__name__}; use `torch.as_tensor`")


def _check_shape(x: Tensor, event_shape: tuple[int, ...], name: str) -> None:
    wanted = "[batch, " + ", ".join(map(str, event_shape)) + "]"
    if tuple(x.shape[1:]) != event_shape or x.dim() == 0:
        hint = ""
        if x.dim() and x.shape[0] and x[0].numel() == math.prod(event_shape):
            hint = f"; use `{name}.reshape(-1, {', '.join(map(str, event_shape))})`"
        elif tuple(x.shape) == event_shape:
            hint = f"; for one datum use `{name}[None]`"
        raise DataError(f"`{name}` must have shape {wanted}, got {list(x.shape)}{hint}")
    if x.shape[0] == 0:
        raise DataError(f"`{name}` must hold at least one datum, got shape {list(x.shape)}")


def _check_dtype(x: Tensor, dtype: torch.dtype, name: str) -> None:
    known = (torch.bool, *_INTEGERS, *(_FLOATS if dtype.is_floating_point else ()))
    if x.dtype not in known:
        kind = "real numbers" if dtype.is_floating_point else "integers"
        hint = f"; if its values are whole numbers use `{name}.long()`" if x.dtype in _FLOATS else ""
        raise DataError(f"`{name}` must hold {kind}, got dtype {x.dtype}{hint}")


def check_values(x: Tensor, valid: Tensor, required: str, *, name: str = "x") -> None:
    """Refuses data with an entry that is not valid, and names the first one; reads the tensor's values.

    Args:
        x: the data.
        valid: booleans of the shape of ``x``.
        required: what an entry must be.
        name: the argument, for the message.

    Raises:
        DataError: some entry is not valid.

    Example:
        >>> x = torch.tensor([[0.0, 2.0]])
        >>> check_values(x, x <= 1, "at most 1")
        Traceback (most recent call last):
        probgen.errors.DataError: `x` must be at most 1, got 2.0 at index (0, 1)
    """
    if bool(valid.all()):
        return
    first = first_index(~valid)
    raise DataError(f"`{name}` must be {required}, got {x[first].item()} at index {first}")


def check_finite(x: Tensor, *, name: str = "x") -> None:
    """Refuses data with NaN or infinity; reads the tensor's values.

    Raises:
        DataError: some entry is not finite; the message has the first one's index.

    Example:
        >>> check_finite(torch.zeros(2))
    """
    check_values(x, torch.isfinite(x), "finite", name=name)


def cast_labels(y: Any, num_classes: int, batch: int | None, *, validate: bool, name: str = "y") -> Tensor:
    """A batch of class labels as ``torch.long``.

    Args:
        y: ``[B]`` integers in ``{0, ..., num_classes - 1}``.
        num_classes: the number of classes.
        batch: the B that is required, or None for any.
        validate: check the range, which reads the tensor's values.
        name: the argument, for the message.

    Returns:
        ``[B]`` of ``torch.long``.

    Raises:
        DataError: missing, not a tensor, of another shape or dtype, or out of range.

    Example:
        >>> cast_labels(torch.tensor([0, 2], dtype=torch.uint8), 3, 2, validate=True)
        tensor([0, 2])
    """
    if y is None:
        raise DataError(f"`{name}` is required: the labels of `x`, integers of shape [batch] below {num_classes}")
    _check_tensor(y, name)
    size = "batch" if batch is None else str(batch)
    if y.dim() != 1 or y.shape[0] == 0 or (batch is not None and y.shape[0] != batch):
        raise DataError(f"`{name}` must have shape [{size}], one label for each datum, got {list(y.shape)}")
    _check_dtype(y, torch.long, name)
    y = y.long()
    if validate:
        check_values(y, (y >= 0) & (y < num_classes), f"a class in {{0, ..., {num_classes - 1}}}", name=name)
    return y


def one_hot(y: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Labels ``[...]`` as indicator vectors ``[..., num_classes]``.

    A comparison: unlike ``torch.nn.functional.one_hot`` it reads no value of ``y`` into Python, so it can be traced.

    Example:
        >>> one_hot(torch.tensor([1]), 3, torch.float32)
        tensor([[0., 1., 0.]])
    """
    return (y[..., None] == torch.arange(num_classes, device=y.device)).to(dtype)
