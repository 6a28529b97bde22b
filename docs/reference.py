"""Pages made from the package: for each entry of the registry, each group of modules, and the command line."""

import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Collection
from types import ModuleType

from probgen import registry

# kind -> (title, the package that has the classes)
KINDS = {
    "model": ("Models", "probgen.models"),
    "guide": ("Guides", "probgen.guides"),
    "objective": ("Objectives", "probgen.objectives"),
    "likelihood": ("Likelihoods", "probgen.likelihoods"),
}
# What every member of a kind inherits is told once, on the page of its interface: kind -> (class, page).
INTERFACES = {"objective": ("Objective", "objectives"), "likelihood": ("Likelihood", "likelihoods")}

# page -> (title, modules, what they are)
MODULES = {
    "training": (
        "Training",
        ["probgen.svi", "probgen.checkpoints"],
        "The loop, and what it returns, reports and saves.",
    ),
    "evidence": ("Evidence", ["probgen.evidence"], "Estimates of log p(x), per datum, with their errors."),
    "comparison": ("Comparing", ["probgen.comparison"], "Objectives side by side."),
    "programs": (
        "Programs",
        ["probgen.programs"],
        "Runs a (model, guide) pair once and reads its log-weights.",
    ),
    "numpyro": (
        "NumPyro",
        ["probgen.numpyro", "probgen.models.numpyro", "probgen.guides.numpyro"],
        "The same objectives for `numpyro.infer.SVI`, a loop of whole epochs in `lax.scan`, evidence, twins of models.",
    ),
    "bounds": ("Bounds", ["probgen.core.bounds"], "Pure functions of log-weights, for torch, JAX and NumPy."),
    "estimators": (
        "Estimators",
        ["probgen.core.estimators"],
        "Gradient estimators as coefficients of each particle, for torch, JAX and NumPy.",
    ),
    "weights": ("Importance weights", ["probgen.core.weights"], "What the weights say about a guide."),
    "divergences": (
        "Divergences",
        ["probgen.divergences", "probgen.core.divergences"],
        "From formulas, densities and samples, each with its error.",
    ),
    "diagnostics": (
        "Sets of samples",
        ["probgen.diagnostics"],
        "Fréchet and kernel distances, precision and recall, modes and memorisation, on any features.",
    ),
    "objectives": ("Writing an objective", ["probgen.objectives"], "What a subclass says, and what it inherits."),
    "likelihoods": (
        "Writing a likelihood",
        ["probgen.likelihoods", "probgen.distributions"],
        "What a network's raw outputs say about the data.",
    ),
    "data": ("Data", ["probgen.data"], "Data sets, files and binarization. Nothing is downloaded."),
    "plots": ("Figures", ["probgen.plots"], "Every figure comes with the numbers behind it."),
    "runs": ("Runs", ["probgen.runs"], "Runs in folders: settings, and pairs that are built from them."),
    "nets": ("Networks", ["probgen.nets"], "Networks without probabilities."),
    "testing": (
        "Testing",
        ["probgen.testing", "probgen.testing.checks", "probgen.testing.problems"],
        "Contracts of models, guides and objectives as checks, and certificates of gradients, for ours and for yours.",
    ),
    "registry": ("Names", ["probgen.registry", "probgen.config"], "Names and specs, and what they build."),
    "seeds": ("Seeds and checks", ["probgen.seeding", "probgen.validation"], "What holds for the length of a block."),
    "errors": ("Errors", ["probgen.errors"], "Every error that is raised on purpose."),
}


def pages() -> dict[str, str]:
    """All pages of the reference."""
    made = {"reference/index.md": index(), "reference/command-line.md": command_line()}
    for kind in registry.kinds():
        for name in registry.names(kind):
            made[f"reference/{page_of(kind, name)}.md"] = entry_page(kind, name)
    return made | {f"reference/{page}.md": module_page(page) for page in MODULES}


def page_of(kind: str, name: str) -> str:
    """Where an entry's page lies, below ``reference/``."""
    return f"{kind}s/{name}"


def title_of(kind: str) -> str:
    """A kind in the plural."""
    return KINDS[kind][0] if kind in KINDS else f"{kind.capitalize()}s"


def public_name(kind: str, name: str) -> str:
    """The dotted name by which users import the class of an entry."""
    module, _, attribute = registry.entry(kind, name).path.partition(":")
    return f"{KINDS[kind][1] if kind in KINDS else module}.{attribute}"


