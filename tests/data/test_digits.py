"""The embedded digits: sizes, splits and values against scikit-learn's own arrays."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from probgen.data import load, sources
from probgen.errors import ArgumentError, ArgumentTypeError

SIZES = {"train": 1077, "valid": 360, "test": 360, "train+valid": 1437, "valid+test": 720, "all": 1797}
# Sums of 16 x and of y, made once with this permutation; they may never change.
SUMS = {"train": (336896, 4856), "valid": (113176, 1619), "test": (111646, 1595)}


@pytest.mark.parametrize(("split", "n"), SIZES.items())
def test_splits_have_their_sizes(split: str, n: int) -> None:
    data = load("digits", split=split)
    assert len(data) == n
    assert data.x.shape == (n, 64)
    assert data.x.dtype == torch.float32
    assert data.y is not None
    assert data.y.shape == (n,)
    assert data.y.dtype == torch.int64
    assert (data.x.min(), data.x.max()) == (0, 1)


@pytest.mark.parametrize(("split", "sums"), SUMS.items())
def test_splits_never_change(split: str, sums: tuple[int, int]) -> None:
    data = load("digits", split=split, seed=7)
    assert data.y is not None
    assert (int((16 * data.x).sum()), int(data.y.sum())) == sums


def test_splits_are_disjoint_and_together_all() -> None:
    parts = [load("digits", split=split) for split in ("train", "valid", "test")]
    rows = torch.cat([part.rows for part in parts if part.rows is not None])
    assert rows.tolist() == list(range(1797))
    assert torch.equal(torch.cat([part.x for part in parts]), load("digits", split="all").x)


def test_values_and_labels_are_those_of_scikit_learn() -> None:
    x, y = load_digits(return_X_y=True)
    data = load("digits", split="all")
    assert data.y is not None
    ours = np.column_stack([16 * data.x.numpy(), data.y.numpy()])
    theirs = np.column_stack([x, y])
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_splits_join_in_the_order_given() -> None:
    joined, valid = load("digits", split="valid+train"), load("digits", split="valid")
    assert torch.equal(joined.x[:360], valid.x)


def test_event_shape_reshapes() -> None:
    data = load("digits", event_shape=[1, 8, 8])
    assert data.event_shape == (1, 8, 8)
    assert torch.equal(data.x.flatten(1), load("digits").x)


def test_mean_is_that_of_each_dimension() -> None:
    data = load("digits", event_shape=(8, 8))
    assert data.mean.shape == (8, 8)
    torch.testing.assert_close(data.mean.double(), data.x.double().mean(0), rtol=1e-6, atol=1e-7)


def test_repr_is_one_line() -> None:
    assert repr(load("digits")) == "Dataset(digits train: 1077 x (64,) with labels, binarize=None)"


def test_sources_lists_the_names() -> None:
    assert {"digits", "mnist", "mnist_fixed_binarized", "omniglot"} <= set(sources())
    assert all("\n" not in summary for summary in sources().values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "digts"}, "`name` must be a known data set or a path, got 'digts': did you mean 'digits'"),
        ({"name": ""}, "`name` must be a known data set"),
        ({"split": "tets"}, "`split` must be 'all', or parts .* 'tets' is none; did you mean 'test'"),
        ({"split": "train+all"}, "'all' is none"),
        ({"split": "train+train"}, "names a part twice"),
        ({"split": ""}, "`split` must be"),
        ({"binarize": "dinamic"}, "`binarize` must be None .* did you mean 'dynamic'"),
        ({"event_shape": (28, 28)}, r"`event_shape` must have 64 elements, .* got \(28, 28\) with 784"),
        ({"event_shape": (-8, -8)}, "`event_shape` must have 64 elements"),
        ({"event_shape": ()}, "`event_shape` must have 64 elements"),
        ({"seed": -1}, "`seed` must lie between"),
        ({"seed": 2**64}, "`seed` must lie between"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        load(**({"name": "digits"} | arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": 3}, "`name` must be the name .* got int"),
        ({"event_shape": (8.0, 8)}, "`event_shape` must be a sequence of integers"),
        ({"event_shape": 64}, "`event_shape` must be a sequence of integers"),
        ({"seed": 0.5}, "`seed` must be an integer"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ArgumentTypeError, match=message):
        load(**({"name": "digits"} | arguments))
