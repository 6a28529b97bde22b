"""Maximum likelihood, for models without latent sites."""

import math

from torch import Tensor

from probgen.core.estimators import Derivatives, elbo
from probgen.errors import UnsupportedObjective
from probgen.objectives.base import Objective
from probgen.programs import PairTerms


class MaximumLikelihood(Objective):
    r"""The exact log-likelihood of a model without latent sites: flows, autoregressive models, summed-out mixtures.

    .. math:: \mathcal{L} = \log p(x)

    Args:
        max_plate_nesting: how deep the programs' plates nest; guessed by a trial run where infinite.

    Raises:
        UnsupportedObjective: the pair has a latent site; use ``ELBO`` or ``IWAE``.

    Example:
        >>> import torch
        >>> from probgen.models import GaussianMixture
        >>> loss = MaximumLikelihood()(GaussianMixture(data_dim=2, num_components=3))(torch.zeros(5, 2))
        >>> loss.backward()
    """

    def __init__(self, *, max_plate_nesting: float = math.inf) -> None:
        super().__init__(num_particles=1, max_plate_nesting=max_plate_nesting)

    def combine(self, integrand: Tensor) -> Tensor:
        """The one particle."""
        return integrand[0]

    def derivatives(self, integrand: Tensor) -> Derivatives:
        """Of the one particle."""
        return elbo(integrand)

    def integrand(self, terms: PairTerms) -> Tensor:
        """``log p(x)``, ``[1, batch]``."""
        if terms.latents:
            raise UnsupportedObjective(
                f"MaximumLikelihood needs a model without latent sites, but '{terms.latents[0].name}' is latent; use "
                "`ELBO` or `IWAE`, or sum the site out"
            )
        return terms.log_weights

    def __repr__(self) -> str:
        return "MaximumLikelihood()"
