"""The thermodynamic variational objective."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from probgen.core.estimators import Coefficients, moments_grid, thermodynamic, thermodynamic_value
from probgen.errors import ArgumentError, nearest
from probgen.objectives.base import Estimate, Player
from probgen.objectives.iwae import IWAE
from probgen.objectives.pair import PairLoss
from probgen.objectives.two_sided import GuideSide, TwoSided
from probgen.programs import PairTerms

GRIDS = ("log-uniform", "uniform", "moments")
FIRST = 0.025  # the first temperature above 0 of the log-uniform grid, as in the paper's experiments


class TVO(TwoSided):
    r"""The thermodynamic variational objective: a Riemann sum of log p(x) as an integral over temperatures.

    .. math:: \log p(x) = \int_0^1 E_{\pi_\beta}\Big[\log \frac{p(x, z)}{q(z \mid x)}\Big] d\beta, \qquad
              \pi_\beta \propto q^{1 - \beta} p^\beta

    The left sum is a lower bound that rises with both sides' parameters; with one interval it is the ELBO. The right
    sum is an upper bound, minimised over the guide, while the model follows the importance-weighted bound (players
    ``"guide"`` and ``"model"``). The expectations are taken with self-normalised weights ``softmax(beta l)`` of K
    particles of the guide: a finite K has a bias of O(1/K), and with one particle the guide's gradient vanishes.

    Args:
        num_particles: K samples per datum.
        side: ``"left"`` or ``"right"`` end of each interval.
        temperatures: the number of intervals, or the temperatures themselves, ascending from 0 to 1.
        grid: where ``temperatures`` is a number: ``"log-uniform"`` (0, then even in log from 0.025 to 1),
            ``"uniform"``, or ``"moments"`` (adapted to each datum, so that the integrand rises by equal steps).
        gradient: ``"covariance"`` (``"auto"`` is that), which suits any site, or ``"reparameterized"``, whose guide
            gradient has the same mean through the path of each sample.
        vectorize_particles: run all particles at once; see :class:`Objective`.
        max_plate_nesting: how deep the programs' plates nest; guessed by a trial run where infinite.

    Raises:
        ArgumentError: temperatures that do not ascend from 0 to 1, an unknown name, fewer than one particle.
        UnsupportedObjective: as for IWAE; with the right side, model and guide share a parameter.

    Source:
        Masrani, Le, Wood (2019), The thermodynamic variational objective, arXiv 1907.00031; Brekelmans et al. (2020),
        All in the exponential family, arXiv 2007.00642, for the adapted grid.

    Example:
        >>> TVO(num_particles=10, temperatures=(0.0, 0.2, 1.0))
        TVO(num_particles=10, side='left', temperatures=(0.0, 0.2, 1.0), gradient='auto')
    """

    gradients: ClassVar[tuple[str, ...]] = ("auto", "covariance", "reparameterized")
    refused: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        *,
        num_particles: int = 5,
        side: str = "left",
        temperatures: int | Sequence[float] = 5,
        grid: str = "log-uniform",
        gradient: str = "auto",
        vectorize_particles: bool = True,
        max_plate_nesting: float = math.inf,
    ) -> None:
        self._check_gradient(gradient)
        for name, value, known in (("side", side, ("left", "right")), ("grid", grid, GRIDS)):
            if value not in known:
                raise ArgumentError(f"unknown `{name}={value!r}`; {nearest(str(value), known)}")
        self.side, self.grid = side, grid
        self.temperatures = _checked(temperatures)
        run: dict[str, Any] = {"vectorize_particles": vectorize_particles, "max_plate_nesting": max_plate_nesting}
        chosen = "reparameterized" if gradient == "reparameterized" else "covariance"
        super().__init__(
            IWAE(num_particles=num_particles, **run),
            _Thermodynamic(side, self.temperatures, grid, num_particles=num_particles, gradient=chosen, **run),
            loss_of="guide",
            num_particles=num_particles,
            gradient=gradient,
            **run,
        )

    def evaluate(self, pair: PairLoss, args: tuple[Any, ...], kwargs: dict[str, Any], **options: Any) -> Estimate:
        """The left sum trains both sides at once, the right one the guide alone."""
        if self.side == "right":
            return super().evaluate(pair, args, kwargs, **options)
        inner = pair.other(self.guide_side)
        return inner.objective.evaluate(inner, args, kwargs, **options)

    def players(self, pair: PairLoss, parameters: dict[str, Tensor]) -> Sequence[Player]:
        """One player for the left sum, two for the right one."""
        if self.side == "right":
            return super().players(pair, parameters)
        return (Player("pair", pair.player_loss, parameters),)

    def __repr__(self) -> str:
        grid = f"temperatures={self.temperatures!r}"
        grid += f", grid={self.grid!r}" if isinstance(self.temperatures, int) else ""
        return f"TVO(num_particles={self.num_particles}, side={self.side!r}, {grid}, gradient={self.gradient!r})"


def _checked(temperatures: Any) -> int | tuple[float, ...]:
    if isinstance(temperatures, int) and not isinstance(temperatures, bool) and temperatures >= 1:
        return temperatures
    if isinstance(temperatures, tuple | list) and all(type(b) in (int, float) for b in temperatures):
        ascending = all(a < b for a, b in itertools.pairwise(temperatures))
        if len(temperatures) >= 2 and (temperatures[0], temperatures[-1]) == (0, 1) and ascending:
            return tuple(float(b) for b in temperatures)
    raise ArgumentError(
        "`temperatures` must be a number of intervals of at least 1, or numbers that ascend from 0 to 1, got "
        f"{temperatures!r}"
    )


class _Thermodynamic(GuideSide):
    """The sum of one side; the left one with the gradient of both programs."""

    gradients: ClassVar[tuple[str, ...]] = ("covariance", "reparameterized")

    def __init__(self, side: str, temperatures: int | tuple[float, ...], grid: str, **options: Any) -> None:
        super().__init__(**options)
        self._side, self._temperatures, self._grid = side, temperatures, grid

    def _temperatures_for(self, log_weights: Tensor) -> Sequence[Tensor | float]:
        if not isinstance(self._temperatures, int):
            return self._temperatures
        if self._grid == "moments":
            return moments_grid(log_weights, self._temperatures)
        return fixed_grid(self._temperatures, self._grid)

    def coefficients(self, integrand: Tensor) -> Coefficients:
        """Of the covariance gradient."""
        temperatures = self._temperatures_for(integrand)
        return thermodynamic(integrand, temperatures, side=self._side, reparameterized=self.freezes_guide)

    def optimised(self, terms: PairTerms, log_weights: Tensor) -> Tensor:
        """The left sum, or minus the right one."""
        value = thermodynamic_value(log_weights, self._temperatures_for(log_weights), side=self._side)
        return value if self._side == "left" else -value

    def estimate(self, terms: PairTerms) -> Estimate:
        """As the base; the left sum is a bound itself."""
        estimate = super().estimate(terms)
        if self._side == "right":
            return estimate
        bound = estimate.value if terms.unscaled is None else self.optimised(terms, self.integrand(terms.unscaled))
        return Estimate(bound.detach(), estimate.value, estimate.surrogate, estimate.scale, terms)


def fixed_grid(intervals: int, grid: str) -> tuple[float, ...]:
    """Temperatures from 0 to 1 that do not depend on the data.

    Example:
        >>> fixed_grid(2, "uniform")
        (0.0, 0.5, 1.0)
    """
    if grid == "uniform":
        return tuple(j / intervals for j in range(intervals + 1))
    powers = [1.0 - j / (intervals - 1) for j in range(intervals)] if intervals > 1 else [0.0]
    return (0.0, *(FIRST**power for power in powers))
