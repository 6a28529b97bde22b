"""Probabilistic principal component analysis for NumPyro: the linear-Gaussian model."""

import math

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from probgen.arguments import positive_int
from probgen.nets.equinox import as_batch, as_key


class PPCA:
    r"""Probabilistic PCA.

    .. math::
        z \sim N(0, I_L), \quad x \mid z \sim N(W z + \mu, \sigma^2 I_D), \qquad
        x \sim N(\mu, W W^T + \sigma^2 I_D)

    Sites: ``z`` of event shape ``[latent_dim]``, ``x`` of event shape ``[data_dim]``; plate ``data``; parameters
    ``loadings`` W, ``mean`` and ``log_scale``.

    Args:
        data_dim: D, the size of a datum.
        latent_dim: L, the number of latent dimensions.
        rng_key: draws the initial loadings.

    Raises:
        ArgumentError: a dimension below 1.

    Source:
        Tipping, Bishop (1999), Probabilistic principal component analysis, J. R. Statist. Soc. B 61(3).

    Example:
        >>> model = PPCA(data_dim=5, latent_dim=2)
        >>> with numpyro.handlers.seed(rng_seed=0):
        ...     model(num_samples=3).shape
        (3, 5)
    """

    def __init__(self, data_dim: int, latent_dim: int, *, rng_key: Array | int = 0) -> None:
        self.data_dim = positive_int("data_dim", data_dim)
        self.latent_dim = positive_int("latent_dim", latent_dim)
        self.event_shape = (self.data_dim,)
        loadings = jax.random.normal(as_key(rng_key), (self.data_dim, self.latent_dim)) / math.sqrt(self.latent_dim)
        self.networks = {"loadings": loadings, "mean": jnp.zeros(self.data_dim), "log_scale": jnp.zeros(())}

    def __call__(self, x: Array | None = None, *, num_samples: int = 1) -> Array:
        """Runs the program.

        Args:
            x: ``[B, data_dim]``, or None to generate.
            num_samples: how many to generate without data.

        Returns:
            The value of site ``x``, ``[B, data_dim]``.

        Raises:
            DataError: the data do not fit.
        """
        loadings, mean, log_scale = (numpyro.param(name, value) for name, value in self.networks.items())
        x = None if x is None else as_batch(x, self.event_shape, loadings.dtype)
        with numpyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(self.latent_dim, loadings.dtype), 1.0).to_event(1))
            p = dist.Normal(z @ loadings.T + mean, jnp.exp(log_scale)).to_event(1)
            value: Array = numpyro.sample("x", p, obs=x)
            return value
