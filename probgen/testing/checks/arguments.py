"""Checks of objectives: their arguments, names and refusals."""

import ast
import math
from collections.abc import Container, Iterator
from typing import Any

import pyro.infer

from probgen import registry
from probgen.config import format_spec, parameters
from probgen.errors import ArgumentError, ProbgenError, UnsupportedObjective
from probgen.testing.checks.cases import Trial
from probgen.testing.checks.outcome import NotApplicable, check, require
from probgen.testing.checks.pairs import discrete, pair_for, trial_loss
from probgen.testing.checks.running import fault

# Estimators that go through the sample, so that a site without `rsample` has no gradient under them.
PATHWISE = {"pathwise", "stl", "dreg", "gdreg", "reparameterized", "resampled-dreg"}
OF_PYRO = {"max_plate_nesting", "vectorize_particles"}  # taken as Pyro takes them


def arguments(objective: Any) -> dict[str, Any]:
    """The arguments that the repr of an objective shows.

    Raises:
        NotApplicable: one of them is no literal, such as a schedule that is a function.
    """
    try:
        call = ast.parse(repr(objective), mode="eval").body
        found = {word.arg: ast.literal_eval(word.value) for word in call.keywords}  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, AttributeError) as error:
        raise NotApplicable(f"the repr {objective!r} holds an argument that is no literal ({error})") from None
    return {str(name): value for name, value in found.items()}


def rebuilt(objective: Any, **changes: Any) -> Any:
    """An objective of the same class and arguments, but for some."""
    return type(objective)(**(arguments(objective) | changes))


def with_particles(objective: Any, count: int) -> Any:
    """The same with another number of particles for each bound.

    Raises:
        NotApplicable: it takes none.
    """
    known = taken(objective)
    if "num_particles" not in known:
        raise NotApplicable(f"{type(objective).__name__} takes no `num_particles`")
    default = known["num_particles"].default
    return rebuilt(objective, num_particles=(1, count) if isinstance(default, tuple) else count)


def taken(objective: Any) -> dict[str, Any]:
    """The arguments of an objective's class, by name."""
    return dict(parameters(type(objective)) or {})


def estimators(objective: Any) -> tuple[str, ...]:
    """The names of its gradients.

    Raises:
        NotApplicable: it has no choice of them.
    """
    if "gradient" not in taken(objective):
        raise NotApplicable(f"{type(objective).__name__} has one gradient")
    return tuple(type(objective).gradients)


def variants(objective: Any, names: Container[str] | None = None) -> Iterator[tuple[str, Any]]:
    """The objective under each of its gradients, or of ``names``, but those that go not with its other arguments."""
    for name in estimators(objective):
        if names is None or name in names:
            found = _variant(objective, name)
            yield from () if found is None else [(name, found)]


def _variant(objective: Any, name: str) -> Any:
    try:
        return rebuilt(objective, gradient=name)
    except UnsupportedObjective:
        return None
    except ArgumentError:  # too few particles for a baseline, or an odd number of them
        return rebuilt(with_particles(objective, 4), gradient=name)


@check("objective")
def is_a_pyro_elbo(trial: Trial) -> None:
    """It is a `pyro.infer.ELBO`: whatever of Pyro's takes one takes it."""
    require(
        isinstance(trial.objective, pyro.infer.ELBO),
        f"{type(trial.objective).__name__} is no `pyro.infer.ELBO`",
        expected="a subclass",
        cure="derive it from `probgen.objectives.Objective`",
    )


@check("objective")
def zero_particles_are_refused(trial: Trial) -> None:
    """A number of particles below 1, or that is none, is refused by name, when it is built."""
    for wrong in (0, -1, 2.5, "3", True, None):
        _refuses(trial, "num_particles", lambda wrong=wrong: with_particles(trial.objective, wrong), wrong)


@check("objective")
def hyperparameters_out_of_range_are_named(trial: Trial) -> None:
    """An argument of no use is refused by name when the objective is built, not steps or hours later."""
    shown = arguments(trial.objective)
    for name in set(taken(trial.objective)) - OF_PYRO:
        wrong = ["no such value"]
        if isinstance(shown.get(name, taken(trial.objective)[name].default), float):
            wrong.append(math.nan)  # type: ignore[arg-type]
        for value in wrong:
            _refuses(trial, name, lambda n=name, v=value: rebuilt(trial.objective, **{n: v}), value)


