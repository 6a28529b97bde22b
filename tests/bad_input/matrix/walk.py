"""A walk over the cells: each is called, and what it does is held against what it must do."""

import re
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch

from matrix import pairs
from matrix.entries import Case, Entry, Result
from matrix.kinds import Kind
from matrix.pairs import Pairs
from matrix.state import moved, same, state
from probgen.errors import ProbgenError

TOLERANCE = 1e-5  # relative; log p(x) by sums of a few float32 terms of size 10, rounded at 6e-8 each


@dataclass(frozen=True)
class Outcome:
    """What a cell does.

    Attributes:
        text: "works", or the class of the error and its message; or why the cell makes no sense.
        short: the first word of it.
        problems: what is wrong with it, in words; empty if nothing is.
    """

    text: str
    short: str
    problems: tuple[str, ...] = ()


def observe(kind: Kind, entry: Entry, which: Pairs) -> Outcome:
    """Calls a cell, with everything fresh."""
    if (reason := entry.senseless(kind)) is not None:
        return Outcome(f"n/a: {reason}", "n/a")
    with tempfile.TemporaryDirectory() as folder:
        case = _case(kind, entry, which, Path(folder), kind.data)
        before = state(case.programs, case.data)
        result, error = _call(entry, case)
        after = state(case.programs, case.data)
    if error is None:
        return Outcome(f"works: {entry.works(kind)}", "works", tuple(_judge_result(kind, entry, which, result)))
    problems = _judge_error(kind, entry, error)
    if changed := moved(before, after):
        problems.append(f"moved: {', '.join(changed)}")
    return Outcome(f"{type(error).__name__}: {shortened(str(error))}", type(error).__name__, tuple(problems))


def _case(
    kind: Kind, entry: Entry, which: Pairs, folder: Path, data: Callable[[Any], Any], *, broken: bool = True
) -> Case:
    """A case whose weights and noise depend on nothing that ran before."""
    pyro.clear_param_store()

    def make() -> pairs.Pair:
        pair = (which.latent if entry.latent else which.plain)(kind.real)
        return kind.program(pair) if broken else pair

    pyro.set_rng_seed(0)
    pair = make()
    good = pairs.good_data()
    pyro.set_rng_seed(1)
    return Case(good, data(good), pair, kind.particles, folder, make, kind)


def _call(entry: Entry, case: Case) -> tuple[Result, Exception | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return entry.call(case), None
        except Exception as error:  # which one it is, is what is judged
            return {}, error


def _judge_error(kind: Kind, entry: Entry, error: Exception) -> list[str]:
    if not isinstance(error, ProbgenError):
        return [f"{type(error).__name__} is no error of ours: {error}"]
    if not entry.says(kind):
        return [f"refused: {error}"]
    return [f"the message says nothing like {says!r}" for says in entry.says(kind) if not re.search(says, str(error))]


def _judge_result(kind: Kind, entry: Entry, which: Pairs, result: Result) -> list[str]:
    if not entry.works(kind):
        return ["works, and must not"]
    problems = [f"'{name}' is not finite" for name, value in result.items() if not bool(torch.isfinite(value).all())]
    if kind.same_as is not None:
        with tempfile.TemporaryDirectory() as folder:
            case = _case(kind, entry, which, Path(folder), kind.same_as)
            expected, error = _call(entry, case)
        if error is not None or not (same if which is not pairs.FUNCTIONS else close)(expected, result):
            problems.append(f"differs from what the coerced input gives ({error or list(expected)})")
    if which is pairs.EXACT and entry.latent and not entry.makes_pair:
        problems += _judge_exact(kind, entry, result)
    return problems


def _judge_exact(kind: Kind, entry: Entry, result: Result) -> list[str]:
    """Under the exact posterior every log-weight and bound is log p(x)."""
    case = _case(kind, entry, pairs.EXACT, Path(), kind.data)
    truth = case.pair[0].log_evidence(case.data).detach()  # type: ignore[attr-defined]
    estimates = [result["log_p"]] if "log_p" in result else []
    if "loss" in result and len(case.data) == 1:
        estimates.append(-result["loss"].reshape(-1)[:1])
    return [
        f"log p(x) is {value}, the truth is {truth}"
        for value in estimates
        if not torch.allclose(value.to(truth.dtype), truth, rtol=TOLERANCE, atol=TOLERANCE)
    ]


def close(a: Result, b: Result) -> bool:
    """Whether two results agree up to rounding: a function computes in the dtype that it is given."""
    return a.keys() == b.keys() and all(
        torch.allclose(a[name].double(), b[name].double(), rtol=TOLERANCE, atol=TOLERANCE) for name in a
    )


def shortened(message: str) -> str:
    """A message without what depends on the machine and on other libraries' versions, in one line."""
    text = re.sub(rf"{re.escape(tempfile.gettempdir())}/[^/']+/", "", " ".join(message.split()))
    text = re.sub(r"((?:Runtime|Type|Value|Index|NotImplemented|Attribute)Error): .*?(; .*)?$", r"\1: ...\2", text)
    return text
