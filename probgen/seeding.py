"""Seeds: fork every global random generator, and put it back."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from probgen.arguments import is_whole
from probgen.errors import ArgumentError, CheckpointError

MAX_SEED = 2**32 - 1  # NumPy's global generator takes no larger one


def check_seed(seed: Any) -> None:
    """Raises unless the seed is None or a number that every generator takes.

    Raises:
        ArgumentError: it is not.
    """
    if seed is not None and not (is_whole(seed) and 0 <= seed <= MAX_SEED):
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
def rng_restored_on_error() -> Iterator[None]:
    """Leaves every global generator as it was found if its body raises."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    except BaseException:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)
        raise


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
        pyro.set_rng_seed(int(seed))
        yield


def rng_tensors() -> dict[str, Tensor]:
    """The state of every global generator (torch on CPU and CUDA, NumPy, Python), as tensors by name."""
    version, words, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "torch": torch.get_rng_state(),
        **{f"cuda.{i}": state for i, state in enumerate(cuda)},
        "python": torch.tensor([version, *words]),
        "python.gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.tensor([*numpy["state"]["key"].tolist(), numpy["state"]["pos"], numpy["has_gauss"]]),
        "numpy.gauss": torch.tensor([numpy["gauss"]], dtype=torch.float64),
    }


def set_rng_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Puts every global generator where :func:`rng_tensors` found it.

    Raises:
        CheckpointError: a state is missing or is none; generators may have been set in part.
    """
    try:
        version, *words = _checked(tensors, "python", torch.int64, [626])
        gauss = _checked(tensors, "python.gauss", torch.float64, None)
        *key, pos, has_gauss = _checked(tensors, "numpy", torch.int64, [626])
        [numpy_gauss] = _checked(tensors, "numpy.gauss", torch.float64, [1])
        if version != random.getstate()[0] or len(gauss) > 1 or not 0 <= pos <= 624 or has_gauss not in (0, 1):
            raise ValueError("out of range")  # NumPy believes every position
        if not all(0 <= word < 2**32 for word in words):
            raise ValueError("a word is out of range")
        if not any(words[:-1]) or not any(key) or not bool(tensors["torch"][24:5016].any()):
            raise ValueError("all bits are 0, from which a Mersenne twister never comes back")
        random.setstate((version, tuple(words), gauss[0] if gauss else None))
        np.random.set_state(("MT19937", np.array(key, dtype=np.uint32), pos, has_gauss, numpy_gauss))
        torch.set_rng_state(tensors["torch"])
        for i in range(torch.cuda.device_count()):
            if f"cuda.{i}" in tensors:
                torch.cuda.set_rng_state(tensors[f"cuda.{i}"], i)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, IndexError) as error:
        raise CheckpointError(f"the states of the random generators are damaged: {error!r}") from error


def _checked(tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype, shape: list[int] | None) -> list[Any]:
    value = tensors[name]
    if value.dtype != dtype or value.dim() != 1 or (shape is not None and list(value.shape) != shape):
        raise ValueError(f"'{name}' is {tuple(value.shape)} {value.dtype}")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"'{name}' is not finite")
    return value.tolist()
