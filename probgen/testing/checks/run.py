"""Runs checks: all of one object, or one."""

from collections.abc import Callable, Collection
from typing import Any

from probgen.errors import ArgumentError, nearest
from probgen.programs.param_scope import Program
from probgen.testing.checks import (
    arguments,
    capture,
    densities,
    guides,
    models,
    modes,
    parameters,
    particles,
    seeds,
    training,
    values,
)
from probgen.testing.checks.cases import Case, Subject, copies, isolated
from probgen.testing.checks.outcome import CHECKS, Check, CheckFailed, Fault, NotApplicable, Outcome, Report

# Each has added its checks; they run in this order.
FILES = (densities, seeds, parameters, modes, models, guides, arguments, values, particles, training, capture)
ORDER = [file.__name__ for file in FILES]


def names_of_checks(kind: str) -> tuple[str, ...]:
    """The names of the checks of a kind, in their order.

    Args:
        kind: ``"model"``, ``"guide"`` or ``"objective"``.

    Example:
        >>> "seeded_samples_repeat" in names_of_checks("model")
        True
    """
    return tuple(each.name for each in checks_of(kind))


def checks_of(kind: str) -> tuple[Check, ...]:
    """The checks of a kind, in the order of their files."""
    found = [each for each in CHECKS if kind in each.kinds]
    return tuple(sorted(found, key=lambda each: ORDER.index(each.function.__module__)))


def check_names(skip: Collection[str], kind: str) -> None:
    """Refuses names of checks that there are not.

    Raises:
        ArgumentError: one is unknown.
    """
    known = names_of_checks(kind)
    for name in skip:
        if name not in known:
            raise ArgumentError(f"`skip`: {name!r} is no check of a {kind}; {nearest(str(name), known)}")


def perform(check: Check, case: Case) -> None:
    """Runs one check on one case, built afresh; what it touches is as before afterwards.

    Raises:
        CheckFailed: the contract is broken.
        unittest.SkipTest: it does not apply.
    """
    label = f"{case.name}-{check.name}"
    with isolated(case) as trial:
        try:
            check.function(trial)
        except Fault as error:
            raise CheckFailed(f"{label}: {error}. The contract: {check.claim}") from error
        except NotApplicable:
            raise
        except Exception as error:
            raise CheckFailed(
                f"{label}: {type(error).__name__}: {error}; expected no error; see above where it comes from. "
                f"The contract: {check.claim}"
            ) from error


def outcome(check: Check, case: Case) -> Outcome:
    """What comes of one check."""
    try:
        perform(check, case)
    except CheckFailed as error:
        return Outcome(check.name, "failed", str(error))
    except NotApplicable as reason:
        return Outcome(check.name, "skipped", str(reason))
    return Outcome(check.name, "passed")


def check_case(case: Case, *, skip: Collection[str] = (), raises: bool = True) -> Report:
    """Runs all checks of a case; see :func:`check_model`."""
    check_names(skip, case.kind)
    outcomes = []
    for each in checks_of(case.kind):
        asked = Outcome(each.name, "skipped", "as asked")
        outcomes.append(asked if each.name in skip else outcome(each, case))
    report = Report(case.name, tuple(outcomes))
    if raises and (failed := report.having("failed")):
        raise CheckFailed("\n".join([f"{len(failed)} of {len(outcomes)} checks fail", *(o.message for o in failed)]))
    return report


def check_model(
    model: Program, guide: Program | None = None, data: Any = None, *, skip: Collection[str] = (), raises: bool = True
) -> Report:
    """Checks that a model keeps its contract: sites, plates, densities, seeds, parameters, data.

    Each check runs on copies and leaves generators, Pyro's store and your objects as they were.

    Args:
        model: a Pyro program.
        guide: its guide, or None: the prior then stands in where one is needed.
        data: a batch: a tensor -> ``model(b)``, a tuple -> ``model(*b)``, a dict -> ``model(**b)``; None lets a model
            that takes ``num_samples`` make some.
        skip: names of checks that are left out.
        raises: whether a failed check raises, or only stands in the report.

    Returns:
        What came of each check; prints as a table.

    Raises:
        CheckFailed: with all that fail: what is wrong and where, what was expected, what to do. It is an
            AssertionError too.
        ArgumentError: an unknown name in ``skip``, or no data.

    Example:
        >>> from probgen.models import PPCA
        >>> report = check_model(PPCA(data_dim=3, latent_dim=1))
        >>> report.having("failed")
        ()
    """
    return check_case(_given("model", Subject(model, guide, data), model), skip=skip, raises=raises)


def check_guide(
    guide: Program, model: Program, data: Any = None, *, skip: Collection[str] = (), raises: bool = True
) -> Report:
    """Checks that a guide keeps its contract with a model: sites, plates, normalised densities, gradients.

    Args:
        guide: a Pyro program.
        model: the model it belongs to.
        data: as in :func:`check_model`.
        skip: names of checks that are left out.
        raises: whether a failed check raises.

    Returns:
        As :func:`check_model`.

    Raises:
        CheckFailed: as in :func:`check_model`.
        ArgumentError: an unknown name in ``skip``, or no data.

    Example:
        >>> from probgen.guides import AmortizedNormal
        >>> from probgen.models import PPCA
        >>> guide = AmortizedNormal((3,), latent_dim=1, hidden=(4,))
        >>> check_guide(guide, PPCA(data_dim=3, latent_dim=1)).having("failed")
        ()
    """
    return check_case(_given("guide", Subject(model, guide, data), guide), skip=skip, raises=raises)


def check_objective(
    objective: Any,
    model: Program | None = None,
    guide: Program | None = None,
    data: Any = None,
    *,
    skip: Collection[str] = (),
    raises: bool = True,
) -> Report:
    """Checks that an objective keeps its contract: arguments, bounds, gradients, both loops.

    Bounds are compared with evidence in closed form on small pairs of the checks' own; what needs no truth runs on
    your pair if you give one.

    Args:
        objective: of :mod:`probgen.objectives`, or a subclass of yours.
        model: a Pyro program, or None.
        guide: its guide.
        data: as in :func:`check_model`.
        skip: names of checks that are left out.
        raises: whether a failed check raises.

    Returns:
        As :func:`check_model`.

    Raises:
        CheckFailed: as in :func:`check_model`.
        ArgumentError: an unknown name in ``skip``, or no data.

    Example:
        >>> from probgen.objectives import MaximumLikelihood
        >>> check_objective(MaximumLikelihood()).having("failed")
        ()
    """
    return check_case(_given("objective", Subject(model, guide, data, objective), objective), skip=skip, raises=raises)


def _given(kind: str, subject: Subject, member: Any) -> Case:
    if not callable(member):
        raise ArgumentError(f"`{kind}` must be callable, got {type(member).__name__}")
    if subject.model is not None and subject.data is None and kind != "model":
        from probgen.testing.checks.cases import generated

        subject = Subject(subject.model, subject.guide, generated(subject.model), subject.objective)
    build: Callable[[], Subject] = copies(subject)
    name = getattr(member, "__name__", None) or type(member).__name__
    return Case(name, kind, build, afresh=False)
