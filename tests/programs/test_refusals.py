"""Pairs and data that are refused, and what the message says."""

import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import nn

from probgen.errors import ArgumentError, DataError, ProbgenError, ProgramError, UnsupportedObjective
from probgen.programs import RunOptions, log_weights, trace_pair

both_counts = pytest.mark.parametrize("count", [1, 3])


def one_site(name="z", event=(), plate="data", dim=None, observe=False):
    def program(x):
        with pyro.plate(plate, len(x), dim=dim):
            fn = dist.Normal(0.0, 1.0).expand(event).to_event(len(event))
            pyro.sample(name, fn, obs=x.reshape(len(x), *(1 for _ in event)) if observe else None)

    return program


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


X = torch.tensor([0.3, -0.5, 1.2, 0.4], dtype=torch.float64)


# --- sites ----------------------------------------------------------------------------------------------------------


@both_counts
def test_a_site_that_only_the_guide_has(count):
    with pytest.raises(ProgramError, match=r"guide samples site 'w', which the model lacks \(the model has 'z', 'x'\)"):
        log_weights(model, one_site("w"), X, num_particles=count)


@both_counts
def test_a_site_that_only_the_model_has(count):
    with pytest.raises(ProgramError, match=r"model samples site 'z', which the guide lacks \(the guide has none\)"):
        log_weights(model, None, X, num_particles=count)


@both_counts
def test_a_site_that_the_guide_observes(count):
    with pytest.raises(ProgramError, match="guide observes site 'z'; only the model may pass `obs=`"):
        log_weights(model, one_site("z", observe=True), X, num_particles=count)


@both_counts
def test_a_site_that_the_guide_samples_and_the_model_observes(count):
    with pytest.raises(ProgramError, match="site 'x' is observed in the model"):
        log_weights(model, one_site("x"), X, num_particles=count)


@both_counts
def test_event_shapes_that_differ_are_named_before_the_model_fails_on_them(count):
    net = nn.Linear(2, 1).double()

    def decoder(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(net(z)[..., 0], 1.0), obs=x)

    with pytest.raises(ProgramError, match=r"site 'z' has event shape \(2,\) in the model but \(3,\) in the guide"):
        log_weights(decoder, one_site("z", event=(3,)), X, num_particles=count)


def test_a_model_without_sites():
    with pytest.raises(ProgramError, match="the model has no sample site"):
        log_weights(lambda x: None, None, X)


# --- plates ---------------------------------------------------------------------------------------------------------


@both_counts
def test_a_plate_with_another_dimension_in_the_guide(count):
    with pytest.raises(ProgramError, match="plate 'data' has another dim or size at site 'z' than elsewhere"):
        log_weights(model, one_site(dim=-2), X, num_particles=count)


@both_counts
@pytest.mark.parametrize(("ours", "theirs"), [(4, 3), (8, 4)])
def test_a_plate_with_another_size_in_the_guide(count, ours, theirs):
    def sized(size, observe):
        def program(x):
            with pyro.plate("data", size):
                pyro.sample("z", dist.Normal(0.0, 1.0))
                if observe:
                    pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

        return program

    with pytest.raises(ProgramError, match=f"plate 'data' has size {ours} in the model but {theirs} in the guide"):
        log_weights(sized(ours, True), sized(theirs, False), X, num_particles=count)


@both_counts
def test_an_unknown_batch_plate_names_the_nearest(count):
    with pytest.raises(ProgramError, match=r"no plate `batch_plate='date'`; did you mean 'data'\? There are: data"):
        log_weights(model, one_site(), X, num_particles=count, batch_plate="date")


@both_counts
def test_a_batch_plate_that_leaves_a_site_out(count):
    def with_global(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        pyro.sample("loc", dist.Normal(0.0, 1.0))

    with pytest.raises(ProgramError, match="`batch_plate='data'` does not enclose site 'loc'"):
        log_weights(with_global, guide, X, num_particles=count, batch_plate="data")


@both_counts
def test_a_batch_dimension_that_no_plate_declares_in_the_model(count):
    def undeclared(x):
        pyro.sample("x", dist.Normal(torch.zeros(len(x)), 1.0), obs=x)

    with pytest.raises(
        ProgramError,
        match=r"site 'x' .* no plate declares dimension -1 of size 4; put it into .*dim=-1.*`.to_event\(1\)`",
    ):
        log_weights(undeclared, None, X, num_particles=count)


@both_counts
def test_a_batch_dimension_that_no_plate_declares_in_the_guide(count):
    def guide(x):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    with pytest.raises(ProgramError, match=r"site 'z' .* no plate declares dimension -1 of size 4"):
        log_weights(model, guide, X, num_particles=count)


DATA = torch.arange(6.0)


def subsampled(indices):
    with pyro.plate("data", 6, subsample=indices):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=DATA[indices])


@both_counts
@pytest.mark.parametrize("indices", [[1, 0], [4, 5]])
def test_an_autoguide_that_sees_another_minibatch(count, indices):
    with pytest.raises(
        ProgramError, match=r"different minibatches of plate 'data'; pass the same `subsample=`.*create_plates="
    ):
        log_weights(subsampled, AutoNormal(subsampled), torch.tensor(indices), num_particles=count, seed=0)


@both_counts
def test_a_guide_that_is_passed_another_minibatch(count):
    def guide(indices):
        with pyro.plate("data", 6, subsample=indices + 1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ProgramError, match="different minibatches of plate 'data'"):
        log_weights(subsampled, guide, torch.tensor([1, 2]), num_particles=count)


