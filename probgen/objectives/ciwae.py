"""A combination of the ELBO and the importance-weighted bound."""

import math
from typing import ClassVar

from torch import Tensor

from probgen.core import bounds
from probgen.core.estimators import Derivatives, ciwae
from probgen.errors import ArgumentError
from probgen.objectives.base import Objective
from probgen.objectives.iwae import STL_REFUSED


class CIWAE(Objective):
    r"""A convex combination of the ELBO and the importance-weighted bound of the same particles.

    .. math:: \mathcal{L} = \beta \, \mathrm{ELBO} + (1 - \beta) \, \mathrm{IWAE}_K \le \log p(x)

    Args:
        num_particles: K samples per datum.
        beta: the share of the ELBO, in [0, 1]; 0 is IWAE, 1 the ELBO.
        gradient: ``"auto"``, ``"pathwise"`` or ``"dreg"``, as in :class:`probgen.objectives.IWAE`.
        vectorize_particles: run all particles at once; see :class:`Objective`.
        max_plate_nesting: how deep the programs' plates nest; guessed by a trial run where infinite.

    Raises:
        ArgumentError: ``beta`` outside [0, 1], an unknown gradient, fewer than one particle.
        UnsupportedObjective: as for IWAE.

    Source:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better, arXiv 1802.04537.

    Example:
        >>> CIWAE(beta=0.1)
        CIWAE(num_particles=5, beta=0.1, gradient='auto')
    """

    gradients: ClassVar[tuple[str, ...]] = ("auto", "pathwise", "dreg")
    refused: ClassVar[dict[str, str]] = STL_REFUSED

    def __init__(
        self,
        *,
        num_particles: int = 5,
        beta: float = 0.5,
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
        if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 <= beta <= 1:
            raise ArgumentError(f"`beta` of CIWAE, the share of the ELBO, must be in [0, 1], got {beta!r}")
        self.beta = float(beta)

    def combine(self, integrand: Tensor) -> Tensor:
        """``beta mean + (1 - beta) (logsumexp - log K)`` over particles."""
        if self.beta == 0.0:  # 0 * -inf
            return bounds.iwae(integrand)
        if self.beta == 1.0:
            return bounds.elbo(integrand)
        return self.beta * bounds.elbo(integrand) + (1.0 - self.beta) * bounds.iwae(integrand)

    def derivatives(self, integrand: Tensor) -> Derivatives:
        """Of the combination; the path takes ``beta / K + (1 - beta) w^2``."""
        return ciwae(integrand, self.beta)

    def __repr__(self) -> str:
        return f"CIWAE(num_particles={self.num_particles}, beta={self.beta:g}, gradient={self.gradient!r})"
