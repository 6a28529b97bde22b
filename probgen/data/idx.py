"""IDX files, the format of MNIST: a magic number, the shape, and unsigned bytes."""

import gzip
import math
import os
import struct
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from probgen.data.files import parsing, read_exactly
from probgen.errors import DataFileError

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, num_dims: int) -> npt.NDArray[np.uint8]:
    """Reads an IDX file of unsigned bytes, gzipped or not.

    Args:
        path: the file; whether it is gzipped is read from its first bytes, not from its name.
        num_dims: 3 for pictures, 1 for labels.

    Returns:
        Array of the shape that the header gives.

    Raises:
        DataFileError: missing, damaged, truncated, not IDX, of another type or shape, or empty.
    """
    with parsing(path, "an IDX file"), _open(path) as stream:
        magic = int.from_bytes(stream.read(4), "big")
        expected = _UNSIGNED_BYTE << 8 | num_dims
        if magic != expected:
            raise DataFileError(
                f"`{path}` begins with {magic:#010x}: an IDX file of unsigned bytes with {num_dims} dimension(s) is "
                f"required, which begins with {expected:#010x}"
            )
        shape = struct.unpack(f">{num_dims}I", stream.read(4 * num_dims))
        if 0 in shape:
            raise DataFileError(f"`{path}` is empty: its header gives the shape {shape}")
        return np.frombuffer(read_exactly(stream, math.prod(shape), path), np.uint8).reshape(shape)


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path)) if zipped else path.open("rb")


def find_idx(folder: Path, stem: str) -> Path | None:
    """The file ``stem`` or ``stem.gz`` in a folder, or None."""
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if os.path.isfile(path)), None)


def read_pair(folder: Path, part: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any] | None]:
    """Pictures ``[N, height, width]`` and, where they lie there, labels ``[N]`` of ``train`` or ``t10k``.

    Raises:
        DataFileError: the pictures are missing, or a file is damaged.
    """
    images = find_idx(folder, f"{part}-images-idx3-ubyte")
    if images is None:
        raise DataFileError(
            f"`{folder}` has no `{part}-images-idx3-ubyte` or `{part}-images-idx3-ubyte.gz`: put the IDX files of "
            "train and t10k there"
        )
    labels = find_idx(folder, f"{part}-labels-idx1-ubyte")
    return read_idx(images, 3), None if labels is None else read_idx(labels, 1)
