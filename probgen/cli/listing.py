"""What ``probgen list`` shows."""

import inspect
import re
import textwrap
from typing import Any

from probgen import registry
from probgen.config import canonical, parameters
from probgen.data.catalog import sources
from probgen.errors import ArgumentError, nearest

KINDS = {
    "model": "models",
    "guide": "guides",
    "objective": "objectives",
    "likelihood": "likelihoods",
    "data": "data sets",
}


def show(name: str | None) -> str:
    """All names with a line each; those of a kind; or the options of one name.

    Raises:
        ArgumentError: an unknown name.

    Example:
        >>> print(show("data").splitlines()[0])
        data sets
    """
    if name is None:
        more = "`probgen list vae` shows the options of a name; a program of your own is path.py:Name."
        return "\n\n".join([*map(_kind, KINDS), more])
    kind = name.removesuffix("s")
    if kind in KINDS:
        return _kind(kind)
    if name in sources():
        return f"{name}: data set\n\n{_wrapped(sources()[name])}"
    return "\n\n".join(_options(kind, canonical(name)) for kind in _kinds_of(name))


def _summaries(kind: str) -> dict[str, str]:
    if kind == "data":
        return sources()
    return {name: registry.entry(kind, name).summary for name in registry.names(kind)}


def _kind(kind: str) -> str:
    summaries = _summaries(kind)
    width = max(map(len, summaries))
    return "\n".join([KINDS[kind], *(f"  {name.ljust(width)}  {text}" for name, text in summaries.items())])


def _kinds_of(name: str) -> list[str]:
    """The kinds that have the name."""
    found = [kind for kind in registry.kinds() if canonical(name) in registry.names(kind)]
    if not found:
        known = [known for kind in KINDS for known in _summaries(kind)]
        raise ArgumentError(f"nothing is called {name!r}; {nearest(name, [*known, *KINDS])}")
    return found


def _options(kind: str, name: str) -> str:
    """The first lines of a class's docstring, its options, and an example of a spec."""
    entry, cls = registry.entry(kind, name), registry.get(kind, name)
    known = parameters(cls) or {}
    document = inspect.cleandoc(cls.__doc__ or "")
    meanings = _meanings(document)
    options = []
    for key, parameter in known.items():
        options.append(f"  {key}={_default(parameter)}  {_type(parameter)}".rstrip())
        options += textwrap.wrap(meanings.get(key, ""), 100, initial_indent="      ", subsequent_indent="      ")
    options = options or ["  none"]
    about = document.split("\n\n")[0]
    where = f"probgen.{kind}s.{cls.__name__}" if kind in ("model", "guide", "objective") else entry.path
    parts = [f"{name}: {kind}, {where.replace(':', '.')}", about]
    return "\n\n".join([*parts, "\n".join(["options", *options]), f"for example\n{_wrapped(entry.example)}"])


def _meanings(document: str) -> dict[str, str]:
    """What a docstring's section "Args" says of each argument, in one line, without its markup."""
    section = re.search(r"^Args:\n((?:    .*\n|\n)*)", document + "\n", re.MULTILINE)
    found = re.findall(r"^    (\w+): (.*\n(?:     .*\n|\n)*)", section[1] if section else "", re.MULTILINE)
    plain = {name: re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("``", "") for name, text in found}
    return {name: " ".join(text.split()) for name, text in plain.items()}


def _default(parameter: inspect.Parameter) -> str:
    return "(required)" if parameter.default is parameter.empty else repr(parameter.default)


def _type(parameter: inspect.Parameter) -> str:
    kind: Any = parameter.annotation
    if kind is parameter.empty:
        return ""
    text = kind if isinstance(kind, str) else getattr(kind, "__name__", None) if isinstance(kind, type) else str(kind)
    return str(text).replace("collections.abc.", "").replace("typing.", "").replace("probgen.likelihoods.", "")


def _wrapped(text: str) -> str:
    return textwrap.indent(text, "  ")
