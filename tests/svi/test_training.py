"""SVI trains what it should, and nothing else."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

from probgen import SVI
from probgen.models import PPCA, GaussianMixture
from probgen.objectives import ELBO, MaximumLikelihood
from probgen.svi import warmup_cosine

# How far training may stay below the maximum of the log-likelihood: 1 % of the p / 2N nats per datum by which p fitted
# parameters exceed the true ones in expectation, so that the error of optimisation is lost in that of the sample.
SHARE = 0.01


def allowed_gap(num_parameters, num_data):
    return SHARE * num_parameters / (2 * num_data)


def gaussian_maximum(x, latent_dim):
    """The largest mean log-likelihood of probabilistic PCA (Tipping and Bishop 1999)."""
    covariance = torch.cov(x.T, correction=0)
    eigenvalues = torch.linalg.eigvalsh(covariance).flip(0)
    noise = eigenvalues[latent_dim:].mean()
    log_det = eigenvalues[:latent_dim].log().sum() + (len(eigenvalues) - latent_dim) * noise.log()
    return -0.5 * (len(eigenvalues) * (torch.log(torch.tensor(2 * torch.pi)) + 1) + log_det).item()


def test_elbo_reaches_the_maximum_of_the_likelihood(linear, x, adam):
    model = PPCA(data_dim=3, latent_dim=1)
    _, guide = linear()
    svi = SVI(
        model,
        guide,
        adam,
        ELBO(num_particles=4, gradient="stl"),  # without noise at the optimum, where the guide is exact
        schedule=warmup_cosine(),
        capture=True,
    )
    result = svi.run(x, num_steps=600, seed=0, progress=False)
    maximum, reached = gaussian_maximum(x, 1), model.log_evidence(x).mean().item()
    gap = allowed_gap(num_parameters=7, num_data=len(x))
    assert maximum - gap < reached <= maximum + 1e-9
    assert abs(-result.losses[-1].item() - maximum) < 3 * gap  # the bound is tight too


def test_maximum_likelihood_of_one_gaussian_is_exact(likelihood_model, x, adam):
    svi = SVI(likelihood_model(), None, adam, MaximumLikelihood(), schedule=warmup_cosine())
    result = svi.run(x, num_steps=400, seed=0, progress=False)
    torch.testing.assert_close(result.params["model.loc"], x.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(result.params["model.log_scale"].exp(), x.std(0, correction=0), rtol=1e-4, atol=1e-4)


def test_maximum_likelihood_of_a_mixture_passes_the_truth():
    generator = torch.Generator().manual_seed(0)
    means = torch.tensor([[-2.0, 0.0], [2.0, 1.0]])
    x = means[torch.randint(2, (60,), generator=generator)] + 0.3 * torch.randn(60, 2, generator=generator)
    model = GaussianMixture(data_dim=2, num_components=2)
    truth = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(2)),
        torch.distributions.Independent(torch.distributions.Normal(means, 0.3), 1),
    )
    optim = functools.partial(torch.optim.Adam, lr=0.05)
    svi = SVI(model, None, optim, MaximumLikelihood(), schedule=warmup_cosine(), capture=True)
    losses = svi.run(x, num_steps=400, seed=0, progress=False).losses
    assert -losses[-1] > truth.log_prob(x).mean()  # the maximum exceeds what the truth reaches


# --- every kind of program ------------------------------------------------------------------------------------------


CONVERGING = functools.partial(torch.optim.Adam, lr=0.05)  # to the digits that the tests ask for, with a cosine to 0


def declared_model(x):
    loc = pyro.param("loc", torch.zeros(3))
    scale = pyro.param("scale", torch.ones(3), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)


def test_parameters_that_functions_declare(x, adam):
    svi = SVI(declared_model, None, CONVERGING, MaximumLikelihood(), schedule=warmup_cosine())
    result = svi.run(x, num_steps=400, seed=0, progress=False)
    store = pyro.get_param_store()
    assert set(result.params) == set(store.keys()) == {"loc", "scale"}
    torch.testing.assert_close(result.params["scale"], x.std(0, correction=0), rtol=1e-4, atol=0)
    torch.testing.assert_close(result.params["scale"], store["scale"].detach())
    assert not result.params["scale"].requires_grad


def test_bound_methods_train_what_they_declare_by_pyro_module(x, adam):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder, self.encoder, self.unused = nn.Linear(1, 3), nn.Linear(3, 1), nn.Linear(3, 1)

        def model(self, x):
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)

        def guide(self, x):
            pyro.module("encoder", self.encoder)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))

    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    svi = SVI(net.model, net.guide, adam, ELBO())
    losses = svi.run(x, num_steps=100, seed=0, progress=False).losses
    assert losses[-20:].mean() < losses[:20].mean() - 0.3
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"decoder.weight", "decoder.bias", "encoder.weight", "encoder.bias"}
    assert len(pyro.get_param_store()) == 0
    assert svi.modules == [net]


def test_poutines_and_partials_around_modules(likelihood_model, x, adam):
    for wrap in (lambda m: poutine.scale(m, scale=0.5), lambda m: functools.partial(m), poutine.scale(scale=2.0)):
        model = likelihood_model()
        SVI(wrap(model), None, adam, MaximumLikelihood()).run(x, num_steps=3, seed=0, progress=False)
        assert model.loc.abs().min() > 0


def test_automatic_guides_created_on_first_use(linear, x, adam):
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0).expand([3]).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)

    guide = AutoNormal(model)
    assert not list(guide.parameters())
    # Sticking the landing: at the exact posterior, which this guide can be, the gradient has no noise.
    svi = SVI(model, guide, CONVERGING, ELBO(gradient="stl"), schedule=warmup_cosine())
    result = svi.run(x, num_steps=1000, seed=0, progress=False)
    precision = len(x) / 0.5**2 + 1 / 10.0**2  # of the exact posterior, which is factorised
    torch.testing.assert_close(guide.locs.loc, x.sum(0) / 0.5**2 / precision, rtol=0, atol=1e-4)
    torch.testing.assert_close(guide.scales.loc, torch.full((3,), precision**-0.5), rtol=1e-4, atol=0)
    assert set(result.params) == {"guide.locs.loc_unconstrained", "guide.scales.loc_unconstrained"}


def test_point_guides_find_the_maximum_a_posteriori(x, adam):
    def model(x):
        loc = pyro.sample("loc", dist.Normal(1.0, 0.2).expand([3]).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)

    guide = AutoDelta(model)
    SVI(model, guide, adam, ELBO(), schedule=warmup_cosine()).run(x, num_steps=300, seed=0, progress=False)
    exact = (x.sum(0) / 0.5**2 + 1.0 / 0.2**2) / (len(x) / 0.5**2 + 1 / 0.2**2)
    torch.testing.assert_close(guide.median()["loc"], exact, rtol=0, atol=1e-3)


def test_batch_normalisation_moves_once_a_step(nets, x, adam):
    model, guide = nets(batch_norm=True)
    svi = SVI(model, guide, adam, ELBO())
    losses = svi.run(x, batch_size=8, num_epochs=20, seed=0, progress=False).losses
    assert guide.net[1].num_batches_tracked == 60  # three batches an epoch; trials leave no trace
    assert losses[-6:].mean() < losses[:6].mean()


def test_pyro_params_of_modules(x, adam):
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.scale = PyroParam(torch.ones(3), constraint=constraints.positive)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(0.0, self.scale).to_event(1), obs=x)

    model = Model()
    svi = SVI(model, None, CONVERGING, MaximumLikelihood(), schedule=warmup_cosine())
    svi.run(x, num_steps=400, seed=0, progress=False)
    torch.testing.assert_close(model.scale, (x**2).mean(0).sqrt(), rtol=1e-4, atol=0)
    assert len(pyro.get_param_store()) == 0


# --- who owns which parameter ---------------------------------------------------------------------------------------


def test_parameters_without_gradient_are_not_trained(linear, x, adam):
    model, guide = linear()
    model.bias.requires_grad_(False)  # an attribute, which Pyro's store would switch on
    guide.net.bias.requires_grad_(False)  # in a module, of which Pyro would warn
    before = model.bias.clone(), guide.net.bias.clone()
    svi = SVI(model, guide, adam, ELBO(), ema_decay=0.9)
    result = svi.run(x, num_steps=5, seed=0, progress=False)
    svi.step(x)
    assert torch.equal(model.bias, before[0])
    assert torch.equal(guide.net.bias, before[1])
    assert not model.bias.requires_grad
    assert not guide.net.bias.requires_grad
    assert set(result.params) == {"model.weight", "model.log_scale", "guide.net.weight", "guide.log_width"}


def test_two_pairs_of_the_same_classes_share_nothing(make_svi, linear, x, tensors_of, assert_same):
    first, second = make_svi(*linear(0)), make_svi(*linear(1))
    first.run(x, num_steps=3, seed=0, progress=False)
    kept = tensors_of(first)
    before = tensors_of(second)
    second.run(x, num_steps=3, seed=0, progress=False)
    assert_same(tensors_of(first), kept)
    assert all(not torch.equal(value, before[name]) for name, value in second.parameters.items() if name in before)
    pointers = [{value.data_ptr() for value in svi.moved().values()} for svi in (first, second)]
    assert not pointers[0] & pointers[1]


def test_the_ambient_store_keeps_what_is_in_it(make_svi, x, adam):
    mine = pyro.param("mine", torch.tensor(3.0))
    make_svi().run(x, num_steps=2, seed=0, progress=False)
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert pyro.param("mine") is mine
    SVI(declared_model, None, adam, MaximumLikelihood()).run(x, num_steps=2, seed=0, progress=False)
    assert set(pyro.get_param_store().keys()) == {"mine", "loc", "scale"}


def test_a_second_run_goes_on(make_svi, x, assert_same, tensors_of):
    seen = []

    def schedule(step, total):
        seen.append((step, total))
        return 1.0

    svi = make_svi(schedule=schedule)
    first = svi.run(x, batch_size=10, num_epochs=2, seed=0, progress=False)
    second = svi.run(x, batch_size=10, num_steps=3, seed=1, progress=False)
    assert (first.state.step, first.state.epoch) == (4, 2)  # a result is not moved by a later run
    assert (second.state.step, second.state.epoch) == (7, 3)
    assert len(second.losses) == 3
    assert list(dict.fromkeys(seen)) == [*((i, 4) for i in range(4)), *((i, 7) for i in range(4, 7))]


@pytest.mark.parametrize("first", [True, False])
def test_step_and_run_can_be_mixed(make_svi, x, first):
    svi = make_svi()
    if first:
        svi.step(x)
    svi.run(x, num_steps=2, seed=0, progress=False)
    loss = svi.step(x)
    assert isinstance(loss, float)
    assert svi.state.step == 3 + first
