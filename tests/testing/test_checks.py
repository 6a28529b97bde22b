"""Every check catches an object that breaks its contract, and passes what keeps it: ours, and a user's plain Pyro."""

import math
import unittest
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn

from probgen.errors import ArgumentError, ArgumentTypeError, ProbgenError
from probgen.objectives import ELBO, IWAE, Estimate, Loss, Objective, Renyi
from probgen.testing import (
    Case,
    CheckFailed,
    Subject,
    check_guide,
    check_model,
    check_objective,
    names_of_checks,
    parametrize_with_checks,
)
from probgen.testing.checks.outcome import CHECKS
from probgen.testing.checks.parametrize import bound_checks
from probgen.testing.checks.run import perform

KINDS = ("model", "guide", "objective")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

# --- a pair that keeps every contract, in pieces that a broken one replaces ------------------------------------------


class Model(PyroModule):
    """z ~ N(0, 1), x ~ N(slope z + offset, I) in three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([0.8, -0.5, 0.3]))
        self.offset = nn.Parameter(0.1 * torch.randn(3))

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        size = self.size(num_samples) if x is None else len(x)
        with self.plate(size) as index:
            mean = self.mean(self.latent())
            return self.observe(mean, None if x is None else self.data(x, index))

    def size(self, num_samples: int) -> int:
        if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
            raise ArgumentError(f"`num_samples` must be a whole number of at least 1, got {num_samples!r}")
        return num_samples

    def plate(self, size: int) -> Any:
        return pyro.plate("data", size)

    def latent(self) -> Tensor:
        return pyro.sample("z", dist.Normal(self.slope.new_zeros(()), self.slope.new_ones(())))

    def mean(self, z: Tensor) -> Tensor:
        return z[..., None] * self.slope + self.offset

    def data(self, x: Tensor, index: Tensor) -> Tensor:
        return x

    def observe(self, mean: Tensor, x: Tensor | None) -> Tensor:
        return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def log_evidence(self, x: Tensor) -> Tensor:
        covariance = torch.eye(3).to(self.slope) + self.slope.outer(self.slope)
        return dist.MultivariateNormal(self.offset, covariance).log_prob(x)


class Guide(PyroModule):
    """z ~ N(gain x + shift, exp(log_scale)^2)."""

    family: type = dist.Normal

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([0.3, -0.2, 0.1]))
        self.shift, self.log_scale = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        with self.plate(len(x)):  # type: ignore[arg-type]
            return pyro.sample("z", self.family(self.loc(x), self.log_scale.exp()))

    def plate(self, size: int) -> Any:
        return pyro.plate("data", size)

    def loc(self, x: Any) -> Tensor:
        return x @ self.gain + self.shift


def altered(base: type, **members: Any) -> type:
    return type(f"Broken{base.__name__}", (base,), members)


def started(base: type, start: Callable[[Any], None], **members: Any) -> type:
    """A class whose instances are changed after they are built."""

    def __init__(self: Any) -> None:
        base.__init__(self)
        start(self)

    return altered(base, __init__=__init__, **members)


# --- broken models ---------------------------------------------------------------------------------------------------

own = torch.Generator().manual_seed(0)
shared = nn.Parameter(torch.ones(3))


def before(function: Callable[[], None]) -> Callable[..., Tensor]:
    """The latent site, after something that has no place there."""

    def latent(self: Model) -> Tensor:
        function()
        return Model.latent(self)

    return latent


def mean(extra: Callable[[Any, Tensor], Any]) -> Callable[..., Tensor]:
    return lambda self, z: Model.mean(self, z) + extra(self, z)


class Asserting(Model):
    def forward(self, x: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        assert x is None or len(x) > 0
        return super().forward(x, num_samples=num_samples)


class SameForAll(dist.Normal):
    """Draws once for all particles."""

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        value = super().rsample(sample_shape)
        return value[:1].expand_as(value) if value.dim() > 1 else value


class Counting(Model):
    calls = 0

    def mean(self, z: Tensor) -> Tensor:
        Counting.calls += 1
        return super().mean(z) + 0.1 * Counting.calls


def scaled_by_size(self: Model, mean: Tensor, x: Tensor | None) -> Tensor:
    with poutine.scale(scale=1.0 / mean.shape[-2]):
        return Model.observe(self, mean, x)


def scaled(self: Model, mean: Tensor, x: Tensor | None) -> Tensor:
    with poutine.scale(scale=3.0):
        return Model.observe(self, mean, x)


def moved(self: Model, z: Tensor) -> Tensor:
    with torch.no_grad():
        self.slope.mul_(1.01)
    return Model.mean(self, z)


def bits(self: Model, mean: Tensor, x: Tensor | None) -> Tensor:
    return pyro.sample("x", dist.Bernoulli(logits=mean).to_event(1), obs=x)


MODELS: dict[str, Any] = {
    "runs_on_the_data": altered(Model, forward=lambda self, x=None, *, num_samples=1: x),
    "declares_a_plate_over_the_data": altered(Model, plate=lambda self, size: nullcontext()),
    "densities_are_finite_floats": altered(
        Model,
        latent=before(lambda: pyro.factor("f", torch.tensor(-math.inf))),  # type: ignore[func-returns-value]
    ),
    "values_have_the_shape_of_their_site": altered(Model, data=lambda self, x, index: x[:, :1]),
    "density_repeats": altered(Model, mean=mean(lambda self, z: torch.randn(3))),
    "each_particle_is_a_run_of_its_own": altered(
        Model, mean=lambda self, z: Model.mean(self, z[:1].expand_as(z) if z.dim() > 1 else z)
    ),
    "particles_differ": altered(Model, latent=lambda self: pyro.sample("z", SameForAll(torch.tensor(0.0), 1.0))),
    "density_of_a_datum_ignores_the_others": altered(Model, mean=mean(lambda self, z: z.mean())),
    "permuting_the_data_permutes_the_densities": altered(
        Model, mean=mean(lambda self, z: torch.arange(z.shape[-1])[:, None])
    ),
    "minibatches_scale_to_the_whole": altered(Model, observe=scaled_by_size),
    "subsampled_plate_scales_the_bound": altered(
        Model,
        plate=lambda self, size: pyro.plate("data", size, subsample_size=2),
        data=lambda self, x, index: x[index],
        observe=scaled,
    ),
    "seeded_samples_repeat": altered(Model, mean=mean(lambda self, z: torch.randn(3, generator=own))),
    "samples_change_with_the_seed": altered(Model, latent=before(lambda: pyro.set_rng_seed(0))),
    "runs_do_not_reseed": altered(Model, latent=before(lambda: pyro.set_rng_seed(0))),
    "data_are_left_as_they_were": altered(Model, data=lambda self, x, index: x.mul_(1.01)),
    "training_mode_is_left_as_it_was": altered(Model, mean=mean(lambda self, z: 0.0 * float(self.train().training))),
    "parameters_are_left_as_they_were": altered(Model, mean=moved),
    "parameters_are_registered": started(
        Model,
        lambda self: vars(self).update(hidden=[torch.ones(3, requires_grad=True)]),
        mean=mean(lambda self, z: self.hidden[0]),
    ),
    "gradients_reach_every_parameter": started(
        Model, lambda self: setattr(self, "unused", nn.Parameter(torch.ones(2)))
    ),
    "parameters_fit_the_state_dict": started(
        Model, lambda self: vars(self).update(hidden=[torch.randn(3)]), mean=mean(lambda self, z: self.hidden[0])
    ),
    "copies_have_equal_densities": altered(Model, __deepcopy__=lambda self, memo: type(self)()),
    "instances_share_no_tensor": started(Model, lambda self: setattr(self, "slope", shared)),
    "instances_do_not_disturb_each_other": started(Model, lambda self: setattr(self, "slope", shared)),
    "seeded_weights_repeat": started(
        Model, lambda self: setattr(self, "offset", nn.Parameter(torch.randn(3, generator=own)))
    ),
    "tensors_are_parameters_or_buffers": started(Model, lambda self: vars(self).update(constant=torch.ones(3))),
    "train_and_eval_mode_agree": altered(Model, mean=mean(lambda self, z: float(self.training))),
    "works_in_double_precision": altered(
        Model, latent=lambda self: pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
    ),
    "moves_to_a_device": altered(Model, mean=mean(lambda self, z: torch.zeros(3))),
    "refusals_survive_python_O": Asserting,
    "captured_step_equals_the_ordinary_one": Counting,
    "observes_something": altered(Model, observe=lambda self, mean, x: Model.observe(self, mean, None)),
    "agreed_names": altered(
        Model,
        __module__="probgen.models.broken",
        latent=lambda self: pyro.sample("w", dist.Normal(torch.tensor(0.0), 1.0)),
    ),
    "generates_without_data": altered(Model, size=lambda self, num_samples: 1),
    "samples_are_data": altered(
        Model, forward=lambda self, x=None, *, num_samples=1: Model.forward(self, x, num_samples=num_samples).long()
    ),
    "num_samples_below_one_is_refused": altered(Model, size=lambda self, num_samples: max(1, int(num_samples))),
    "data_that_are_not_finite_are_refused": altered(Model, data=lambda self, x, index: torch.nan_to_num(x)),
    "data_outside_the_support_are_refused": altered(
        Model, data=lambda self, x, index: x.clamp(0.0, 1.0).round(), observe=bits
    ),
    "data_of_another_shape_are_refused": altered(Model, data=lambda self, x, index: x[..., :3]),
    "evidence_agrees_with_quadrature": altered(Model, log_evidence=lambda self, x: Model.log_evidence(self, x) + 0.1),
    "weights_are_log_weights": altered(
        Model, latent=lambda self: pyro.sample("z", dist.Normal(torch.randn(()), torch.tensor(1.0)))
    ),
}

# --- broken guides ---------------------------------------------------------------------------------------------------


def family(**members: Any) -> type:
    return altered(dist.Normal, **members)


def normal_log_prob(extra: Callable[[Any, Tensor], Any]) -> Callable[..., Tensor]:
    return lambda self, value: dist.Normal.log_prob(self, value) + extra(self, value)


def sampled(change: Callable[[Any, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda self, sample_shape=torch.Size(): change(self, dist.Normal.rsample(self, sample_shape))  # noqa: B008


def remembered(self: Any, value: Tensor) -> Tensor:
    self.drawn = value
    return value


def guide_of(name: str = "z", **options: Any) -> Callable[..., None]:
    """The forward of a guide with another site."""

    def forward(self: Guide, x: Tensor, **rest: Any) -> None:
        with self.plate(len(x)):
            pyro.sample(name, dist.Normal(self.loc(x), self.log_scale.exp()), **options)

    return forward


def vector(self: Guide, x: Tensor, **rest: Any) -> None:
    with self.plate(len(x)):
        pyro.sample("z", dist.Normal(self.loc(x)[:, None], self.log_scale.exp()).expand([len(x), 2]).to_event(1))


GUIDES: dict[str, Any] = {
    "samples_the_models_latent_sites": altered(Guide, forward=guide_of("w")),
    "observes_nothing": altered(Guide, forward=guide_of(obs=torch.zeros(6))),
    "event_shapes_are_the_models": altered(Guide, forward=vector),
    "plates_are_the_models": altered(Guide, plate=lambda self, size: pyro.plate("rows", size)),
    "pair_gives_log_weights": altered(Guide, family=family(log_prob=normal_log_prob(lambda self, v: v * math.nan))),
    "samples_have_a_path_where_claimed": altered(Guide, family=family(rsample=sampled(lambda self, v: v.detach()))),
    "density_of_a_sample_is_that_of_its_value": altered(
        Guide,
        family=family(
            rsample=sampled(remembered),
            log_prob=normal_log_prob(lambda self, v: 0.0 if v is getattr(self, "drawn", None) else 1.0),
        ),
    ),
    "frozen_guide_has_equal_densities": altered(Guide, loc=lambda self, x: Guide.loc(self, x) + torch.randn(len(x))),
    "density_is_normalised": altered(Guide, family=family(log_prob=normal_log_prob(lambda self, v: 0.1))),
    "weights_average_to_the_evidence": altered(
        Guide, family=family(rsample=sampled(lambda self, v: self.loc + 1.3 * (v - self.loc)))
    ),
    "bound_rises_with_particles": altered(
        Guide, family=family(log_prob=normal_log_prob(lambda self, v: 2.0 * float(v.dim() > 1)))
    ),
    "depends_on_the_data": altered(Guide, loc=lambda self, x: self.shift.expand(len(x)) + 0.0 * self.gain.sum()),
    "parameter_names_are_not_the_models": started(
        Guide,
        lambda self: setattr(self, "slope", nn.Parameter(torch.tensor(0.1))),
        loc=lambda self, x: Guide.loc(self, x) + self.slope,
    ),
}

# --- broken objectives -----------------------------------------------------------------------------------------------


def times(value: Tensor, factor: float) -> Tensor:
    """The same value with another gradient."""
    return value + (factor - 1.0) * (value - value.detach())


def combine(change: Callable[[Any, Tensor, Tensor], Any]) -> Callable[..., Any]:
    return lambda self, integrand: change(self, IWAE.combine(self, integrand), integrand)


def estimate(change: Callable[[Any, Estimate], Estimate]) -> Callable[..., Estimate]:
    return lambda self, terms: change(self, IWAE.estimate(self, terms))


def loss_of_player(change: Callable[[Loss], Loss]) -> Callable[..., Any]:
    def players(self: Objective, pair: Any, parameters: Any) -> Any:
        (player,) = IWAE.players(self, pair, parameters)
        return (replace(player, loss=lambda *args, **kwargs: change(player.loss(*args, **kwargs))),)

    return players


def graded(loss: Loss) -> Loss:
    loss.total.backward(retain_graph=True)
    return loss


class Doubled(Estimate):
    @property
    def loss(self) -> Tensor:
        return 2.0 * super().loss


def doubled(self: Any, found: Estimate) -> Estimate:
    return Doubled(**vars(found))


def keeping(self: Any, found: Estimate) -> Estimate:
    self.__dict__.setdefault("kept", []).append(found.surrogate)
    return found


def lenient(**replaced: Callable[[Any], Any]) -> Callable[..., None]:
    """An `__init__` that takes anything for some arguments."""

    def __init__(self: Any, *, num_particles: Any = 5, gradient: Any = "auto") -> None:
        given = {"num_particles": num_particles, "gradient": gradient}
        IWAE.__init__(self, **{k: replaced.get(k, lambda v: v)(v) for k, v in given.items()})

    return __init__


class Tempered(IWAE):
    def __init__(self, *, sharpness: float = 1.0, num_particles: int = 5, gradient: str = "auto") -> None:
        super().__init__(num_particles=num_particles, gradient=gradient)
        self.sharpness = sharpness

    def __repr__(self) -> str:
        return f"Tempered(sharpness={self.sharpness!r}, num_particles={self.num_particles}, gradient={self.gradient!r})"


class Halfway(IWAE):
    gradients = ("auto", "novel")

    def combine(self, integrand: Tensor) -> Tensor:
        if self.gradient == "novel":
            raise ProbgenError("something is wrong")
        return super().combine(integrand)


def count(number: Any) -> Any:
    return max(1, number) if isinstance(number, int) else 1


def first_pair(self: Any, model: Any, guide: Any = None) -> Any:
    if "first" not in vars(self):
        self.first = IWAE.__call__(self, model, guide)
    return self.first


def first_players(self: Any, pair: Any, parameters: dict[str, Tensor]) -> Any:
    return IWAE.players(self, pair, self.__dict__.setdefault("known", parameters))


def fewer(self: Any, pair: Any, parameters: dict[str, Tensor]) -> Any:
    return IWAE.players(self, pair, dict(list(parameters.items())[1:]))


def after_noise(self: Any, *args: Any) -> float:
    torch.randn(3)
    return IWAE.loss_and_grads(self, *args)


def broken(**members: Any) -> Callable[[], Any]:
    return altered(IWAE, **members)


OBJECTIVES: dict[str, Callable[[], Any]] = {
    "is_a_pyro_elbo": lambda: SimpleNamespace(),
    "zero_particles_are_refused": broken(__init__=lenient(num_particles=count)),
    "hyperparameters_out_of_range_are_named": Tempered,
    "unknown_gradient_names_the_nearest": broken(
        __init__=lenient(gradient=lambda name: name if name in IWAE.gradients else "auto")
    ),
    "refused_gradients_say_what_is_right": broken(
        __init__=lenient(gradient=lambda name: "auto" if name == "stl" else name)
    ),
    "every_gradient_runs_or_says_why_not": Halfway,
    "pathwise_gradients_refuse_a_discrete_site": broken(
        estimate=lambda self, terms: IWAE().estimate(terms) if torch.is_grad_enabled() else IWAE.estimate(self, terms)
    ),
    "repr_builds_it_again": lambda: broken(__repr__=lambda self: "BrokenIWAE()")(num_particles=7),
    "loss_is_finite_and_differentiable": broken(
        players=loss_of_player(lambda loss: Loss(loss.total.detach(), loss.report))
    ),
    "bound_is_per_datum_without_gradient": broken(bound=lambda self, *args: IWAE.bound(self, *args).mean()),
    "bound_repeats_with_the_seed": broken(combine=combine(lambda self, v, _: v + torch.randn(1, generator=own).to(v))),
    "loss_is_minus_the_scaled_bound": broken(estimate=estimate(doubled)),
    "report_is_detached": broken(players=loss_of_player(lambda loss: Loss(loss.total, {"loss": loss.total}))),
    "evaluation_needs_no_gradient": broken(combine=combine(lambda self, v, _: v + float(torch.is_grad_enabled()))),
    "bound_is_exact_at_the_posterior": broken(combine=combine(lambda self, v, _: v - 0.1)),
    "bound_is_below_the_evidence": broken(combine=combine(lambda self, v, _: v + 5.0)),
    "bound_of_a_datum_ignores_the_others": broken(combine=combine(lambda self, v, _: v - 0.1 * v.mean())),
    "particles_one_by_one_are_particles_at_once": broken(
        combine=combine(lambda self, v, _: v + 0.1 * self.vectorize_particles)
    ),
    "one_particle_gives_the_elbos_gradient": broken(combine=combine(lambda self, v, _: times(v, 2.0))),
    "subsampling_is_unbiased": broken(estimate=estimate(lambda self, found: replace(found, scale=1.0))),
    "scale_of_all_sites_multiplies_the_loss": broken(estimate=estimate(lambda self, found: replace(found, scale=1.0))),
    "finite_differences_of_the_model_agree": broken(combine=combine(lambda self, v, _: times(v, 2.0))),
    "players_share_out_the_parameters": broken(players=fewer),
    "steps_in_pyros_svi": broken(loss_and_grads=lambda self, *args: self.loss(*args)),
    "both_loops_take_the_same_step": broken(loss_and_grads=after_noise),
    "captured_step_equals_the_ordinary_one": broken(combine=combine(lambda self, v, _: v * v.sum().item())),
    "training_raises_the_evidence": broken(combine=combine(lambda self, v, _: times(v, -1.0))),
    "loss_leaves_parameters_as_they_were": broken(players=loss_of_player(graded)),
    "pairs_do_not_share_parameters": broken(__call__=first_pair, players=first_players),
    "keeps_no_graph_after_the_step": broken(estimate=lambda self, terms: _keep(self, terms)),
    "bad_data_are_refused_before_the_step": broken(
        bound=lambda self, model, guide, x: IWAE.bound(self, model, guide, torch.nan_to_num(x))
    ),
    "guide_of_other_sites_is_refused": broken(
        bound=lambda self, model, guide, x: torch.zeros(6) if guide is None else IWAE.bound(self, model, guide, x)
    ),
}


def _keep(self: Any, terms: Any) -> Estimate:
    self.__dict__.setdefault("kept", []).append(terms)
    return IWAE.estimate(self, terms)


# --- each is caught --------------------------------------------------------------------------------------------------


def model_case(make: Callable[[], Any], bits: bool = False) -> Case:
    def build() -> Subject:
        x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
        return Subject(make(), data=(x > 0).float() if bits else x)

    return Case("mutant", "model", build)


def guide_case(make: Callable[[], Any]) -> Case:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    return Case("mutant", "guide", lambda: Subject(Model(), make(), x))


def objective_case(make: Callable[[], Any]) -> Case:
    return Case("mutant", "objective", lambda: Subject(objective=make()))


def mutants() -> list[Any]:
    found = [("model", n, model_case(make, n == "data_outside_the_support_are_refused")) for n, make in MODELS.items()]
    found += [("guide", name, guide_case(make)) for name, make in GUIDES.items()]
    found += [("objective", name, objective_case(make)) for name, make in OBJECTIVES.items()]
    marks = {"moves_to_a_device": [needs_gpu]}
    return [pytest.param(n, case, id=f"{kind}-{n}", marks=marks.get(n, [])) for kind, n, case in found]


@pytest.mark.parametrize(("name", "case"), mutants())
def test_a_broken_object_is_caught(name: str, case: Case) -> None:
    (check,) = [each for each in CHECKS if each.name == name]
    with pytest.raises((CheckFailed, unittest.SkipTest), match=f"mutant-{name}: .*expected.*The contract: ") as caught:
        perform(check, case)
    assert isinstance(caught.value, AssertionError)


UNBROKEN = {"runs_on_a_gpu", "spec_builds_it"}  # the one as `moves_to_a_device`, the other below


def test_every_check_has_a_mutant() -> None:
    assert {each.name for each in CHECKS} - set(MODELS) - set(GUIDES) - set(OBJECTIVES) == UNBROKEN


def test_a_spec_that_loses_an_argument_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IWAE, "__repr__", lambda self: "IWAE()")
    (check,) = [each for each in CHECKS if each.name == "spec_builds_it"]
    with pytest.raises(CheckFailed, match=r"differs in .*'num_particles'"):
        perform(check, objective_case(lambda: IWAE(num_particles=7)))


# --- what keeps the contracts passes ---------------------------------------------------------------------------------


def failures(report: Any) -> list[str]:
    return [outcome.message for outcome in report.having("failed")]


def test_the_whole_ones_pass() -> None:
    x = torch.randn(6, 3)
    assert failures(check_model(Model(), Guide(), x, raises=False)) == []
    assert failures(check_guide(Guide(), Model(), x, raises=False)) == []


def plain_model(x: Tensor) -> None:
    scale = pyro.param("noise", torch.tensor(1.0), constraint=dist.constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z**2, scale), obs=x)


def plain_guide(x: Tensor) -> None:
    slope, width = pyro.param("slope", torch.tensor(0.4)), pyro.param("width", torch.tensor(0.2))
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(slope * x, width.exp()))


def test_a_plain_pyro_pair_passes_and_is_left_as_it_was() -> None:
    x = torch.randn(7) ** 2
    state = torch.get_rng_state()
    for report in (
        check_model(plain_model, plain_guide, x),
        check_guide(plain_guide, plain_model, x),
        check_guide(AutoNormal(plain_model), plain_model, x),
        check_objective(Renyi(alpha=0.5), plain_model, plain_guide, x),
        check_objective(ELBO(num_particles=2), plain_model, AutoNormal(plain_model), (x,)),
    ):
        assert len(report.having("passed")) >= 20
    assert not list(pyro.get_param_store().keys())
    assert torch.equal(torch.get_rng_state(), state)


def test_functions_over_modules_are_left_as_they_were() -> None:
    net = nn.Linear(1, 1)
    before = [p.detach().clone() for p in net.parameters()]

    def model(x: Tensor) -> None:
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

    check_model(model, data=torch.randn(5, 1))
    check_objective(ELBO(), model, AutoNormal(model), torch.randn(5, 1))
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, net.parameters(), strict=True))


# --- what they say ---------------------------------------------------------------------------------------------------


def test_a_failure_lists_all_that_fail_and_a_report_says_why_checks_are_skipped() -> None:
    x = torch.randn(6, 3)
    with pytest.raises(CheckFailed, match=r"\d of \d+ checks fail\n(?s:.*)BrokenModel-density_repeats: the density at"):
        check_model(MODELS["density_repeats"](), data=x)
    report = check_model(plain_model, data=x[:, 0], raises=False)
    assert all(outcome.message for outcome in report.having("skipped"))
    assert f"plain_model: {len(report.having('passed'))} passed, 0 failed" in str(report)
    with pytest.raises(
        ArgumentError, match="'seeded_sample' is no check of a model; did you mean 'seeded_samples_repeat'"
    ):
        check_model(plain_model, data=x[:, 0], skip=["seeded_sample"])
    chosen = check_model(
        MODELS["train_and_eval_mode_agree"](), data=x, skip=["train_and_eval_mode_agree"], raises=False
    )
    assert [o.message for o in chosen.outcomes if o.name == "train_and_eval_mode_agree"] == ["as asked"]


def test_data_are_asked_for() -> None:
    with pytest.raises(ArgumentError, match="pass `data`: the model takes no `num_samples`"):
        check_guide(plain_guide, plain_model)
    with pytest.raises(ArgumentError, match="`model` must be callable, got int"):
        check_model(3)  # type: ignore[arg-type]


def test_checks_are_many_and_each_says_what_it_holds() -> None:
    assert len(CHECKS) >= 40
    assert len({each.name for each in CHECKS}) == len(CHECKS)
    for each in CHECKS:
        first, _, rest = each.claim.partition("\n")
        assert first.endswith(".")
        assert not rest
        assert len(first) > 60, each.name
    assert all(names_of_checks(kind) for kind in KINDS)


def test_ids_of_parameters_are_readable() -> None:
    bound = bound_checks([Case("mine", "model", lambda: Subject(Model()))])
    assert "mine-seeded_samples_repeat" in [each.id for each in bound]
    mark = parametrize_with_checks([Case("mine", "guide", lambda: Subject(Model(), Guide()))])
    assert mark.mark.kwargs["ids"][0] == "mine-runs_on_the_data"
    with pytest.raises(ArgumentTypeError, match=r"`cases` must hold `probgen.testing.Case`s"):
        parametrize_with_checks([Model()])  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match="`kind`: 'models' is unknown; did you mean 'model'"):
        Case("mine", "models", Model)


def test_a_check_that_does_not_apply_is_a_skip_of_pytest() -> None:
    bound = {
        each.check.name: each for each in bound_checks([Case("f", "model", lambda: Subject(plain_model, None, X))])
    }
    with pytest.raises(unittest.SkipTest, match="the model is a function"):
        bound["seeded_weights_repeat"]()


X = torch.ones(4)
