"""Captured steps are the ordinary ones, bit for bit; what cannot be captured is refused."""

import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn
from torch.distributions import constraints
from torch.utils.data import DataLoader, TensorDataset

from probgen import SVI
from probgen.data import Dataset
from probgen.errors import ProgramError, UnsupportedObjective
from probgen.objectives import ELBO, IWAE, MIWAE, MaximumLikelihood
from probgen.svi import warmup_cosine

CASES = {
    "pathwise": (ELBO(), {}),
    "analytic": (ELBO(num_particles=2, kl="analytic"), {}),
    "stl": (ELBO(num_particles=2, gradient="stl"), {}),
    "one-by-one": (ELBO(num_particles=2, vectorize_particles=False), {}),
    "dreg": (IWAE(num_particles=3, gradient="dreg"), {}),
    "miwae-dreg": (MIWAE(num_particles=(2, 3), gradient="dreg"), {}),
    "score-function": (ELBO(num_particles=2), {"discrete": True}),
    "batch-norm": (ELBO(), {"batch_norm": True}),
    "batch-norm-iwae": (IWAE(num_particles=3, gradient="dreg"), {"batch_norm": True}),
    "dropout": (ELBO(), {"dropout": 0.5}),
    "all": (IWAE(num_particles=3), {"dropout": 0.3, "batch_norm": True, "discrete": True}),
}


@pytest.fixture
def both(adam, tensors_of, assert_same):
    """Trains two pairs, one captured, and compares parameters, buffers and losses."""

    def check(build, objective, data, **options):
        ends = []
        for capture in (False, True):
            pyro.clear_param_store()
            svi = SVI(*build(), adam, objective, schedule=warmup_cosine(2), max_grad_norm=5.0, capture=capture)
            result = svi.run(data, seed=1, progress=False, **{"batch_size": 10, "num_steps": 5} | options)
            ends.append((tensors_of(svi) | {"losses": result.losses}, result))
        assert_same(ends[0][0], ends[1][0])
        return ends[1][1]

    return check


@pytest.mark.parametrize(("objective", "options"), CASES.values(), ids=CASES)
def test_same_bits(nets, x, both, objective, options):
    result = both(lambda: nets(**options), objective, x)
    assert len(result.losses) == 5


def test_same_bits_for_a_smaller_last_batch(nets, x, both):
    both(lambda: nets(batch_norm=True), ELBO(), x, batch_size=8, num_steps=7)  # 8, 8, 4, 8, 8, 4, 8


@pytest.mark.parametrize("kind", ["dict", "tuple", "loader", "dynamic"])
def test_same_bits_for_every_kind_of_batch(nets, x, both, kind):
    y = torch.arange(20) % 2
    data = {
        "dict": {"y": y, "x": x},
        "tuple": (x, y),
        "loader": DataLoader(TensorDataset(x, y), batch_size=8),
        "dynamic": Dataset(x.sigmoid(), binarize="dynamic"),
    }[kind]
    both(nets, ELBO(), data)


def declared_pair():
    def model(x):
        loc = pyro.param("loc", torch.tensor(0.5))  # single numbers, which a tracer may take for constants
        scale = pyro.param("scale", torch.tensor([0.8]), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            pyro.sample("x", dist.Normal(z + loc, scale).expand([len(x), 3]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            width = pyro.param("width", torch.tensor(0.5), constraint=constraints.interval(0.1, 2.0))
            pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True), width).to_event(1))

    return model, guide


def test_same_bits_for_declared_parameters(x, both):
    both(declared_pair, ELBO(), x, num_steps=10)


def test_same_bits_for_a_lazy_guide_and_a_subsampled_plate(x, both):
    def build():
        def model(x):
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x), subsample_size=5) as indices:
                pyro.sample("x", dist.Normal(loc, 1.0).expand([3]).to_event(1), obs=x[indices])

        return model, AutoNormal(model)

    both(build, ELBO(), x, batch_size=20)


def test_same_bits_without_a_guide(likelihood_model, x, both):
    both(lambda: (likelihood_model(), None), MaximumLikelihood(), x)


