"""What every model promises, for every model of the registry and some variants of them."""

import copy
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from safetensors.torch import load_file, save_file
from torch.fx.experimental.proxy_tensor import make_fx

from probgen import registry
from probgen.errors import ArgumentError, DataError

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


def test_sites_have_the_agreed_names_and_shapes(model: Any) -> None:
    args = arguments(model)
    found = sites(trace(model, *args))
    names = set(found) - {"x"}
    assert found["x"]["is_observed"]
    assert names in (set(), {"z"}) or names == {f"z_{i + 1}" for i in range(len(names))}
    for site in found.values():
        assert site["fn"].batch_shape == (BATCH,)
        assert site["value"].shape == (BATCH, *site["fn"].event_shape)
        assert site["log_prob"].shape == (BATCH,)
        assert torch.isfinite(site["log_prob"]).all()
        assert [(f.name, f.dim, f.size) for f in site["cond_indep_stack"]] == [("data", -1, BATCH)]
    assert found["x"]["fn"].event_shape == model.event_shape
    assert found["x"]["fn"].event_dim == len(model.event_shape)


def test_under_a_particle_plate_each_particle_is_a_run_of_its_own(model: Any) -> None:
    args = arguments(model)
    together = trace(particles(model), *args)
    for name, site in sites(together).items():
        assert site["log_prob"].shape == (PARTICLES, BATCH)
        leading = (BATCH,) if name == "x" else (PARTICLES, BATCH)
        assert site["value"].shape == (*leading, *site["fn"].event_shape)
    for k in range(PARTICLES):
        alone = trace(model, *args, values={name: value[k] for name, value in latents(together).items()})
        torch.testing.assert_close(log_joint(alone), log_joint(together)[k])


def test_a_datum_does_not_depend_on_the_others(model: Any) -> None:
    args = arguments(model)
    whole = trace(model, *args)
    part = trace(model, *(a[1:3] for a in args), values={name: value[1:3] for name, value in latents(whole).items()})
    torch.testing.assert_close(log_joint(part), log_joint(whole)[1:3])


def test_generates_without_data(model: Any) -> None:
    assert model().shape == (1, *model.event_shape)
    samples = model(num_samples=7)
    assert samples.shape == (7, *model.event_shape)
    traced = trace(lambda: model(num_samples=7))
    assert not any(site["is_observed"] for site in sites(traced).values())
    assert torch.isfinite(log_joint(traced)).all()
    assert particles(model)().shape == (PARTICLES, 1, *model.event_shape)


def test_seeds_repeat(model: Any) -> None:
    draws = []
    for seed in (0, 0, 1):
        pyro.set_rng_seed(seed)
        draws.append(model(num_samples=20))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("spec", MODELS)
def test_weights_repeat_with_the_seed(spec: str) -> None:
    pyro.set_rng_seed(3)
    first = registry.parse("model", spec).state_dict()
    pyro.set_rng_seed(3)
    second = registry.parse("model", spec).state_dict()
    assert first
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("spec", MODELS)
def test_weights_survive_a_file(spec: str, tmp_path: Path) -> None:
    saved, loaded = (registry.parse("model", spec) for _ in range(2))
    save_file(saved.state_dict(), tmp_path / "model.safetensors")
    loaded.load_state_dict(load_file(tmp_path / "model.safetensors"))
    args = arguments(saved)
    before = trace(saved, *args)
    pyro.clear_param_store()
    after = trace(loaded, *args, values=latents(before))
    torch.testing.assert_close(log_joint(after), log_joint(before), rtol=0, atol=0)


def test_eval_mode_and_copies_give_the_same_densities(model: Any) -> None:
    args = arguments(model)
    trained = trace(model, *args)
    for other in (model.eval(), copy.deepcopy(model)):
        pyro.clear_param_store()
        torch.testing.assert_close(log_joint(trace(other, *args, values=latents(trained))), log_joint(trained))


def test_double_precision_agrees_with_single(model: Any) -> None:
    args = arguments(model)
    single = trace(model, *args)
    double = copy.deepcopy(model).double()
    pyro.clear_param_store()
    values = {n: v.double() if v.is_floating_point() else v for n, v in latents(single).items()}
    precise = trace(double, *args, values=values)
    assert log_joint(precise).dtype == torch.float64
    torch.testing.assert_close(log_joint(precise), log_joint(single).double(), rtol=1e-3, atol=1e-3)
    assert double(num_samples=2).dtype in (torch.float64, torch.long)
    assert latents(trace(double, *args)).keys() == values.keys()


def test_gradients_reach_every_parameter(model: Any) -> None:
    args = arguments(model, batch=50)
    log_joint(trace(model, *args)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_moves_to_a_device(model: Any) -> None:
    args = [a.to("cuda") for a in arguments(model)]
    traced = trace(model.to("cuda"), *args)
    assert all(site["value"].is_cuda for site in sites(traced).values())
