"""A variational auto-encoder's model with several stochastic layers, for NumPyro."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from probgen.arguments import positive_float, sizes
from probgen.models.numpyro._likelihoods import Likelihood, make_likelihood, output_bias
from probgen.nets.equinox import MLP, as_key, loc_and_scale, modules, require_mlp
from probgen.nets.layers import Hidden, hidden_per_layer


class HierarchicalVAE:
    r"""A deep latent-variable model with L stochastic layers.

    .. math::
        p(x, z_1, \dots, z_L) = N(z_L; 0, I)
        \prod_{l=1}^{L-1} N(z_l; \mu_l(z_{l+1}), \mathrm{diag}\,\sigma_l^2(z_{l+1})) \; p(x \mid \mathrm{decoder}(z_1))

    Sites: ``z_1`` (nearest the data) to ``z_L`` (top), ``x``; plate ``data``; parameters ``decoder$params`` and
    ``priors$params``.

    Args:
        event_shape: the shape of one datum.
        latent_dims: dimensions of ``z_1``, ..., ``z_L``, from the data upwards.
        hidden: hidden widths of every network, nearest the data first; or one tuple for each stochastic layer.
        likelihood: p(x | .): a name, a spec, or a :class:`probgen.models.numpyro._likelihoods.Likelihood`.
        network: ``"mlp"``.
        activation: of the hidden layers.
        data_mean: the mean of the training data, ``[*event_shape]`` or a number, or None.
        min_scale: lower bound of the layers' standard deviations.
        rng_key: draws the initial weights.

    Raises:
        ArgumentError: a size below 1, an unknown name, or a mean that does not fit.
        UnsupportedObjective: ``network="conv"``, which there is for Pyro alone.
        MissingExtra: equinox is not installed.

    Source:
        Rezende, Mohamed, Wierstra (2014), arXiv 1401.4082; Burda, Grosse, Salakhutdinov (2016), arXiv 1509.00519.

    Example:
        >>> model = HierarchicalVAE((4,), latent_dims=(3, 2), hidden=(8,))
        >>> with numpyro.handlers.seed(rng_seed=0):
        ...     model(num_samples=3).shape
        (3, 4)
    """

    def __init__(
        self,
        event_shape: Sequence[int] = (784,),
        latent_dims: Sequence[int] = (100, 50),
        hidden: Hidden = (200, 200),
        likelihood: str | Likelihood = "bernoulli",
        *,
        network: str = "mlp",
        activation: str = "tanh",
        data_mean: Any = None,
        min_scale: float = 1e-3,
        rng_key: Array | int = 0,
    ) -> None:
        require_mlp(network)
        self.likelihood = make_likelihood(likelihood, event_shape)
        self.event_shape = self.likelihood.event_shape
        self.latent_dims = sizes("latent_dims", latent_dims, at_least=1)
        self.min_scale = positive_float("min_scale", min_scale)
        dims, widths = self.latent_dims, hidden_per_layer(hidden, len(self.latent_dims))
        first, *keys = jax.random.split(as_key(rng_key), len(dims))
        decoder = MLP(dims[0], widths[0][::-1], self.likelihood.num_outputs, activation=activation, rng_key=first)
        if data_mean is not None:
            decoder = decoder.with_output_bias(output_bias(likelihood, self.likelihood, data_mean))
        priors = tuple(  # priors[l - 1] gives z_l from z_{l+1}
            MLP(dims[i + 1], widths[i + 1][::-1], 2 * dims[i], activation=activation, rng_key=key)
            for i, key in enumerate(keys)
        )
        self.networks = {"decoder": decoder, "priors": priors}

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
        decoder, priors = modules("decoder", self.networks["decoder"]), modules("priors", self.networks["priors"])
        dtype = decoder.layers[0].weight.dtype
        x = None if x is None else self.likelihood.cast(x, dtype)
        with numpyro.plate("data", num_samples if x is None else len(x), dim=-1):
            layer = len(self.latent_dims)
            z = numpyro.sample(f"z_{layer}", dist.Normal(jnp.zeros(self.latent_dims[-1], dtype), 1.0).to_event(1))
            for network in reversed(priors):
                layer -= 1
                p = dist.Normal(*loc_and_scale(network(z), self.min_scale)).to_event(1)
                z = numpyro.sample(f"z_{layer}", p)
            value: Array = numpyro.sample("x", self.likelihood.distribution(decoder(z)), obs=x)
            return value
