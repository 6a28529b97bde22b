"""The importance-weighted bound for the model, the mean of several for the guide."""

import math
from typing import Any, ClassVar

from probgen.objectives.iwae import IWAE, STL_REFUSED
from probgen.objectives.miwae import MIWAE, particle_groups
from probgen.objectives.two_sided import TwoSided


class PIWAE(TwoSided):
    r"""The model by the bound of all M K particles, the guide by the mean over M of bounds of K.

    .. math:: \theta: \mathcal{L}_{MK}, \qquad \phi: \mathcal{L}_{M,K} = \frac1M \sum_{m=1}^M \mathcal{L}_K^{(m)}

    The model profits from the tighter bound, the guide from the gradient with less noise. Two players, ``"guide"``
    and ``"model"``; the bound reported is the model's.

    Args:
        num_particles: (M, K).
        gradient: ``"auto"``, ``"pathwise"`` or ``"dreg"`` of the guide, as in :class:`probgen.objectives.IWAE`.
        vectorize_particles: run all particles at once; see :class:`Objective`.
        max_plate_nesting: how deep the programs' plates nest; guessed by a trial run where infinite.

    Raises:
        ArgumentError: ``num_particles`` is not a pair of whole numbers of at least 1, or an unknown gradient.
        UnsupportedObjective: as for IWAE; model and guide share a parameter.

    Source:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better, arXiv 1802.04537.

    Example:
        >>> PIWAE(num_particles=(4, 8))
        PIWAE(num_particles=(4, 8), gradient='auto')
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
        self._check_gradient(gradient)
        self.particle_groups = particle_groups("PIWAE", num_particles)
        count = self.particle_groups[0] * self.particle_groups[1]
        run: dict[str, Any] = {"vectorize_particles": vectorize_particles, "max_plate_nesting": max_plate_nesting}
        super().__init__(
            IWAE(num_particles=count, **run),
            MIWAE(num_particles=self.particle_groups, gradient=gradient, **run),
            loss_of="model",
            num_particles=count,
            gradient=gradient,
            **run,
        )

    def __repr__(self) -> str:
        return f"PIWAE(num_particles={self.particle_groups}, gradient={self.gradient!r})"
