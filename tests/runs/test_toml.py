"""The writer of TOML is the inverse of Python's reader."""

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probgen.errors import ArgumentError, ArgumentTypeError, DataFileError
from probgen.runs import toml

TEXT = st.text(st.characters(exclude_categories=("Cs",)))
PLAIN = TEXT | st.integers() | st.floats() | st.booleans()
VALUES = st.recursive(PLAIN, st.lists, max_leaves=5)
TABLES = st.recursive(st.dictionaries(TEXT, VALUES), lambda t: st.dictionaries(TEXT, VALUES | t), max_leaves=5)


def alike(a: Any, b: Any) -> bool:
    """Equal in type and value, with NaN equal to itself and 0.0 other than -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(alike, a, b))
    return repr(a) == repr(b) if isinstance(a, float) else bool(a == b)


@settings(deadline=None)
@given(TABLES)
def test_round_trip(table: dict[str, Any]) -> None:
    assert alike(tomllib.loads(toml.dumps(table)), table)


@pytest.mark.parametrize(
    "value", [math.inf, -math.inf, math.nan, -0.0, 1e16, 5e-324, 2**63, "a\r\nb\x7f\x00\u2028\\'\""]
)
def test_values_that_are_easily_lost(value: Any) -> None:
    assert alike(tomllib.loads(toml.dumps({"key": value}))["key"], value)


def test_tuples_become_lists() -> None:
    assert tomllib.loads(toml.dumps({"shape": (1, (8, 8))})) == {"shape": [1, [8, 8]]}


@pytest.mark.parametrize("value", [None, {1, 2}, 1j, [None], b"x"])
def test_what_toml_has_no_word_for(value: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="TOML files hold"):
        toml.dumps({"key": value})


def test_half_a_surrogate_pair() -> None:
    with pytest.raises(ArgumentError, match="surrogate"):
        toml.dumps({"key": "\ud800"})


def test_the_largest_file_is_refused_in_time(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(".".join("a" * (toml.MAX_BYTES // 2 - 1)) + "=1")  # what tomllib is slowest at
    toml.read(path)
    path.write_text("#" * (toml.MAX_BYTES + 1))
    with pytest.raises(DataFileError, match="too large"):
        toml.read(path)
