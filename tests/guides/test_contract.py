"""What every guide promises, for every guide of the registry and some variants of them."""

import re
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from torch.fx.experimental.proxy_tensor import make_fx

import probgen
from probgen import registry
from probgen.errors import ArgumentError, DataError
from probgen.testing import case_of, parametrize_with_checks, registry_cases

BATCH, PARTICLES = 5, 3

EXAMPLES = [registry.entry("guide", name).example for name in registry.names("guide")]
SINGLE = ["amortized-normal", "amortized-multivariate-normal", "amortized-flow"]
VARIANTS = [
    *(f"{name}:event_shape=(1,8,8),latent_dim=3,hidden=(4,8),network=conv,activation=relu" for name in SINGLE),
    *(f"{name}:event_shape=(4,),latent_dim=1,hidden=()" for name in SINGLE),
    *(f"{name}:event_shape=(2,3),latent_dim=2,hidden=(8,),num_classes=3" for name in SINGLE),
    "amortized-normal:event_shape=(1,8,8),latent_dim=2,hidden=(4,),network=conv,num_classes=3",
    "amortized-hierarchical:event_shape=(4,),latent_dims=(2,),hidden=(8,)",
    "amortized-hierarchical:event_shape=(4,),latent_dims=(2,),hidden=(8,),direction=top-down",
    "amortized-hierarchical:event_shape=(1,8,8),latent_dims=(4,3,2),hidden=((4,),(8,),(8,)),network=conv",
    "amortized-hierarchical:event_shape=(1,8,8),latent_dims=(4,3,2),hidden=(8,),network=conv,direction=top-down",
]
GUIDES = EXAMPLES + VARIANTS


@pytest.fixture(params=GUIDES)
def guide(request: pytest.FixtureRequest) -> Any:
    return registry.parse("guide", request.param)


def arguments(guide: Any, batch: int = BATCH) -> tuple[torch.Tensor, ...]:
    """Data that the guide takes, and labels where it is told them."""
    x = torch.bernoulli(torch.full((batch, *guide.event_shape), 0.5))
    if getattr(guide, "num_classes", None) is None:
        return (x,)
    return x, torch.arange(batch) % guide.num_classes


def trace(program: Callable[..., Any], *args: Any, values: dict[str, torch.Tensor] | None = None) -> Any:
    """The trace of a run with densities, at given values of its sites."""
    if values:
        program = poutine.condition(program, data=values)
    traced = poutine.trace(program).get_trace(*args)
    traced.compute_log_prob()
    return traced


def sites(traced: Any) -> dict[str, dict[str, Any]]:
    return {n: s for n, s in traced.nodes.items() if s["type"] == "sample" and n not in ("data", "particles")}


def values(traced: Any) -> dict[str, torch.Tensor]:
    return {name: site["value"] for name, site in sites(traced).items()}


def log_prob(traced: Any) -> torch.Tensor:
    return sum(site["log_prob"] for site in sites(traced).values())  # type: ignore[return-value]


def test_sites_have_the_agreed_names_and_shapes(guide: Any) -> None:
    found = sites(trace(guide, *arguments(guide)))
    dims = getattr(guide, "latent_dims", None)
    expected = {"z": guide.latent_dim} if dims is None else {f"z_{i + 1}": d for i, d in enumerate(dims)}
    assert {name: site["fn"].event_shape for name, site in found.items()} == {n: (d,) for n, d in expected.items()}
    for site in found.values():
        assert not site["is_observed"]
        assert site["fn"].has_rsample
        assert site["value"].requires_grad
        assert site["fn"].batch_shape == (BATCH,)
        assert site["value"].shape == (BATCH, *site["fn"].event_shape)
        assert site["log_prob"].shape == (BATCH,)
        assert torch.isfinite(site["log_prob"]).all()
        assert [(f.name, f.dim, f.size) for f in site["cond_indep_stack"]] == [("data", -1, BATCH)]