def test_parameters_without_gradient_in_a_graph(linear, x, both):
    def build():
        model, guide = linear()
        model.bias.requires_grad_(False)
        return model, guide

    result = both(build, ELBO(), x)
    assert "model.bias" not in result.params


def test_step_is_captured_too(make_svi, x):
    pyro.set_rng_seed(0)
    expected = make_svi().step(x)
    pyro.set_rng_seed(0)
    assert make_svi(capture=True).step(x) == expected


def test_handlers_run_at_capture_alone(likelihood_model, x, adam):
    calls = []
    model = likelihood_model()
    forward = model.forward
    model.forward = lambda x: (calls.append(len(x)), forward(x))[1]
    svi = SVI(model, None, adam, MaximumLikelihood(), capture=True)
    svi.run(x, num_steps=2, seed=0, progress=False)
    before = len(calls)
    svi.run([x] * 5, num_epochs=4, seed=0, progress=False)
    assert len(calls) - before < 4  # trials before the first step


# --- refusals -----------------------------------------------------------------------------------------------------


class Awkward(PyroModule):
    """x ~ N(loc, scale), where ``loc`` is what a function makes of the module and the batch."""

    def __init__(self, function):
        super().__init__()
        self.loc = nn.Parameter(torch.ones(()))
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.function = function
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        loc = self.function(self, x)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, self.log_scale.exp()).expand([len(x), 3]).to_event(1), obs=x)


READS = {
    "item": lambda m, x: m.loc * x.mean().item(),
    "float": lambda m, x: m.loc * float(x[0, 0]),
    "if": lambda m, x: m.loc if x.sum() > 0 else -m.loc,
    "tolist": lambda m, x: m.loc * x.mean().tolist(),
    "numpy": lambda m, x: m.loc * float(x.numpy().mean()),
    "array": lambda m, x: m.loc * float(np.asarray(x).mean()),
    "parameter": lambda m, x: m.loc * m.log_scale.exp().item(),
}
STATEFUL = {
    "counter": lambda m, x: m.loc * min(1.0, m.calls / 100),
    "slow-counter": lambda m, x: m.loc * min(1.0, m.calls / 10_000),
    "random": lambda m, x: m.loc * random.random(),
    "numpy-random": lambda m, x: m.loc * np.random.random(),
}


@pytest.mark.parametrize("function", READS.values(), ids=READS)
def test_reading_a_tensor_is_refused(x, adam, function):
    svi = SVI(Awkward(function), None, adam, MaximumLikelihood(), capture=True)
    with pytest.raises(ProgramError, match="reads a tensor's value into Python") as error:
        svi.run(x, num_steps=3, seed=0, progress=False)
    assert "`capture=False`" in str(error.value)
    SVI(Awkward(function), None, adam, MaximumLikelihood()).run(x, num_steps=3, seed=0, progress=False)


@pytest.mark.parametrize("function", STATEFUL.values(), ids=STATEFUL)
def test_state_and_randomness_in_python_are_refused(x, adam, function):
    model = Awkward(function)
    svi = SVI(model, None, adam, MaximumLikelihood(), capture=True)
    with pytest.raises(ProgramError, match="keeps state or randomness in Python"):
        svi.run(x, num_steps=3, seed=0, progress=False)
    assert model.loc == 1
    assert svi.state.step == 0


def test_arguments_that_are_no_tensors_are_refused(nets, x, adam):
    svi = SVI(*nets(), adam, ELBO(), capture=True)
    with pytest.raises(ProgramError, match="needs batches of tensors alone"):
        svi.step(x, None)


def test_refusals_of_the_objective_pass_through(nets, x, adam):
    svi = SVI(*nets(discrete=True), adam, IWAE(num_particles=2, gradient="dreg"), capture=True)
    with pytest.raises(UnsupportedObjective, match="`rsample`"):
        svi.step(x)


def test_nothing_moves_before_the_first_step(nets, x, adam, tensors_of, assert_same):
    svi = SVI(*nets(batch_norm=True), adam, ELBO(), capture=True)
    before, state = tensors_of(svi), torch.get_rng_state()
    with pytest.raises(ProgramError):
        svi.step(x, "label")
    after = tensors_of(svi)
    assert_same({name: after[name] for name in before}, before)
    assert torch.equal(torch.get_rng_state(), state)
