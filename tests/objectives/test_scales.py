"""`poutine.scale` and `poutine.mask`: what multiplies the bound, what stays inside it, and what is refused."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta
from torch import nn

from probgen.errors import UnsupportedObjective
from probgen.objectives import ELBO, IWAE, Renyi

REPLICATES = 20_000
LOGITS, PRIOR, MEANS, X = (0.7, 0.0, -0.3), (0.0, 0.5, -0.5), (-1.0, 0.5, 2.0), 0.8


def discrete_pair(size, everything=1.0, latents=1.0, likelihood=1.0, mask=True):
    """A categorical latent for each datum, and a guide with parameters for each datum."""
    logits = nn.Parameter(torch.tensor(LOGITS).expand(size, 3).clone())
    means = torch.tensor(MEANS)

    def model(x):
        with poutine.scale(scale=everything), pyro.plate("data", size), poutine.mask(mask=mask):
            with poutine.scale(scale=latents):
                z = pyro.sample("z", dist.Categorical(logits=torch.tensor(PRIOR)))
            with poutine.scale(scale=likelihood):
                pyro.sample("x", dist.Normal(means[z], 1.0), obs=x)

    def guide(x):
        scales = poutine.scale(scale=everything), poutine.scale(scale=latents)
        with scales[0], pyro.plate("data", size), poutine.mask(mask=mask), scales[1]:
            pyro.sample("z", dist.Categorical(logits=logits))

    return model, guide, logits


def enumerated(expected_bound, bound, particles, latents=1.0, likelihood=1.0):
    """The gradient of the expected bound."""
    logits = torch.tensor(LOGITS, requires_grad=True)
    log_q = logits.log_softmax(-1)
    weights = latents * (torch.tensor(PRIOR).log_softmax(-1) - log_q)
    weights = weights + likelihood * dist.Normal(torch.tensor(MEANS), 1.0).log_prob(torch.tensor(X))
    return torch.autograd.grad(expected_bound(bound, particles, log_q, weights), logits)[0]


def gradient(objective, model, guide, logits):
    return -torch.autograd.grad(objective(model, guide)(torch.full((len(logits),), X)), logits)[0]


CASES = {
    "elbo-1": (ELBO(), lambda weights: weights.mean(0), 1),
    "elbo-2": (ELBO(num_particles=2), lambda weights: weights.mean(0), 1),
    "iwae-2": (IWAE(num_particles=2), lambda weights: weights.logsumexp(0), 2),
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_scale_shared_by_all_sites_multiplies_the_gradient_of_the_bound(case, expected_bound, assert_mean):
    objective, bound, particles = CASES[case]
    pair = discrete_pair(REPLICATES, everything=3.0)
    assert_mean(gradient(objective, *pair), 3.0 * enumerated(expected_bound, bound, particles))


@pytest.mark.parametrize("case", list(CASES))
def test_a_scale_of_each_datum_multiplies_its_bound(case, expected_bound, assert_mean):
    objective, bound, particles = CASES[case]
    scale = torch.linspace(0.5, 2.0, REPLICATES)
    pair = discrete_pair(REPLICATES, everything=scale)
    assert_mean(gradient(objective, *pair) / scale[:, None], enumerated(expected_bound, bound, particles))


@pytest.mark.parametrize("case", list(CASES))
def test_a_scale_on_the_likelihood_is_inside_the_bound(case, expected_bound, assert_mean):
    objective, bound, particles = CASES[case]
    pair = discrete_pair(REPLICATES, likelihood=0.4)
    assert_mean(gradient(objective, *pair), enumerated(expected_bound, bound, particles, likelihood=0.4))


@pytest.mark.parametrize("case", ["elbo-1", "elbo-2"])
def test_a_scale_on_the_latents_leaves_the_score_of_an_elbo_whole(case, expected_bound, assert_mean):
    objective, bound, particles = CASES[case]
    pair = discrete_pair(REPLICATES, latents=0.3)
    assert_mean(gradient(objective, *pair), enumerated(expected_bound, bound, particles, latents=0.3))


@pytest.mark.parametrize("objective", [IWAE(), IWAE(num_particles=1), Renyi(alpha=0.5)])
def test_a_scale_on_the_latents_is_refused_by_weighted_bounds(objective):
    model, guide, _ = discrete_pair(3, latents=0.3)
    with pytest.raises(UnsupportedObjective, match=r"latent site 'z' has a `poutine.scale` .* use `ELBO`"):
        objective(model, guide)(torch.full((3,), X))


def test_a_beta_elbo_is_one_with_scaled_latents():
    scaled, plain = discrete_pair(3, latents=0.3), discrete_pair(3)
    losses = []
    for objective, pair in ((ELBO(num_particles=4), scaled), (ELBO(num_particles=4, beta=0.3), plain)):
        pyro.set_rng_seed(1)
        losses.append(objective(*pair[:2])(torch.full((3,), X)))
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", list(CASES))
def test_masked_data_add_nothing_and_the_rest_is_unchanged(case, expected_bound, assert_mean):
    objective, bound, particles = CASES[case]
    mask = torch.arange(REPLICATES) % 2 == 0
    model, guide, logits = discrete_pair(REPLICATES, mask=mask)
    replicates = gradient(objective, model, guide, logits)
    assert not replicates[~mask].any()
    assert_mean(replicates[mask], enumerated(expected_bound, bound, particles))
    assert not objective.bound(model, guide, torch.full((REPLICATES,), X))[~mask].any()


def test_a_point_guide_makes_the_elbo_the_log_joint_at_the_map_estimate():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.tensor([0.4, -2.0])
    guide = AutoDelta(model)
    pair = ELBO()(model, guide)
    pair(x)
    optimizer = torch.optim.SGD(pair.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        pair(x).backward()
        optimizer.step()
    torch.testing.assert_close(guide.z.detach(), x / 2, rtol=1e-12, atol=1e-12)
    joint = dist.Normal(0.0, 1.0).log_prob(x / 2) + dist.Normal(x / 2, 1.0).log_prob(x)
    torch.testing.assert_close(pair.bound(x), joint, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("objective", [IWAE(), IWAE(num_particles=1, gradient="dreg"), Renyi(alpha=0.5)])
def test_weighted_bounds_refuse_a_point_guide(objective):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(UnsupportedObjective, match=r"point mass at site 'z' \(AutoDelta\).*MAP"):
        objective(model, AutoDelta(model))(torch.zeros(3))
