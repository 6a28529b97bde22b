"""IDX folders that the tests write: round trips, splits, and files that are damaged or lie."""

import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from probgen.data import load
from probgen.errors import ArgumentError, DataFileError

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def test_round_trip(idx_folder: Path, idx_arrays: dict[str, np.ndarray]) -> None:
    both, test = load(idx_folder, split="train+valid", event_shape=(4, 3)), load(str(idx_folder), split="test")
    assert both.y is not None
    assert test.y is not None
    assert np.array_equal(both.x.numpy(), idx_arrays[IMAGES] / np.float32(255))
    assert np.array_equal(both.y.numpy(), idx_arrays[LABELS])
    assert np.array_equal(test.x.numpy(), idx_arrays["t10k-images-idx3-ubyte"].reshape(10, 12) / np.float32(255))
    assert np.array_equal(test.y.numpy(), idx_arrays["t10k-labels-idx1-ubyte"])


def test_valid_is_the_end_of_train(idx_folder: Path) -> None:
    train, valid, both = (load(idx_folder, split=split).x for split in ("train", "valid", "train+valid"))
    assert (len(train), len(valid)) == (50, 10)
    assert torch.equal(torch.cat([train, valid]), both)


def test_labels_may_be_absent(tmp_path: Path, idx_arrays, to_idx) -> None:
    for stem in (IMAGES, "t10k-images-idx3-ubyte"):
        (tmp_path / stem).write_bytes(to_idx(idx_arrays[stem]))
    assert load(tmp_path).y is None


def test_bytes_of_zero_and_one_are_bits(tmp_path: Path, to_idx) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (20, 2, 2), np.uint8)
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(to_idx(bits))
    assert np.array_equal(load(tmp_path, split="test", event_shape=(2, 2)).x.numpy(), bits)


@pytest.fixture
def damaged(tmp_path: Path, idx_arrays, to_idx) -> Callable[..., Path]:
    """A good folder in which one file has been replaced."""

    def build(stem: str, content: bytes | None, suffix: str = "") -> Path:
        for name, values in idx_arrays.items():
            (tmp_path / name).write_bytes(to_idx(values))
        (tmp_path / stem).unlink()
        if content is not None:
            (tmp_path / f"{stem}{suffix}").write_bytes(content)
        return tmp_path

    return build


@pytest.mark.parametrize("stem", [IMAGES, LABELS])
@pytest.mark.parametrize("zipped", [False, True])
def test_truncated_files_are_refused(damaged, idx_arrays, to_idx, stem: str, zipped: bool) -> None:
    content = to_idx(idx_arrays[stem])
    content = gzip.compress(content) if zipped else content
    for length in sorted({0, 1, 3, 4, 7, 8, 12, 16, 17, len(content) // 2, len(content) - 9, len(content) - 1}):
        with pytest.raises(DataFileError, match=stem):
            load(damaged(stem, content[:length], ".gz" if zipped else ""))


def test_wrong_magic_is_refused(damaged, idx_arrays, to_idx) -> None:
    with pytest.raises(DataFileError, match=r"begins with 0x00000801.* 3 dimension.* begins with 0x00000803"):
        load(damaged(IMAGES, to_idx(idx_arrays[LABELS])))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((61, 4, 3), "ends after 720 of the 732 bytes that its header announces"),
        ((59, 4, 3), "holds more than the 708 bytes that its header announces"),
        ((60000, 100, 100), "ends after 720 of the 600,000,000 bytes"),
        ((2**32 - 1,) * 3, "announces 79,228,162,458,924,105,385,300,197,375 bytes of data but has"),
        ((0, 28, 28), r"is empty: its header gives the shape \(0, 28, 28\)"),
    ],
)
def test_headers_that_lie_are_refused_without_allocating(damaged, idx_arrays, to_idx, shape, message, zipped) -> None:
    good = to_idx(idx_arrays[IMAGES])
    content = good[:4] + b"".join(n.to_bytes(4, "big") for n in shape) + good[16:]
    folder = damaged(IMAGES, gzip.compress(content) if zipped else content)
    tracemalloc.start()
    try:
        with pytest.raises(DataFileError, match=message):
            load(folder)
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def test_a_damaged_gzip_stream_is_refused(damaged, idx_arrays, to_idx) -> None:
    content = bytearray(gzip.compress(to_idx(idx_arrays[IMAGES])))
    content[len(content) // 2] ^= 0xFF
    with pytest.raises(DataFileError, match="cannot be read as an IDX file"):
        load(damaged(IMAGES, bytes(content)))


def test_missing_pictures_are_named(damaged) -> None:
    with pytest.raises(DataFileError, match=r"has no `t10k-images-idx3-ubyte` or `t10k-images-idx3-ubyte.gz`"):
        load(damaged("t10k-images-idx3-ubyte", None))


def test_labels_of_another_length_are_refused(damaged, to_idx) -> None:
    with pytest.raises(DataFileError, match=r"labels of `train` have shape \(59,\): .* \(60,\)"):
        load(damaged(LABELS, to_idx(np.zeros(59, np.uint8))))


def test_labels_of_one_part_only_are_refused(damaged) -> None:
    with pytest.raises(DataFileError, match="some have labels and some have none"):
        load(damaged(LABELS, None))


def test_paths_that_do_not_exist_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="nowhere` does not exist: a path must be that of a folder of IDX files"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataFileError, match=r"x.csv` does not exist"):
        load("x.csv")
    with pytest.raises(DataFileError, match=r"x.npz` does not exist: give the path of a .npz file"):
        load(tmp_path / "x.npz")
    (tmp_path / "x.csv").write_text("0,1")
    with pytest.raises(DataFileError, match=r"x.csv` is of another form"):
        load(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "mnist"),
        ("mnist_fixed_binarized", "mnist_fixed_binarized.npz"),
        ("omniglot", "omniglot_28x28.npz"),
    ],
)
def test_missing_data_folder_is_explained(monkeypatch, tmp_path: Path, name: str, file: str) -> None:
    monkeypatch.delenv("PROBGEN_DATA", raising=False)
    with pytest.raises(DataFileError, match=f"`{file}` is needed, .* PROBGEN_DATA names, which is not set: .* put "):
        load(name)
    monkeypatch.setenv("PROBGEN_DATA", str(tmp_path))
    with pytest.raises(DataFileError, match=f"{file}` is missing: the environment variable PROBGEN_DATA .* put "):
        load(name)


def test_arguments_are_checked_before_files_are_read() -> None:
    with pytest.raises(ArgumentError, match="`split`"):
        load("nowhere/at/all", split="trian")
