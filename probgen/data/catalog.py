"""The table of known data sets, and the forms of file that are read from a path."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from probgen.data.files import data_path
from probgen.data.idx import read_pair
from probgen.data.npy import npz_names, read_npy, read_npz
from probgen.data.parts import PARTS, Parts, from_own, from_whole, permutation
from probgen.errors import ArgumentError, ArgumentTypeError, DataFileError, nearest

_FORMS = "a folder of IDX files, a .npz or a .npy file"
_IDX_FILES = "the IDX files train-images-idx3-ubyte, train-labels-idx1-ubyte and the same of t10k, each with .gz or not"


def _digits() -> Parts:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return from_whole((x / 16).astype(np.float32).reshape(-1, 8, 8), y)


def _idx_folder(folder: Path) -> Parts:
    train, test = read_pair(folder, "train"), read_pair(folder, "t10k")
    return from_own({"train": train[0], "test": test[0]}, {"train": train[1], "test": test[1]})


def _packed_bits(path: Path) -> Parts:
    packed = {part: read_npz(path, part) for part in PARTS}
    for part, values in packed.items():
        if values.dtype != np.uint8 or values.ndim != 2:
            raise DataFileError(
                f"`{path}`: `{part}` must be bit-packed rows, uint8 of shape (N, D / 8), got {values.dtype} of shape "
                f"{values.shape}"
            )
    return from_own({part: np.unpackbits(values, axis=1).astype(bool) for part, values in packed.items()}, {})


def _omniglot(path: Path) -> Parts:
    images, character, evaluation = (read_npz(path, name) for name in ("images", "character", "evaluation"))
    if not len(images) == len(character) == len(evaluation):
        raise DataFileError(f"`{path}`: `images`, `character` and `evaluation` differ in length")
    # The file is sorted by alphabet: unless shuffled, valid would be the last few alphabets.
    train, test = np.flatnonzero(evaluation == 0), np.flatnonzero(evaluation != 0)
    rows = {"train": train[permutation(len(train))], "test": test}
    return from_own({k: images[v] for k, v in rows.items()}, {k: character[v] for k, v in rows.items()})


def _npz(path: Path) -> Parts:
    names = npz_names(path)
    for prefix in ("", "x_"):
        if {f"{prefix}train", f"{prefix}test"} <= names:
            return _npz_with_parts(path, names, prefix)
    x = next((name for name in ("x", "images", "data") if name in names), None)
    y = next((name for name in ("y", "labels") if name in names), None)
    if x is None:
        raise DataFileError(
            f"`{path}` holds {sorted(names)}: `train` and `test` (and `valid`) are required, or `x_train` and `x_test` "
            "(with `y_train`, ...), or one of `x`, `images` and `data` (with `y` or `labels`)"
        )
    return from_whole(read_npz(path, x), None if y is None else read_npz(path, y))


def _npz_with_parts(path: Path, names: set[str], prefix: str) -> Parts:
    def read(start: str) -> dict[str, npt.NDArray[Any]]:
        return {part: read_npz(path, f"{start}{part}") for part in PARTS if f"{start}{part}" in names}

    return from_own(read(prefix), read("y_"))


@dataclass(frozen=True)
class Source:
    """A known data set: one line of summary, and the function that reads it."""

    summary: str
    read: Callable[[], Parts]


SOURCES: dict[str, Source] = {
    "digits": Source(
        "scikit-learn's 1,797 handwritten digits, 8 x 8, grey, labels; needs no file",
        _digits,
    ),
    "mnist": Source(
        "MNIST, 60,000 + 10,000 handwritten digits, 28 x 28, grey, labels; $PROBGEN_DATA/mnist/*-ubyte[.gz]",
        lambda: _idx_folder(data_path("mnist", holds=_IDX_FILES)),
    ),
    "mnist_fixed_binarized": Source(
        "Larochelle's binarized MNIST, 50,000 + 10,000 + 10,000, 28 x 28; $PROBGEN_DATA/mnist_fixed_binarized.npz",
        lambda: _packed_bits(
            data_path("mnist_fixed_binarized.npz", holds="a .npz of `train`, `valid` and `test`, rows bit-packed,")
        ),
    ),
    "omniglot": Source(
        "OMNIGLOT, 19,280 + 13,180 characters, 28 x 28, grey, labels; $PROBGEN_DATA/omniglot_28x28.npz",
        lambda: _omniglot(data_path("omniglot_28x28.npz", holds="a .npz of `images`, `character` and `evaluation`")),
    ),
}


def sources() -> dict[str, str]:
    """The data sets that :func:`probgen.data.load` knows by name, with a line about each.

    Returns:
        Name to summary.

    Example:
        >>> sorted(sources())
        ['digits', 'mnist', 'mnist_fixed_binarized', 'omniglot']
    """
    return {name: source.summary for name, source in SOURCES.items()}


def read_parts(name: str | os.PathLike[str]) -> Parts:
    """Reads a known data set, or what lies at a path; a known name wins over a folder of that name.

    Raises:
        ArgumentError: neither a known name nor a path.
        ArgumentTypeError: neither a string nor a path.
        DataFileError: a file that is missing, damaged, or of another form.
    """
    if not isinstance(name, str | os.PathLike):
        raise ArgumentTypeError(f"`name` must be the name of a data set or a path, got {type(name).__name__}")
    if isinstance(name, str) and name in SOURCES:
        return SOURCES[name].read()
    path = os.path.expanduser(name)
    if isinstance(name, str) and not (os.path.exists(path) or os.path.dirname(name) or os.path.splitext(name)[1]):
        raise ArgumentError(f"`name` must be a known data set or a path, got {name!r}: {nearest(name, SOURCES)}")
    return _read_path(Path(path))


def _read_path(path: Path) -> Parts:
    if os.path.isdir(path):
        return _idx_folder(path)
    if path.suffix == ".npz":
        return _npz(path)
    if path.suffix == ".npy":
        return from_whole(read_npy(path), None)
    problem = "is of another form" if os.path.exists(path) else "does not exist"
    raise DataFileError(f"`{path}` {problem}: a path must be that of {_FORMS}")
