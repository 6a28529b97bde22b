"""Data in memory: what counts as such, and batches of the kind that went in."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from probgen.data import Dataset, InMemory, as_dataset, is_in_memory, load
from probgen.errors import ArgumentTypeError, DataError

X, Y = torch.arange(12.0).reshape(6, 2), torch.arange(6)


class Custom:
    """A container of somebody else's."""

    def __len__(self) -> int:
        return 3

    def to(self, device: torch.device | str) -> "Custom":
        return self

    def batch(self, indices: torch.Tensor | slice, generator: torch.Generator | None = None) -> torch.Tensor:
        return X[indices]


@pytest.mark.parametrize("indices", [torch.tensor([5, 0, 5]), slice(1, 4)], ids=["integers", "slice"])
def test_batches_are_of_the_kind_that_went_in(indices) -> None:
    assert torch.equal(as_dataset(X).batch(indices), X[indices])
    pair = as_dataset((X, Y)).batch(indices, None)
    assert isinstance(pair, tuple)
    assert [v.tolist() for v in pair] == [X[indices].tolist(), Y[indices].tolist()]
    named = as_dataset({"x": X, "y": Y}).batch(indices, torch.Generator())
    assert isinstance(named, dict)
    assert list(named) == ["x", "y"]
    assert torch.equal(named["y"], Y[indices])


@pytest.mark.parametrize("data", [X, X.numpy(), (X, Y), (X, Y.numpy()), {"x": X, "y": Y}, load("digits"), Custom()])
def test_data_in_memory(data) -> None:
    assert is_in_memory(data)
    dataset = as_dataset(data)
    assert isinstance(dataset, InMemory)
    assert len(dataset) > 0
    assert len(dataset.to("cpu")) == len(dataset)


def test_data_in_memory_come_back_as_they_are() -> None:
    for data in (load("digits"), as_dataset(X), Custom()):
        assert as_dataset(data) is data


@pytest.mark.parametrize(
    "data",
    [
        DataLoader(TensorDataset(X), batch_size=2),
        [X, X],
        iter([X]),
        (X for _ in range(2)),
        (),
        {},
        (X, [1, 2]),
        {1: X},
        "digits",
        None,
        3,
    ],
    ids=lambda data: type(data).__name__,
)
def test_streams_and_other_things_are_not_in_memory(data) -> None:
    assert not is_in_memory(data)
    with pytest.raises(ArgumentTypeError, match=r"`data` must be a tensor, a NumPy array, a tuple of them, .* got "):
        as_dataset(data)


def test_numpy_arrays_share_their_memory() -> None:
    array = np.zeros((4, 2), np.float32)
    batch = as_dataset(array).batch(slice(None))
    array[0, 0] = 7
    assert isinstance(batch, torch.Tensor)
    assert batch[0, 0] == 7


@pytest.mark.parametrize(
    "array",
    [np.arange(4.0)[::-1], np.broadcast_to(np.arange(2.0), (4, 2)), np.arange(4, dtype=">i4"), np.arange(4) > 2],
    ids=["backwards", "read-only", "big-endian", "bool"],
)
def test_numpy_arrays_that_torch_cannot_share(array: np.ndarray) -> None:
    batch = as_dataset(array).batch(slice(None))
    assert isinstance(batch, torch.Tensor)
    assert np.array_equal(batch.numpy(), array)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float64])
def test_dtypes_stay(dtype: torch.dtype) -> None:
    batch = as_dataset(torch.ones(3, dtype=dtype)).batch(slice(0, 2))
    assert isinstance(batch, torch.Tensor)
    assert batch.dtype == dtype


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y[:5]), r"one length, but `data\[0\]` has 6, `data\[1\]` has 5"),
        ({"x": X, "y": Y[:5]}, r"`data\['x'\]` has 6, `data\['y'\]` has 5"),
        (torch.tensor(1.0), "`data` is a scalar"),
        (np.array(["a"]), "`data` is an array of dtype <U1"),
        ((X, np.array([None] * 6)), r"`data\[1\]` is an array of dtype object"),
    ],
)
def test_arrays_that_cannot_be_data(data, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_dataset(data)


def test_own_tensors_make_a_dataset() -> None:
    data = Dataset(X, Y, name="points").labelled()
    x, y = data.batch(slice(0, 2))
    assert torch.equal(x, X[:2])
    assert torch.equal(y, Y[:2])
    assert repr(as_dataset((X, Y))) == "Arrays(data[0]: (6, 2) torch.float32, data[1]: (6,) torch.int64)"
    assert Dataset(X.to(torch.uint8)).mean.tolist() == [5, 6]
