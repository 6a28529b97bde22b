"""The variational Rényi bound."""

import math
from typing import ClassVar

from torch import Tensor

from probgen.core import bounds
from probgen.core.estimators import Derivatives, power_mean
from probgen.errors import ArgumentError
from probgen.objectives.base import Objective
from probgen.objectives.iwae import STL_REFUSED


class Renyi(Objective):
    r"""The variational Rényi bound of order alpha, between the IWAE bound (alpha = 0) and the ELBO (alpha -> 1).

    .. math:: \mathcal{L}_\alpha = E\Big[\frac{1}{1-\alpha} \log \frac1K \sum_{k=1}^K
              \Big(\frac{p(x, z_k)}{q(z_k \mid x)}\Big)^{1-\alpha}\Big]

    A lower bound on log p(x) for alpha >= 0. For alpha < 0 the K-sample mean is neither a lower nor an upper bound.

    Args:
        alpha: the order, any number but 1.
        num_particles: K samples per datum.
        gradient: ``"auto"``, ``"pathwise"``, ``"dreg"`` or ``"score"``, as in :class:`probgen.objectives.IWAE`;
            unbiased for the gradient of the K-sample mean.
        vectorize_particles: run all particles at once; see :class:`Objective`.
        max_plate_nesting: how deep the programs' plates nest; guessed by a trial run where infinite.

    Raises:
        ArgumentError: ``alpha`` is 1 or not finite, an unknown gradient, fewer than one particle.
        UnsupportedObjective: as for IWAE.

    Source:
        Li, Turner (2016), Rényi divergence variational inference, arXiv 1602.02311.

    Example:
        >>> Renyi(alpha=0.5)
        Renyi(alpha=0.5, num_particles=5, gradient='auto')
    """

    gradients: ClassVar[tuple[str, ...]] = ("auto", "pathwise", "dreg", "score")
    refused: ClassVar[dict[str, str]] = STL_REFUSED

    def __init__(
        self,
        *,
        alpha: float,
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
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise ArgumentError(f"`alpha` must be a finite number, got {alpha!r}")
        if alpha == 1:
            raise ArgumentError("`alpha=1` is the limit in which the Rényi bound is the ELBO; use `ELBO()`")
        self.alpha = float(alpha)

    def combine(self, integrand: Tensor) -> Tensor:
        """``(logsumexp (1 - alpha) l - log K) / (1 - alpha)`` over particles."""
        return bounds.renyi(integrand, self.alpha)

    def derivatives(self, integrand: Tensor) -> Derivatives:
        """Of the power mean with ``s = 1 - alpha``; the path takes ``alpha v + (1 - alpha) v^2``."""
        return power_mean(integrand, 1.0 - self.alpha)

    def __repr__(self) -> str:
        return f"Renyi(alpha={self.alpha:g}, num_particles={self.num_particles}, gradient={self.gradient!r})"
