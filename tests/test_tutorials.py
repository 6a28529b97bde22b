"""The notebooks run as they stand, say the same as their twins in plain Python, and are committed without outputs."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
CELL_SECONDS = 60

pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the folders of the repository"),
    pytest.mark.skipif(importlib.util.find_spec("jupytext") is None, reason="needs the extra 'dev'"),
]
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    import jupytext

    return jupytext.read(path)


def cells(path: Path) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in read(path).cells]


def differences(notebook: Path) -> list[str]:
    """What sets a notebook apart from its twin, cell by cell."""
    ours, theirs = cells(notebook), cells(notebook.with_suffix(".py"))
    found = [f"cell {i}: {a} != {b}" for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b]
    return found if len(ours) == len(theirs) else [*found, f"{len(ours)} cells != {len(theirs)} cells"]


def test_every_notebook_has_a_twin() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(path.stem for path in FOLDER.glob("*.py"))
    assert NOTEBOOKS


@each_notebook
def test_notebook_and_twin_agree(notebook: Path) -> None:
    assert differences(notebook) == [], f"run: jupytext --sync {notebook.relative_to(ROOT)}"


def test_a_cell_that_differs_is_found(tmp_path: Path) -> None:
    notebook = tmp_path / NOTEBOOKS[0].name
    notebook.write_bytes(NOTEBOOKS[0].read_bytes())
    twin = NOTEBOOKS[0].with_suffix(".py").read_text()
    notebook.with_suffix(".py").write_text(twin.replace("num_epochs=60", "num_epochs=61") + "\n# %%\nprint()\n")
    changed, longer = differences(notebook)
    assert "num_epochs=61" in changed
    assert longer.endswith("cells")


@each_notebook
def test_notebook_is_committed_without_outputs(notebook: Path) -> None:
    content = read(notebook)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert [cell.source for cell in code if cell.outputs or cell.execution_count is not None] == []
    assert content.metadata["kernelspec"]["name"] == "python3"
    assert not re.search(r"""["'(\s]/[a-z]+/""", "\n".join(cell.source for cell in code)), "an absolute path"


@pytest.mark.slow
@each_notebook
def test_notebook_runs(notebook: Path) -> None:
    if importlib.util.find_spec("nbmake") is None:
        pytest.skip("needs the extra 'dev'")
    # A process of its own: nbmake is a plugin that the other tests do without.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbmake"]
    command += [f"--nbmake-timeout={CELL_SECONDS}", str(notebook)]
    environment = os.environ | {"MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert "1 passed" in run.stdout
