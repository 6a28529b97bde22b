"""What every model promises, for every model of the registry and some variants of them."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from torch.fx.experimental.proxy_tensor import make_fx

from probgen import registry
from probgen.errors import ArgumentError, DataError
from probgen.testing import case_of, parametrize_with_checks, registry_cases

BATCH, PARTICLES = 5, 3

EXAMPLES = [registry.entry("model", name).example for name in registry.names("model")]
VARIANTS = [
    "vae:event_shape=(1,8,8),latent_dim=2,hidden=(4,8),network=conv,activation=relu",
    "vae:event_shape=(2,5,7),latent_dim=2,hidden=(4,),network=conv,likelihood='categorical:num_categories=3'",
    "vae:event_shape=(1,28,28),latent_dim=2,hidden=(4,4,4),network=conv,likelihood=normal",
    "vae:event_shape=(2,3),latent_dim=1,hidden=(),likelihood='discretized-logistic:levels=4'",
    "vae:event_shape=(4,),latent_dim=2,hidden=(8,),likelihood=normal-fixed,data_mean=0.5,activation=silu",
    "conditional-vae:event_shape=(1,8,8),latent_dim=2,hidden=(4,),network=conv,num_classes=3",
    "hierarchical-vae:event_shape=(4,),latent_dims=(2,),hidden=(8,)",
    "hierarchical-vae:event_shape=(1,8,8),latent_dims=(4,3,2),hidden=((4,),(8,),(8,)),network=conv",
    "gaussian-mixture:data_dim=4,num_components=3,summed_out=False",
]
MODELS = EXAMPLES + VARIANTS


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return registry.parse("model", request.param)


def arguments(model: Any, batch: int = BATCH) -> tuple[torch.Tensor, ...]:
    """Data that the model takes: what it generates, and labels where it is told them."""
    if "y" not in inspect.signature(model.forward).parameters:
        return (model(num_samples=batch).detach(),)
    y = torch.arange(batch) % model.num_classes
    return model(y=y).detach(), y


def trace(program: Callable[..., Any], *args: Any, values: dict[str, torch.Tensor] | None = None) -> Any:
    """The trace of a run with densities, at given values of latent sites."""
    conditioned = poutine.condition(program, data=values) if values else program
    traced = poutine.trace(conditioned).get_trace(*args)
    traced.compute_log_prob()
    return traced


def particles(program: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        with pyro.plate("particles", PARTICLES, dim=-2):
            return program(*args)

    return run


def sites(traced: Any) -> dict[str, dict[str, Any]]:
    return {n: s for n, s in traced.nodes.items() if s["type"] == "sample" and n not in ("data", "particles")}


def latents(traced: Any) -> dict[str, torch.Tensor]:
    return {name: site["value"] for name, site in sites(traced).items() if not site["is_observed"]}


def log_joint(traced: Any) -> torch.Tensor:
    return sum(site["log_prob"] for site in sites(traced).values())  # type: ignore[return-value]


@parametrize_with_checks(registry_cases("model"))
def test_keeps_the_contract_of_models(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks([case_of("model", spec) for spec in VARIANTS], skip=["captured_step_equals_the_ordinary_one"])
def test_variants_keep_the_contract_of_models(check: Callable[[], None]) -> None:
    check()


def test_generates_in_a_plate_of_particles(model: Any) -> None:
    traced = trace(lambda: model(num_samples=7))
    assert torch.isfinite(log_joint(traced)).all()
    assert model().shape == (1, *model.event_shape)
    assert particles(model)().shape == (PARTICLES, 1, *model.event_shape)


def test_can_be_traced_to_a_graph_with_its_gradient(model: Any) -> None:
    args = arguments(model)
    parameters = dict(model.named_parameters())

    def loss_and_gradients(parameters: dict[str, torch.Tensor], *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        with pyro.get_param_store().scope(), poutine.trace() as handler:
            torch.func.functional_call(model, leaves, args)
        loss = handler.trace.log_prob_sum()
        return loss.detach(), *torch.autograd.grad(loss, list(leaves.values()))

    with pyro.validation_enabled(False):
        graph = make_fx(loss_and_gradients)(parameters, *args)
        scaled = {name: 1.5 * p for name, p in parameters.items()}  # not the values it was traced with
        pyro.set_rng_seed(1)
        eager = loss_and_gradients(scaled, *args)
        pyro.set_rng_seed(1)
        replayed = graph(scaled, *args)
    for a, b in zip(eager, replayed, strict=True):
        torch.testing.assert_close(a, b)


def test_data_of_another_shape_are_refused_before_anything_is_sampled(model: Any) -> None:
    x, *rest = arguments(model)
    wanted = re.escape("[batch, " + ", ".join(map(str, model.event_shape)) + "]")
    for wrong in (x[0], x[None], torch.cat([x, x], dim=-1), x[:0], x.flatten()[: len(x)]):
        with poutine.trace() as handler, pytest.raises(DataError, match=f"`x` must have shape {wanted}|at least one"):
            model(wrong, *rest)
        assert not sites(handler.trace)
    with pytest.raises(DataError, match="`x` must hold"):
        model(x.to(torch.complex64), *rest)
    with pytest.raises(DataError, match=r"must be a torch\.Tensor, got ndarray"):
        model(x.numpy(), *rest)


def test_a_number_of_samples_below_one_is_refused(model: Any) -> None:
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ArgumentError, match="`num_samples` must be a whole number of at least 1"):
            model(num_samples=wrong)


@pytest.mark.parametrize("name", registry.names("model"))
def test_sizes_below_one_are_refused(name: str) -> None:
    example = registry.entry("model", name).example
    for size in re.findall(r"(\w*dim\w*|num_\w+|event_shape)=", example):
        for value in ("0", "-3", "(0,)", "2.5", "few"):
            with pytest.raises(ArgumentError, match=f"`{size}"):
                registry.parse("model", re.sub(rf"{size}=(\([^)]*\)|[^,]*)", f"{size}={value}", example))
