"""Pairs never share tensors; Pyro's store is left as a run found it."""

import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import SVI
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from pyro.optim import SGD
from torch import nn

from probgen.errors import ProgramError
from probgen.objectives import ELBO, IWAE, MIWAE, MaximumLikelihood, Renyi
from probgen.programs import RunOptions, log_weights, trace_pair

OBJECTIVES = [
    ELBO(),
    ELBO(num_particles=3, gradient="stl"),
    ELBO(num_particles=2, kl="analytic", beta=0.5),
    IWAE(num_particles=3),
    IWAE(num_particles=3, gradient="dreg"),
    IWAE(num_particles=3, gradient="dreg", vectorize_particles=False),
    MIWAE(num_particles=(2, 2), gradient="dreg"),
    Renyi(alpha=0.5, num_particles=2),
]
objectives = pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)


def state(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def moved(module, before):
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


def step(pair, x):
    optimizer = torch.optim.SGD(pair.parameters(), lr=0.01)
    pair(x).backward()
    optimizer.step()


# --- two pairs of one class -----------------------------------------------------------------------------------------


class ParamGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = PyroParam(torch.randn(2))
        self.scale = PyroParam(torch.rand(2) + 0.5, constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc, self.scale).to_event(1))


@objectives
@pytest.mark.parametrize("constrained", [False, True])
def test_training_one_pair_does_not_move_another_of_its_class(objective, constrained, amortized):
    guide = ParamGuide if constrained else amortized.Guide
    first, second = (objective(amortized.Model(), guide()) for _ in range(2))
    initial = state(second)
    step(first, amortized.x)
    second(amortized.x)
    assert not moved(second, initial)
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    before = state(first)
    step(second, amortized.x)
    assert moved(second, initial) == set(initial)
    assert not moved(first, before)


def test_the_second_pair_is_evaluated_with_its_own_weights(amortized):
    pairs = [(amortized.Model(), amortized.Guide()) for _ in range(2)]
    alone = [log_weights(*pair, amortized.x, seed=0) for pair in pairs]
    assert not torch.allclose(*alone)
    torch.testing.assert_close(log_weights(*pairs[1], amortized.x, seed=0), alone[1], rtol=0, atol=0)


def test_two_autoguides_of_one_class_are_apart(amortized):
    model = amortized.Model()
    guides = [AutoNormal(model), AutoNormal(model)]
    for guide in guides:
        ELBO()(model, guide)(amortized.x)
    before = state(guides[1])
    step(ELBO()(model, guides[0]), amortized.x)
    assert not moved(guides[1], before)


def test_modules_leave_nothing_in_the_store(amortized):
    IWAE(gradient="dreg")(amortized.Model(), amortized.Guide())(amortized.x).backward()
    assert not list(pyro.get_param_store().keys())


def test_a_pair_of_modules_runs_beside_a_trained_one_in_the_store(amortized):
    first = amortized.Model(), amortized.Guide()
    SVI(*first, SGD({"lr": 0.01}), ELBO()).step(amortized.x)
    stored = dict(pyro.get_param_store().named_parameters())
    second = amortized.Model(), amortized.Guide()
    before = {name: value.detach().clone() for name, value in stored.items()}
    pair = ELBO()(*second)
    initial = state(pair)
    step(pair, amortized.x)
    assert moved(pair, initial) == set(initial)
    after = dict(pyro.get_param_store().named_parameters())
    assert all(after[name] is stored[name] and torch.equal(after[name], before[name]) for name in stored)


# --- under pyro.infer.SVI -------------------------------------------------------------------------------------------


@objectives
def test_modules_train_under_pyro_svi(objective, amortized):
    model, guide = amortized.Model(), amortized.Guide()
    before = state(model), state(guide)
    svi = SVI(model, guide, SGD({"lr": 0.01}), objective)
    losses = [svi.step(amortized.x) for _ in range(3)]
    assert moved(model, before[0]) == set(before[0])
    assert moved(guide, before[1]) == set(before[1])
    assert all(isinstance(loss, float) for loss in losses)


