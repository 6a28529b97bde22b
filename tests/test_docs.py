"""The examples in the docstrings and in the README run as they stand."""

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_docstring_examples(module_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(module_name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, module_name):
        runner.run(example, out=report.append)
    assert runner.failures == 0, "".join(report)


def readme_examples() -> list[str]:
    text = (ROOT / "README.md").read_text()
    section = re.search(r"^## Example\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    assert section, "README.md has no section '## Example'"
    blocks = re.findall(r"^```python\n(.*?)^```", section[1], flags=re.DOTALL | re.MULTILINE)
    assert blocks, "the section '## Example' of README.md has no python block"
    return blocks


def test_readme_example_is_short() -> None:
    assert len(readme_examples()[0].splitlines()) < 20


@pytest.mark.parametrize("example", readme_examples())
def test_readme_example_runs(tmp_path: Path, example: str) -> None:
    # In a fresh interpreter and an empty folder, as a reader would paste it.
    script = tmp_path / "example.py"
    script.write_text(example)
    run = subprocess.run([sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
