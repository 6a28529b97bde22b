"""Seeds: fork every global random generator, and put it back."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
import pyro
import torch

from probgen.errors import ArgumentError

MAX_SEED = 2**32 - 1  # NumPy's global generator takes no larger one


def check_seed(seed: Any) -> None:
    """Raises unless the seed is None or a number that every generator takes.

    Raises:
        ArgumentError: it is not.
    """
    whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if seed is not None and not (whole and 0 <= seed <= MAX_SEED):
        raise ArgumentError(f"`seed` must be None or a whole number from 0 to {MAX_SEED}, got {seed!r}")


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Leaves every global generator (torch on CPU and CUDA, NumPy, Python) as it was found."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Runs its body under ``seed`` and restores every global generator afterwards.

    With ``seed=None`` the body draws from Pyro's global generators, as Pyro itself does.

    Raises:
        ArgumentError: neither None nor a whole number from 0 to 2**32 - 1.

    Example:
        >>> with seeded(0):
        ...     first = torch.rand(3)
        >>> with seeded(0):
        ...     second = torch.rand(3)
        >>> bool((first == second).all())
        True
    """
    check_seed(seed)
    if seed is None:
        yield
        return
    with preserved_rng():
        pyro.set_rng_seed(seed)
        yield