def test_a_model_and_a_guide_with_one_submodule_name_are_refused_under_pyro_svi_alone(amortized):
    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.decoder = nn.Linear(3, 2)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.decoder(x), 1.0).to_event(1))

    model, guide = amortized.Model(), Guide()
    with pytest.raises(ProgramError, match=r"'decoder.*weight' in Pyro's store is another module's tensor"):
        SVI(model, guide, SGD({"lr": 0.01}), ELBO()).step(amortized.x)
    pyro.clear_param_store()
    ELBO()(model, guide)(amortized.x).backward()
    assert all(p.grad is not None for p in [*model.parameters(), *guide.parameters()])


@pytest.mark.parametrize("constrained", [False, True])
def test_a_second_pair_of_the_same_names_is_refused_under_pyro_svi(constrained, amortized):
    guide = ParamGuide if constrained else amortized.Guide
    SVI(amortized.Model(), guide(), SGD({"lr": 0.01}), ELBO()).step(amortized.x)
    second = SVI(amortized.Model(), guide(), SGD({"lr": 0.01}), ELBO())
    with pytest.raises(ProgramError, match=r"in Pyro's store is another module's tensor.*`pyro.clear_param_store\(\)`"):
        second.step(amortized.x)
    pyro.clear_param_store()
    second.step(amortized.x)


def test_a_second_guide_with_pyro_params_of_the_same_names_is_refused_under_pyro_svi(amortized):
    model = amortized.Model()
    SVI(model, ParamGuide(), SGD({"lr": 0.01}), ELBO()).step(amortized.x)
    guide = ParamGuide()
    before = state(guide)
    with pytest.raises(ProgramError, match=r"the parameter '.*(loc|scale)' in Pyro's store is another module's tensor"):
        SVI(model, guide, SGD({"lr": 0.01}), ELBO()).step(amortized.x)
    assert not moved(guide, before)


def model_of_statements(x):
    slope = pyro.param("slope", torch.tensor(1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(slope * z, 1.0), obs=x)


def guide_of_statements(x):
    loc = pyro.param("loc", torch.zeros(()))
    scale = pyro.param("scale", torch.ones(()), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, scale))


X = torch.tensor([0.5, 2.0, -0.7, 1.5], dtype=torch.float64)


@objectives
def test_param_statements_train_under_pyro_svi(objective):
    svi = SVI(model_of_statements, guide_of_statements, SGD({"lr": 0.01}), objective)
    svi.step(X)
    store = pyro.get_param_store()
    assert set(store.keys()) == {"slope", "loc", "scale"}
    assert all(store[name] != initial for name, initial in {"slope": 1.0, "loc": 0.0, "scale": 1.0}.items())
    first = {name: store[name].detach().clone() for name in store}
    svi.step(X)
    assert all(store[name] != first[name] for name in store)


def test_maximum_likelihood_trains_under_pyro_svi():
    def model(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def no_guide(x):
        pass

    svi = SVI(model, no_guide, SGD({"lr": 0.25}), MaximumLikelihood())
    svi.step(X)
    torch.testing.assert_close(pyro.param("loc"), 0.25 * X.sum())


@objectives
def test_autoguides_train_under_pyro_svi(objective):
    guide = AutoNormal(model_of_statements)
    svi = SVI(model_of_statements, guide, SGD({"lr": 0.01}), objective)
    svi.step(X)
    before = state(guide)
    svi.step(X)
    assert moved(guide, before) == set(before)


# --- param statements -----------------------------------------------------------------------------------------------


def test_param_statements_are_kept_in_the_store():
    ELBO()(model_of_statements, guide_of_statements)(X).backward()
    store = pyro.get_param_store()
    assert set(store.keys()) == {"slope", "loc", "scale"}
    assert all(value.grad is not None for value in store._params.values())
    with torch.no_grad():
        store._params["loc"].add_(3.0)
    assert trace_pair(model_of_statements, guide_of_statements, (X,), {}, RunOptions()).sites[0].q.loc[0] == 3.0


def another_guide(x):
    loc = pyro.param("loc", torch.ones(()))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 1.0))


