"""The variational auto-encoder's guide for NumPyro: a diagonal normal whose parameters a network computes."""

import math
from collections.abc import Sequence

import numpyro
import numpyro.distributions as dist
from jax import Array

from probgen.arguments import event_shape as checked_event_shape
from probgen.arguments import positive_float, positive_int
from probgen.errors import DataError
from probgen.nets.equinox import MLP, as_batch, loc_and_scale, modules, require_mlp


class AmortizedNormal:
    r"""A diagonal normal.

    .. math:: q(z \mid x) = N(z; \mu(x), \mathrm{diag}\,\sigma^2(x)), \qquad (\mu, \sigma) = \mathrm{encoder}(x)

    Site: ``z`` of event shape ``[latent_dim]``, reparameterized; plate ``data``; parameters ``encoder$params``.

    Args:
        event_shape: the shape of one datum.
        latent_dim: the number of latent dimensions.
        hidden: widths of the encoder's layers, nearest the data first.
        network: ``"mlp"``.
        activation: of the hidden layers; a name in :data:`probgen.nets.ACTIVATIONS`.
        min_scale: lower bound of the standard deviations, which keeps log-weights finite.
        rng_key: draws the initial weights.

    Raises:
        ArgumentError: a size below 1, an unknown name, or ``min_scale`` not above 0.
        UnsupportedObjective: ``network="conv"``, which there is for Pyro alone.
        MissingExtra: equinox is not installed.

    Source:
        Kingma, Welling (2014), Auto-encoding variational Bayes, arXiv 1312.6114.

    Example:
        >>> import jax.numpy as jnp
        >>> guide = AmortizedNormal((4,), latent_dim=2, hidden=(8,))
        >>> with numpyro.handlers.seed(rng_seed=0):
        ...     guide(jnp.zeros((3, 4))).shape
        (3, 2)
    """

    def __init__(
        self,
        event_shape: Sequence[int] = (784,),
        latent_dim: int = 50,
        hidden: Sequence[int] = (200, 200),
        *,
        network: str = "mlp",
        activation: str = "tanh",
        min_scale: float = 1e-4,
        rng_key: Array | int = 1,
    ) -> None:
        require_mlp(network)
        self.event_shape = checked_event_shape(event_shape)
        self.latent_dim = positive_int("latent_dim", latent_dim)
        self.min_scale = positive_float("min_scale", min_scale)
        inputs = math.prod(self.event_shape)
        encoder = MLP(inputs, hidden, 2 * self.latent_dim, activation=activation, rng_key=rng_key)
        self.networks = {"encoder": encoder}

    def __call__(self, x: Array | None = None, *, num_samples: int = 1) -> Array:
        """Runs the program.

        Args:
            x: ``[B, *event_shape]``; required.
            num_samples: taken because the model takes it; data decide the batch.

        Returns:
            The value of site ``z``, ``[B, latent_dim]``.

        Raises:
            DataError: the data are missing or do not fit.
        """
        encoder = modules("encoder", self.networks["encoder"])
        x = conditioning_batch(x, self.event_shape, encoder)
        with numpyro.plate("data", len(x), dim=-1):
            q = dist.Normal(*loc_and_scale(encoder(x), self.min_scale)).to_event(1)
            z: Array = numpyro.sample("z", q)
            return z


def conditioning_batch(x: Array | None, event_shape: tuple[int, ...], encoder: MLP) -> Array:
    """The data that a guide is conditioned on, flat, ``[B, D]``.

    Raises:
        DataError: missing, or of another shape.
    """
    if x is None:
        raise DataError("`x` is required: this guide is a distribution over latents given data; it generates none")
    x = as_batch(x, event_shape, encoder.layers[0].weight.dtype)
    return x.reshape(len(x), -1)