@parametrize_with_checks(registry_cases("guide"))
def test_keeps_the_contract_of_guides(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks([case_of("guide", spec) for spec in VARIANTS], skip=["captured_step_equals_the_ordinary_one"])
def test_variants_keep_the_contract_of_guides(check: Callable[[], None]) -> None:
    check()


def test_depends_on_the_data(guide: Any) -> None:
    x, *rest = arguments(guide)
    first = trace(guide, x, *rest)
    second = trace(guide, 1 - x, *rest, values=values(first))
    assert not torch.isclose(log_prob(first), log_prob(second)).any()


def test_can_be_traced_to_a_graph_with_its_gradient(guide: Any) -> None:
    args = arguments(guide)
    state = {**dict(guide.named_parameters()), **dict(guide.named_buffers())}

    def loss_and_gradients(state: dict[str, torch.Tensor], *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tensors = {n: t.detach().requires_grad_() if t.is_floating_point() else t for n, t in state.items()}
        leaves = [tensors[name] for name, _ in guide.named_parameters()]
        with pyro.get_param_store().scope(), poutine.trace() as handler:
            torch.func.functional_call(guide, tensors, args)
        loss = handler.trace.log_prob_sum() + sum((v**2).sum() for v in values(handler.trace).values())
        return loss.detach(), *torch.autograd.grad(loss, leaves)

    with pyro.validation_enabled(False):
        graph = make_fx(loss_and_gradients)(state, *args)
        moved = {n: 1.1 * t if t.is_floating_point() else t for n, t in state.items()}  # not the traced values
        pyro.set_rng_seed(1)
        eager = loss_and_gradients(moved, *args)
        pyro.set_rng_seed(1)
        replayed = graph(moved, *args)
    for a, b in zip(eager, replayed, strict=True):
        torch.testing.assert_close(a, b)


def test_densities_stay_finite_when_the_encoder_runs_away(guide: Any) -> None:
    args = arguments(guide)
    for output in (-1e4, 1e4):
        with torch.no_grad():
            for name, parameter in guide.named_parameters():
                if "encoder" in name and name.endswith("bias"):
                    parameter.fill_(output)
        traced = trace(guide, *args)
        assert torch.isfinite(log_prob(traced)).all()


def test_integers_and_booleans_are_data(guide: Any) -> None:
    x, *rest = arguments(guide)
    single = trace(guide, x, *rest)
    for dtype in (torch.bool, torch.uint8, torch.long, torch.float64):
        again = trace(guide, x.to(dtype), *rest, values=values(single))
        torch.testing.assert_close(log_prob(again), log_prob(single), rtol=1e-4, atol=1e-4)


def test_data_that_do_not_fit_are_refused_before_anything_is_sampled(guide: Any) -> None:
    x, *rest = arguments(guide)
    wanted = re.escape("[batch, " + ", ".join(map(str, guide.event_shape)) + "]")
    for wrong in (x[0], x[None], torch.cat([x, x], dim=-1), x[:0], x.flatten()[: len(x)]):
        with poutine.trace() as handler, pytest.raises(DataError, match=f"`x` must have shape {wanted}|at least one"):
            guide(wrong, *rest)
        assert not sites(handler.trace)
    with pytest.raises(DataError, match=r"`x` must hold real numbers, got dtype torch\.complex64"):
        guide(x.to(torch.complex64), *rest)
    with pytest.raises(DataError, match="`x` is required"):
        guide()
    with pytest.raises(DataError, match=r"`x` must be finite, got nan at index \(0,"):
        guide(torch.full_like(x, torch.nan), *rest)


def test_labels_are_required_or_refused(guide: Any) -> None:
    x, *rest = arguments(guide)
    if rest:
        with pytest.raises(DataError, match="`y` is required"):
            guide(x)
        with pytest.raises(DataError, match=r"got 3 at index \(0,\)"):
            guide(x, torch.full((BATCH,), 3))
    elif hasattr(guide, "num_classes"):
        with pytest.raises(DataError, match="built without `num_classes`"):
            guide(x, torch.zeros(BATCH, dtype=torch.long))


@pytest.mark.parametrize("name", registry.names("guide"))
def test_sizes_below_one_are_refused(name: str) -> None:
    example = registry.entry("guide", name).example
    for size in re.findall(r"(\w*dim\w*|num_\w+|event_shape|hidden|flow_hidden)=", example):
        for value in ("0", "-3", "(0,)", "2.5", "few"):
            with pytest.raises(ArgumentError, match=f"`{size}"):
                registry.parse("guide", re.sub(rf"\b{size}=(\([^)]*\)|[^,]*)", f"{size}={value}", example))
    with pytest.raises(ArgumentError, match="`min_scale` must be a finite number above 0"):
        registry.parse("guide", f"{example},min_scale=0")


PAIRS = [
    *(("vae:event_shape=(16,),latent_dim=2,hidden=(8,)", registry.entry("guide", name).example) for name in SINGLE),
    *(("ppca:data_dim=16,latent_dim=2", registry.entry("guide", name).example) for name in SINGLE),
    *(
        (
            "conditional-vae:event_shape=(16,),latent_dim=2,hidden=(8,),num_classes=3",
            f"{name}:event_shape=(16,),latent_dim=2,num_classes=3",
        )
        for name in SINGLE
    ),
    *(
        (
            "hierarchical-vae:event_shape=(16,),latent_dims=(3,2),hidden=(8,)",
            f"amortized-hierarchical:event_shape=(16,),latent_dims=(3,2),hidden=(8,),direction={direction}",
        )
        for direction in ("bottom-up", "top-down")
    ),
    (
        "vae:event_shape=(1,8,8),latent_dim=2,hidden=(4,),network=conv",
        "amortized-flow:event_shape=(1,8,8),latent_dim=2,num_transforms=2",
    ),
]


@pytest.mark.parametrize(("model_spec", "guide_spec"), PAIRS)
def test_any_guide_goes_with_any_model_of_its_sites(model_spec: str, guide_spec: str) -> None:
    model, guide = registry.parse("model", model_spec), registry.parse("guide", guide_spec)
    log_weights = probgen.log_weights(model, guide, *arguments(guide), num_particles=PARTICLES)
    assert log_weights.shape == (PARTICLES, BATCH)
    assert torch.isfinite(log_weights).all()
    names = [{name for name, _ in program.named_parameters()} for program in (model, guide)]
    assert not names[0] & names[1]  # Pyro's store knows parameters by name