@both_counts
def test_an_autoguide_with_plates_of_the_same_minibatch(count):
    guide = AutoNormal(subsampled, create_plates=lambda indices: pyro.plate("data", 6, dim=-1, subsample=indices))
    for indices in ([1, 0], [4, 5]):
        assert log_weights(subsampled, guide, torch.tensor(indices), num_particles=count).shape == (count, 2)


# --- weights --------------------------------------------------------------------------------------------------------


@both_counts
def test_a_point_guide_has_no_weights(count):
    with pytest.raises(UnsupportedObjective, match=r"point mass at site 'z' \(AutoDelta\).*use `ELBO`"):
        log_weights(model, AutoDelta(model), X, num_particles=count)


@both_counts
def test_a_tempered_prior_has_no_weights(count):
    def tempered(x):
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=0.5):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(UnsupportedObjective, match=r"latent site 'z' has a `poutine.scale`"):
        log_weights(tempered, one_site(), X, num_particles=count)


def with_subsampled_plate(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 6, subsample_size=2):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def global_guide(x):
    pyro.sample("loc", dist.Normal(0.0, 1.0))


def test_joint_weights_with_subsampling_need_one_particle():
    x = torch.zeros(2)
    assert log_weights(with_subsampled_plate, global_guide, x).shape == (1,)
    with pytest.raises(UnsupportedObjective, match=r"plate 'data' is subsampled inside the log-weight.*one particle"):
        log_weights(with_subsampled_plate, global_guide, x, num_particles=2)


@pytest.mark.parametrize("count", [0, -1, True, 2.5, "3", None, (2, 0), (2, 2.0)])
def test_numbers_of_particles_that_are_none(count):
    with pytest.raises(ArgumentError, match="`num_particles` must be a whole number of at least 1, got"):
        log_weights(model, one_site(), X, num_particles=count)


# --- data -----------------------------------------------------------------------------------------------------------


def bernoulli(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=z).to_event(1), obs=x)


@both_counts
@pytest.mark.parametrize("given_nesting", [True, False])
@pytest.mark.parametrize(("value", "shown"), [(2.0, "2"), (0.5, "0.5"), (1e30, r"1e\+30"), (-1.0, "-1")])
def test_binary_data_that_are_not(count, given_nesting, value, shown):
    x = torch.ones(3, 2)
    x[2, 1] = value
    options = RunOptions(num_particles=count, max_plate_nesting=1) if given_nesting else RunOptions(num_particles=count)
    with pytest.raises(
        DataError, match=rf"site 'x' observes {shown} at index \(2, 1\), outside the support of Bernoulli.*binarize"
    ):
        trace_pair(bernoulli, one_site("z", event=(2,)), (x,), {}, options)


@both_counts
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_data_that_are_not_finite(count, value):
    x = X.clone()
    x[1] = value
    with pytest.raises(DataError, match=rf"site 'x' observes {value} at index \(1,\); data must be finite"):
        log_weights(model, one_site(), x, num_particles=count)


@both_counts
def test_data_outside_a_support_that_depends_on_the_latents(count):
    def uniform(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Uniform(0 * z, 1 + 0 * z), obs=x)

    options = RunOptions(num_particles=count, max_plate_nesting=1)
    with pytest.raises(DataError, match=r"site 'x' observes 2 at index \(2,\), outside the support of Uniform"):
        trace_pair(uniform, one_site(), (torch.tensor([0.5, 0.1, 2.0, 0.3]),), {}, options)


def test_data_off_the_simplex_are_shown_whole():
    def simplex(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Dirichlet(torch.ones(2)), obs=x)

    with pytest.raises(
        DataError, match=r"site 'x' observes \[0.5, 0.75\] at index \(1,\), outside the support of Dirichlet"
    ):
        log_weights(simplex, None, torch.tensor([[0.5, 0.5], [0.5, 0.75]]))


def test_data_that_are_no_tensor():
    def number(x):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(DataError, match=r"site 'x' observes a float; pass a torch.Tensor"):
        log_weights(number, None, 0.5)


def test_a_log_density_that_fails_names_site_and_shapes():
    def wrong(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=x[:, None].expand(-1, 2))

    with pytest.raises(ProbgenError, match=r"log-density at site 'x' fails for a value of shape \(4, 2\) under Normal"):
        log_weights(wrong, None, X)


OPTIMIZED = """
import torch, pyro, pyro.distributions as dist
from probgen.errors import ArgumentError, DataError
from probgen.objectives import ELBO, IWAE
if __debug__:
    raise SystemExit("not run under -O")

def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Bernoulli(logits=z), obs=x)

def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))

for objective in (ELBO(), IWAE(num_particles=2, gradient="dreg")):
    for value in (2.0, 0.5, 1e30, float("nan")):
        try:
            objective(model, guide)(torch.tensor([1.0, value]))
        except DataError as error:
            print(error)
for count in (0, True, 2.5):
    try:
        ELBO(num_particles=count)
    except ArgumentError as error:
        print(error)
"""


def test_bad_data_and_arguments_are_refused_under_python_without_assertions():
    run = subprocess.run([sys.executable, "-O", "-c", OPTIMIZED], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) == 11
    assert all("site 'x'" in line and "index (1,)" in line for line in lines[:8])
    assert all("`num_particles`" in line for line in lines[8:])