def index() -> str:
    """The tables of names, and the lists of pages."""
    parts = ["# Reference\n"]
    for kind in sorted(registry.kinds(), key=lambda kind: list(KINDS).index(kind) if kind in KINDS else len(KINDS)):
        rows = [
            f"| [`{name}`]({page_of(kind, name)}.md) | {{py:obj}}`{public_name(kind, name)}` | "
            f"{registry.entry(kind, name).summary} |"
            for name in registry.names(kind)
        ]
        listed = [page_of(kind, name) for name in registry.names(kind)]
        parts += [f"## {title_of(kind)}\n", "| name | class | |", "|:---|:---|:---|", *rows, "", toctree(listed)]
    rows = [f"| [{title}]({page}.md) | {what} |" for page, (title, _, what) in MODULES.items()]
    rows.append("| [Command line](command-line.md) | `probgen`, the program |")
    return "\n".join([*parts, "## Modules\n", "| | |", "|:---|:---|", *rows, "", toctree([*MODULES, "command-line"])])


def toctree(names: list[str]) -> str:
    """A list of pages for the side bar."""
    return "\n".join(["```{toctree}", ":hidden:", "", *names, "```", ""])


def rst(*lines: str) -> str:
    """Directives of reStructuredText inside Markdown."""
    return "\n".join(["```{eval-rst}", *lines, "```", ""])


def entry_page(kind: str, name: str) -> str:
    """The page of a model, guide, objective or likelihood: what the registry says, then the docstring."""
    found = registry.entry(kind, name)
    public = public_name(kind, name)
    members = own_members(registry.get(kind, name))
    options = [f"   :members: {', '.join(members)}"] if members else []
    shared = ""
    if kind in INTERFACES:
        page = INTERFACES[kind][1]
        shared = f"What all {title_of(kind).lower()} share: [{MODULES[page][0]}](../{page}.md).\n"
    return "\n".join(
        [
            f"# {public.rpartition('.')[2]}\n",
            f"{found.summary[0].upper()}{found.summary[1:]}.\n",
            f"The {kind} `{name}` on the command line and in files, for example `{found.example}`.\n",
            shared,
            rst(f".. autoclass:: {public}", *options),
        ]
    )


def own_members(cls: type) -> list[str]:
    """The public members with a docstring that a class has from this package, without those of its interface."""
    names = []
    for base in cls.__mro__:
        if base.__name__ in {name for name, _ in INTERFACES.values()} or not base.__module__.startswith("probgen."):
            break
        names += [name for name, value in vars(base).items() if not name.startswith("_") and inspect.getdoc(value)]
    return [
        name
        for name in dict.fromkeys(names)
        if callable(getattr(cls, name)) or isinstance(getattr(cls, name), property)
    ]


def module_page(page: str) -> str:
    """The page of some modules: all that they make public and the registry has not."""
    title, modules, what = MODULES[page]
    found = [module for module in map(imported, modules) if module is not None]
    parts = [f"# {title}\n", f"{what}\n"]
    for module in found:
        directives = [line for name in documented_names(module) for line in directive(module, name)]
        parts += [f"## `{module.__name__}`\n"] if len(found) > 1 else []
        parts.append(rst(f".. py:module:: {module.__name__}", "", *directives))
    return "\n".join(parts)


def imported(name: str) -> ModuleType | None:
    """The module, or None where there is no such."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


def documented_names(module: ModuleType) -> list[str]:
    """What a module makes public, without what has a page of its own."""
    elsewhere = {public_name(kind, name) for kind in registry.kinds() for name in registry.names(kind)}
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return [name for name in names if f"{module.__name__}.{name}" not in elsewhere]


def directive(module: ModuleType, name: str) -> list[str]:
    """The directive that documents a name, under ``probgen`` where it can be imported from there."""
    value = getattr(module, name)
    top = importlib.import_module("probgen")
    is_top = name in top.__all__ and not isinstance(getattr(top, name), ModuleType) and getattr(top, name) is value
    full = f"{'probgen' if is_top else module.__name__}.{name}"
    if inspect.isclass(value):
        shown = [] if issubclass(value, Exception) else ["   :members:"]
        return [f".. autoclass:: {full}", *shown, "   :show-inheritance:" if not shown else "", ""]
    if inspect.isfunction(value):
        return [f".. autofunction:: {full}", ""]
    shown = ", ".join(map(str, value)) if isinstance(value, Collection) else str(value)
    return [f".. py:data:: {name}", f"   :module: {module.__name__}", "", f"   {shown}", ""]


def command_line() -> str:
    """What ``probgen --help`` and the help of each command say."""
    from probgen.cli import main as cli

    commands = list(getattr(cli, "COMMANDS", ()))
    parts = ["# Command line\n", help_of([])]
    for command in commands:
        parts += [f"## `probgen {command}`\n", help_of([command])]
    return "\n".join(parts)


def help_of(words: list[str]) -> str:
    """The help text as a reader sees it, 100 columns wide."""
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "probgen", *words, "--help"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return f"```text\n{run.stdout.strip()}\n```\n"
