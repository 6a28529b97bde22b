"""The variational auto-encoder's model for NumPyro: a standard normal latent and a neural decoder."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from probgen.arguments import positive_int, sizes
from probgen.models.numpyro._likelihoods import Likelihood, make_likelihood, output_bias
from probgen.nets.equinox import MLP, modules, require_mlp


class VAE:
    r"""A deep latent-variable model.

    .. math:: p(x, z) = N(z; 0, I) \; p(x \mid \mathrm{decoder}(z))

    Sites: ``z`` of event shape ``[latent_dim]``, ``x`` of event shape ``event_shape``; plate ``data``; the parameters
    are those of one ``numpyro.param``, ``decoder$params``.

    Args:
        event_shape: the shape of one datum.
        latent_dim: the number of latent dimensions.
        hidden: widths of the decoder's layers, nearest the data first.
        likelihood: p(x | .): a name, a spec such as ``"normal:min_scale=0.01"``, or a
            :class:`probgen.models.numpyro._likelihoods.Likelihood`.
        network: ``"mlp"``.
        activation: of the hidden layers; a name in :data:`probgen.nets.ACTIVATIONS`.
        data_mean: the mean of the training data, ``[*event_shape]`` or a number.
        rng_key: draws the initial weights.

    Raises:
        ArgumentError: a size below 1, an unknown name, or a mean that does not fit.
        UnsupportedObjective: ``network="conv"``, which there is for Pyro alone.
        MissingExtra: equinox is not installed.

    Source:
        Kingma, Welling (2014), Auto-encoding variational Bayes, arXiv 1312.6114.

    Example:
        >>> import jax
        >>> model = VAE((4,), latent_dim=2, hidden=(8,))
        >>> with numpyro.handlers.seed(rng_seed=0):
        ...     model(num_samples=3).shape
        (3, 4)
    """

    def __init__(
        self,
        event_shape: Sequence[int] = (784,),
        latent_dim: int = 50,
        hidden: Sequence[int] = (200, 200),
        likelihood: str | Likelihood = "bernoulli",
        *,
        network: str = "mlp",
        activation: str = "tanh",
        data_mean: Any = None,
        rng_key: Array | int = 0,
    ) -> None:
        require_mlp(network)
        self.likelihood = make_likelihood(likelihood, event_shape)
        self.event_shape = self.likelihood.event_shape
        self.latent_dim = positive_int("latent_dim", latent_dim)
        widths = sizes("hidden", hidden)[::-1]
        decoder = MLP(self.latent_dim, widths, self.likelihood.num_outputs, activation=activation, rng_key=rng_key)
        if data_mean is not None:
            decoder = decoder.with_output_bias(output_bias(likelihood, self.likelihood, data_mean))
        self.networks = {"decoder": decoder}

    def __call__(self, x: Array | None = None, *, num_samples: int = 1) -> Array:
        """Runs the program.

        Args:
            x: ``[B, *event_shape]``, or None to generate.
            num_samples: how many to generate without data.

        Returns:
            The value of site ``x``, ``[B, *event_shape]``.

        Raises:
            DataError: the data do not fit ``event_shape``.
        """
        decoder = modules("decoder", self.networks["decoder"])
        dtype = decoder.layers[0].weight.dtype
        x = None if x is None else self.likelihood.cast(x, dtype)
        with numpyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(self.latent_dim, dtype), 1.0).to_event(1))
            value: Array = numpyro.sample("x", self.likelihood.distribution(decoder(z)), obs=x)
            return value
