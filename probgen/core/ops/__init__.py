"""The array functions that the math of probgen rests on, with a torch, a JAX and a NumPy side.

A function of :mod:`probgen.core` asks :func:`namespace` for the side that fits its arrays and writes its formula once.
The side is found by looking libraries up in ``sys.modules``: an array of a library exists only where that library is
already imported, so a user of torch never imports JAX and the reverse.
"""

import sys
from typing import Any, Protocol, TypeAlias

from probgen.errors import ArgumentTypeError

__all__ = ["Array", "Ops", "namespace"]

Array: TypeAlias = Any
"""A ``torch.Tensor``, ``jax.Array`` or ``numpy.ndarray``; naming all three in a type would import them."""


class Ops(Protocol):
    """What each side provides; reductions are over one axis, the particle axis 0 by default.

    No function reads an array's value into Python, so all of them can be traced (``jax.jit``, ``jax.vmap``,
    ``torch.func``, ``make_fx``, ``torch.compile``).
    """

    def exp(self, array: Array, /) -> Array:
        """``e^x``."""

    def expm1(self, array: Array, /) -> Array:
        """``e^x - 1``, accurate near 0."""

    def log(self, array: Array, /) -> Array:
        """``log x``."""

    def log1p(self, array: Array, /) -> Array:
        """``log(1 + x)``, accurate near 0."""

    def where(self, condition: Array, yes: Array, no: Array, /) -> Array:
        """``yes`` where the condition holds, else ``no``; either may be a Python number."""

    def sum(self, array: Array, /, axis: int = 0) -> Array:
        """Sum over one axis."""

    def mean(self, array: Array, /, axis: int = 0) -> Array:
        """Mean over one axis."""

    def max(self, array: Array, /, axis: int = 0) -> Array:
        """Largest entry along one axis; NaN if there is one."""

    def logsumexp(self, array: Array, /, axis: int = 0) -> Array:
        """``log sum exp x``; -inf where all entries are, with a gradient of NaN: mask such data before."""

    def softmax(self, array: Array, /, axis: int = 0) -> Array:
        """``e^x / sum e^x``; NaN where all entries are -inf: mask such data before."""

    def largest(self, array: Array, count: int, /) -> Array:
        """The ``count`` largest entries of axis 0, ascending; NaN counts as largest."""

    def stack(self, arrays: list[Array], /) -> Array:
        """Arrays of one shape along a new axis 0."""

    def arange(self, count: int, like: Array, /) -> Array:
        """``0, 1, ..., count - 1`` in the dtype and on the device of ``like``."""

    def stop_gradient(self, array: Array, /) -> Array:
        """The same values, constant to differentiation."""

    def double(self, array: Array, /) -> Array:
        """The widest float there is: float64, but float32 in JAX without x64 and on Apple's GPUs."""

    def cast(self, array: Array, like: Array, /) -> Array:
        """The array in the dtype of ``like``."""

    def is_floating(self, array: Array, /) -> bool:
        """Whether the dtype is a real floating-point one."""

    def limits(self, array: Array, /) -> tuple[float, float]:
        """Machine epsilon and smallest normal number of the array's dtype."""


def namespace(*arrays: Array, **named: Array) -> Ops:
    """The side of the shim that fits the given arrays.

    Args:
        *arrays: one or more arrays of one library.
        **named: the same, with the name that an error message should give them.

    Returns:
        The torch, JAX or NumPy side, a module with the functions of :class:`Ops`.

    Raises:
        ArgumentTypeError: an argument is not an array (lists and Python numbers are not converted, since a library
            would have to be guessed), or arrays of two libraries are mixed.

    Example:
        >>> import numpy as np
        >>> namespace(np.zeros(3)).sum(np.ones(3))
        np.float64(3.0)
    """
    arguments = {f"argument {i}": array for i, array in enumerate(arrays, 1)} | {f"`{k}`": v for k, v in named.items()}
    kinds = {name: _kind(name, array) for name, array in arguments.items()}
    if len(set(kinds.values())) > 1:
        raise ArgumentTypeError(
            f"arrays of one library are needed, got {', '.join(f'{name} of {kind}' for name, kind in kinds.items())}: "
            "convert them to one library first"
        )
    if not kinds:
        raise ArgumentTypeError("namespace needs at least one array, got none")
    return _side(next(iter(kinds.values())))


def _kind(name: str, array: Array) -> str:
    torch, jax, numpy = (sys.modules.get(library) for library in ("torch", "jax", "numpy"))
    if torch is not None and isinstance(array, torch.Tensor):
        return "torch"
    if jax is not None and isinstance(array, jax.Array):
        return "jax"
    if numpy is not None and isinstance(array, (numpy.ndarray, numpy.generic)):
        return "numpy"
    raise ArgumentTypeError(
        f"{name} must be a torch.Tensor, jax.Array or numpy.ndarray, got {type(array).__name__}: "
        "convert it first, for example with numpy.asarray"
    )


def _side(kind: str) -> Ops:
    # Imported here, not at the top: each side imports its library.
    if kind == "torch":
        from probgen.core.ops import _torch

        return _torch
    if kind == "jax":
        from probgen.core.ops import _jax

        return _jax
    from probgen.core.ops import _numpy

    return _numpy
