"""The mean of several importance-weighted bounds."""

import math

from torch import Tensor

from probgen.errors import ArgumentError
from probgen.objectives.iwae import IWAE
from probgen.programs.run import check_num_particles


class MIWAE(IWAE):
    r"""The mean over M of importance-weighted bounds with K particles each.

    .. math:: \mathcal{L}_{M,K} = E\Big[\frac1M \sum_{m=1}^M \log \frac1K \sum_{k=1}^K
              \frac{p(x, z_{mk})}{q(z_{mk} \mid x)}\Big] = \mathcal{L}_K

    As tight as IWAE with K particles, with a gradient of less variance.

    Args:
        num_particles: (M, K).
        gradient: as in :class:`probgen.objectives.IWAE`.
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

    def __init__(
        self,
        *,
        num_particles: tuple[int, int] = (2, 5),
        gradient: str = "auto",
        vectorize_particles: bool = True,
        max_plate_nesting: float = math.inf,
    ) -> None:
        if not isinstance(num_particles, tuple) or len(num_particles) != 2:
            raise ArgumentError(f"`num_particles` of MIWAE must be a pair (M, K), got {num_particles!r}")
        groups, count = (check_num_particles(number) for number in num_particles)
        super().__init__(
            num_particles=groups * count,
            gradient=gradient,
            vectorize_particles=vectorize_particles,
            max_plate_nesting=max_plate_nesting,
        )
        self.particle_groups = (groups, count)

    def group(self, integrand: Tensor) -> Tensor:
        """``[M * K, batch]`` as ``[K, M, batch]``."""
        return integrand.reshape(*self.particle_groups, *integrand.shape[1:]).transpose(0, 1)

    def ungroup(self, grouped: Tensor) -> Tensor:
        """``[K, M, batch]`` as ``[M * K, batch]``."""
        return grouped.transpose(0, 1).flatten(0, 1)

    def reduce(self, grouped: Tensor) -> Tensor:
        """The mean over M."""
        return grouped.mean(0)
