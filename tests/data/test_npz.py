"""``.npy`` and ``.npz`` files: every form of keys, kinds of numbers, and damaged or hostile files."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from probgen.data import load
from probgen.data.parts import permutation
from probgen.errors import DataError, DataFileError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 2, 3), np.uint8)
UNIT = (GREY.reshape(20, 6) / np.float32(255)).astype(np.float32)
LABELS = np.arange(20)


def npy(header: str, data: bytes, version: bytes = b"\x01\x00") -> bytes:
    """A .npy file with a header of our own choice."""
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header.encode("latin1") + data


def test_parts_of_their_own(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train=GREY[:10], valid=GREY[10:14], test=GREY[14:])
    for split, rows in {"train": slice(0, 10), "valid": slice(10, 14), "test": slice(14, 20)}.items():
        assert np.array_equal(load(tmp_path / "a.npz", split=split).x.numpy(), UNIT[rows])


def test_keys_of_keras(tmp_path: Path) -> None:
    y = LABELS[:, None]
    np.savez_compressed(tmp_path / "a.npz", x_train=GREY[:15], y_train=y[:15], x_test=GREY[15:], y_test=y[15:])
    valid = load(tmp_path / "a.npz", split="valid")  # a fifth of 15 is 3, fewer than the 5 of test
    assert valid.y is not None
    assert valid.y.tolist() == [12, 13, 14]
    assert np.array_equal(valid.x.numpy(), UNIT[12:15])


@pytest.mark.parametrize("x", ["x", "images", "data"])
@pytest.mark.parametrize("y", ["y", "labels", None])
def test_one_array_gets_the_fixed_order(tmp_path: Path, x: str, y: str | None) -> None:
    np.savez(tmp_path / "a.npz", **({x: GREY} | ({} if y is None else {y: LABELS})))
    order = permutation(20)
    for split, rows in {"train": order[:12], "valid": order[12:16], "test": order[16:]}.items():
        data = load(tmp_path / "a.npz", split=split)
        assert np.array_equal(data.x.numpy(), UNIT[rows])
        assert (data.y is None) if y is None else (data.y is not None and data.y.tolist() == rows.tolist())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (GREY, UNIT),
        (GREY > 99, (GREY > 99).reshape(20, 6).astype(np.float32)),
        ((GREY > 99).astype(np.uint8), (GREY > 99).reshape(20, 6).astype(np.float32)),
        (GREY.astype(np.int64), GREY.reshape(20, 6).astype(np.float32)),
        (UNIT.astype(np.float64) * 9 - 4, (UNIT.astype(np.float64) * 9 - 4).astype(np.float32)),
        (UNIT.astype(">f8"), UNIT),
        (np.asfortranarray(GREY), UNIT),
        (UNIT[:, 0], UNIT[:, :1]),
    ],
    ids=["bytes", "bools", "bits", "integers", "floats", "big-endian", "fortran", "one-dimensional"],
)
def test_kinds_of_numbers(tmp_path: Path, values: np.ndarray, expected: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", values)
    assert np.array_equal(load(tmp_path / "a.npy", split="all").x.numpy(), expected[permutation(20)])


@pytest.mark.parametrize(("bad", "text"), [(np.nan, "nan"), (np.inf, "inf"), (1e300, "inf")])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, bad: float, text: str) -> None:
    values = np.zeros((20, 3))
    values[7, 2] = bad
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(DataError, match=rf"holds {text} at index \(7, 2\); every value must be finite"):
        load(tmp_path / "a.npy", split="all")


class Bomb:
    """An object whose unpickling would be seen."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("the file was unpickled",))


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_objects_are_never_unpickled(tmp_path: Path, name: str) -> None:
    save = np.save if name.endswith("npy") else lambda file, x: np.savez(file, x=x)
    save(tmp_path / name, np.array([Bomb(), Bomb()], dtype=object))
    with pytest.raises(DataFileError, match="dtype object: numbers or bools are read; objects are pickles"):
        load(tmp_path / name)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataFileError, match=r"cannot be read as a .npy file"):
        load(tmp_path / "b.npy")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"foo": GREY}, r"holds \['foo'\]: `train` and `test`"),
        ({"train": GREY}, r"holds \['train'\]"),
        ({"x": GREY, "y": LABELS[:19]}, r"labels of `data` have shape \(19,\): .* \(20,\)"),
        ({"x": GREY, "y": LABELS.astype(str)}, "array of dtype <U21"),
        ({"x": GREY[:0]}, r"array of shape \(0, 2, 3\)"),
        ({"x": np.float32(1)}, r"array of shape \(\)"),
        ({"x": GREY[:2]}, "2 rows are too few"),
        ({"x": UNIT.astype(complex)}, "dtype complex128"),
        ({"train": GREY, "test": UNIT}, r"`test` has rows of shape \(6,\) and dtype float32, but `train`"),
        ({"x_train": GREY, "y_train": LABELS, "x_test": GREY}, "some have labels and some have none"),
        ({"train": GREY[:1], "test": GREY}, "too few"),
    ],
)
def test_archives_of_another_form_are_refused(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataFileError, match=message):
        load(tmp_path / "a.npz")


