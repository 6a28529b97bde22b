"""What the package must never do, by its syntax tree: run data as code, or leave checks to `assert`."""

import ast
import importlib.util
from pathlib import Path

import pytest

MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve", "runpy"}
CALLS = {
    *("eval", "exec", "compile", "__import__", "breakpoint"),
    *("os.system", "os.popen", "pty.spawn", "commands.getoutput", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"),
    *(
        "numpy.load",
        "np.load",
        "pandas.read_pickle",
        "pd.read_pickle",
        "yaml.load",
        "yaml.unsafe_load",
        "yaml.full_load",
    ),
    *("ast.parse", "code.interact", "types.FunctionType"),
}
METHODS = {"exec_module", "load_module", "source_to_code", "spec_from_file_location"}  # whoever they are called on
OPTIONS = {("shell", "True"), ("allow_pickle", "True"), ("weights_only", "False"), ("trust_remote_code", "True")}

# A program of the user's own is run: the file that the command line names, and no other.
ALLOWED = {
    # These read the source of programs and the repr of objectives, and run none of it.
    "probgen.testing.checks.arguments": ("ast.parse",),
    "probgen.testing.checks.modes": ("ast.parse",),
    "probgen.runs.program_files": {"loader.exec_module", "self.source_to_code"},
}


def violations(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, what) of everything that is banned."""
    return sorted({found for node in ast.walk(tree) for found in _banned(node)})


def _banned(node: ast.AST) -> list[tuple[int, str]]:
    if isinstance(node, ast.Assert):
        return [(node.lineno, "assert")]
    if isinstance(node, ast.Import):
        return [(node.lineno, a.name) for a in node.names if a.name.partition(".")[0] in MODULES]
    if isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{alias.name}".removeprefix("builtins.") for alias in node.names]
        root = (node.module or "").partition(".")[0]
        return [(node.lineno, name) for name in names if not node.level and (root in MODULES or name in CALLS)]
    if isinstance(node, ast.Name | ast.Attribute):  # also where it is passed on, and not called here
        name = ast.unparse(node).removeprefix("builtins.")
        return [(node.lineno, name)] if name in CALLS or name.rpartition(".")[2] in METHODS else []
    if isinstance(node, ast.Call):
        words = {(word.arg, ast.unparse(word.value)) for word in node.keywords}
        return [(node.lineno, f"{name}={value}") for name, value in words & OPTIONS]
    return []


def test_nothing_that_is_banned(module_name: str) -> None:
    spec = importlib.util.find_spec(module_name)
    assert spec
    assert spec.origin
    found = violations(ast.parse(Path(spec.origin).read_text()))
    assert [(line, what) for line, what in found if what not in ALLOWED.get(module_name, ())] == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "import marshal, json",
        "from os import system",
        "from torch import load",
        "from numpy import load as read",
        "torch.load(path)",
        "torch.save(x, path)",
        "read = torch.load",
        "map(eval, texts)",
        "exec(text)",
        "builtins.eval(text)",
        "yaml.load(file)",
        "np.load(path)",
        "frame.merge(loader(path, allow_pickle=True))",
        "subprocess.run(command, shell=True)",
        "def f(x):\n    assert x > 0",
        "if x:\n    import shelve",
        "spec.loader.exec_module(module)",
        "from builtins import eval as read",
    ],
)
def test_the_ban_sees(text: str) -> None:
    assert len(violations(ast.parse(text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "model.eval()",
        "import json\njson.loads(text)",
        "re.compile(pattern)",
        "safetensors.torch.load(data)",
        "ast.literal_eval(text)",
        "subprocess.run(command, shell=False)",
        "from probgen.data import load\nload('digits')",
        "tomllib.loads(text)",
    ],
)
def test_the_ban_is_no_wider(text: str) -> None:
    assert violations(ast.parse(text)) == []
