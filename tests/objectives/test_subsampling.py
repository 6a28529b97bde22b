"""Subsampled plates: N/B multiplies the bound and all particles see one minibatch, so the loss is unbiased."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn
from torch.distributions.kl import kl_divergence, register_kl

from probgen.errors import UnsupportedObjective
from probgen.objectives import ELBO, IWAE, MIWAE, Renyi

SIZE, BATCH, PARTICLES = 5, 2, 3


class Fixed(dist.Normal):
    """A normal distribution whose noise is given, [num_particles, batch]: every minibatch has the same samples."""

    def __init__(self, loc, scale, noise):
        self.noise = noise
        super().__init__(loc, scale)

    def expand(self, batch_shape, _instance=None):
        return Fixed(self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.noise)

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * self.noise[: len(self.loc) if self.loc.dim() == 2 else 1].reshape(self.loc.shape)


@register_kl(Fixed, dist.Normal)
def _divergence(p, q):
    return kl_divergence(dist.Normal(p.loc, p.scale), q)


class Model(PyroModule):
    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1.5))
        self.data = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])

    def forward(self, indices, noise):
        with pyro.plate("data", SIZE, subsample=indices):
            z = pyro.sample("z", dist.Normal(0.3, 1.0))
            pyro.sample("x", dist.Bernoulli(logits=self.slope * z), obs=self.data[indices])


class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.linspace(-0.4, 0.8, SIZE))
        self.log_scale = nn.Parameter(torch.tensor(0.3))

    def forward(self, indices, noise):
        with pyro.plate("data", SIZE, subsample=indices):
            pyro.sample("z", Fixed(self.loc[indices], self.log_scale.exp(), noise[:, indices]))


OBJECTIVES = [
    ELBO(num_particles=PARTICLES),
    ELBO(num_particles=PARTICLES, gradient="stl"),
    ELBO(num_particles=PARTICLES, kl="analytic", beta=0.5),
    IWAE(num_particles=PARTICLES),
    IWAE(num_particles=PARTICLES, gradient="dreg"),
    Renyi(alpha=0.5, num_particles=PARTICLES, gradient="dreg"),
    Renyi(alpha=-1, num_particles=PARTICLES),
    MIWAE(num_particles=(3, 1), gradient="dreg"),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_the_mean_over_all_minibatches_is_the_full_loss_and_gradient(objective):
    model, guide, noise = Model(), Guide(), torch.randn(PARTICLES, SIZE)
    parameters = [*model.parameters(), *guide.parameters()]

    def evaluate(indices):
        loss = objective(model, guide)(torch.tensor(indices), noise)
        return [loss.detach(), *torch.autograd.grad(loss, parameters)]

    minibatches = [evaluate(indices) for indices in itertools.combinations(range(SIZE), BATCH)]
    for part, full in zip(zip(*minibatches, strict=True), evaluate(range(SIZE)), strict=True):
        torch.testing.assert_close(torch.stack(part).mean(0), full, rtol=1e-10, atol=1e-10)


def test_one_minibatch_scales_each_datum_outside_the_logarithm():
    model, guide, noise = Model(), Guide(), torch.randn(PARTICLES, SIZE)
    indices = torch.tensor([3, 1])
    for objective in OBJECTIVES[3:7]:
        full = objective.bound(model, guide, torch.arange(SIZE), noise)
        part = objective.bound(model, guide, indices, noise)
        torch.testing.assert_close(part, full[indices], rtol=1e-12, atol=1e-12)
        loss = objective(model, guide)(indices, noise)
        torch.testing.assert_close(loss, -SIZE / BATCH * full[indices].sum(), rtol=1e-12, atol=1e-12)


def drawn_model():
    data = torch.tensor([3.0, 1.0, -1.0, 0.0, 1.0])
    with pyro.plate("data", SIZE, subsample_size=BATCH) as indices:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=data[indices])


class DrawnGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.3))
        self.subsample_size = BATCH

    def forward(self):
        with pyro.plate("data", SIZE, subsample_size=BATCH):
            pyro.sample("z", dist.Normal(self.loc, 1.0))


@pytest.mark.parametrize("vectorize", [True, False])
def test_drawn_minibatches_give_an_unbiased_loss_and_gradient(vectorize, assert_mean):
    guide = DrawnGuide()
    objective = Renyi(alpha=0.5, num_particles=2, vectorize_particles=vectorize)
    pair = objective(drawn_model, guide)
    runs = []
    for _ in range(200):
        loss = pair()
        runs.append(torch.stack([loss.detach(), torch.autograd.grad(loss, guide.loc)[0]]))
    x = torch.tensor([3.0, 1.0, -1.0, 0.0, 1.0])
    replicates = 4000
    loc = torch.full((replicates * SIZE,), 0.3, requires_grad=True)

    def full(data):
        with pyro.plate("data", len(data)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=data)

    def guide_of_all(data):
        with pyro.plate("data", len(data)):
            pyro.sample("z", dist.Normal(loc, 1.0))

    estimate = Renyi(alpha=0.5, num_particles=2)(full, guide_of_all).estimate(x.repeat(replicates))
    (gradient,) = torch.autograd.grad(estimate.loss, loc)
    exact = torch.stack([-estimate.bound.detach(), gradient]).reshape(2, replicates, SIZE).sum(2).mean(1)
    assert_mean(torch.stack(runs), exact, bound=5.5)  # the reference has a tenth of the variance: 5 in all


def test_a_minibatch_is_drawn_once_for_all_particles_and_anew_for_each_loss():
    seen = []

    def model():
        with pyro.plate("data", 50, subsample_size=5) as indices:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            seen.append(tuple(indices.tolist()))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(5))

    def guide():
        with pyro.plate("data", 50, subsample_size=5) as indices:
            seen.append(tuple(indices.tolist()))
            pyro.sample("z", dist.Normal(0.0, 1.0))

    for objective in (
        IWAE(num_particles=4, max_plate_nesting=1),
        IWAE(num_particles=4, vectorize_particles=False),
        ELBO(num_particles=4, gradient="stl", vectorize_particles=False),
    ):
        pair = objective(model, guide)
        minibatches = []
        for _ in range(2):
            seen.clear()
            pair()
            assert len(set(seen)) == 1
            minibatches.append(seen[0])
        assert minibatches[0] != minibatches[1]


# --- joint weights ----------------------------------------------------------------------------------------------------


def joint_model():
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    data = torch.tensor([3.0, 1.0, -1.0, 0.0, 1.0])
    with pyro.plate("data", SIZE, subsample_size=BATCH) as indices:
        z = pyro.sample("z", dist.Normal(loc, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=data[indices])


@pytest.mark.parametrize("objective", [IWAE(num_particles=2), IWAE(num_particles=2, gradient="dreg"), Renyi(alpha=0.5)])
def test_joint_weights_with_subsampling_are_refused_above_one_particle(objective):
    with pytest.raises(UnsupportedObjective, match=r"plate 'data' is subsampled inside the log-weight.*use `ELBO`"):
        objective(joint_model, AutoNormal(joint_model))()


@pytest.mark.parametrize("vectorize", [True, False])
def test_the_elbo_of_joint_weights_with_subsampling_is_unbiased(vectorize, assert_mean):
    class JointGuide(PyroModule):
        def __init__(self):
            super().__init__()
            self.shared = nn.Parameter(torch.tensor(0.5))
            self.local = nn.Parameter(torch.tensor(0.2))

        def forward(self):
            loc = pyro.sample("loc", dist.Normal(self.shared, 0.5))
            with pyro.plate("data", SIZE, subsample_size=BATCH):
                pyro.sample("z", dist.Normal(loc + self.local, 0.8))

    guide = JointGuide()
    pair = ELBO(num_particles=2, vectorize_particles=vectorize)(joint_model, guide)
    runs = []
    for _ in range(200):
        loss = pair()
        gradients = torch.autograd.grad(loss, [guide.shared, guide.local])
        runs.append(torch.stack([-loss.detach(), -gradients[0], -gradients[1]]))
    a, b = (torch.tensor(v, requires_grad=True) for v in (0.5, 0.2))
    x = torch.tensor([3.0, 1.0, -1.0, 0.0, 1.0])
    normal = dist.Normal
    prior = normal(torch.zeros(()), torch.ones(()))
    kl_local = kl_divergence(normal(b, torch.tensor(0.8)), prior)
    kl = kl_divergence(normal(a, torch.tensor(0.5)), prior)
    likelihood = normal(a + b, 1.0).log_prob(x) - 0.5 * (0.5**2 + 0.8**2)  # E (x - z)^2 adds the variance of z
    elbo = likelihood.sum() - SIZE * kl_local - kl
    exact = torch.stack([elbo.detach(), *torch.autograd.grad(elbo, [a, b])])
    assert_mean(torch.stack(runs), exact)
