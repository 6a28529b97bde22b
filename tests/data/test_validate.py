"""The checks before training: each fault is named with its place."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

import probgen.data
from probgen.data import Dataset, load, validate
from probgen.data import values as checked_values
from probgen.errors import ArgumentTypeError, DataError

X, Y = torch.zeros(5, 2), torch.arange(5)


def with_bad(value: float) -> torch.Tensor:
    values = X.clone()
    values[3, 1] = value
    return values


@pytest.mark.parametrize("data", [X, X.numpy(), (X, Y), {"x": X, "y": Y > 2}, load("digits", binarize="dynamic")])
def test_good_data_pass(data) -> None:
    validate(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_bad(float("nan")), r"`data` holds nan at index \(3, 1\); every value must be finite"),
        (with_bad(float("-inf")).numpy(), r"`data` holds -inf at index \(3, 1\)"),
        ((Y, with_bad(float("inf"))), r"`data\[1\]` holds inf at index \(3, 1\)"),
        ({"y": with_bad(float("nan")).half()}, r"`data\['y'\]` holds nan at index \(3, 1\)"),
        (Dataset(with_bad(float("nan"))), r"`data.x` holds nan at index \(3, 1\)"),
        (Dataset(X, torch.full((5,), torch.nan)), r"`data.y` holds nan at index \(0,\)"),
        (Dataset(with_bad(1.25), binarize="dynamic"), r"`data.x` holds 1.25 at index \(3, 1\); binarization needs"),
        (X[:0], "`data` is empty: at least one datum"),
        (np.zeros((0, 3)), "`data` is empty"),
        ((X[:0], Y[:0]), "`data` is empty"),
        (torch.zeros(5, 0), r"`data` is empty: it has shape \(5, 0\)"),
        ((X, Y[:4]), r"`data\[0\]` has 5, `data\[1\]` has 4"),
        (X.clone().requires_grad_(), r"`data` requires gradients: data must not; pass `data.detach\(\)`"),
        (torch.nn.Parameter(X), "requires gradients"),
    ],
)
def test_faults_are_named(data, message: str) -> None:
    with pytest.raises(DataError, match=message):
        validate(data)


def test_what_is_not_in_memory_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="got list"):
        validate([X])


def test_indices_are_right_beyond_the_first_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_values, "_CHUNK", 4)  # two rows of two
    for row in range(5):
        values = X.clone()
        values[row, 1] = torch.inf
        with pytest.raises(DataError, match=rf"inf at index \({row}, 1\)"):
            validate(values)


def test_no_check_rests_on_assert() -> None:
    for path in Path(probgen.data.__file__).parent.glob("*.py"):
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text()))), path
