"""The mean of several importance-weighted bounds."""

from typing import Any

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
        **options: ``vectorize_particles`` and ``max_plate_nesting``, as in :class:`Objective`.

    Raises:
        ArgumentError: ``num_particles`` is not a pair of whole numbers of at least 1, or an unknown gradient.
        UnsupportedObjective: as for IWAE.

    Source:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better, arXiv 1802.04537.

    Example:
        >>> MIWAE(num_particles=(4, 8))
        MIWAE(num_particles=(4, 8), gradient='auto')
    """

    def __init__(self, *, num_particles: tuple[int, int] = (2, 5), gradient: str = "auto", **options: Any) -> None:
        if not isinstance(num_particles, tuple) or len(num_particles) != 2:
            raise ArgumentError(f"`num_particles` of MIWAE must be a pair (M, K), got {num_particles!r}")
        groups, count = (check_num_particles(number) for number in num_particles)
        super().__init__(num_particles=groups * count, gradient=gradient, **options)
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
