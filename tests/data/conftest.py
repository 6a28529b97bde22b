"""Files that the tests of data write themselves, and the ones that they need from the data folder."""

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


def idx_bytes(values: np.ndarray) -> bytes:
    """IDX as its format says: two zero bytes, 0x08, the number of dimensions, big-endian sizes, bytes."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def to_idx() -> Callable[[np.ndarray], bytes]:
    return idx_bytes


@pytest.fixture
def idx_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = {"train": 60, "t10k": 10}
    images = {f"{k}-images-idx3-ubyte": rng.integers(0, 256, (n, 4, 3), np.uint8) for k, n in sizes.items()}
    labels = {f"{k}-labels-idx1-ubyte": rng.integers(0, 10, n).astype(np.uint8) for k, n in sizes.items()}
    return images | labels


@pytest.fixture(params=["plain", "gzip"])
def idx_folder(request: pytest.FixtureRequest, tmp_path: Path, idx_arrays: dict[str, np.ndarray]) -> Path:
    for stem, values in idx_arrays.items():
        if request.param == "gzip":
            (tmp_path / f"{stem}.gz").write_bytes(gzip.compress(idx_bytes(values)))
        else:
            (tmp_path / stem).write_bytes(idx_bytes(values))
    return tmp_path


@pytest.fixture
def data_file() -> Callable[[str], Path]:
    def find(name: str) -> Path:
        path = Path(os.environ.get("PROBGEN_DATA", "")) / name
        if "PROBGEN_DATA" not in os.environ or not path.exists():
            pytest.skip(f"needs the file {name} in the folder that PROBGEN_DATA names")
        return path

    return find