def _refuses(trial: Trial, name: str, build: Any, value: object) -> None:
    kind = type(trial.objective).__name__
    try:
        build()
    except ProbgenError as error:
        require(
            f"`{name}" in str(error),
            f"{kind} refuses `{name}={value!r}` with {str(error)!r}",
            expected=f"`{name}` in the message",
            cure="name the argument in backticks",
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise fault(
            f"{kind} meets `{name}={value!r}` with {type(error).__name__}: {error}",
            expected="an ArgumentError",
            cure="check it by `probgen.arguments`",
        ) from error
    else:
        raise fault(
            f"{kind} takes `{name}={value!r}`", expected="an ArgumentError", cure="check it by `probgen.arguments`"
        )


@check("objective")
def unknown_gradient_names_the_nearest(trial: Trial) -> None:
    """A gradient spelled wrong is refused with the nearest right name: the default must not stand in for it."""
    for name in estimators(trial.objective):
        wrong = f"{name[:-1]}_{name[-1]}"
        try:
            rebuilt(trial.objective, gradient=wrong)
        except ArgumentError as error:
            told = "did you mean" in str(error) and all(each in str(error) for each in estimators(trial.objective))
            require(
                told, f"the message is {str(error)!r}", expected="the nearest name and all that exist", cure=NEAREST
            )
        else:
            raise fault(f"`gradient={wrong!r}` is taken", expected="an ArgumentError", cure=NEAREST)


NEAREST = "end the message with `probgen.errors.nearest`"


@check("objective")
def refused_gradients_say_what_is_right(trial: Trial) -> None:
    """A known gradient that would be wrong here is refused, with one that is right."""
    refused = dict(getattr(type(trial.objective), "refused", {}))
    if not refused:
        raise NotApplicable("no known gradient is refused")
    for name in refused:
        try:
            rebuilt(trial.objective, gradient=name)
        except UnsupportedObjective as error:
            told = "use `" in str(error)
            require(told, f"`gradient={name!r}`: {error}", expected="'use `...`' in it", cure="name what is right")
        else:
            raise fault(f"`gradient={name!r}` is taken", expected="an UnsupportedObjective", cure="refuse it")


@check("objective")
def every_gradient_runs_or_says_why_not(trial: Trial) -> None:
    """Each gradient gives a loss on a small pair, or refuses it with a cure: none fails halfway."""
    for name, objective in variants(trial.objective):
        pair = pair_for(objective)()
        try:
            trial_loss(objective, pair)
        except ProbgenError as error:
            told = "use" in str(error) or "needs" in str(error)
            require(told, f"`gradient={name!r}` fails: {error}", expected="a cure", cure="say what works")


@check("objective")
def pathwise_gradients_refuse_a_discrete_site(trial: Trial) -> None:
    """A gradient through the sample refuses a site without `rsample` by name: it would be 0 there, in silence."""
    found = list(variants(trial.objective, PATHWISE))
    if not found:
        raise NotApplicable("no gradient goes through the sample")
    for name, objective in found:
        pair = discrete()
        try:
            trial_loss(objective, pair)
        except UnsupportedObjective as error:
            require(
                "'z'" in str(error) and "use" in str(error),
                f"`gradient={name!r}` on a discrete site: {error}",
                expected="the site's name and what to use",
                cure="name both",
            )
        else:
            raise fault(
                f"`gradient={name!r}` takes a discrete site",
                expected="an UnsupportedObjective that names it",
                cure="call `probgen.objectives.gradients.require_reparameterized`",
            )


@check("objective")
def repr_builds_it_again(trial: Trial) -> None:
    """The repr shows the arguments that matter: what a log shows can be built again."""
    _same(trial.objective, rebuilt(trial.objective), repr(trial.objective))


def _same(objective: Any, again: Any, source: str) -> None:
    apart = [name for name, value in _settings(objective).items() if _settings(again).get(name) != value]
    require(
        not apart and repr(again) == repr(objective) and type(objective).__name__ in repr(again),
        f"{source!r} builds {again!r}, which differs in {apart}",
        expected="the same",
        cure="show every argument that is not at its default, as a literal",
    )


def _settings(objective: Any) -> dict[str, Any]:
    plain = (bool, int, float, str, tuple, dict)
    return {k: v for k, v in vars(objective).items() if isinstance(v, plain) and not k.startswith("_")}


@check("objective")
def spec_builds_it(trial: Trial) -> None:
    """Its arguments as a spec of the registry build it: the command line and run folders keep objectives so."""
    known = [n for n in registry.names("objective") if registry.get("objective", n) is type(trial.objective)]
    if not known:
        raise NotApplicable(f"{type(trial.objective).__name__} is not in the registry")
    spec = format_spec(known[0], arguments(trial.objective))
    _same(trial.objective, registry.parse("objective", spec), spec)
