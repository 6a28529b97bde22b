"""The several faces of a loss agree, under Pyro and under torch, eager and traced."""

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule
from pyro.optim import SGD
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from probgen.objectives import ELBO, IWAE, MIWAE, Renyi

OBJECTIVES = {
    "elbo": lambda: ELBO(num_particles=2),
    "elbo-beta": lambda: ELBO(num_particles=2, beta=0.3),
    "stl": lambda: ELBO(num_particles=2, gradient="stl"),
    "iwae": lambda: IWAE(num_particles=3),
    "dreg": lambda: IWAE(num_particles=3, gradient="dreg"),
    "miwae": lambda: MIWAE(num_particles=(2, 3), gradient="dreg"),
    "renyi": lambda: Renyi(alpha=0.5, num_particles=2),
}
objectives = pytest.mark.parametrize("build", list(OBJECTIVES.values()), ids=list(OBJECTIVES))
score_objectives = pytest.mark.parametrize("build", [OBJECTIVES[n] for n in ("elbo", "elbo-beta", "iwae", "renyi")])


def seeded(function, *args, seed=4):
    pyro.set_rng_seed(seed)
    return function(*args)


@objectives
def test_loss_loss_and_grads_and_differentiable_loss_agree(build, logistic):
    problem = logistic.build(5)
    args = problem.model, problem.guide, problem.data
    objective = build()
    assert isinstance(objective, pyro.infer.ELBO)
    differentiable = seeded(objective.differentiable_loss, *args)
    assert seeded(objective.loss, *args) == differentiable.item()
    assert seeded(objective.loss_and_grads, *args) == differentiable.item()
    parameters = [*problem.model.parameters(), *problem.guide.parameters()]
    expected = torch.autograd.grad(differentiable, parameters, allow_unused=True, materialize_grads=True)
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert torch.equal(parameter.grad if parameter.grad is not None else torch.zeros_like(parameter), gradient)
    pyro.clear_param_store()
    assert seeded(build()(problem.model, problem.guide), problem.data).item() == differentiable.item()


@objectives
def test_the_loss_module_holds_the_parameters_of_both_programs(build, logistic):
    problem = logistic.build(5)
    pair = build()(problem.model, problem.guide)
    assert isinstance(pair, nn.Module)
    names = {f"model.{n}" for n, _ in problem.model.named_parameters()}
    assert set(dict(pair.named_parameters())) == names | {f"guide.{n}" for n, _ in problem.guide.named_parameters()}


def test_the_loss_module_of_two_methods_holds_the_parameters_of_their_object(logistic):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder, self.encoder = nn.Linear(1, 1), nn.Linear(1, 1)

        def model(self, x):
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

        def guide(self, x):
            pyro.module("encoder", self.encoder)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))

    both = Both()
    pair = IWAE(num_particles=3, gradient="dreg")(both.model, both.guide)
    assert {id(p) for p in pair.parameters()} == {id(p) for p in both.parameters()}
    pair(torch.randn(4, 1)).backward()
    assert all(p.grad is not None for p in both.parameters())


