"""The examples in the docstrings, the README and the quickstart run as they stand; every name has its page."""

import ast
import doctest
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from probgen import registry

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
in_checkout = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="needs the folders of the repository")


def test_docstring_examples(module_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(module_name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, module_name):
        runner.run(example, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_descriptions_are_no_list_markers(module_name: str) -> None:
    # "size: D." is read as an empty item D of an enumerated list.
    documents = [
        ast.get_docstring(node) or "" for node in ast.walk(tree_of(module_name)) if isinstance(node, DOCUMENTED)
    ]
    assert re.findall(r"^\s+\w+: (?:[A-Za-z]|\d+)[.)]$", "\n".join(documents), re.MULTILINE) == []


def tree_of(module_name: str) -> ast.Module:
    origin = importlib.import_module(module_name).__file__
    assert origin
    return ast.parse(Path(origin).read_text())


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
    run_script(example, tmp_path)


def run_script(text: str, folder: Path) -> None:
    """Runs it in a fresh interpreter and an empty folder, as a reader would paste it."""
    script = folder / "example.py"
    script.write_text(text)
    environment = os.environ | {"MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # more threads wait for one another
    command = [sys.executable, script.name]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


# --- the documentation -------------------------------------------------------------------------------------------


@in_checkout
def test_quickstart_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/quickstart.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 4
    run_script("\n".join(blocks), tmp_path)


@pytest.fixture(scope="module")
def assembling() -> ModuleType:
    """The script that puts the pages together."""
    folder = str(ROOT / "docs")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("assemble")
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def pages(assembling: ModuleType) -> dict[str, str]:
    """Every page that Sphinx reads, by name."""
    made: dict[str, str] = assembling.pages()
    return made | {f"tutorials/{path.name}": "" for path in assembling.notebooks()}


def documented(pages: dict[str, str]) -> list[str]:
    directives = re.findall(r"^\.\. auto(?:class|function):: (\S+)", "\n".join(pages.values()), re.MULTILINE)
    return [str(name) for name in directives]


@in_checkout
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in registry.kinds() for name in registry.names(kind)])
def test_every_entry_has_a_page(pages: dict[str, str], kind: str, name: str) -> None:
    page = pages[f"reference/{kind}s/{name}.md"]
    (public,) = documented({"": page})
    module, _, attribute = public.rpartition(".")
    assert getattr(importlib.import_module(module), attribute) is registry.get(kind, name)
    assert f"({kind}s/{name}.md)" in pages["reference/index.md"]
    assert f"`{registry.entry(kind, name).example}`" in page


@in_checkout
def test_a_new_entry_gets_a_page(assembling: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.Entry("probgen.models.ppca:PPCA", "the same under another name", "new:data_dim=2,latent_dim=1")
    monkeypatch.setitem(registry._REGISTRY["model"], "new", entry)
    monkeypatch.setattr(assembling.reference, "command_line", str)
    made = assembling.reference.pages()
    assert "autoclass:: probgen.models.PPCA" in made["reference/models/new.md"]
    assert "models/new\n" in made["reference/index.md"]


@in_checkout
def test_everything_public_is_documented_once(pages: dict[str, str]) -> None:
    import probgen

    names = documented(pages)
    assert sorted(set(names)) == sorted(names)
    assert {f"probgen.{name}" for name in probgen._LAZY} <= set(names)


@in_checkout
def test_every_public_module_is_documented(assembling: ModuleType, project: dict[str, Any]) -> None:
    reference = assembling.reference
    covered = {module for _, modules, _ in reference.MODULES.values() for module in modules}
    covered |= {package for _, package in reference.KINDS.values()}
    import probgen

    packages = set(project["tool"]["setuptools"]["packages"]) | {f"probgen.{name}" for name in probgen._MODULES}
    assert packages - covered == {
        "probgen",
        "probgen.cli",
        "probgen.core",
        "probgen.core.ops",
    }  # told elsewhere, or inside


@in_checkout
def test_every_page_is_listed_once(pages: dict[str, str]) -> None:
    listed = []
    for name, text in pages.items():
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            entries = [line for line in block.splitlines() if line and not line.startswith(":")]
            listed += [os.path.normpath(os.path.join(os.path.dirname(name), entry)) for entry in entries]
    assert sorted(listed) == sorted(os.path.splitext(name)[0] for name in pages if name != "index.md")


@in_checkout
def test_links_between_pages_lead_somewhere(pages: dict[str, str]) -> None:
    broken = []
    for name, text in pages.items():
        for target in re.findall(
            r"(?<!!)\[[^\]]+\]\(([^)\s#]+)[^)\s]*\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        ):
            path = os.path.normpath(os.path.join(os.path.dirname(name), target))
            if not re.match(r"[a-z]+:", target) and path not in pages:
                broken.append(f"{name}: {target}")
    assert broken == []


@in_checkout
def test_links_out_of_the_pages_become_words(assembling: ModuleType) -> None:
    text = "[a](../README.md) [b](design.md#layers) [c](../Makefile) [d](https://x.org) [e](#here) ![f](f.png)"
    repository = {"README.md": "index.md", "docs/design.md": "design.md", "docs/page.md": "page.md"}
    expected = "[a](index.md) [b](design.md#layers) c [d](https://x.org) [e](#here) ![f](f.png)"
    assert assembling.relinked(text, "docs/page.md", repository) == expected


@in_checkout
@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/results").glob("*.json")), ids=lambda path: path.stem)
def test_every_figure_is_in_a_table(pages: dict[str, str], path: Path) -> None:
    table = [line for line in pages[f"results/{path.stem}.md"].splitlines() if line.startswith("| ")]
    figures = json.loads(path.read_text())["figures"]
    assert len(table) == 2 + len(figures)
    assert len({line.count(" | ") for line in table}) == 1
    for line, figure in zip(table[2:], figures, strict=True):
        assert line.startswith(f"| {figure['name']} |")
        assert f"| {figure['value']:.4g} |" in line


@in_checkout
def test_every_command_has_its_help(pages: dict[str, str]) -> None:
    from probgen.cli.main import COMMANDS

    page = pages["reference/command-line.md"]
    assert re.findall(r"^## `probgen (\w+)`$", page, re.MULTILINE) == list(COMMANDS)
    assert str(ROOT) not in page


@in_checkout
def test_pages_are_written_only_where_they_differ(
    assembling: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembling, "pages", lambda: {"index.md": "a", "reference/index.md": "b"})
    (tmp_path / "gone.md").write_text("of an earlier build")
    assembling.write(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.md")}
    assert tmp_path / "gone.md" not in times
    (tmp_path / "index.md").write_text("changed")
    assembling.write(tmp_path)
    changed = [path.relative_to(tmp_path) for path in times if path.stat().st_mtime_ns != times[path]]
    assert changed == [Path("index.md")]


@in_checkout
def test_settings_of_sphinx_need_no_network() -> None:
    tree = ast.parse((ROOT / "docs/conf.py").read_text())
    names = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert names.isdisjoint({"intersphinx_mapping", "html_baseurl"})
