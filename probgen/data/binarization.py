"""Grey values to bits: by a threshold, by one fixed Bernoulli draw, or by a fresh one at every use."""

import operator
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probgen.errors import ArgumentError, ArgumentTypeError, nearest

MODES = ("threshold", "fixed", "dynamic")
_ROWS = 2048  # drawn at a time
_LANES = 4  # 64-bit numbers that one step of Philox's counter gives


def check_mode(binarize: str | None) -> str | None:
    """The mode, with None for "none".

    Raises:
        ArgumentError: an unknown mode; names the nearest one.
    """
    if binarize is None or binarize == "none":
        return None
    if binarize not in MODES:
        raise ArgumentError(
            f"`binarize` must be None or a known way, got {binarize!r}: {nearest(str(binarize), (*MODES, 'none'))}"
        )
    return binarize


def check_seed(seed: int) -> int:
    """The seed as an ``int``.

    Raises:
        ArgumentTypeError: it is not an integer.
        ArgumentError: it is negative or has more than 64 bits.
    """
    try:
        number = operator.index(seed)
    except TypeError as error:
        raise ArgumentTypeError(f"`seed` must be an integer, got {seed!r}") from error
    if not 0 <= number < 2**64:
        raise ArgumentError(f"`seed` must lie between 0 and 2**64 - 1, got {number}")
    return number


def fixed_draw(probs: Tensor, rows: Tensor, seed: int) -> Tensor:
    """One Bernoulli draw that depends on nothing but ``probs``, the numbers of the rows and the seed.

    The uniforms are raw output of the Philox counter (Salmon et al., Parallel random numbers: as easy as 1, 2, 3,
    SC 2011), which NumPy keeps the same for ever; a row's counter starts at its number, so that a datum gets the same
    bits in every split.

    Args:
        probs: probabilities in [0, 1], ``[N, *event_shape]``.
        rows: numbers of the rows in the source, ``[N]``.
        seed: key of the stream, 0 to 2**64 - 1.

    Returns:
        Zeros and ones of the shape, dtype and device of ``probs``.
    """
    flat = probs.detach().float().cpu().reshape(len(probs), -1).numpy()
    bits = np.empty_like(flat)
    for part in _consecutive(rows.cpu().numpy()):
        first = int(rows[part.start])
        bits[part] = _uniforms(first, part.stop - part.start, flat.shape[1], seed) < flat[part]
    return torch.from_numpy(bits).reshape(probs.shape).to(probs)


def _consecutive(rows: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Slices of ``rows`` whose numbers rise by one, of at most ``_ROWS`` each."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    for start, stop in zip([0, *breaks], [*breaks, len(rows)], strict=True):
        for first in range(start, stop, _ROWS):
            yield slice(first, min(first + _ROWS, stop))


def _uniforms(first: int, count: int, width: int, seed: int) -> npt.NDArray[np.float32]:
    """Uniforms on [0, 1) for ``count`` rows from number ``first`` on, ``[count, width]``: multiples of 2**-24."""
    steps = -(-width // _LANES)
    raw = np.random.Philox(key=seed, counter=first * steps).random_raw(count * steps * _LANES)
    return (raw.reshape(count, -1)[:, :width] >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def fresh_draw(probs: Tensor, generator: torch.Generator | None) -> Tensor:
    """A new Bernoulli draw on the device where the data lie.

    Args:
        probs: probabilities in [0, 1], any shape.
        generator: where the randomness comes from; on the device of ``probs``.

    Returns:
        Zeros and ones of the shape, dtype and device of ``probs``.

    Raises:
        ArgumentError: no generator, or one on another device.
    """
    if generator is None:
        raise ArgumentError(
            "`generator` is required, since dynamic binarization draws afresh at every use: pass a torch.Generator, "
            "or take one fixed draw with `.fixed(seed)`"
        )
    if generator.device.type != probs.device.type:
        raise ArgumentError(
            f"`generator` is on {generator.device} but the data are on {probs.device}: "
            f"use torch.Generator('{probs.device}')"
        )
    return torch.bernoulli(probs, generator=generator)
