"""The known data sets that need files; what is absent is skipped."""

import gzip

import numpy as np
import pytest
import torch

from probgen.data import load

SPLITS = ("train", "valid", "test")


def test_mnist_against_its_own_bytes(data_file) -> None:
    folder = data_file("mnist")
    sizes = dict(zip(SPLITS, (50000, 10000, 10000), strict=True))
    raw = gzip.decompress(data_file("mnist/t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    test = load("mnist", split="test")
    assert np.array_equal(test.x.numpy() * 255, np.frombuffer(raw, np.uint8).reshape(-1, 784))
    for split, n in sizes.items():
        data = load("mnist", split=split, event_shape=(1, 28, 28))
        assert data.x.shape == (n, 1, 28, 28)
        assert data.y is not None
        assert data.y.unique().tolist() == list(range(10))
    assert torch.equal(load(folder, split="test").x, test.x)


def test_mnist_labels_are_the_published_ones(data_file) -> None:
    data_file("mnist")
    train, test = load("mnist", split="train"), load("mnist", split="test")
    assert train.y is not None
    assert test.y is not None
    assert train.y[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.y[:5].tolist() == [7, 2, 1, 0, 4]


@pytest.mark.parametrize(("split", "n"), [("train", 50000), ("valid", 10000), ("test", 10000)])
def test_fixed_binarized_mnist_has_only_bits(data_file, split: str, n: int) -> None:
    packed = np.load(data_file("mnist_fixed_binarized.npz"), allow_pickle=False)[split]
    data = load("mnist_fixed_binarized", split=split)
    assert data.x.shape == (n, 784)
    assert data.y is None
    assert np.array_equal(data.x.numpy(), np.unpackbits(packed, axis=1))
    # Bits are Bernoulli draws of MNIST's grey values, whose mean is 0.1307 (train) and 0.1325 (test).
    assert 0.128 < data.x.mean() < 0.135


def test_omniglot_splits(data_file) -> None:
    with np.load(data_file("omniglot_28x28.npz"), allow_pickle=False) as archive:
        images, character, is_test = archive["images"], archive["character"], archive["evaluation"] == 1
    train, valid, test = (load("omniglot", split=split) for split in SPLITS)
    assert (len(train), len(valid), len(test)) == (15424, 3856, 13180)
    assert np.array_equal(test.x.numpy() * 255, images[is_test].reshape(-1, 784))
    assert all(data.y is not None for data in (train, valid, test))
    assert np.array_equal(test.y, character[is_test])
    # Every pair of a picture and its character is still there, once.
    ours = np.column_stack([np.rint(255 * torch.cat([train.x, valid.x]).numpy()), torch.cat([train.y, valid.y])])
    theirs = np.column_stack([images[~is_test].reshape(-1, 784), character[~is_test]])
    digest = np.random.default_rng(0).integers(1, 2**40, 785)
    assert np.array_equal(np.sort(ours.astype(np.int64) @ digest), np.sort(theirs.astype(np.int64) @ digest))
    # Characters are spread over train and valid, not cut at the end of the alphabet.
    assert len(np.intersect1d(train.y, valid.y)) > 900
