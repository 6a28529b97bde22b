"""Missing entries against the exact conditional normal of probabilistic PCA."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from probgen.errors import ArgumentError, DataError, ProgramError
from probgen.guides import AmortizedNormal
from probgen.models import PPCA, VAE, ConditionalVAE
from probgen.runs import impute

CHAINS = 400


@pytest.fixture
def ppca() -> PPCA:
    model = PPCA(5, 2).double()
    with torch.no_grad():
        model.mean.copy_(torch.tensor([0.5, -1.0, 0.0, 2.0, 1.0]))
        model.log_scale.fill_(math.log(0.7))
    return model


def exact_guide(model: PPCA) -> Any:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", model.posterior(x))

    return guide


def conditional(model: PPCA, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the missing entries of one datum, from the joint normal N(mu, W W^T + s^2 I)."""
    covariance = model.loadings @ model.loadings.mT + torch.eye(5) * (2 * model.log_scale).exp()
    gain = torch.linalg.solve(covariance[mask][:, mask], covariance[mask][:, ~mask]).mT
    mean = model.mean[~mask] + gain @ (x[mask] - model.mean[mask])
    return mean.detach(), (covariance[~mask][:, ~mask] - gain @ covariance[mask][:, ~mask]).detach()


def test_gibbs_gives_the_exact_conditional(ppca: PPCA) -> None:
    x = torch.tensor([1.5, 0.0, -2.0, 1.0, 0.3], dtype=torch.float64)
    mask = torch.tensor([True, False, True, False, False])
    mean, covariance = conditional(ppca, x, mask)
    hidden = torch.where(mask, x, torch.nan).expand(CHAINS, 5)
    got = impute(ppca, exact_guide(ppca), hidden, mask.expand(CHAINS, 5), num_steps=200, burn_in=100)
    # Independent chains: the mean of each is unbiased up to burn-in, which has forgotten the start; 5 standard errors.
    error = got.mean.std(0)[~mask] / math.sqrt(CHAINS)
    assert ((got.mean.mean(0)[~mask] - mean).abs() < 5 * error).all()
    assert (error < 0.02).all()  # so that the line above says something
    # The last states are draws of the conditional, jointly.
    draws = got.sample[:, ~mask]
    assert ((draws.mean(0) - mean).abs() < 5 * (covariance.diagonal() / CHAINS).sqrt()).all()
    spread = (covariance.diagonal()[:, None] * covariance.diagonal() + covariance**2).sqrt() / math.sqrt(CHAINS)
    assert ((draws.mT.cov() - covariance).abs() < 5 * spread).all()
    # Standard deviations, of chains of 200 correlated steps each: their mean square, less the variance of the means.
    variance = (got.std[:, ~mask] ** 2).mean(0) + got.mean[:, ~mask].var(0)
    error = (got.std[:, ~mask] ** 2).std(0) / math.sqrt(CHAINS) + 1e-3
    assert ((variance - covariance.diagonal()).abs() < 5 * error).all()


def test_given_entries_stay(ppca: PPCA) -> None:
    x = torch.randn(6, 5, dtype=torch.float64)
    mask = torch.rand(6, 5) < 0.5
    got = impute(ppca, exact_guide(ppca), x, mask, num_steps=3, burn_in=0)
    for values in (got.mean, got.sample):
        assert torch.equal(values[mask], x[mask])
        assert not torch.equal(values[~mask], x[~mask])
    assert (got.std[mask] == 0).all()
    assert (got.std[~mask] > 0).all()


def test_missing_values_are_not_looked_at(ppca: PPCA) -> None:
    x, mask = torch.randn(4, 5, dtype=torch.float64), torch.rand(4, 5) < 0.5
    first, second = (
        impute(ppca, exact_guide(ppca), torch.where(mask, x, fill), mask, num_steps=5) for fill in (math.nan, 1e30)
    )
    assert torch.equal(first.mean, second.mean)


def test_nothing_is_known(ppca: PPCA) -> None:
    x = torch.full((CHAINS, 5), torch.nan, dtype=torch.float64)
    got = impute(ppca, exact_guide(ppca), x, ~x.isnan(), num_steps=100, burn_in=100)
    error = got.mean.std(0) / math.sqrt(CHAINS)
    assert ((got.mean.mean(0) - ppca.mean).abs() < 5 * error).all()


@pytest.mark.parametrize(
    "likelihood",
    ["bernoulli", "normal", "normal-fixed", "discretized-logistic:levels=8", "categorical:num_categories=3"],
)
def test_every_likelihood(likelihood: str) -> None:
    model = VAE((6,), 2, (4,), likelihood=likelihood)
    guide = AmortizedNormal((6,), 2, (4,))
    x = model(num_samples=8).detach()
    mask = torch.rand(8, 6) < 0.5
    mask[:, 0] = False  # no datum has this entry
    got = impute(model, guide, x, mask, num_steps=5, burn_in=2)
    assert got.mean.isfinite().all()
    assert got.std.isfinite().all()
    assert torch.equal(got.sample[mask], x[mask])
    terms = model.likelihood.cast(got.sample, torch.float32)  # still data of the likelihood
    assert terms.shape == (8, 6)


def test_labels_are_passed_on() -> None:
    model, guide = ConditionalVAE((6,), 2, (4,), num_classes=3), AmortizedNormal((6,), 2, (4,), num_classes=3)
    x, y = torch.ones(4, 6), torch.tensor([0, 1, 2, 0])
    assert impute(model, guide, x, torch.zeros(4, 6, dtype=torch.bool), y, num_steps=2).mean.shape == (4, 6)


def test_nothing_is_left_behind(ppca: PPCA) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    x = torch.randn(3, 5, dtype=torch.float64)
    torch.set_rng_state(before)
    got = impute(ppca, exact_guide(ppca), x, x > 0, num_steps=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert not got.mean.requires_grad
    assert ppca.training


def test_refusals(ppca: PPCA) -> None:
    x = torch.zeros(2, 5, dtype=torch.float64)
    mask, guide = torch.ones(2, 5, dtype=torch.bool), exact_guide(ppca)
    with pytest.raises(DataError, match="the mask of booleans"):
        impute(ppca, guide, x, mask.double())
    with pytest.raises(DataError, match=r"got \(2, 4\) torch.bool"):
        impute(ppca, guide, x, mask[:, :4])
    with pytest.raises(DataError, match=r"holds nan at index \(0, 0\), which `mask` says is given"):
        impute(ppca, guide, x * torch.nan, mask)
    with pytest.raises(ArgumentError, match="`num_steps`"):
        impute(ppca, guide, x, mask, num_steps=0)
    with pytest.raises(ProgramError, match="needs a pair with latent sites"):
        impute(ppca, None, x, mask)  # type: ignore[arg-type]


def test_entries_that_depend_on_each_other_are_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.MultivariateNormal(z[..., None].expand(*z.shape, 2), torch.eye(2)), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ProgramError, match=r"not independent given the latent sites \(MultivariateNormal\)"):
        impute(model, guide, torch.zeros(3, 2), torch.ones(3, 2, dtype=torch.bool))
