"""The variational auto-encoder's guide: a diagonal normal whose parameters a network computes."""

from collections.abc import Sequence

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from probgen.arguments import positive_int
from probgen.guides._amortized import Amortized
from probgen.nets import loc_and_scale


class AmortizedNormal(Amortized):
    r"""A diagonal normal.

    .. math:: q(z \mid x) = N(z; \mu(x), \mathrm{diag}\,\sigma^2(x)), \qquad (\mu, \sigma) = \mathrm{encoder}(x)

    Site: ``z`` of event shape ``[latent_dim]``, reparameterized; plate ``data``.

    Args:
        event_shape: the shape of one datum.
        latent_dim: the number of latent dimensions.
        hidden: widths of the encoder's layers (mlp) or channels of its convolutions (conv), nearest the data first.
        num_classes: with it the guide takes labels too, q(z | x, y).
        network: ``"mlp"`` or ``"conv"``, which needs events (C, H, W).
        activation: of the hidden layers; a name in :data:`probgen.nets.ACTIVATIONS`.
        min_scale: lower bound of the standard deviations, which keeps log-weights finite.

    Raises:
        ArgumentError: a size below 1, an unknown name, or ``min_scale`` not above 0.

    Source:
        Kingma, Welling (2014), Auto-encoding variational Bayes, arXiv 1312.6114.

    Example:
        >>> import torch
        >>> guide = AmortizedNormal(event_shape=(784,), latent_dim=50, hidden=(200, 200))
        >>> tuple(guide(torch.zeros(3, 784)).shape)
        (3, 50)
    """

    def __init__(
        self,
        event_shape: Sequence[int] = (784,),
        latent_dim: int = 50,
        hidden: Sequence[int] = (200, 200),
        *,
        num_classes: int | None = None,
        network: str = "mlp",
        activation: str = "tanh",
        min_scale: float = 1e-4,
    ) -> None:
        num_outputs = 2 * positive_int("latent_dim", latent_dim)
        super().__init__(
            event_shape,
            latent_dim,
            hidden,
            num_outputs,
            num_classes=num_classes,
            network=network,
            activation=activation,
            min_scale=min_scale,
        )

    def _from_outputs(self, outputs: Tensor) -> TorchDistribution:
        return dist.Normal(*loc_and_scale(outputs, self.min_scale)).to_event(1)
