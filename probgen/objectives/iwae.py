"""The importance-weighted bound."""

import math
from typing import ClassVar

from torch import Tensor

from probgen.core import bounds
from probgen.core.weights import normalized_weights
from probgen.objectives.base import Objective


class IWAE(Objective):
    r"""The importance-weighted bound: tighter than the ELBO, and tighter with every particle.

    .. math:: \mathcal{L}_K = E\Big[\log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)}\Big] \le \log p(x)

    Args:
        num_particles: K samples per datum.
        gradient: ``"auto"`` (pathwise where a site has ``rsample``, elsewhere the score function with the bound of
            the other particles as baseline), ``"pathwise"``, or ``"dreg"`` (doubly reparameterized: the guide's
            gradient takes squared weights, and its signal-to-noise ratio grows with K instead of falling).
        vectorize_particles: run all particles at once; see :class:`Objective`.
        max_plate_nesting: how deep the programs' plates nest; guessed by a trial run where infinite.

    Raises:
        ArgumentError: an unknown gradient, fewer than one particle.
        UnsupportedObjective: weights that are no importance weights, or a site without ``rsample`` under a gradient
            that needs it.

    Source:
        Burda, Grosse, Salakhutdinov (2016), arXiv 1509.00519; Tucker, Lawson, Gu, Maddison (2019), Doubly
        reparameterized gradient estimators for Monte Carlo objectives, arXiv 1810.04152.

    Example:
        >>> import torch
        >>> from probgen.guides import AmortizedNormal
        >>> from probgen.models import VAE
        >>> model, guide = VAE((4,), latent_dim=2), AmortizedNormal((4,), latent_dim=2)
        >>> loss = IWAE(num_particles=5, gradient="dreg")(model, guide)(torch.ones(3, 4))
        >>> loss.backward()
    """

    gradients: ClassVar[tuple[str, ...]] = ("auto", "pathwise", "dreg")
    refused: ClassVar[dict[str, str]] = {
        "stl": (
            "dropping the score of log q is biased for importance-weighted bounds (its mean adds the wake-phi "
            'gradient, arXiv 1810.04152); use `gradient="dreg"`'
        )
    }

    def __init__(
        self,
        *,
        num_particles: int = 5,
        gradient: str = "auto",
        vectorize_particles: bool = True,
        max_plate_nesting: float = math.inf,
    ) -> None:
        super().__init__(
            num_particles=num_particles,
            gradient=gradient,
            vectorize_particles=vectorize_particles,
            max_plate_nesting=max_plate_nesting,
        )

    def combine(self, integrand: Tensor) -> Tensor:
        """``logsumexp - log K`` over particles."""
        return bounds.iwae(integrand)

    def path_weights(self, integrand: Tensor) -> Tensor:
        """w: with the particle's own weight, w squared reaches the guide."""
        return normalized_weights(integrand)
