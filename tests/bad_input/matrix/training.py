"""Numbers that stop being finite while a pair trains: the step is refused, and the parameters are those before it."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import nn

from matrix import pairs
from matrix.kinds import INDEX, with_entry
from matrix.state import moved, state
from matrix.walk import Outcome, shortened
from probgen import SVI
from probgen.errors import ProbgenError
from probgen.objectives import ELBO

Prepared = tuple[SVI, Callable[[], Any]]


@dataclass(frozen=True)
class Late:
    """A way to lose finiteness after the first step.

    Attributes:
        name: what it is called in the table.
        prepare: a fresh pair -> the loop after its last good step, and the call that must fail.
        says: patterns that the message must match.
    """

    name: str
    prepare: Callable[[pairs.Pair], Prepared]
    says: tuple[str, ...]


def _svi(pair: pairs.Pair, rate: float = 1e-2) -> SVI:
    return SVI(*pair, functools.partial(torch.optim.SGD, lr=rate), ELBO(), accelerator="cpu")


def later_in_a_stream(value: float, pair: pairs.Pair) -> Prepared:
    svi = _svi(pair)
    good = pairs.good_data()
    svi.run([good], num_epochs=1, progress=False)  # leaves what a stream's first batch leaves
    bad = with_entry(value)(good)
    return svi, lambda: svi.step(bad)


def within_a_stream(value: float, pair: pairs.Pair) -> Prepared:
    """The step of the stream's first batch, which is good, moves nothing."""
    svi = _svi(pair, rate=1e-300)  # which float32 takes for 0
    good = pairs.good_data()
    return svi, lambda: svi.run([good, with_entry(value)(good)], num_epochs=1, progress=False, seed=0)


def spoilt(value: float, pair: pairs.Pair) -> Prepared:
    svi = _svi(pair)
    svi.step(pairs.good_data())
    with torch.no_grad():
        next(iter(svi.parameters.values())).view(-1)[0] = value
    return svi, lambda: svi.step(pairs.good_data())


def overflow(pair: pairs.Pair) -> Prepared:
    """A learning rate of 1e25 leaves finite parameters whose loss is not."""
    svi = _svi(pair, rate=1e25)
    svi.step(pairs.good_data())
    return svi, lambda: svi.step(pairs.good_data())


LATE = (
    Late("NaN in a later `step`", functools.partial(later_in_a_stream, torch.nan), ("nan", INDEX, "finite")),
    Late("NaN in a later batch of a stream", functools.partial(within_a_stream, torch.nan), ("nan", INDEX, "finite")),
    Late("1e30 in a later `step`", functools.partial(later_in_a_stream, 1e30), ("inf", "site '[xz]'", INDEX)),
    Late("1e30 in a later batch of a stream", functools.partial(within_a_stream, 1e30), ("inf", "site '[xz]'", INDEX)),
    Late("a parameter becomes NaN", functools.partial(spoilt, torch.nan), ("parameter '", "nan", INDEX)),
    Late("a parameter becomes infinite", functools.partial(spoilt, torch.inf), ("parameter '", "inf", INDEX)),
    Late("the learning rate is 1e25", overflow, ("the loss is", "site '[xz]'", INDEX, "learning rate")),
)


def observe_late(late: Late, which: pairs.Pairs) -> Outcome:
    """Trains, then calls what must fail."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    pair = which.latent(True)
    svi, call = late.prepare(pair)
    programs = [program for program in pair if isinstance(program, nn.Module)]
    first = not svi.parameters  # the first step is still to come, and declares parameters
    before = _kept(programs, first)
    try:
        call()
    except Exception as error:  # which one it is, is what is judged
        problems = [f"the message says nothing like {says!r}" for says in late.says if not re.search(says, str(error))]
        if not isinstance(error, ProbgenError):
            problems.append(f"{type(error).__name__} is no error of ours")
        if changed := moved(before, _kept(programs, first)):
            problems.append(f"moved: {', '.join(changed)}")
        return Outcome(f"{type(error).__name__}: {shortened(str(error))}", type(error).__name__, tuple(problems))
    return Outcome("works", "works", ("works, and must not",))


def _kept(programs: list[nn.Module], first: bool) -> dict[str, Any]:
    """Parameters, store and flags; a step that is refused has drawn its noise."""
    left_out = ("generators", "store") if first else ("generators",)
    return {name: value for name, value in state(programs, None).items() if name not in left_out}
