"""What is installed is what lies in the folders, loads late, and keeps the rules of the package."""

import ast
import importlib
import importlib.metadata
import importlib.resources
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
# The tests also run against an installed wheel, from a folder that holds only them and the project's files.
in_checkout = pytest.mark.skipif(not (ROOT / "probgen").is_dir(), reason="needs the folders of the repository")


def package_folders(project: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    for package, folder in project["tool"]["setuptools"]["package-dir"].items():
        for path in [ROOT / folder, *(ROOT / folder).rglob("*")]:
            if path.is_dir() and any(path.glob("*.py")):
                yield ".".join([package, *path.relative_to(ROOT / folder).parts]), path


def repository_files() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a git checkout")
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


def syntax_tree(module_name: str) -> ast.Module:
    spec = importlib.util.find_spec(module_name)
    assert spec
    assert spec.origin
    return ast.parse(Path(spec.origin).read_text())


def imported_names(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
    return names


@in_checkout
def test_every_folder_is_listed(project: dict[str, Any]) -> None:
    folders = dict(package_folders(project))
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(folders)
    assert [str(path) for path in folders.values() if not (path / "__init__.py").exists()] == []


@in_checkout
def test_every_data_file_is_listed(project: dict[str, Any]) -> None:
    patterns = project["tool"]["setuptools"]["package-data"]
    for package, folder in package_folders(project):
        shipped = {file for pattern in patterns.get(package, []) for file in folder.glob(pattern)}
        present = {file for file in folder.iterdir() if file.is_file() and file.suffix not in {".py", ".pyc"}}
        assert present == shipped


def test_types_are_shipped() -> None:
    assert (importlib.resources.files("probgen") / "py.typed").is_file()


def test_modules_have_one_copy(module_name: str) -> None:
    importlib.import_module(module_name)
    assert sys.modules.keys().isdisjoint({"models", "guides"})


@in_checkout
@pytest.mark.parametrize("folder", ["probgen", "models", "guides", "tests", "benchmarks"])
def test_mapped_folders_are_imported_as_part_of_probgen(folder: str) -> None:
    for file in (ROOT / folder).rglob("*.py"):
        roots = {name.partition(".")[0] for name in imported_names(ast.parse(file.read_text()))}
        assert roots.isdisjoint({"models", "guides"}), file


def test_public_names_resolve(module_name: str) -> None:
    module = importlib.import_module(module_name)
    public = {name for name in dir(module) if not name.startswith("_")} | set(getattr(module, "__all__", ()))
    for name in sorted(public):
        value = getattr(module, name)
        if importlib.util.find_spec(f"{module_name}.{name}") if hasattr(module, "__path__") else None:
            # A module and a function of one name would shadow each other, whichever is loaded last.
            assert isinstance(value, ModuleType), f"{module_name}.{name} is a module and something else too"


@pytest.mark.parametrize(
    ("module", "late"),
    [
        ("probgen", {"torch", "pyro", "jax", "numpyro", "numpy"}),
        ("probgen.core", {"pyro", "jax", "numpyro"}),
        ("probgen.objectives", {"jax", "numpyro"}),
    ],
)
def test_import_is_lazy(module: str, late: set[str], tmp_path: Path) -> None:
    program = f"import sys, {module}; print(*sorted({late!r} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_core_knows_no_programs(module_name: str) -> None:
    if module_name.startswith("probgen.core"):
        names = {name for name in imported_names(syntax_tree(module_name)) if name.startswith(("probgen", "pyro"))}
        assert {name for name in names if not name.startswith(("probgen.core", "probgen.errors"))} == set()


def test_nothing_unpickles_or_runs_text(module_name: str) -> None:
    tree = syntax_tree(module_name)
    roots = {name.partition(".")[0] for name in imported_names(tree)}
    assert roots.isdisjoint({"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"})
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            options = {f"{word.arg}={ast.unparse(word.value)}" for word in node.keywords}
            found = {ast.unparse(node.func)} | options
            assert found.isdisjoint(
                {"eval", "exec", "os.system", "torch.load", "torch.save", "allow_pickle=True", "shell=True"}
            ), f"line {node.lineno}"


def test_no_assert_statements(module_name: str) -> None:
    # They vanish under `python -O`; the package raises its own errors instead.
    assert [node.lineno for node in ast.walk(syntax_tree(module_name)) if isinstance(node, ast.Assert)] == []


def test_pins_satisfy_ranges(project: dict[str, Any]) -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)}
    assert len(pins) == len(lines)
    assert {name for name, version in pins.items() if version.local} == set()  # nobody else can install 2.13.0+cpu
    table = project["project"]
    extras = [text for extra in table["optional-dependencies"].values() for text in extra]
    requirements = [Requirement(text) for text in table["dependencies"] + extras]
    assert {
        str(requirement)
        for requirement in requirements
        if requirement.name != table["name"] and pins[canonicalize_name(requirement.name)] not in requirement.specifier
    } == set()


def test_one_version(project: dict[str, Any]) -> None:
    version = project["project"]["version"]
    assert importlib.import_module("probgen").__version__ == version
    assert importlib.metadata.version("probgen") == version
    if (ROOT / "CITATION.cff").exists():
        assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
        assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_console_script_exists() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="probgen")
    assert callable(script.load())


@in_checkout
def test_no_file_names_a_path_of_a_machine() -> None:
    folders = r"/(?:home|Users|root|work|workspace)/\w|[A-Z]:\\Users\\"
    here = re.escape(str(ROOT)) if len(ROOT.parts) > 2 else r"(?!)"  # a checkout in, say, /src says nothing
    pattern = re.compile(rf"(?<![\w.~:-])(?:{folders}|{here}(?!\w))")
    found = []
    for file in repository_files():
        try:
            text = file.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{file.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert found == []


# What stands in a line may import what stands below, and nothing beside it or above.
LAYERS = (
    "__main__",
    "cli",
    "runs",
    "comparison testing",
    "diagnostics numpyro plots",
    "divergences evidence svi",
    "objectives models guides",
    "programs likelihoods",
    "distributions nets data registry validation",
    "checkpoints seeding config core",
    "arguments",
    "errors",
)


def runtime_imports(tree: ast.AST) -> Iterator[str]:
    """Modules that are imported when code runs: not those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"probgen.{a.name}" for a in node.names) if node.module == "probgen" else [node.module or ""]
        yield from runtime_imports(node)


def test_imports_point_downwards(module_name: str) -> None:
    rank = {name: i for i, line in enumerate(LAYERS) for name in line.split()}
    package = module_name.split(".")[1:2]
    if not package or package == ["__init__"]:
        return
    for imported in runtime_imports(syntax_tree(module_name)):
        top, *rest = imported.split(".")
        if top != "probgen" or not rest or rest[0] in (*package, "__version__"):
            continue
        assert rank[rest[0]] > rank[package[0]], f"{module_name} imports {imported}"
