"""``.npy`` and ``.npz`` files, read without unpickling and without believing their headers."""

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from probgen.data.files import parsing, read_exactly
from probgen.errors import DataFileError

_VERSION = (
    1,
    0,
)  # the later ones are only for arrays with fields, which are refused, and let headers be gigabytes long
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_npy(path: Path) -> npt.NDArray[Any]:
    """Reads an array of numbers or bools from a ``.npy`` file.

    Raises:
        DataFileError: missing, damaged, truncated, empty, or of objects, strings or fields.
    """
    with parsing(path, "a .npy file"), path.open("rb") as stream:
        return _read_array(stream, path)


def npz_names(path: Path) -> set[str]:
    """The names of the arrays in a ``.npz`` file.

    Raises:
        DataFileError: missing, or not a zip archive.
    """
    with parsing(path, "a .npz file"), zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}


def read_npz(path: Path, name: str) -> npt.NDArray[Any]:
    """Reads one array of numbers or bools from a ``.npz`` file.

    Raises:
        DataFileError: missing, damaged, truncated, empty, or of objects, strings or fields.
    """
    with parsing(path, "a .npz file"), zipfile.ZipFile(path) as archive:
        if f"{name}.npy" not in archive.namelist():
            raise DataFileError(f"`{path}` has no array `{name}`; it has {sorted(npz_names(path))}")
        if archive.getinfo(f"{name}.npy").compress_type not in _COMPRESSIONS:
            raise DataFileError(f"`{path}` is compressed in a way that NumPy does not write: use np.savez_compressed")
        with archive.open(f"{name}.npy") as stream:
            return _read_array(stream, path)


def _read_array(stream: IO[bytes], path: Path) -> npt.NDArray[Any]:
    version = npy_format.read_magic(stream)
    if version != _VERSION:
        raise DataFileError(f"`{path}` has the .npy version {version}: {_VERSION}, that of plain arrays, is required")
    shape, fortran, dtype = npy_format.read_array_header_1_0(stream)
    if dtype.kind not in "biuf":
        raise DataFileError(
            f"`{path}` holds an array of dtype {dtype}: numbers or bools are read; objects are pickles, and never are"
        )
    if not shape or min(shape) < 1:
        raise DataFileError(f"`{path}` holds an array of shape {shape}: one datum a row is required, at least one row")
    data = read_exactly(stream, math.prod(shape) * dtype.itemsize, path)
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)
