"""Gradients in JAX are those in torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from probgen.core import divergences as core

POINTS = np.random.default_rng(0).normal(size=(8, 2))
OTHERS = np.random.default_rng(1).normal(0.5, 1.5, size=(6, 2))

# (differentiable argument, the other sample in the same library) -> value
VALUES = {
    "kl": lambda x, y: core.kl_from_densities(-(x[:, 0] ** 2), -(x[:, 1] ** 2)).value,
    "f": lambda x, y: core.f_from_densities(-(x[:, 0] ** 2), -(x[:, 1] ** 2), "js").value,
    "both": lambda x, y: core.f_from_both(x[:, 0], x[:, 1], x[:, 1], x[:, 0], "tv").value,
    "renyi": lambda x, y: core.renyi_from_densities(-(x[:, 0] ** 2), -(x[:, 1] ** 2), 0.5).value,
    "gaussian": lambda x, y: core.gaussian_divergence(x[0], y.T @ y, x[1], x.T @ x, "frechet"),
    "mmd2": lambda x, y: core.mmd2(x, y, bandwidth=1.0).value,
    "energy": lambda x, y: core.energy_distance(x, y).value,
    "sinkhorn": lambda x, y: core.sinkhorn_divergence(x, y, epsilon=1.0).value,
    "w1": lambda x, y: core.wasserstein_1d(x[:, 0], y[:, 0]).value,
    "sliced": lambda x, y: core.sliced_wasserstein(x, y, seed=0).value,
    "max-sliced": lambda x, y: core.max_sliced_wasserstein(x, y, seed=0).value,
}


@pytest.mark.parametrize("name", VALUES)
def test_gradient_is_torchs(name):
    leaf = torch.tensor(POINTS, requires_grad=True)
    VALUES[name](leaf, torch.tensor(OTHERS)).backward()
    with jax.enable_x64(True):
        found = jax.grad(VALUES[name])(jnp.asarray(POINTS), jnp.asarray(OTHERS))
        np.testing.assert_allclose(np.asarray(found), leaf.grad.numpy(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", core.GENERATORS)
def test_terms_can_be_compiled(kind):
    with jax.enable_x64(True):
        found = jax.jit(lambda s: core.f_values(s, kind))(jnp.asarray(POINTS))
        np.testing.assert_allclose(np.asarray(found), core.f_values(POINTS, kind), rtol=1e-9, atol=1e-12)
