"""Train, validation and test parts: which rows of a source each split has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from probgen.errors import ArgumentError, DataFileError, nearest

PARTS = ("train", "valid", "test")
_PERMUTATION_KEY = 1797


@dataclass(frozen=True, eq=False)
class Parts:
    """A source as it was read: the rows of train, then valid, then test.

    Attributes:
        x: values as stored, ``[N, ...]``.
        y: labels ``[N]``, int64 or float32, or None.
        sizes: numbers of rows of train, valid and test; their sum is N.
        file_rows: where each row stands in its file ``[N]``, where that is one array that has been permuted.
    """

    x: npt.NDArray[Any]
    y: npt.NDArray[Any] | None
    sizes: tuple[int, int, int]
    file_rows: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if min(self.sizes) < 1:
            raise DataFileError(
                f"{len(self.x)} rows are too few for train, valid and test parts: they would have {self.sizes} rows"
            )

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Numbers of the rows of ``split``, such as ``"train"``, ``"train+valid"`` or ``"all"``."""
        stops = np.cumsum(self.sizes)
        ranges = {part: np.arange(stop - n, stop) for part, n, stop in zip(PARTS, self.sizes, stops, strict=True)}
        return np.concatenate([ranges[part] for part in split_parts(split)])


def split_parts(split: str) -> tuple[str, ...]:
    """The parts that ``split`` joins.

    Raises:
        ArgumentError: an unknown part, or one that is named twice.

    Example:
        >>> split_parts("train+valid")
        ('train', 'valid')
    """
    if split == "all":
        return PARTS
    parts = tuple(str(split).split("+"))
    unknown = next((part for part in parts if part not in PARTS), None)
    if unknown is not None:
        raise ArgumentError(
            f"`split` must be 'all', or parts joined by '+' such as 'train+valid', got {split!r}: "
            f"{unknown!r} is none; {nearest(unknown, (*PARTS, 'all'))}"
        )
    if len(set(parts)) < len(parts):
        raise ArgumentError(f"`split` names a part twice: {split!r}; name each part once")
    return parts


def permutation(n: int) -> npt.NDArray[np.int64]:
    """The fixed permutation of ``n`` rows, the same with every version of NumPy on every machine."""
    return np.argsort(np.random.Philox(key=_PERMUTATION_KEY).random_raw(n), kind="stable")


def from_whole(x: npt.NDArray[Any], y: npt.NDArray[Any] | None) -> Parts:
    """Parts of data that have none: a fixed permutation, 60 % train, and a fifth (rounded up) for valid and test."""
    _check_labels("data", x, y)
    order, held_out = permutation(len(x)), -(-len(x) // 5)
    labels = None if y is None else clean_labels(y)[order]
    return Parts(x[order], labels, (len(x) - 2 * held_out, held_out, held_out), order)


def from_own(x: Mapping[str, npt.NDArray[Any]], y: Mapping[str, npt.NDArray[Any] | None]) -> Parts:
    """Parts of data that have their own train and test, and perhaps valid.

    Without a ``valid``, the last rows of train are: as many as test has, but at most a fifth (rounded up) of train.
    """
    present = [part for part in PARTS if part in x]
    for part in present:
        _check_labels(part, x[part], y.get(part))
        _check_same_kind(x["train"], x[part], part)
    labels = [y.get(part) for part in present]
    known = [clean_labels(values) for values in labels if values is not None]
    if known and len(known) < len(labels):
        raise DataFileError(f"of the parts {present}, some have labels and some have none: give all or none")
    n_train, n_test = len(x["train"]), len(x["test"])
    n_valid = min(n_test, -(-n_train // 5))
    sizes = (n_train, len(x["valid"]), n_test) if "valid" in x else (n_train - n_valid, n_valid, n_test)
    return Parts(np.concatenate([x[part] for part in present]), np.concatenate(known) if known else None, sizes)


def clean_labels(y: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Labels ``[N]`` or ``[N, 1]`` as ``[N]``: int64, or float32 where they are real."""
    return y.reshape(len(y)).astype(np.float32 if y.dtype.kind == "f" else np.int64)


def _check_labels(part: str, x: npt.NDArray[Any], y: npt.NDArray[Any] | None) -> None:
    if y is not None and y.shape not in ((len(x),), (len(x), 1)):
        raise DataFileError(f"the labels of `{part}` have shape {y.shape}: one label a row is required, ({len(x)},)")


def _check_same_kind(train: npt.NDArray[Any], other: npt.NDArray[Any], part: str) -> None:
    if (train.shape[1:], train.dtype) != (other.shape[1:], other.dtype):
        raise DataFileError(
            f"`{part}` has rows of shape {other.shape[1:]} and dtype {other.dtype}, but `train` has {train.shape[1:]} "
            f"and {train.dtype}: all parts must be alike"
        )
