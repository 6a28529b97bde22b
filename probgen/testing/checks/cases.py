"""What is checked, and how it is built afresh for every check."""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from probgen.arguments import choice
from probgen.data.batches import Call, as_call
from probgen.errors import ArgumentError, ProbgenError
from probgen.programs.modules import write
from probgen.programs.param_scope import Program, owner_of
from probgen.programs.run import declared_parameters
from probgen.seeding import seeded
from probgen.testing.checks.outcome import KINDS, NotApplicable


@dataclass(frozen=True)
class Subject:
    """The parts of what is checked.

    Attributes:
        model: a Pyro program, or None.
        guide: a Pyro program, or None.
        data: a batch: a tensor -> ``model(b)``, a tuple -> ``model(*b)``, a dict -> ``model(**b)``. None lets the
            model generate one.
        objective: an objective, or None.
    """

    model: Program | None = None
    guide: Program | None = None
    data: Any = None
    objective: Any = None


@dataclass(frozen=True)
class Case:
    """An object with a name, built afresh for every check, so that none sees what another has done.

    Attributes:
        name: in the ids of tests.
        kind: ``"model"``, ``"guide"`` or ``"objective"``: what the checks are about.
        build: makes the parts.
        afresh: whether ``build`` makes new objects from a seed, rather than copies of one.
    """

    name: str
    kind: str
    build: Callable[[], Subject]
    afresh: bool = True

    def __post_init__(self) -> None:
        choice("kind", self.kind, KINDS)
        if not callable(self.build):
            raise ArgumentError(f"`build` of case {self.name!r} must be a function without arguments, got {self.build}")


def copies(subject: Subject) -> Callable[[], Subject]:
    """Builds copies of one subject, in which model and guide share what they share; functions stay as they are."""

    def build() -> Subject:
        try:
            parts = duplicate((subject.model, subject.guide, subject.objective))
        except Exception:  # what cannot be copied is checked itself
            parts = (subject.model, subject.guide, subject.objective)
        return Subject(parts[0], parts[1], subject.data, parts[2])

    return build


def duplicate(value: Any) -> Any:
    """A deep copy. Pyro's autoguides forget their model when they are copied, both of them; here neither does."""
    memo: dict[int, Any] = {}
    known = [m for part in _parts(value) for m in getattr(owner_of(part), "modules", tuple)()]
    guides = [(m, m._model) for m in known if isinstance(m, AutoGuide)]
    try:
        copied = copy.deepcopy(value, memo)
    finally:
        for guide, model in guides:
            guide._model = model
    for guide, model in guides:
        if id(guide) in memo:
            memo[id(guide)]._model = copy.deepcopy(model, memo)
    return copied


def _parts(value: Any) -> tuple[Any, ...]:
    return tuple(part for part in (value if isinstance(value, tuple) else (value,)) if part is not None)


@dataclass(frozen=True)
class Trial:
    """One subject while a check looks at it.

    Attributes:
        case: where it comes from.
        model: the model; may be None for an objective, which then has a pair of its own.
        guide: the guide, or None.
        objective: the objective, or None.
        call: the data as arguments and keyword arguments.
    """

    case: Case
    model: Any
    guide: Any
    objective: Any
    call: Call

    @property
    def program(self) -> Any:
        """The program that is checked."""
        return self.model if self.case.kind == "model" else self.guide

    @property
    def pair_guide(self) -> Any:
        """The guide, or where there is none the prior in its place."""
        return prior_guide(self.model) if self.guide is None else self.guide

    def again(self) -> "Trial":
        """The same built once more."""
        return trial_of(self.case)

    def module(self) -> nn.Module:
        """The module that the checked program is, or is a method of.

        Raises:
            NotApplicable: it is a function.
        """
        owner = owner_of(self.program)
        if not isinstance(owner, nn.Module):
            raise NotApplicable(f"the {self.case.kind} is a function, not an `nn.Module`")
        return owner


def prior_guide(model: Program) -> Program:
    """A guide that samples every latent site of a model as the model does; none if there is none."""
    return poutine.block(model, hide_fn=lambda site: site["type"] == "sample" and site["is_observed"])


def trial_of(case: Case) -> Trial:
    """Builds a case."""
    subject = case.build()
    data = subject.data if subject.data is not None or subject.model is None else generated(subject.model)
    return Trial(case, subject.model, subject.guide, subject.objective, as_call(data))


def generated(model: Program, batch: int = 6) -> Any:
    """Data that a model makes itself.

    Raises:
        ArgumentError: it generates none.
    """
    known = keywords(model)
    if "num_samples" not in known:
        raise ArgumentError("pass `data`: the model takes no `num_samples`, so it cannot make data of its own")
    with torch.no_grad():
        if "y" in known and (classes := getattr(owner_of(model), "num_classes", None)):
            y = torch.arange(batch) % classes
            return model(y=y), y
        return model(num_samples=batch)


def keywords(program: Program) -> dict[str, inspect.Parameter]:
    """The arguments of a program by name."""
    owner = owner_of(program)
    target = owner.forward if isinstance(owner, nn.Module) and not inspect.ismethod(program) else program
    return dict(inspect.signature(target).parameters)


@contextmanager
def isolated(case: Case) -> Iterator[Trial]:
    """A trial that leaves generators, Pyro's store and what functions close over as they were."""
    with pyro.get_param_store().scope(), seeded(0):
        trial = trial_of(case)
        tensors = list(_closed_over(trial).values())
        before = [(t, t.detach().clone(), t.requires_grad) for t in tensors]
        try:
            yield trial
        finally:
            write([t.data for t, _, _ in before], [value for _, value, _ in before])
            for tensor, _, required in before:
                tensor.requires_grad_(required).grad = None


def _closed_over(trial: Trial) -> dict[str, Tensor]:
    """Parameters of programs that are functions, which are not copied."""
    programs = [p for p in (trial.model, trial.guide) if p is not None]
    if trial.model is None or all(isinstance(owner_of(p), nn.Module) for p in programs):
        return {}
    try:
        with pyro.get_param_store().scope():
            return declared_parameters(trial.model, trial.pair_guide, *trial.call)
    except (ProbgenError, RuntimeError, ValueError, TypeError, IndexError):
        return {}  # a check will say what is wrong
