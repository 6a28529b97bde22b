"""The fixed order and the fixed draw against Philox4x64-10, written out from its paper in Python's integers.

Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3. SC 2011.
"""

import torch

from probgen.data import Dataset, load
from probgen.data.parts import permutation

MASK = 2**64 - 1


def philox(counter: int, key: int) -> list[int]:
    """Four numbers of 64 bits for a counter of 256 bits and a key of 128."""
    a, b, c, d = ((counter >> shift) & MASK for shift in (0, 64, 128, 192))
    left, right = key & MASK, key >> 64
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (second >> 64) ^ b ^ left, second & MASK, (first >> 64) ^ d ^ right, first & MASK
        left, right = (left + 0x9E3779B97F4A7C15) & MASK, (right + 0xBB67AE8584CAA73B) & MASK
    return [a, b, c, d]


def stream(first: int, n: int, key: int) -> list[int]:
    """NumPy counts up before it draws."""
    return [number for step in range(-(-n // 4)) for number in philox(first + step + 1, key)][:n]


def test_known_answer_of_the_authors() -> None:
    # philox4x64 10, all zeros, in kat_vectors of Random123.
    assert philox(0, 0) == [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]


def test_permutation_sorts_the_stream() -> None:
    numbers = stream(0, 50, key=1797)
    assert permutation(50).tolist() == sorted(range(50), key=lambda i: numbers[i])


def test_fixed_draw_compares_24_bits_of_the_stream() -> None:
    grey, bits = load("digits", split="valid").x, load("digits", split="valid", binarize="fixed", seed=2**63 + 5).x
    for i in (0, 1, 200, 359):
        uniforms = [number >> 40 for number in stream((1077 + i) * 16, 64, key=2**63 + 5)]
        assert bits[i].tolist() == [float(u < 2**24 * p) for u, p in zip(uniforms, grey[i].tolist(), strict=True)]


def test_widths_that_are_no_multiple_of_four() -> None:
    drawn = Dataset(torch.full((3, 6), 0.3)).fixed(9).x
    p = torch.tensor(0.3).item()
    expected = [[float((u >> 40) < 2**24 * p) for u in stream(2 * i, 6, key=9)] for i in range(3)]
    assert drawn.tolist() == expected