@pytest.mark.parametrize("private", [True, False])
def test_two_programs_with_one_param_name_are_refused(private):
    options = RunOptions(private=private)
    trace_pair(model_of_statements, guide_of_statements, (X,), {}, options)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(
        ProgramError, match="the parameter 'loc' in Pyro's store belongs to another program, `guide_of_stat"
    ):
        trace_pair(model, another_guide, (X,), {}, options)
    with pyro.get_param_store().scope():
        trace_pair(model, another_guide, (X,), {}, options)
        assert pyro.param("loc") == 1.0
    assert pyro.param("loc") == 0.0


def test_model_and_guide_of_one_pair_may_share_a_param_statement():
    def model(x):
        loc = pyro.param("loc", torch.ones(()))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    for _ in range(2):
        ELBO()(model, another_guide)(X).backward()
    assert list(pyro.get_param_store().keys()) == ["loc"]


def test_the_store_can_be_saved_after_a_run(tmp_path):
    ELBO()(model_of_statements, guide_of_statements)(X)
    pyro.get_param_store().save(str(tmp_path / "store"))
    assert (tmp_path / "store").stat().st_size > 0


def test_a_param_statement_with_the_name_of_a_stored_module_parameter_is_refused(amortized):
    SVI(amortized.Model(), ParamGuide(), SGD({"lr": 0.01}), ELBO()).step(amortized.x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0))

    with pytest.raises(
        ProgramError, match=r"the parameter 'loc' of a `pyro.param` statement has the name of a module's"
    ):
        ELBO()(model_of_statements, guide)(X)


# --- nothing else changes -------------------------------------------------------------------------------------------


def generators():
    return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()


def same(a, b):
    return torch.equal(a[0], b[0]) and np.array_equal(a[1], b[1]) and a[2] == b[2]


class NormGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.net = nn.Linear(3, 2)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(self.norm(x)), 1.0).to_event(1))

    def program(self, x):
        self(x)


@pytest.mark.parametrize("gradient", ["auto", "dreg"])
@pytest.mark.parametrize("method", [False, True], ids=["module", "bound-method"])
def test_finding_the_plate_nesting_changes_neither_generators_nor_buffers(gradient, method, amortized):
    torch.manual_seed(3)
    model, given, found = amortized.Model(), NormGuide(), NormGuide()
    found.load_state_dict(given.state_dict())
    losses = []
    for guide, nesting in ((given, 1), (found, float("inf"))):
        pyro.set_rng_seed(0)
        program = guide.program if method else guide
        pair = IWAE(num_particles=3, gradient=gradient, max_plate_nesting=nesting)(model, program)
        losses.append(pair(amortized.x))
    assert losses[0] == losses[1]
    assert given.norm.num_batches_tracked == found.norm.num_batches_tracked == 1
    torch.testing.assert_close(given.norm.running_mean, found.norm.running_mean, rtol=0, atol=0)


@pytest.mark.parametrize("side", ["model", "guide"])
@pytest.mark.parametrize("count", [1, 3])
def test_an_error_inside_a_program_leaves_store_and_generators(side, count):
    def failing(x):
        pyro.param("fresh", torch.zeros(()))
        (model_of_statements if side == "model" else guide_of_statements)(x)
        raise KeyError("inside")

    trace_pair(model_of_statements, guide_of_statements, (X,), {}, RunOptions())
    store, before = dict(pyro.get_param_store().named_parameters()), generators()
    pair = (failing, guide_of_statements) if side == "model" else (model_of_statements, failing)
    with pytest.raises(ProgramError, match="KeyError: 'inside'"):
        log_weights(*pair, X, num_particles=count, seed=1)
    after = dict(pyro.get_param_store().named_parameters())
    assert after.keys() == store.keys()
    assert all(after[name] is store[name] for name in store)
    assert same(generators(), before)


def test_an_error_leaves_no_pyro_handler_behind(amortized):
    def failing(x):
        raise KeyError("inside")

    with pytest.raises(ProgramError, match="KeyError"):
        log_weights(failing, amortized.Guide(), amortized.x, num_particles=3)
    assert pyro.poutine.runtime._PYRO_STACK == []
