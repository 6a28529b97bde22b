"""Cases of everything that has a name: a new entry of the registry is checked as it stands there."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pyro
import torch

from probgen import registry
from probgen.errors import ProbgenError
from probgen.programs import run_pair
from probgen.seeding import seeded
from probgen.testing.checks.cases import Case, Subject, generated

FITTED = ("num_classes",)  # arguments of guides that follow the model


def registry_cases(kind: str) -> list[Case]:
    """One case for every entry of a kind, built from its example; models and guides are put together that fit.

    Args:
        kind: ``"model"``, ``"guide"`` or ``"objective"``.

    Example:
        >>> "vae" in [case.name for case in registry_cases("model")]
        True
    """
    builders: dict[str, Callable[[str], Subject]] = {
        "model": lambda spec: with_guide(spec),
        "guide": lambda spec: with_model(spec),
        "objective": lambda spec: Subject(objective=registry.parse("objective", spec)),
    }
    return [case_of(kind, registry.entry(kind, name).example, builders[kind]) for name in registry.names(kind)]


def case_of(kind: str, spec: str, build: Callable[[str], Subject] | None = None) -> Case:
    """A case of a spec, such as ``vae:hidden=(8,)``; its id is its name and what differs from the example."""
    builders = {"model": with_guide, "guide": with_model}
    return Case(_label(kind, spec), kind, functools.partial(build or builders[kind], spec))


def _label(kind: str, spec: str) -> str:
    name = spec.partition(":")[0]
    return name if registry.entry(kind, name).example == spec else spec.replace("'", "")


def with_guide(spec: str) -> Subject:
    """A model, the first guide of the registry that fits it, and data that the model makes."""
    model = registry.parse("model", spec)
    data = generated(model)
    return Subject(model, _partner(spec, data, lambda guide_spec: _fitted("guide", guide_spec, model), model), data)


@functools.cache
def _partner_spec(spec: str) -> str | None:
    """The example of the first guide that goes with a model."""
    with seeded(0), pyro.get_param_store().scope(), torch.no_grad():
        model = registry.parse("model", spec)
        data = generated(model)
        for name in registry.names("guide"):
            example = registry.entry("guide", name).example
            if _fits(model, _fitted("guide", example, model), data):
                return example
    return None


def _partner(spec: str, data: Any, build: Callable[[str], Any], model: Any) -> Any:
    found = _partner_spec(spec)
    return None if found is None else build(found)


def _fitted(kind: str, spec: str, other: Any) -> Any:
    """An entry whose arguments follow another object's where the spec leaves them out."""
    defaults = {name: value for name in FITTED if (value := getattr(other, name, None)) is not None}
    return registry.parse(kind, spec, **defaults)


def _fits(model: Any, guide: Any, data: Any) -> bool:
    args = data if isinstance(data, tuple) else (data,)
    try:
        return bool(run_pair(model, guide, *args).latents)
    except (ProbgenError, RuntimeError, TypeError, ValueError):
        return False


def with_model(spec: str) -> Subject:
    """A guide, the first model of the registry whose sites it samples, and data that the model makes."""
    found = _model_spec(spec)
    if found is None:
        raise ProbgenError(f"no model of the registry has the sites of the guide {spec!r}")
    model = registry.parse("model", found)
    return Subject(model, registry.parse("guide", spec), generated(model))


@functools.cache
def _model_spec(spec: str) -> str | None:
    with seeded(0), pyro.get_param_store().scope(), torch.no_grad():
        guide = registry.parse("guide", spec)
        wanted = getattr(guide, "num_classes", None) is not None
        for example in model_specs(guide):
            model = registry.parse("model", example)
            labelled = "y" in inspect.signature(model.forward).parameters
            if labelled is wanted and _fits(model, guide, generated(model)):
                return example
    return None


def model_specs(guide: Any) -> list[str]:
    """Examples of models, and such of the guide's sizes."""
    examples = [registry.entry("model", name).example for name in reversed(registry.names("model"))]
    event = getattr(guide, "event_shape", None)
    if event is None:
        return examples
    shape = f"event_shape={tuple(event)}"
    if dims := getattr(guide, "latent_dims", None):
        return [*examples, f"hierarchical-vae:{shape},latent_dims={tuple(dims)},hidden=(8,)"]
    size = f"{shape},latent_dim={guide.latent_dim},hidden=(8,)"
    classes = getattr(guide, "num_classes", None)
    own = f"conditional-vae:{size},num_classes={classes}" if classes else f"vae:{size}"
    return [*examples, own]
