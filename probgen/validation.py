"""Whether values are looked at: in a run of a pair as the run says, elsewhere as Pyro's validation says.

Looking reads tensors into Python, which training and tracing cannot afford; so they run pairs without.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from pyro.poutine.util import is_validation_enabled
from torch.fx.experimental.proxy_tensor import get_proxy_mode

_of_run: ContextVar[bool | None] = ContextVar("probgen_validation", default=None)


@contextmanager
def validation(on: bool) -> Iterator[None]:
    """Runs its body, a run of a pair, with or without a look at values, whatever Pyro's own switch says."""
    token = _of_run.set(on)
    try:
        yield
    finally:
        _of_run.reset(token)


def validates() -> bool:
    """Whether values are looked at.

    Outside a run, where ``pyro.enable_validation`` is on; under ``python -O``, which switches that off by itself,
    unless it is being traced.

    Example:
        >>> with validation(False):
        ...     validates()
        False
    """
    of_run = _of_run.get()
    if of_run is not None:
        return of_run
    return is_validation_enabled() or not (__debug__ or tracing())


def tracing() -> bool:
    """Whether tensor operations are being recorded, so that no value may be read."""
    return (
        get_proxy_mode() is not None
        or torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None  # torch.jit
    )


def stands_alone() -> bool:
    """Whether values are looked at and nobody else will, since no run of a pair is going on."""
    return _of_run.get() is None and validates()
