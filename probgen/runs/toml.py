"""TOML files: written here, read by :mod:`tomllib`, with everything that is wrong with a file in one line."""

import math
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probgen.errors import ArgumentError, ArgumentTypeError, DataFileError

MAX_BYTES = 1 << 14  # dotted keys take tomllib time that is quadratic in their length

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def dumps(table: Mapping[str, Any]) -> str:
    r"""Writes TOML: the inverse of ``tomllib.loads``, for the values that settings have.

    Args:
        table: strings to values: strings, integers, floats, booleans, lists and tuples of them, and further tables,
            which come last.

    Returns:
        A text for which ``tomllib.loads(text)`` is the table, with lists in the place of tuples.

    Raises:
        ArgumentTypeError: a value of another kind.
        ArgumentError: a string with half of a surrogate pair, which UTF-8 cannot hold.

    Example:
        >>> print(dumps({"rate": 0.005, "shape": (1, 8, 8), "record": {"kind": "digits"}}), end="")
        rate = 0.005
        shape = [1, 8, 8]
        <BLANKLINE>
        [record]
        kind = "digits"
    """
    return _table(table, ())


def _table(table: Mapping[str, Any], above: tuple[str, ...]) -> str:
    plain = [f"{_key(k)} = {_value(v)}\n" for k, v in table.items() if not isinstance(v, Mapping)]
    parts = [f"[{'.'.join(map(_key, above))}]\n{''.join(plain)}" if above else "".join(plain)]
    parts += [_table(v, (*above, k)) for k, v in table.items() if isinstance(v, Mapping)]
    return "\n".join(part for part in parts if part)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return float.__repr__(value) if not math.isnan(value) else "nan"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_value, value))}]"
    raise ArgumentTypeError(
        f"TOML files hold strings, numbers, booleans, lists and tables, got {type(value).__name__}: {value!r}"
    )


def _string(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ArgumentError(f"{text!r} holds half of a surrogate pair, which no file in UTF-8 can hold")
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    return f"\\u{ord(character):04x}" if character < " " or character == "\x7f" else character


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a TOML file of at most 16 KiB.

    Raises:
        DataFileError: missing, no file, too large, not UTF-8, not TOML, or nested too deep.
    """
    path = Path(path)
    try:
        text = _bytes(path).decode()
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise DataFileError(f"'{path}' is not in UTF-8, as TOML must be: byte {error.start} cannot be read") from error
    except RecursionError as error:
        raise DataFileError(f"'{path}' nests too deep to be read as TOML") from error
    except ValueError as error:  # tomllib's own, and numbers with too many digits
        raise DataFileError(f"'{path}' cannot be read as TOML: {error}") from error


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise DataFileError(f"'{path}' does not exist: give the path of a TOML file") from error
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        raise DataFileError(f"'{path}' cannot be read: {error}") from error
    if len(content) > MAX_BYTES:
        raise DataFileError(f"'{path}' is too large for a file of settings: at most {MAX_BYTES} bytes are read")
    return content
