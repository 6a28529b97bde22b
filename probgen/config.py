"""The grammar of specs, ``name:key=value,key=value``, and the check of arguments against a signature.

A spec names an object of the registry and its arguments in one string, on the command line and in files:
``vae:hidden=(200,200)``, ``iwae:num_particles=50,gradient=dreg``. Values are Python literals, read by
:func:`ast.literal_eval` and never evaluated; a word that is no literal is a string. A comma inside brackets or
quotes belongs to the value, so one spec can hold another: ``vae:likelihood="normal:min_scale=0.01"``.
"""

import ast
import functools
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from probgen.errors import ArgumentError, nearest

T = TypeVar("T")

MAX_LENGTH = 4096
MAX_DEPTH = 16

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*", re.ASCII)
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_NESTED = re.compile(r"[A-Za-z][A-Za-z0-9_-]*:[A-Za-z_]\w*=[A-Za-z0-9_.+-]+", re.ASCII)  # a spec of one argument
_WORD = re.compile(r"[A-Za-z_./~][A-Za-z0-9_./~-]*", re.ASCII)
_SIGNS = re.compile(r"[-+~]\s*[-+~]")
_PAIRS = {")": "(", "]": "[", "}": "{"}


def canonical(name: str) -> str:
    """The registry's spelling of a name: ``normal_fixed`` is ``normal-fixed``.

    Example:
        >>> canonical("normal_fixed")
        'normal-fixed'
    """
    return name.replace("_", "-")


