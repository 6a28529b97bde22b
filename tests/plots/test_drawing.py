"""Files: two for a figure, whole or not at all, with the numbers as they were."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from probgen.errors import ArgumentError
from probgen.plots import Drawing


def make(**columns: object) -> Drawing:
    return Drawing(Figure(), {name: np.asarray(values) for name, values in columns.items()})


def test_files(tmp_path: Path) -> None:
    png, table = make(a=[1, 2]).save(tmp_path / "new" / "figures", "loss")
    assert (png.name, table.name) == ("loss.png", "loss.csv")
    assert png.read_bytes().startswith(b"\x89PNG\r\n")
    assert table.read_text() == "a\n1\n2\n"
    make(a=[3]).save(tmp_path / "new" / "figures", "loss")
    assert table.read_text() == "a\n3\n"
    assert sorted(file.name for file in png.parent.iterdir()) == ["loss.csv", "loss.png"]


def test_numbers_read_back(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    double, single = generator.normal(size=50), generator.normal(size=50).astype(np.float32)
    _, file = make(double=double, single=single, text=["a,b"] * 50).save(tmp_path, "numbers")
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    np.testing.assert_array_equal([float(row["double"]) for row in rows], double)
    np.testing.assert_array_equal(np.array([row["single"] for row in rows], dtype=np.float32), single)
    assert max(len(row["single"]) for row in rows) <= 15  # not the digits of a double
    assert rows[0]["text"] == "a,b"


def test_what_is_not_finite() -> None:
    assert make(a=[np.nan, np.inf, -np.inf]).to_csv() == "a\n\ninf\n-inf\n".replace("a\n\n", 'a\n""\n')


def test_a_failure_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = make(a=[1]).save(tmp_path, "loss")
    before = [file.read_bytes() for file in files]

    def fail(self: Path, content: bytes) -> int:
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", fail)
        with pytest.raises(OSError, match="disk full"):
            make(a=[2]).save(tmp_path, "loss")
    assert [file.read_bytes() for file in files] == before
    assert sorted(tmp_path.iterdir()) == sorted(files)


@pytest.mark.parametrize("name", ["", "a/b", "../loss", "/loss", ".."])
def test_names_are_no_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArgumentError, match="without a folder"):
        make(a=[1]).save(tmp_path / "x", name)
    assert list(tmp_path.iterdir()) == []


def test_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="is a file; name a folder"):
        make(a=[1]).save(tmp_path / "file", "loss")


def test_columns_have_one_length() -> None:
    with pytest.raises(ArgumentError, match=r"got \{'a': 1, 'b': 2\}"):
        make(a=[1], b=[1, 2])


def test_loads_late(tmp_path: Path) -> None:
    program = "import sys, probgen; probgen.plots; print(*{'matplotlib', 'torch', 'numpy'} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
