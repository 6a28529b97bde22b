"""Probabilistic PCA against dense linear algebra."""

import pyro
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from probgen.models import PPCA


def random_model(data_dim: int, latent_dim: int, log_scale: float = -0.3) -> PPCA:
    model = PPCA(data_dim=data_dim, latent_dim=latent_dim).double()
    with torch.no_grad():
        model.mean.normal_()
        model.loadings.normal_()
        model.log_scale.fill_(log_scale)
    return model


def dense(model: PPCA) -> MultivariateNormal:
    noise = (2 * model.log_scale).exp() * torch.eye(model.data_dim, dtype=torch.float64)
    return MultivariateNormal(model.mean, model.loadings @ model.loadings.T + noise)


def log_joint(model: PPCA, x: Tensor, z: Tensor) -> Tensor:
    with pyro.condition(data={"z": z}):
        traced = pyro.poutine.trace(model).get_trace(x)
    traced.compute_log_prob()
    return traced.nodes["z"]["log_prob"] + traced.nodes["x"]["log_prob"]


SHAPES = [(1, 1), (5, 2), (5, 5), (3, 6), (40, 3)]


@pytest.mark.parametrize(("data_dim", "latent_dim"), SHAPES)
def test_evidence_is_that_of_the_dense_normal(data_dim: int, latent_dim: int) -> None:
    model = random_model(data_dim, latent_dim)
    x = 3 * torch.randn(7, data_dim, dtype=torch.float64)
    torch.testing.assert_close(model.log_evidence(x), dense(model).log_prob(x), rtol=1e-11, atol=1e-10)


def test_gradient_of_the_evidence_is_that_of_the_dense_normal() -> None:
    model = random_model(6, 2)
    x = torch.randn(7, 6, dtype=torch.float64)
    ours = torch.autograd.grad(model.log_evidence(x).sum(), list(model.parameters()))
    theirs = torch.autograd.grad(dense(model).log_prob(x).sum(), list(model.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("data_dim", "latent_dim"), SHAPES)
def test_joint_over_posterior_is_the_evidence_at_any_latent(data_dim: int, latent_dim: int) -> None:
    model = random_model(data_dim, latent_dim)
    x = torch.randn(7, data_dim, dtype=torch.float64)
    posterior = model.posterior(x)
    assert posterior.batch_shape == (7,)
    for _ in range(5):
        z = 2 * torch.randn(7, latent_dim, dtype=torch.float64)
        quotient = log_joint(model, x, z) - posterior.log_prob(z)
        torch.testing.assert_close(quotient, model.log_evidence(x), rtol=0, atol=1e-10)


def test_small_noise_costs_no_digits() -> None:
    model = random_model(50, 3, log_scale=-9.0)
    x = model(num_samples=20).detach()
    torch.testing.assert_close(model.log_evidence(x), dense(model).log_prob(x), rtol=1e-6, atol=0)
    # float32 rounds x by about 2e-7, 0.2 % of the noise, so that each squared residual is off by less than 1 %.
    single = PPCA(50, 3)
    single.load_state_dict(model.state_dict())
    torch.testing.assert_close(single.log_evidence(x).double(), model.log_evidence(x), rtol=0.01, atol=0)


def test_generates_from_its_evidence() -> None:
    """The empirical mean log-evidence is minus the entropy, within five standard errors."""
    model = random_model(5, 2)
    log_evidence = model.log_evidence(model(num_samples=20_000)).detach()
    standard_error = log_evidence.std() / len(log_evidence) ** 0.5
    assert (log_evidence.mean() + dense(model).entropy()).abs() < 5 * standard_error


def test_sites_are_the_formula() -> None:
    model = random_model(5, 2)
    x, z = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    expected = Normal(0.0, 1.0).log_prob(z).sum(-1)
    expected += Normal(z @ model.loadings.T + model.mean, model.log_scale.exp()).log_prob(x).sum(-1)
    torch.testing.assert_close(log_joint(model, x, z), expected)
