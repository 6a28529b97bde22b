"""Data sets by name or path: read, select, scale, binarize, reshape."""

import math
import operator
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probgen.data.binarization import check_mode, check_seed, fixed_draw
from probgen.data.catalog import read_parts
from probgen.data.dataset import Dataset
from probgen.data.parts import split_parts
from probgen.data.values import check_finite, check_unit
from probgen.errors import ArgumentError, ArgumentTypeError


def load(
    name: str | os.PathLike[str],
    *,
    split: str = "train",
    binarize: str | None = None,
    event_shape: Sequence[int] | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads a data set by name or from a path.

    Bytes (uint8) are scaled by 255, unless no byte of the source is above 1: then they are bits. Bools become 0 and 1;
    other numbers keep their values. Data without parts of their own are put in a fixed order that does not depend on
    ``seed``; a fifth each (rounded up) is valid and test. Where only valid is missing, it is the last rows of train, as
    many as test has but at most a fifth: the last 10,000 of MNIST. OMNIGLOT's training part is put in a fixed order
    first, and its labels are the characters.

    Args:
        name: a name of :func:`probgen.data.sources`, or a path: a folder of IDX files, a ``.npz`` (with ``train``,
            ``test`` and perhaps ``valid``; or ``x_train``, ``y_train``, ``x_test``, ...; or one of ``x``, ``images``
            and ``data``, with ``y`` or ``labels``), or a ``.npy``.
        split: ``"train"``, ``"valid"``, ``"test"``, several joined by ``+``, or ``"all"``.
        binarize: None (or ``"none"``) for the values as they are; ``"threshold"`` for x > 0.5; ``"fixed"`` for one
            Bernoulli draw with ``seed``, a datum getting the same bits in every split and on every machine;
            ``"dynamic"`` for a fresh draw in every batch.
        event_shape: shape of one datum, such as ``(1, 28, 28)``; None for the flat ``(D,)``.
        seed: of the fixed draw, 0 to 2**64 - 1.

    Returns:
        Data of float32 values ``[N, *event_shape]`` with labels ``[N]``, or None where there are none.

    Raises:
        ArgumentError: an unknown name, split or binarization, or an ``event_shape`` of another size.
        DataFileError: a file that is missing, damaged, or of another form.
        DataError: a value that is not finite, or one outside [0, 1] that is to be binarized.

    Example:
        >>> data = load("digits", binarize="dynamic")
        >>> data
        Dataset(digits train: 1077 x (64,) with labels, binarize=dynamic)
        >>> load("digits", split="valid+test", event_shape=(1, 8, 8)).x.shape
        torch.Size([720, 1, 8, 8])
    """
    split_parts(split)
    binarize, seed, label = check_mode(binarize), check_seed(seed), str(name)
    parts = read_parts(name)
    rows = parts.rows(split)
    shape = _shape(event_shape, math.prod(parts.x.shape[1:]))
    x = _values(parts.x, rows)
    file_rows = None if parts.file_rows is None else torch.from_numpy(parts.file_rows[rows])
    check_finite(x, label, file_rows)
    y = None if parts.y is None else torch.from_numpy(parts.y[rows])
    if y is not None:
        check_finite(y, f"{label} labels", file_rows)
    if binarize is not None:
        check_unit(x, label, file_rows)
    numbers = torch.from_numpy(rows)
    x = _binarized(x, binarize, numbers, seed).reshape(len(x), *shape)
    seed_of_draw = seed if binarize == "fixed" else None
    return Dataset(x, y, label, split, binarize, seed_of_draw, numbers, file_rows=file_rows)


def _values(x: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> Tensor:
    """The rows as float32 ``[len(rows), D]``; the scale is that of the whole source, so that all splits share it."""
    scale = 255 if x.dtype == np.uint8 and x.max() > 1 else 1
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        flat = x[rows].reshape(len(rows), -1).astype(np.float32)
    return torch.from_numpy(flat).div_(scale)


def _binarized(x: Tensor, binarize: str | None, rows: Tensor, seed: int) -> Tensor:
    if binarize == "threshold":
        return (x > 0.5).float()
    return fixed_draw(x, rows, seed) if binarize == "fixed" else x


def _shape(event_shape: Sequence[int] | None, size: int) -> tuple[int, ...]:
    if event_shape is None:
        return (size,)
    try:
        shape = tuple(operator.index(n) for n in event_shape)
    except TypeError as error:
        raise ArgumentTypeError(f"`event_shape` must be a sequence of integers, got {event_shape!r}") from error
    if any(n < 1 for n in shape) or math.prod(shape) != size:
        raise ArgumentError(
            f"`event_shape` must have {size} elements, those of one datum, got {shape} with {math.prod(shape)}"
        )
    return shape
