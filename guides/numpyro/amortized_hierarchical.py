"""A guide for models with several stochastic layers, for NumPyro."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from probgen.arguments import choice, positive_float, sizes
from probgen.arguments import event_shape as checked_event_shape
from probgen.guides.numpyro.amortized_normal import conditioning_batch
from probgen.nets.equinox import ACTIVATIONS, MLP, as_key, loc_and_scale, modules, require_mlp
from probgen.nets.layers import Hidden, hidden_per_layer


class AmortizedHierarchical:
    r"""Diagonal normals for ``z_1`` (nearest the data) to ``z_L``, each conditioned on its neighbour.

    .. math::
        \text{bottom-up:}\quad & q(z_1 \mid x) \prod_{l=2}^{L} q(z_l \mid z_{l-1}) \\
        \text{top-down:}\quad & q(z_L \mid x) \prod_{l=1}^{L-1} q(z_l \mid z_{l+1}, x)

    Sites: ``z_1`` to ``z_L``, reparameterized; plate ``data``; parameters ``encoder$params`` and ``posteriors$params``.

    Args:
        event_shape: the shape of one datum.
        latent_dims: dimensions of ``z_1``, ..., ``z_L``, from the data upwards.
        hidden: hidden widths of every network, nearest the data first; or one tuple for each stochastic layer.
        direction: ``"bottom-up"`` or ``"top-down"``.
        network: ``"mlp"``.
        activation: of the hidden layers.
        min_scale: lower bound of the standard deviations.
        num_features: top-down only: size of the data's features.
        rng_key: draws the initial weights.

    Raises:
        ArgumentError: a size below 1 or an unknown name.
        UnsupportedObjective: ``network="conv"``, which there is for Pyro alone.
        MissingExtra: equinox is not installed.

    Source:
        Burda, Grosse, Salakhutdinov (2016), arXiv 1509.00519; Sønderby et al. (2016), Ladder variational autoencoders,
        arXiv 1602.02282.

    Example:
        >>> guide = AmortizedHierarchical((4,), latent_dims=(3, 2), hidden=(8,), direction="top-down", num_features=5)
        >>> with numpyro.handlers.seed(rng_seed=0):
        ...     [z.shape for z in guide(jnp.zeros((6, 4)))]
        [(6, 3), (6, 2)]
    """

    def __init__(
        self,
        event_shape: Sequence[int] = (784,),
        latent_dims: Sequence[int] = (100, 50),
        hidden: Hidden = (200, 200),
        *,
        direction: str = "bottom-up",
        network: str = "mlp",
        activation: str = "tanh",
        min_scale: float = 1e-4,
        num_features: int = 200,
        rng_key: Array | int = 1,
    ) -> None:
        require_mlp(network)
        self.event_shape = checked_event_shape(event_shape)
        self.latent_dims = sizes("latent_dims", latent_dims, at_least=1)
        self.direction = choice("direction", direction, ("bottom-up", "top-down"))
        self.min_scale = positive_float("min_scale", min_scale)
        self.activation = choice("activation", activation, ACTIVATIONS)
        dims, widths = self.latent_dims, hidden_per_layer(hidden, len(self.latent_dims))
        (num_features,) = sizes("num_features", num_features)
        bottom_up = self.direction == "bottom-up"
        first, *keys = jax.random.split(as_key(rng_key), len(dims) + 1)
        outputs = 2 * dims[0] if bottom_up else num_features
        encoder = MLP(math.prod(self.event_shape), widths[0], outputs, activation=activation, rng_key=first)
        if bottom_up:  # posteriors[l - 1] gives z_{l+1} from z_l
            shapes = [(dims[i - 1], widths[i], 2 * dims[i]) for i in range(1, len(dims))]
        else:  # posteriors[l - 1] gives z_l from z_{l+1} and the features
            above = [*dims[1:], 0]
            shapes = [(num_features + above[i], widths[i], 2 * dims[i]) for i in range(len(dims))]
        pairs = zip(shapes, keys, strict=False)
        posteriors = tuple(MLP(*shape, activation=activation, rng_key=key) for shape, key in pairs)
        self.networks = {"encoder": encoder, "posteriors": posteriors}

    def __call__(self, x: Array | None = None, *, num_samples: int = 1) -> tuple[Array, ...]:
        """Runs the program.

        Args:
            x: ``[B, *event_shape]``; required.
            num_samples: taken because the model takes it; data decide the batch.

        Returns:
            The values of ``z_1``, ..., ``z_L``, each ``[B, latent_dims[l - 1]]``.

        Raises:
            DataError: the data are missing or do not fit.
        """
        encoder = modules("encoder", self.networks["encoder"])
        posteriors = modules("posteriors", self.networks["posteriors"])
        x = conditioning_batch(x, self.event_shape, encoder)
        with numpyro.plate("data", len(x), dim=-1):
            outputs = encoder(x)
            if self.direction == "bottom-up":
                return self._bottom_up(outputs, posteriors)
            return self._top_down(ACTIVATIONS[self.activation](outputs), posteriors)

    def _bottom_up(self, outputs: Array, posteriors: tuple[MLP, ...]) -> tuple[Array, ...]:
        latents = [self._sample(1, outputs)]
        for layer, network in enumerate(posteriors, start=2):
            latents.append(self._sample(layer, network(latents[-1])))
        return tuple(latents)

    def _top_down(self, features: Array, posteriors: tuple[MLP, ...]) -> tuple[Array, ...]:
        latents: list[Array] = []
        layer = len(self.latent_dims)
        for network in reversed(posteriors):
            latents.append(self._sample(layer, network(jnp.concatenate([features, *latents[-1:]], -1))))
            layer -= 1
        return tuple(reversed(latents))

    def _sample(self, layer: int, outputs: Array) -> Array:
        z: Array = numpyro.sample(f"z_{layer}", dist.Normal(*loc_and_scale(outputs, self.min_scale)).to_event(1))
        return z
