"""A guide for models with several stochastic layers."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from probgen.arguments import choice, positive_float, sizes
from probgen.arguments import event_shape as checked_event_shape
from probgen.guides._amortized import conditioning_batch
from probgen.nets import MLP, concatenate, loc_and_scale, make_encoder
from probgen.nets.layers import Hidden, hidden_per_layer
from probgen.nets.mlp import make_activation


class AmortizedHierarchical(PyroModule):
    r"""Diagonal normals for ``z_1`` (nearest the data) to ``z_L``, each conditioned on its neighbour.

    .. math::
        \text{bottom-up:}\quad & q(z_1 \mid x) \prod_{l=2}^{L} q(z_l \mid z_{l-1}) \\
        \text{top-down:}\quad & q(z_L \mid x) \prod_{l=1}^{L-1} q(z_l \mid z_{l+1}, x)

    Bottom-up is that of Burda et al. Top-down samples in the order of the model, so that every conditional KL
    divergence given the layers above has a closed form; each of its conditionals sees the data through the features
    of one shared encoder.

    Sites: ``z_1`` to ``z_L``, reparameterized; plate ``data``. One latent layer is ``z_1`` too.

    Args:
        event_shape: the shape of one datum.
        latent_dims: dimensions of ``z_1``, ..., ``z_L``, from the data upwards.
        hidden: hidden widths of every network, nearest the data first; or one tuple for each stochastic layer,
            from the data upwards: ``((200, 200), (100, 100))``.
        direction: ``"bottom-up"`` or ``"top-down"``.
        network: of the layer that sees the data: ``"mlp"`` or ``"conv"``; the others are MLPs.
        activation: of the hidden layers.
        min_scale: lower bound of the standard deviations.
        num_features: top-down only: size of the data's features.

    Raises:
        ArgumentError: a size below 1 or an unknown name.

    Source:
        Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders, arXiv 1509.00519; Sønderby, Raiko,
        Maaløe, Sønderby, Winther (2016), Ladder variational autoencoders, arXiv 1602.02282.

    Example:
        >>> import torch
        >>> guide = AmortizedHierarchical((16,), latent_dims=(4, 2), hidden=(8,), direction="top-down")
        >>> [tuple(z.shape) for z in guide(torch.zeros(3, 16))]
        [(3, 4), (3, 2)]
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
    ) -> None:
        super().__init__()
        self.event_shape = checked_event_shape(event_shape)
        self.latent_dims = sizes("latent_dims", latent_dims, at_least=1)
        self.direction = choice("direction", direction, ("bottom-up", "top-down"))
        self.min_scale = positive_float("min_scale", min_scale)
        dims, widths = self.latent_dims, hidden_per_layer(hidden, len(self.latent_dims))
        (num_features,) = sizes("num_features", num_features)
        bottom_up = self.direction == "bottom-up"
        self.encoder = make_encoder(
            self.event_shape,
            widths[0],
            2 * dims[0] if bottom_up else num_features,
            network=network,
            activation=activation,
        )
        if bottom_up:  # posteriors[l - 1] gives z_{l+1} from z_l
            networks = [MLP(dims[i - 1], widths[i], 2 * dims[i], activation=activation) for i in range(1, len(dims))]
        else:  # posteriors[l - 1] gives z_l from z_{l+1} and the features
            above = [*dims[1:], 0]
            networks = [
                MLP(num_features + above[i], widths[i], 2 * dims[i], activation=activation) for i in range(len(dims))
            ]
            self.encoder_activation = make_activation(activation)
        self.posteriors = nn.ModuleList(networks)

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1) -> tuple[Tensor, ...]:
        """Runs the program.

        Args:
            x: ``[B, *event_shape]``; required.
            num_samples: taken because the model takes it; data decide the batch.

        Returns:
            The values of ``z_1``, ..., ``z_L``, each ``[B, latent_dims[l - 1]]``.

        Raises:
            DataError: the data are missing or do not fit.
        """
        x = conditioning_batch(x, self.event_shape, self)
        outputs = self.encoder(x)
        with pyro.plate("data", len(x), dim=-1):
            if self.direction == "bottom-up":
                return self._bottom_up(outputs)
            return self._top_down(self.encoder_activation(outputs))

    def _bottom_up(self, outputs: Tensor) -> tuple[Tensor, ...]:
        latents = [self._sample(1, outputs)]
        for layer, network in enumerate(self.posteriors, start=2):
            latents.append(self._sample(layer, network(latents[-1])))
        return tuple(latents)

    def _top_down(self, features: Tensor) -> tuple[Tensor, ...]:
        latents: list[Tensor] = []
        layer = len(self.latent_dims)
        for network in reversed(self.posteriors):
            latents.append(self._sample(layer, network(concatenate(features, *latents[-1:]))))
            layer -= 1
        return tuple(reversed(latents))

    def _sample(self, layer: int, outputs: Tensor) -> Tensor:
        q = dist.Normal(*loc_and_scale(outputs, self.min_scale)).to_event(1)
        z: Tensor = pyro.sample(f"z_{layer}", q)
        return z
