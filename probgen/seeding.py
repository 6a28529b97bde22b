"""Seeds: fork every global random generator, and put it back."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyro
import torch


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Leaves every global generator (torch on all devices, NumPy, Python) as it was found."""
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

    Example:
        >>> with seeded(0):
        ...     first = torch.rand(3)
        >>> with seeded(0):
        ...     second = torch.rand(3)
        >>> bool((first == second).all())
        True
    """
    if seed is None:
        yield
        return
    with preserved_rng():
        pyro.set_rng_seed(seed)
        yield
