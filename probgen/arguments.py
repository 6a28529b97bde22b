"""Checks of arguments: each returns the value in its normal form or says what is wrong with it."""

import math
import operator
from collections.abc import Iterable
from numbers import Integral
from typing import Any

from probgen.errors import ArgumentError, nearest


def positive_int(name: str, value: Any, *, at_least: int = 1) -> int:
    """A whole number of at least ``at_least``.

    Raises:
        ArgumentError: it is not.

    Example:
        >>> positive_int("latent_dim", 2)
        2
    """
    if not is_whole(value) or operator.index(value) < at_least:
        raise ArgumentError(f"`{name}` must be a whole number of at least {at_least}, got {value!r}")
    return operator.index(value)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, of Python or of NumPy, and not a bool.

    Example:
        >>> is_whole(3), is_whole(3.0), is_whole(True)
        (True, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool)


def positive_float(name: str, value: Any) -> float:
    """A finite number above zero.

    Raises:
        ArgumentError: it is not.

    Example:
        >>> positive_float("scale", 1)
        1.0
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ArgumentError(f"`{name}` must be a finite number above 0, got {value!r}")
    return float(value)


def sizes(name: str, value: Any, *, at_least: int = 0) -> tuple[int, ...]:
    """A tuple of whole numbers of at least 1; one number stands for a tuple of one.

    Args:
        name: the argument, for the message.
        value: a whole number or an iterable of them.
        at_least: the least number of entries.

    Raises:
        ArgumentError: it is something else, or too short.

    Example:
        >>> sizes("hidden", [200, 200]), sizes("event_shape", 784)
        ((200, 200), (784,))
    """
    entries = _entries(name, value)
    checked = tuple(positive_int(f"{name}[{i}]", entry) for i, entry in enumerate(entries))
    if len(checked) < at_least:
        plural = "y" if at_least == 1 else "ies"
        raise ArgumentError(f"`{name}` must have at least {at_least} entr{plural}, got {value!r}")
    return checked


def _entries(name: str, value: Any) -> tuple[Any, ...]:
    if hasattr(value, "__index__"):
        return (value,)
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ArgumentError(f"`{name}` must be a tuple of whole numbers such as (200, 200), got {value!r}")
    return tuple(value)


def event_shape(value: Any) -> tuple[int, ...]:
    """The shape of one datum: at least one dimension, none of them empty.

    Raises:
        ArgumentError: it is not such a shape.

    Example:
        >>> event_shape((1, 28, 28))
        (1, 28, 28)
    """
    return sizes("event_shape", value, at_least=1)


def choice(name: str, value: Any, options: Iterable[str]) -> str:
    """One of the names in ``options``.

    Raises:
        ArgumentError: it is not; the message has the nearest one.

    Example:
        >>> choice("network", "mlp", ("mlp", "conv"))
        'mlp'
    """
    known = tuple(options)
    if not isinstance(value, str) or value not in known:
        raise ArgumentError(f"`{name}`: {value!r} is unknown; {nearest(str(value), known)}")
    return value


def first_index(mask: Any) -> tuple[int, ...]:
    """The index of the first true entry of a tensor of bools that has one.

    Example:
        >>> import torch
        >>> first_index(torch.tensor([[False, False], [False, True]]))
        (1, 1)
    """
    return tuple(int(i) for i in mask.nonzero()[0])
