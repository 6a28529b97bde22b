"""Binarization: the fixed draw is fixed, the dynamic one is fresh, and both have the right mean."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from probgen.data import Dataset, load
from probgen.errors import ArgumentError, DataError


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_threshold_is_above_one_half() -> None:
    grey, bits = load("digits"), load("digits", binarize="threshold")
    assert torch.equal(bits.x, (grey.x > 0.5).float())
    assert (grey.x == 0.5).any()  # 8 / 16 occurs, so that the strict inequality matters
    assert torch.equal(bits.batch(slice(0, 9)), bits.x[:9])


def test_none_and_its_name_are_the_same() -> None:
    assert load("digits", binarize="none").binarize is None
    assert torch.equal(load("digits", binarize="none").x, load("digits").x)


def test_fixed_draw_is_the_same_twice_and_differs_by_seed() -> None:
    first, again, other = (load("digits", binarize="fixed", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)
    assert set(first.x.unique().tolist()) == {0.0, 1.0}
    assert (first.binarize, first.seed) == ("fixed", 3)


def test_fixed_draw_never_changes() -> None:
    # The numbers of bits that this draw gave once; the same are due on every machine and version.
    sums = [int(load("digits", split=split, binarize="fixed", seed=0).x.sum()) for split in ("train", "valid", "test")]
    assert sums == [21081, 7038, 7016]


def test_fixed_draw_has_the_bernoulli_mean() -> None:
    x = load("digits", split="test").x[:20]
    draws = torch.stack([Dataset(x).fixed(seed).x for seed in range(2000)])
    standard_error = (x * (1 - x) / 2000).sqrt()
    assert ((draws.mean(0) - x).abs() <= 5 * standard_error).all()


def test_fixed_bits_belong_to_the_datum_not_to_the_split() -> None:
    whole = load("digits", split="all", binarize="fixed", seed=5)
    for split, rows in {"train": slice(0, 1077), "valid": slice(1077, 1437), "test": slice(1437, None)}.items():
        assert torch.equal(load("digits", split=split, binarize="fixed", seed=5).x, whole.x[rows])
    joined = load("digits", split="test+train", binarize="fixed", seed=5)
    assert torch.equal(joined.x[:360], whole.x[1437:])


def test_rows_and_dimensions_are_drawn_apart() -> None:
    # Halves everywhere: any two rows or columns agree on about half of their bits, 5 standard errors wide.
    bits = Dataset(torch.full((3000, 6), 0.5)).fixed(0).x
    for left, right in [*pairwise(bits.T), *pairwise(bits[:, :1].reshape(2, -1))]:
        agree = (left == right).double()
        assert abs(agree.mean() - 0.5) <= 5 * 0.5 / len(agree) ** 0.5


def test_fixed_is_the_fixed_draw_of_load() -> None:
    dynamic = load("digits", binarize="dynamic", split="valid", event_shape=(1, 8, 8))
    fixed = dynamic.fixed(11)
    assert torch.equal(fixed.x, load("digits", binarize="fixed", split="valid", seed=11, event_shape=(1, 8, 8)).x)
    assert (fixed.binarize, fixed.seed) == ("fixed", 11)
    assert torch.equal(fixed.fixed(12).x, fixed.x)
    assert torch.equal(fixed.batch(torch.arange(5)), fixed.x[:5])


def test_fixed_draw_keeps_zeros_ones_and_the_dtype() -> None:
    ends = torch.tensor([[0.0, 1.0]] * 5000, dtype=torch.float64)
    drawn = Dataset(ends).fixed(0).x
    assert drawn.dtype == torch.float64
    assert torch.equal(drawn, ends)


def test_dynamic_draws_have_the_grey_mean() -> None:
    data = load("digits", split="test", binarize="dynamic")
    source, rows = generator(0), torch.arange(20)
    draws = torch.stack([data.batch(rows, source) for _ in range(2000)])
    grey = data.x[rows]
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert ((draws.mean(0) - grey).abs() <= 5 * (grey * (1 - grey) / 2000).sqrt()).all()


def test_dynamic_draws_differ_and_follow_the_generator() -> None:
    data = load("digits", binarize="dynamic")
    source, rows = generator(0), torch.arange(100)
    first, second = data.batch(rows, source), data.batch(rows, source)
    assert not torch.equal(first, second)
    assert torch.equal(first, data.batch(rows, generator(0)))


def test_dynamic_draws_leave_the_global_generator_alone() -> None:
    data = load("digits", binarize="dynamic")
    before = torch.get_rng_state()
    data.batch(slice(0, 10), generator(0))
    data.fixed(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_dynamic_needs_a_generator() -> None:
    with pytest.raises(ArgumentError, match="`generator` is required, since dynamic binarization draws afresh"):
        load("digits", binarize="dynamic").batch(slice(0, 3))


def test_generator_on_another_device_is_refused() -> None:
    data = Dataset(torch.zeros(3, 2, device="meta"), binarize="dynamic")
    with pytest.raises(ArgumentError, match=r"`generator` is on cpu but the data are on meta: use torch.Generator"):
        data.batch(slice(0, 2), generator(0))


def test_labelled_batches_are_pairs() -> None:
    data = load("digits", binarize="dynamic").labelled()
    x, y = data.batch(torch.tensor([4, 2]), generator(0))
    assert x.shape == (2, 64)
    assert data.y is not None
    assert y.tolist() == data.y[[4, 2]].tolist()
    assert isinstance(data.to("cpu").fixed(0).batch(slice(0, 2)), tuple)


def test_labelled_needs_labels() -> None:
    with pytest.raises(DataError, match="`points` has no labels"):
        Dataset(torch.zeros(3, 2), name="points").labelled()


@pytest.mark.parametrize("binarize", ["threshold", "fixed", "dynamic"])
@pytest.mark.parametrize(("bad", "text"), [(1.5, "1.5"), (-0.25, "-0.25")])
def test_values_outside_the_unit_interval_are_refused(tmp_path, binarize: str, bad: float, text: str) -> None:
    values = np.full((10, 3), 0.5)
    values[4, 1] = bad
    np.save(tmp_path / "x.npy", values)
    assert len(load(tmp_path / "x.npy", split="all")) == 10
    with pytest.raises(DataError, match=rf"holds {text} at index \(4, 1\); binarization needs values in \[0, 1\]"):
        load(tmp_path / "x.npy", split="all", binarize=binarize)  # the row of the file, whatever the order of the split


def test_fixed_refuses_values_that_are_no_probabilities() -> None:
    with pytest.raises(DataError, match=r"`x` holds 2.0 at index \(1, 0\)"):
        Dataset(torch.tensor([[0.5], [2.0]])).fixed(0)
    with pytest.raises(DataError, match=r"`x` holds nan at index \(0, 0\)"):
        Dataset(torch.tensor([[float("nan")]])).fixed(0)


def test_dynamic_needs_floating_point() -> None:
    with pytest.raises(DataError, match=r"`x` has dtype torch.uint8: dynamic binarization needs floating-point"):
        Dataset(torch.zeros(3, 2, dtype=torch.uint8), binarize="dynamic")


def test_dataset_refuses_unequal_lengths_and_unknown_modes() -> None:
    with pytest.raises(DataError, match="`x` has 3, `y` has 2"):
        Dataset(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(ArgumentError, match="did you mean 'fixed'"):
        Dataset(torch.zeros(3, 2), binarize="fixd")