def parse_spec(text: str) -> tuple[str, dict[str, Any]]:
    """Reads ``name`` or ``name:key=value,...``.

    Args:
        text: the spec, at most 4096 characters, brackets at most 16 deep.

    Returns:
        The name, in the registry's spelling, and the arguments. Values are None, booleans, numbers, strings, and
        tuples, lists and dictionaries of them.

    Raises:
        ArgumentError: the text is not a spec; the message has the part that is wrong.

    Example:
        >>> parse_spec("iwae:num_particles=50,gradient=dreg")
        ('iwae', {'num_particles': 50, 'gradient': 'dreg'})
    """
    if not isinstance(text, str):
        raise ArgumentError(f"a spec must be a string such as 'vae:latent_dim=2', got {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise ArgumentError(f"a spec has at most {MAX_LENGTH} characters, got {len(text)}")
    name, colon, rest = text.strip().partition(":")
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise ArgumentError(f"a spec begins with a name, as in 'vae:latent_dim=2'; got {_shown(text)}")
    if colon and not rest.strip():
        raise ArgumentError(f"spec {_shown(text)}: arguments must follow ':', as in '{name}:key=value'")
    arguments: dict[str, Any] = {}
    for item in _split(rest) if colon else ():
        key, value = _parse_item(item)
        if key in arguments:
            raise ArgumentError(f"spec {_shown(text)}: `{key}` is given twice")
        arguments[key] = value
    return canonical(name), arguments


def _split(text: str) -> list[str]:
    """Cuts at the commas outside brackets and quotes, and refuses what would be slow or deep to parse."""
    items, start, open_brackets, quote, plain = [], 0, "", "", ""
    position = 0
    while position < len(text):
        character = text[position]
        if quote:
            if character == "\\":
                position += 1
            elif character == quote:
                quote = ""
        elif character in "'\"":
            quote = character
            plain += "'"
        else:
            plain += character
            open_brackets = _bracket(open_brackets, character, text)
            if character == "," and not open_brackets:
                items.append(text[start:position])
                start = position + 1
        position += 1
    if quote or open_brackets:
        raise ArgumentError(f"{_shown(text)}: a {'quote' if quote else 'bracket'} is not closed")
    if _SIGNS.search(plain):
        raise ArgumentError(f"{_shown(text)}: two signs in a row")
    return [*items, text[start:]]


def _bracket(open_brackets: str, character: str, text: str) -> str:
    """The brackets that are open after ``character``."""
    if character in "([{":
        open_brackets += character
    elif character in _PAIRS:
        if not open_brackets.endswith(_PAIRS[character]):
            raise ArgumentError(f"{_shown(text)}: '{character}' closes no bracket")
        open_brackets = open_brackets[:-1]
    if len(open_brackets) > MAX_DEPTH:
        raise ArgumentError(f"{_shown(text)}: brackets are more than {MAX_DEPTH} deep")
    return open_brackets


def _parse_item(item: str) -> tuple[str, Any]:
    key, equals, value = item.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not _KEY.fullmatch(key) or not value:
        raise ArgumentError(f"an argument must be `key=value`, got {_shown(item)}")
    return key, _parse_value(key, value)


def _parse_value(key: str, text: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        if _WORD.fullmatch(text) or _NESTED.fullmatch(text):
            return text
        raise ArgumentError(
            f"`{key}`: {_shown(text)} is neither a Python literal nor a single word; put strings in quotes"
        ) from None
    _check_kind(key, value)
    return value


def _check_kind(key: str, value: Any, depth: int = 0) -> None:
    """Refuses what JSON and TOML have no word for, and what nests too deep (such as a list in itself)."""
    if depth > MAX_DEPTH:
        raise ArgumentError(f"`{key}`: values nest at most {MAX_DEPTH} deep")
    if isinstance(value, dict):
        if not all(isinstance(k, str) for k in value):
            raise ArgumentError(f"`{key}`: the keys of a dictionary must be strings, got {_shown(repr(value))}")
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        if value is not None and not isinstance(value, (bool, int, float, str)):
            raise ArgumentError(f"`{key}`: {type(value).__name__} is no kind of value for a spec")
        if isinstance(value, float) and math.isnan(value):
            raise ArgumentError(f"`{key}` must not be NaN")
        return
    for entry in value:
        _check_kind(key, entry, depth + 1)


def _shown(text: str) -> str:
    """A text that may be long, for a message."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def format_spec(name: str, arguments: Mapping[str, Any]) -> str:
    """Writes a spec: the inverse of :func:`parse_spec`.

    Args:
        name: a registry name.
        arguments: keys that are identifiers; values as :func:`parse_spec` returns them.

    Returns:
        A text for which ``parse_spec(text) == (name, arguments)``.

    Raises:
        ArgumentError: a name, key or value that a spec cannot hold.

    Example:
        >>> format_spec("vae", {"hidden": (200, 200), "likelihood": "normal:min_scale=0.01"})
        "vae:hidden=(200, 200),likelihood='normal:min_scale=0.01'"
    """
    if not _NAME.fullmatch(name):
        raise ArgumentError(f"a spec's name must be letters, digits and hyphens, got {_shown(name)}")
    items = []
    for key, value in arguments.items():
        if not _KEY.fullmatch(key):
            raise ArgumentError(f"a spec's key must be an identifier, got {_shown(key)}")
        _check_kind(key, value)
        items.append(f"{key}={_format_argument(value)}")
    text = f"{name}:{','.join(items)}" if items else name
    if parse_spec(text) != (
        canonical(name),
        dict(arguments),
    ):  # too long, too deep, or a subclass with its own equality
        raise ArgumentError(f"{_shown(text)} cannot be written as a spec")
    return text


def _format_argument(value: Any) -> str:
    if isinstance(value, str) and _WORD.fullmatch(value) and value not in ("True", "False", "None"):
        return str(value)
    return _format_literal(value)


def _format_literal(value: Any) -> str:
    """A literal; unlike ``repr`` right for infinity and for subclasses of the plain kinds."""
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return ("1e999" if value > 0 else "-1e999") if math.isinf(value) else float.__repr__(value)
    if isinstance(value, str):
        return str.__repr__(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{str.__repr__(k)}: {_format_literal(v)}" for k, v in value.items()) + "}"
    entries = ", ".join(map(_format_literal, value))
    if isinstance(value, tuple):
        return f"({entries},)" if len(value) == 1 else f"({entries})"
    return f"[{entries}]"


def build(cls: Callable[..., T], arguments: Mapping[str, Any], *, name: str | None = None) -> T:
    """Calls a class or function after a check of the arguments' names against its signature.

    Args:
        cls: what to call.
        arguments: by keyword.
        name: how messages call it; its own name by default.

    Returns:
        What ``cls`` returns.

    Raises:
        ArgumentError: an unknown argument, with the nearest right name, or a missing one.

    Example:
        >>> build(complex, {"real": 1.0})
        (1+0j)
        >>> build(complex, {"reel": 1.0})
        Traceback (most recent call last):
        probgen.errors.ArgumentError: `complex` takes no argument `reel`; did you mean 'real'? There are: imag, real
    """
    name = name if name is not None else str(getattr(cls, "__name__", cls))
    known = parameters(cls)
    if known is not None:
        for key in arguments:
            if key not in known:
                raise ArgumentError(f"`{name}` takes no argument `{key}`; {nearest(key, known)}")
        _require(name, known.values(), arguments)
    return cls(**arguments)


def _require(name: str, known: Iterable[inspect.Parameter], arguments: Mapping[str, Any]) -> None:
    missing = [p.name for p in known if p.default is p.empty and p.name not in arguments]
    if missing:
        listed = ", ".join(f"`{key}`" for key in missing)
        raise ArgumentError(f"`{name}` needs {listed}, as in '{name}:{missing[0]}=...'")


def parameters(cls: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """The parameters that can be given by keyword, or None where any name is taken.

    Example:
        >>> list(parameters(complex))
        ['real', 'imag']
    """
    known = {}
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            return None
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            known[parameter.name] = parameter
    return known


def describe(value: Any) -> Any:
    """A JSON value that says what an object is, without addresses.

    Example:
        >>> import functools
        >>> describe(functools.partial(int, base=2))
        {'call': 'builtins.int', 'args': [], 'kwargs': {'base': 2}}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "shape") and hasattr(value, "dtype"):  # a tensor or an array of whichever library
        return f"{type(value).__name__} {list(value.shape)} {value.dtype}"
    if isinstance(value, functools.partial):
        arguments = [describe(v) for v in value.args], {k: describe(v) for k, v in value.keywords.items()}
        return {"call": describe(value.func), "args": arguments[0], "kwargs": arguments[1]}
    if isinstance(value, dict):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [describe(v) for v in value]
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    text = repr(value)
    return type(value).__qualname__ if " at 0x" in text else text