@score_objectives
def test_the_loss_is_minus_the_bound_and_never_the_surrogate(build, mixture):
    problem = mixture.build(5)
    pair = build()(problem.model, problem.guide)
    estimate = seeded(pair.estimate, problem.data)
    loss = seeded(pair, problem.data)
    torch.testing.assert_close(loss.detach(), -estimate.value.sum(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(estimate.loss.detach(), -estimate.value.sum(), rtol=1e-12, atol=1e-12)
    assert (estimate.surrogate.detach() - estimate.value).abs().max() > 1e-3
    assert torch.equal(seeded(pair.bound, problem.data), estimate.bound)
    regularized = getattr(pair.objective, "beta", 1.0) != 1.0
    assert torch.equal(estimate.bound, estimate.value) is not regularized


def test_a_beta_elbo_reports_the_plain_bound(logistic):
    problem = logistic.build(5)
    plain = seeded(ELBO(num_particles=2).bound, problem.model, problem.guide, problem.data)
    for kl in ("monte-carlo", "analytic"):
        reported = seeded(ELBO(num_particles=2, beta=0.1, kl=kl).bound, problem.model, problem.guide, problem.data)
        exact = seeded(ELBO(num_particles=2, kl=kl).bound, problem.model, problem.guide, problem.data)
        torch.testing.assert_close(reported, exact, rtol=1e-12, atol=1e-12)
        if kl == "monte-carlo":
            torch.testing.assert_close(reported, plain, rtol=1e-12, atol=1e-12)


@objectives
def test_evaluation_without_gradients_gives_the_same_bound(build, logistic):
    problem = logistic.build(5)
    pair = build()(problem.model, problem.guide)
    with torch.no_grad():
        loss = seeded(pair, problem.data)
    assert not loss.requires_grad
    assert loss == seeded(pair, problem.data).detach()
    assert not seeded(pair.bound, problem.data).requires_grad


@objectives
def test_particles_one_by_one_are_particles_at_once(build, logistic, assert_mean):
    problem = logistic.build(4000)
    at_once, one_by_one = build(), build()
    one_by_one.vectorize_particles = False
    first, second = (o.bound(problem.model, problem.guide, problem.data) for o in (at_once, one_by_one))
    assert_mean(first - second)


def test_one_particle_gives_the_loss_of_pyro(logistic):
    problem = logistic.build(5)
    args = problem.model, problem.guide, problem.data
    for ours, pyros in (
        (ELBO(), Trace_ELBO()),
        (ELBO(num_particles=3, max_plate_nesting=1), Trace_ELBO(3, max_plate_nesting=1, vectorize_particles=True)),
        (ELBO(kl="analytic"), TraceMeanField_ELBO()),
        (ELBO(num_particles=3, vectorize_particles=False), Trace_ELBO(3)),
    ):
        assert seeded(ours.loss, *args) == pytest.approx(seeded(pyros.loss, *args), rel=1e-12)


@objectives
def test_pyro_svi_steps_as_torch_does(build, logistic):
    problem, other = logistic.build(5), logistic.build(5)
    svi = SVI(problem.model, problem.guide, SGD({"lr": 0.1}), build())
    loss = seeded(svi.step, problem.data)
    pair = build()(other.model, other.guide)
    optimizer = torch.optim.SGD(pair.parameters(), lr=0.1)
    ours = seeded(pair, other.data)
    ours.backward()
    optimizer.step()
    assert ours.item() == loss
    for a, b in zip(pair.parameters(), [*problem.model.parameters(), *problem.guide.parameters()], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)
    assert isinstance(svi.evaluate_loss(problem.data), float)


@pytest.mark.parametrize("objective", [IWAE(num_particles=2), IWAE(num_particles=2, gradient="dreg")])
def test_one_objective_serves_several_pairs(objective, logistic):
    first, second = logistic.build(5), logistic.build(3)
    a, b = objective(first.model, first.guide), objective(second.model, second.guide)
    assert objective.bound(first.model, first.guide, first.data).shape == (5,)
    assert objective.bound(second.model, second.guide, second.data).shape == (3,)
    assert a.bound(first.data).shape == (5,)
    assert b.bound(second.data).shape == (3,)


# --- traced -----------------------------------------------------------------------------------------------------------


def loss_and_gradients(pair):
    def function(parameters, x):
        loss = torch.func.functional_call(pair, parameters, (x,))
        return [loss, *torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)]

    return function


def check_traced(pair, x):
    parameters = dict(pair.named_parameters())
    function = loss_and_gradients(pair)
    with pyro.validation_enabled(False):
        graph = make_fx(function)(parameters, x)
        traced, eager = seeded(graph, parameters, x), seeded(function, parameters, x)
        assert all(torch.equal(a, b) for a, b in zip(traced, eager, strict=True))
        moved = {name: nn.Parameter(p.detach() + 0.1) for name, p in parameters.items()}
        traced, eager = seeded(graph, moved, 1 - x), seeded(function, moved, 1 - x)
        assert all(torch.equal(a, b) for a, b in zip(traced, eager, strict=True))
    random = [node for node in graph.graph.nodes if "normal" in str(node.target) or "bernoulli" in str(node.target)]
    assert len(random) <= 2 * pair.objective.num_particles


@objectives
@pytest.mark.parametrize("vectorize", [True, False])
def test_a_traced_loss_equals_the_eager_one_bit_for_bit(build, vectorize, logistic):
    problem = logistic.build(5)
    objective = build()
    objective.vectorize_particles = vectorize
    check_traced(objective(problem.model, problem.guide), problem.data)


@score_objectives
def test_a_traced_score_function_equals_the_eager_one_bit_for_bit(build, mixed):
    problem = mixed.build(5)
    check_traced(build()(problem.model, problem.guide), problem.data)


def test_tracing_a_hierarchical_guide_keeps_its_hooks(logistic):
    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(0.7))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                a = pyro.sample("a", dist.Normal(self.slope, 1.0))
                pyro.sample("z", dist.Normal(self.slope * a, 1.0))

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            z = pyro.sample("z", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    check_traced(IWAE(num_particles=3, gradient="dreg")(model, Guide()), torch.tensor([0.3, 1.0]))
