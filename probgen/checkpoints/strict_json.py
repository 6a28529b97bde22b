"""JSON without what JSON has no word for: NaN, infinities, repeated keys, bottomless nesting."""

import json
import math
from pathlib import Path
from typing import Any

from probgen.errors import CheckpointError

MAX_DEPTH = 32
MAX_MEMBERS = 2**17  # commas and opening brackets: what takes time and memory to read

_LARGEST = 2**63  # of whole numbers; what counts something here is far below


def encode(value: Any) -> bytes:
    """A JSON document in UTF-8.

    Raises:
        CheckpointError: the value holds something that JSON cannot say.
    """
    try:
        content = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"a state cannot be written as JSON: {error}") from error
    if _members_in(content) > MAX_MEMBERS:  # it could not be read again
        raise CheckpointError(f"a state has more than {MAX_MEMBERS} values, which are too many for JSON")
    return content


def decode(content: bytes, path: Path) -> dict[str, Any]:
    """The object that a document holds.

    Raises:
        CheckpointError: no JSON object in UTF-8, or one with repeated keys or numbers that are not finite or huge.
    """
    if _members_in(content) > MAX_MEMBERS:
        raise CheckpointError(f"'{path}' is damaged: it has more than {MAX_MEMBERS} values")
    try:
        value = json.loads(
            content.decode(),
            object_pairs_hook=_unrepeated,
            parse_constant=_refuse,
            parse_float=_finite_float,
            parse_int=_small_int,
        )
    except RecursionError as error:
        raise CheckpointError(f"'{path}' is damaged: it nests too deep") from error
    except ValueError as error:  # a JSONDecodeError and a UnicodeDecodeError are ValueErrors
        raise CheckpointError(f"'{path}' is damaged: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"'{path}' is damaged: it must hold a JSON object, got {type(value).__name__}")
    _check_depth(value, path)
    return value


def shown(value: Any, length: int = 60) -> str:
    """A value that may be long, for a message, of at most ``length`` characters.

    Example:
        >>> shown("a" * 100)
        "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa..."
    """
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _members_in(content: bytes) -> int:
    return sum(content.count(sign) for sign in (b",", b"[", b"{"))


def _check_depth(value: Any, path: Path) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [member for parent in level for member in _members(parent)]
        if not level:
            return
    raise CheckpointError(f"'{path}' is damaged: it nests more than {MAX_DEPTH} deep")


def _members(value: Any) -> list[Any]:
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [member for member in members if isinstance(member, dict | list)]


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is repeated")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is out of range")
    return value


def _small_int(text: str) -> int:
    if len(text) > len(str(-_LARGEST)) or not -_LARGEST <= (value := int(text)) < _LARGEST:
        raise ValueError("a whole number is out of range")
    return value