def test_labels_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    y = np.zeros(20)
    y[5] = np.nan
    np.savez(tmp_path / "a.npz", x=GREY, y=y)
    with pytest.raises(DataError, match=r"labels` holds nan at index \(5,\)"):
        load(tmp_path / "a.npz", split="all")


HEADER = "{'descr': '|u1', 'fortran_order': False, 'shape': %s, }\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(HEADER % "(10, 12)", bytes(119)), "ends after 119 of the 120 bytes"),
        (npy(HEADER % "(10, 12)", bytes(121)), "holds more than the 120 bytes"),
        (npy(HEADER % "(10, 100000000)", bytes(120)), "ends after 120 of the 1,000,000,000 bytes"),
        (npy(HEADER % "(1000000, 1000000000000)", bytes(120)), "unpacks to more than it can honestly hold"),
        (npy(HEADER % "(-1, -120)", bytes(120)), r"array of shape \(-1, -120\)"),
        (npy(HEADER % "(10**9,)", bytes(120)), r"cannot be read as a .np. file"),
        (npy(HEADER % f"({'(' * 500}", b""), r"cannot be read as a .np. file"),
        (npy("{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (3,), }", bytes(3)), "numbers or bools"),
        (npy("{'descr': '|V0', 'fortran_order': False, 'shape': (3,), }", b""), "numbers or bools"),
        (npy("nonsense", b""), r"cannot be read as a .np. file"),
        (npy(HEADER % "(3,)", bytes(3), version=b"\x02\x00"), r"version \(2, 0\)"),
        (npy(HEADER % "(3,)", bytes(3), version=b"\x09\x00"), r"version \(9, 0\)|only support"),
        (b"", r"cannot be read as a .np. file"),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_hostile_headers_are_refused(tmp_path: Path, content: bytes, message: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", content)
    else:
        path.write_bytes(content)
    with pytest.raises(DataFileError, match=message):
        load(path)


def test_other_compressions_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x.npy", npy(HEADER % "(10,)", bytes(10)))
    with pytest.raises(DataFileError, match="compressed in a way that NumPy does not write"):
        load(tmp_path / "a.npz")


def contents(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "npy":
        np.save(buffer, UNIT)
    else:
        {"npz": np.savez, "npz-compressed": np.savez_compressed}[kind](buffer, x=UNIT, y=LABELS)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["npy", "npz", "npz-compressed"])
def test_truncated_files_are_refused(tmp_path: Path, kind: str) -> None:
    content, path = contents(kind), tmp_path / f"a.{kind[:3]}"
    for length in [*range(0, len(content), 37), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(DataFileError, match=path.name):
            load(path)


@pytest.mark.parametrize("kind", ["npy", "npz", "npz-compressed"])
def test_damaged_files_load_or_raise_a_data_error(tmp_path: Path, kind: str) -> None:
    content, path = contents(kind), tmp_path / f"a.{kind[:3]}"
    refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        for position in RNG.integers(0, len(content), 3):
            damaged[position] = RNG.integers(256)
        path.write_bytes(damaged)
        try:
            load(path)
        except DataError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize(
    ("name", "file", "arrays", "message"),
    [
        ("mnist_fixed_binarized", "mnist_fixed_binarized.npz", {"train": GREY}, "has no array `valid`; it has"),
        (
            "mnist_fixed_binarized",
            "mnist_fixed_binarized.npz",
            {"train": UNIT, "valid": UNIT, "test": UNIT},
            r"`train` must be bit-packed rows, uint8 of shape \(N, D / 8\), got float32 of shape \(20, 6\)",
        ),
        (
            "omniglot",
            "omniglot_28x28.npz",
            {"images": GREY, "character": LABELS, "evaluation": LABELS[:19]},
            "`images`, `character` and `evaluation` differ in length",
        ),
    ],
)
def test_known_files_of_another_form_are_refused(monkeypatch, tmp_path, name, file, arrays, message) -> None:
    np.savez(tmp_path / file, **arrays)
    monkeypatch.setenv("PROBGEN_DATA", str(tmp_path))
    with pytest.raises(DataFileError, match=message):
        load(name)
