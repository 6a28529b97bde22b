"""The kinds of bad input: data that are wrong, programs that do not fit, arguments out of range."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from matrix import pairs
from matrix.pairs import Pair, Pairs

INDEX = r"\(\d+(, \d+)*,?\)"  # of the first bad entry


@dataclass(frozen=True, eq=False)
class Kind:
    """One kind of bad input.

    Attributes:
        name: what it is called in the table.
        what: the input, in words.
        data: good data -> bad ones.
        same_as: good data -> what bad ones must be taken for, bit for bit, where they are taken.
        works: what to say of that, in words; empty where only entries that say so may take them.
        program: a good pair -> a bad one.
        particles: K.
        real: whether the likelihood is of real numbers; bits otherwise.
        says: patterns, each of which a refusal's message must match.
        pairs: the pair of modules that meets it.
    """

    name: str
    what: str
    data: Callable[[Tensor], Any] = lambda x: x
    same_as: Callable[[Tensor], Tensor] | None = None
    program: Callable[[Pair], Pair] = lambda pair: pair
    particles: int = 3
    works: str = ""
    real: bool = True
    says: tuple[str, ...] = ()
    modules: Pairs = field(default=pairs.MODULES)
    about: str = "data"  # or "programs", "parameters", "numbers", "tensors": what a tensor is beside its values


def with_entry(value: float) -> Callable[[Tensor], Tensor]:
    """One bad entry, in the last datum but one."""

    def changed(x: Tensor) -> Tensor:
        x = x.clone()
        x[-2, 1] = value
        return x

    return changed


def same(x: Tensor) -> Tensor:
    """The good data themselves."""
    return x


SHAPE = r"\(\d+,.*\)|\[\d+, .*\]"

KINDS = (
    Kind("NaN", "`x[4, 1] = nan`", with_entry(torch.nan), says=("nan", INDEX)),
    Kind("infinity", "`x[4, 1] = inf`", with_entry(torch.inf), says=("inf", INDEX)),
    Kind("1e30", "`x[4, 1] = 1e30`, for a normal likelihood", with_entry(1e30), says=("1e\\+30", INDEX, "scale")),
    Kind("empty", "`x[:0]`", lambda x: x[:0], says=("empty|at least one",)),
    Kind("batch of one", "`x[:1]`", lambda x: x[:1], lambda x: x[:1], works="as any batch", modules=pairs.EXACT),
    Kind("wrong features", "`x[:, :1]`, which would be broadcast", lambda x: x[:, :1], says=(SHAPE,)),
    Kind("rank", "`x[:, None]`", lambda x: x[:, None], says=(SHAPE,)),
    Kind("integers", "`x.long()`", lambda x: x.long(), same, works="as float32", says=("int64", "cast|float")),
    Kind("float64", "`x.double()`", lambda x: x.double(), same, works="as float32", says=("float64", "cast|float32")),
    Kind(
        "NumPy",
        "`x.numpy()`",
        lambda x: x.numpy(),
        same,
        works="as a tensor",
        says=("ndarray", "torch.as_tensor"),
        about="tensors",
    ),
    Kind("lists", "`x.tolist()`", lambda x: x.tolist(), says=("list", r"torch\.(as_)?tensor"), about="tensors"),
    Kind(
        "out of support",
        "`x[4, 1] = 0.5`, for a Bernoulli likelihood",
        with_entry(0.5),
        real=False,
        says=(r"0\.5", INDEX, "binarize"),
    ),
    Kind(
        "duplicate site",
        "a model that samples its sites twice",
        program=pairs.duplicate,
        says=("'x'", "name of its own"),
        about="programs",
    ),
    Kind(
        "missing site",
        "a guide without the model's `z`",
        program=pairs.missing,
        says=("'z'", "sum it out|sample it"),
        about="programs",
    ),
    Kind("extra site", "a guide with a site `w`", program=pairs.extra, says=("'w'", "is_auxiliary"), about="programs"),
    Kind(
        "wrong event dim",
        "a guide whose `z` is one longer",
        program=pairs.wrong_event,
        says=("'z'", r"\(3,\)", "equal"),
        about="programs",
    ),
    Kind(
        "non-finite start",
        "a parameter that holds NaN",
        program=pairs.not_finite_start,
        says=("parameter '[a-z_.0-9]+' is nan", INDEX, "start from finite values"),
        about="parameters",
    ),
    Kind("K = 0", "no particle", particles=0, says=("num_(particles|samples)", "at least 1", "0"), about="numbers"),
    Kind(
        "device mismatch",
        "data on the device `meta`, parameters on the CPU",
        lambda x: x.to("meta"),
        says=("meta", "cpu"),
        about="tensors",
    ),
    Kind(
        "requires_grad",
        "`x.requires_grad_()`",
        lambda x: x.clone().requires_grad_(),
        same,
        works="as without",
        says=("detach",),
        about="tensors",
    ),
)
