"""A normal guide with a full covariance for each datum."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from probgen.arguments import positive_int
from probgen.guides._amortized import Amortized
from probgen.nets import loc_and_scale


class AmortizedMultivariateNormal(Amortized):
    r"""A normal with full covariance, by its Cholesky factor.

    .. math:: q(z \mid x) = N(z; \mu(x), L(x) L(x)^T), \qquad (\mu, L) = \mathrm{encoder}(x)

    The diagonal of L is ``softplus(raw) + min_scale``. The outputs below it start at 0: at random they would add up
    over a row, so that the first posteriors would be wider the more dimensions there are. The guide thus starts as
    an :class:`AmortizedNormal`. It needs ``latent_dim (latent_dim + 3) / 2`` outputs.

    Site: ``z`` of event shape ``[latent_dim]``, reparameterized; plate ``data``.

    Args:
        event_shape: the shape of one datum.
        latent_dim: the number of latent dimensions.
        hidden: widths or channels of the encoder, nearest the data first; see :class:`AmortizedNormal`.
        num_classes: with it the guide takes labels too, q(z | x, y).
        network: ``"mlp"`` or ``"conv"``.
        activation: of the hidden layers.
        min_scale: lower bound of the diagonal of L.

    Raises:
        ArgumentError: a size below 1, an unknown name, or ``min_scale`` not above 0.

    Source:
        Kingma, Welling (2019), An introduction to variational autoencoders, section 2.5.1, arXiv 1906.02691.

    Example:
        >>> guide = AmortizedMultivariateNormal((16,), latent_dim=3, hidden=(8,))
        >>> tuple(guide.posterior(torch.zeros(5, 16)).covariance_matrix.shape)
        (5, 3, 3)
    """

    tril: Tensor

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
        latent_dim = positive_int("latent_dim", latent_dim)
        rows, columns = torch.tril_indices(latent_dim, latent_dim, offset=-1)
        super().__init__(
            event_shape,
            latent_dim,
            hidden,
            2 * latent_dim + len(rows),
            num_classes=num_classes,
            network=network,
            activation=activation,
            min_scale=min_scale,
        )
        self.register_buffer("tril", rows * latent_dim + columns, persistent=False)  # flat places below the diagonal
        with torch.no_grad():
            self.encoder.output.weight[2 * latent_dim :] = 0
            self.encoder.output.bias[2 * latent_dim :] = 0

    def _from_outputs(self, outputs: Tensor) -> TorchDistribution:
        size = self.latent_dim
        loc, diagonal = loc_and_scale(outputs[..., : 2 * size], self.min_scale)
        below = outputs[..., 2 * size :].to(loc.dtype)
        flat = loc.new_zeros(*loc.shape[:-1], size * size).index_copy(-1, self.tril, below)
        scale_tril = flat.unflatten(-1, (size, size)) + diagonal.diag_embed()
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)
