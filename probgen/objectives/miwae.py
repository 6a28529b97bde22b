"""The mean of several importance-weighted bounds."""

import math
from typing import Any, ClassVar

from torch import Tensor

from probgen.arguments import positive_int
from probgen.core import bounds
from probgen.core.estimators import (
    Coefficients,
    Derivatives,
    doubly_reparameterized,
    grouped,
    leave_one_out,
    miwae,
    power_mean,
    score_function,
    ungrouped,
)
from probgen.errors import ArgumentError
from probgen.objectives.base import FROZEN, Objective
from probgen.objectives.iwae import STL_REFUSED


def particle_groups(name: str, num_particles: Any) -> tuple[int, int]:
    """``num_particles`` itself, if it is a pair (M, K) of whole numbers of at least 1.

    Raises:
        ArgumentError: it is not.
    """
    if not isinstance(num_particles, tuple) or len(num_particles) != 2:
        raise ArgumentError(f"`num_particles` of {name} must be a pair (M, K), got {num_particles!r}")
    groups, count = (positive_int("num_particles", number) for number in num_particles)
    return groups, count


class MIWAE(Objective):
    r"""The mean over M of importance-weighted bounds with K particles each.

    .. math:: \mathcal{L}_{M,K} = E\Big[\frac1M \sum_{m=1}^M \log \frac1K \sum_{k=1}^K
              \frac{p(x, z_{mk})}{q(z_{mk} \mid x)}\Big] = \mathcal{L}_K

    As tight as IWAE with K particles, with a gradient of less variance.

    Args:
        num_particles: (M, K).
        gradient: ``"auto"``, ``"pathwise"`` or ``"dreg"``, as in :class:`probgen.objectives.IWAE`.
        vectorize_particles: run all particles at once; see :class:`Objective`.
        max_plate_nesting: how deep the programs' plates nest; guessed by a trial run where infinite.

    Raises:
        ArgumentError: ``num_particles`` is not a pair of whole numbers of at least 1, or an unknown gradient.
        UnsupportedObjective: as for IWAE.

    Source:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better, arXiv 1802.04537.

    Example:
        >>> MIWAE(num_particles=(4, 8))
        MIWAE(num_particles=(4, 8), gradient='auto')
    """

    gradients: ClassVar[tuple[str, ...]] = ("auto", "pathwise", "dreg")
    refused: ClassVar[dict[str, str]] = STL_REFUSED

    def __init__(
        self,
        *,
        num_particles: tuple[int, int] = (2, 5),
        gradient: str = "auto",
        vectorize_particles: bool = True,
        max_plate_nesting: float = math.inf,
    ) -> None:
        groups, count = particle_groups("MIWAE", num_particles)
        super().__init__(
            num_particles=groups * count,
            gradient=gradient,
            vectorize_particles=vectorize_particles,
            max_plate_nesting=max_plate_nesting,
        )
        self.particle_groups = (groups, count)

    def combine(self, integrand: Tensor) -> Tensor:
        """The mean over M of ``logsumexp - log K`` over K."""
        return bounds.iwae(grouped(integrand, self.particle_groups)).mean(0)

    def derivatives(self, integrand: Tensor) -> Derivatives:
        """Of the mean; the path takes ``w^2 / M`` with w within each group."""
        return miwae(integrand, self.particle_groups)

    def coefficients(self, integrand: Tensor) -> Coefficients:
        """As for IWAE; each group's bound alone depends on its particles, and is their signal."""
        if self.gradient in FROZEN:
            return doubly_reparameterized(self.derivatives(integrand))
        groups = grouped(integrand, self.particle_groups)  # [K, M, batch]
        each = score_function(power_mean(groups, 1.0), leave_one_out(bounds.iwae, groups))
        carried, score = (ungrouped(part) / self.particle_groups[0] for part in (each.model, each.score))
        return Coefficients(carried, carried, score, carried)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_particles={self.particle_groups}, gradient={self.gradient!r})"
