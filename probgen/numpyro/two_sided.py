"""Objectives that train model and guide by two estimates of their own: CUBO, EUBO, RWS, TVO.

NumPyro's SVI has one loss for all parameters: its gradient is that of each parameter's own side.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from probgen.core import bounds
from probgen.core.estimators import (
    Coefficients,
    cubo_coefficients,
    moments_grid,
    thermodynamic,
    thermodynamic_value,
    wake_coefficients,
)
from probgen.core.weights import normalized_weights
from probgen.errors import ArgumentError, UnsupportedObjective, nearest
from probgen.numpyro import surrogate
from probgen.numpyro.base import Estimate, Objective
from probgen.numpyro.dreams import dream
from probgen.numpyro.run import Vectorize
from probgen.numpyro.surrogate import Run
from probgen.numpyro.terms import PairTerms

PATHWISE_REFUSED = {
    "pathwise": (
        "the gradient of the K-sample estimate is that of no upper bound (with one particle it would lower the ELBO); "
        'use `gradient="self-normalized"` or "dreg"'
    )
}
GRIDS = ("log-uniform", "uniform", "moments")
UPDATES = ("wake", "sleep", "wake-sleep")
FIRST = 0.025  # the first temperature above 0 of the log-uniform grid, as in the paper's experiments


class SelfNormalized(Objective):
    """Base of objectives whose guide follows a sum over particles weighted by self-normalised coefficients."""

    apart: ClassVar[bool] = False  # whether the path's coefficients may be large where the model's vanish

    def guide_coefficients(self, log_weights: Array, *, reparameterized: bool) -> Coefficients:
        """What multiplies the gradients of each particle."""
        raise NotImplementedError

    def optimised(self, terms: PairTerms) -> Array:
        """What the loss reports, ``[batch]``, to be maximised."""
        raise NotImplementedError

    def reported(self, log_weights: Array) -> Array:
        """The plain bound of log-weights: by default the importance-weighted one."""
        return bounds.iwae(log_weights)

    @property
    def reparameterizes(self) -> bool:
        """Whether the guide's gradient goes through its samples."""
        return self.gradient in ("dreg", "reparameterized")

    def estimate(self, run: Run) -> Estimate:
        """The value, the bound, and a surrogate with the gradient of both sides."""
        terms, scalar = self._run(run)
        fixed = stop_gradient(terms)
        value, bound = self.optimised(fixed), self.reported(fixed.plain.log_weights)
        return Estimate(bound, value, jnp.asarray(scalar), fixed.scale, terms.mutable)

    def _run(self, run: Run) -> tuple[PairTerms, Any]:
        if self.reparameterizes:
            return surrogate.frozen(run, self._rule, self.gradient, instead=self._instead(), apart=self.apart)
        return surrogate.detached(run, self._rule)

    def _instead(self) -> str:
        return f'gradient="{self.gradients[1]}"'

    def _rule(self, terms: PairTerms) -> Coefficients:
        terms.require_importance_weights(self.num_particles)
        return self.guide_coefficients(terms.log_weights, reparameterized=self.reparameterizes)


class CUBO(SelfNormalized):
    r"""The chi upper bound, minimised over the guide; the model follows the importance-weighted bound.

    .. math:: \phi: \mathrm{CUBO}_n = \frac1n \log E_q\Big[\Big(\frac{p(x, z)}{q(z \mid x)}\Big)^n\Big] \ge \log p(x),
              \qquad \theta: \mathcal{L}_K

    The exact expectation is an upper bound; the K-sample estimate, which is what the loss shows, is biased downwards
    and bounds nothing.

    Args:
        n: the order, above 1.
        num_particles: K samples per datum.
        gradient: ``"self-normalized"`` (``"auto"`` is that), or ``"dreg"``, the same mean by the path of each sample.
        vectorize_particles: run all particles at once; see :class:`probgen.numpyro.Objective`.
        batch_plate: the plate over data; by default those around every site.

    Raises:
        ArgumentError: ``n`` of 1 or less, an unknown gradient, fewer than one particle.
        UnsupportedObjective: as for IWAE.

    Source:
        Dieng, Tran, Ranganath, Paisley, Blei (2017), Variational inference via chi upper bound minimization, arXiv
        1611.00328.

    Example:
        >>> CUBO(n=2.0, num_particles=20)
        CUBO(n=2, num_particles=20, gradient='auto')
    """

    gradients: ClassVar[tuple[str, ...]] = ("auto", "self-normalized", "dreg")
    refused: ClassVar[dict[str, str]] = PATHWISE_REFUSED

    def __init__(
        self,
        *,
        n: float = 2.0,
        num_particles: int = 5,
        gradient: str = "auto",
        vectorize_particles: bool | Vectorize = True,
        batch_plate: str | None = None,
    ) -> None:
        super().__init__(
            num_particles=num_particles,
            gradient=gradient,
            vectorize_particles=vectorize_particles,
            batch_plate=batch_plate,
        )
        if isinstance(n, bool) or not isinstance(n, int | float) or not 1 < n < math.inf:
            raise ArgumentError(f"`n`, the order of CUBO, must be a finite number above 1, got {n!r}")
        self.n = float(n)

    def guide_coefficients(self, log_weights: Array, *, reparameterized: bool) -> Coefficients:
        """Of the descent on CUBO."""
        return cubo_coefficients(log_weights, self.n, reparameterized=reparameterized)

    def optimised(self, terms: PairTerms) -> Array:
        """Minus CUBO."""
        return -bounds.cubo(terms.log_weights, self.n)

    def __repr__(self) -> str:
        return f"CUBO(n={self.n:g}, num_particles={self.num_particles}, gradient={self.gradient!r})"


class EUBO(SelfNormalized):
    r"""The evidence upper bound, minimised over the guide; the model follows the importance-weighted bound.

    .. math:: \phi: \mathrm{EUBO} = E_{p(z|x)}\Big[\log \frac{p(x, z)}{q(z \mid x)}\Big]
              = \log p(x) + KL(p(z \mid x) \| q(z \mid x)), \qquad \theta: \mathcal{L}_K

    The expectation is taken with self-normalised weights of K particles of the guide, which is what the loss shows: it
    is biased downwards by O(1/K) and bounds nothing.

    Args:
        num_particles: K samples per datum.
        gradient: ``"self-normalized"`` (``"auto"`` is that), or ``"dreg"``, the same mean by the path of each sample.
        vectorize_particles: run all particles at once; see :class:`probgen.numpyro.Objective`.
        batch_plate: the plate over data; by default those around every site.

    Raises:
        ArgumentError: an unknown gradient, fewer than one particle.
        UnsupportedObjective: as for IWAE.

    Source:
        Ji, Shen (2019), Stochastic variational inference via upper bound, arXiv 1912.00650.

    Example:
        >>> EUBO(num_particles=20)
        EUBO(num_particles=20, gradient='auto')
    """

    gradients: ClassVar[tuple[str, ...]] = ("auto", "self-normalized", "dreg")
    refused: ClassVar[dict[str, str]] = PATHWISE_REFUSED

    def __init__(
        self,
        *,
        num_particles: int = 5,
        gradient: str = "auto",
        vectorize_particles: bool | Vectorize = True,
        batch_plate: str | None = None,
    ) -> None:
        super().__init__(
            num_particles=num_particles,
            gradient=gradient,
            vectorize_particles=vectorize_particles,
            batch_plate=batch_plate,
        )

    def guide_coefficients(self, log_weights: Array, *, reparameterized: bool) -> Coefficients:
        """Of the descent on EUBO, which is the ascent of wake-phi."""
        return wake_coefficients(log_weights, reparameterized=reparameterized)

    def optimised(self, terms: PairTerms) -> Array:
        """Minus EUBO."""
        return -bounds.eubo(terms.log_weights)


class RWS(SelfNormalized):
    r"""Reweighted wake-sleep: the model by importance weights, the guide by them, by dreams, or by both.

    .. math:: \theta: \sum_k w_k \nabla_\theta \log p(x, z_k), \qquad
              \phi_\mathrm{wake}: \sum_k w_k \nabla_\phi \log q(z_k \mid x), \qquad
              \phi_\mathrm{sleep}: \nabla_\phi \log q(z \mid x), \; (x, z) \sim p

    The weights are normalised for each datum. Wake is consistent: its bias is O(1/K). Sleep is unbiased for
    ``E_p(x)[KL(p(z|x) || q(z|x))]``, of data that the model draws. Loss and bound are the importance-weighted one.

    Args:
        num_particles: K samples per datum.
        guide_update: ``"wake"``, ``"sleep"``, or ``"wake-sleep"``, the mean of both.
        gradient: of wake: ``"self-normalized"`` (``"auto"`` is that), or ``"dreg"``, the same mean by the path of each
            sample.
        vectorize_particles: run all particles at once; see :class:`probgen.numpyro.Objective`.
        batch_plate: the plate over data; by default those around every site.

    Raises:
        ArgumentError: an unknown update or gradient, fewer than one particle.
        UnsupportedObjective: as for IWAE; sleep for a model that observes something computed from its arguments.

    Source:
        Bornschein, Bengio (2015), Reweighted wake-sleep, arXiv 1406.2751; Tucker et al. (2019), arXiv 1810.04152.

    Example:
        >>> RWS(num_particles=10, guide_update="wake-sleep")
        RWS(num_particles=10, guide_update='wake-sleep', gradient='auto')
    """

    gradients: ClassVar[tuple[str, ...]] = ("auto", "self-normalized", "dreg")
    refused: ClassVar[dict[str, str]] = PATHWISE_REFUSED

    def __init__(
        self,
        *,
        num_particles: int = 5,
        guide_update: str = "wake",
        gradient: str = "auto",
        vectorize_particles: bool | Vectorize = True,
        batch_plate: str | None = None,
    ) -> None:
        super().__init__(
            num_particles=num_particles,
            gradient=gradient,
            vectorize_particles=vectorize_particles,
            batch_plate=batch_plate,
        )
        if guide_update not in UPDATES:
            raise ArgumentError(f"unknown `guide_update={guide_update!r}`; {nearest(str(guide_update), UPDATES)}")
        if guide_update == "sleep" and gradient == "dreg":
            raise UnsupportedObjective(
                'the guide takes no sample in sleep, so there is no path for "dreg"; use `gradient="auto"`'
            )
        self.guide_update = guide_update

    def guide_coefficients(self, log_weights: Array, *, reparameterized: bool) -> Coefficients:
        """Of wake-phi, as far as the guide's update is that."""
        wake = wake_coefficients(log_weights, reparameterized=reparameterized)
        share = {"wake": 1.0, "sleep": 0.0, "wake-sleep": 0.5}[self.guide_update]
        guide, path = (None if c is None else share * c for c in (wake.guide, wake.path))
        return wake._replace(guide=guide, path=path)

    def optimised(self, terms: PairTerms) -> Array:
        """The importance-weighted bound."""
        return bounds.iwae(terms.log_weights)

    def _run(self, run: Run) -> tuple[PairTerms, Any]:
        terms, scalar = super()._run(run)
        if self.guide_update == "wake":
            return terms, scalar
        share = 1.0 if self.guide_update == "sleep" else 0.5
        return terms, scalar + share * dream(run)

    def __repr__(self) -> str:
        update = f"guide_update={self.guide_update!r}"
        return f"RWS(num_particles={self.num_particles}, {update}, gradient={self.gradient!r})"


class TVO(SelfNormalized):
    r"""The thermodynamic variational objective: a Riemann sum of log p(x) as an integral over temperatures.

    .. math:: \log p(x) = \int_0^1 E_{\pi_\beta}\Big[\log \frac{p(x, z)}{q(z \mid x)}\Big] d\beta, \qquad
              \pi_\beta \propto q^{1 - \beta} p^\beta

    The left sum is a lower bound that rises with both sides' parameters; with one interval it is the ELBO. The right
    sum is an upper bound, minimised over the guide, while the model follows the importance-weighted bound. The
    expectations are taken with self-normalised weights of K particles: a finite K has a bias of O(1/K).

    Args:
        num_particles: K samples per datum.
        side: ``"left"`` or ``"right"`` end of each interval.
        temperatures: the number of intervals, or the temperatures themselves, ascending from 0 to 1.
        grid: where ``temperatures`` is a number: ``"log-uniform"`` (0, then even in log from 0.025 to 1),
            ``"uniform"``, or ``"moments"`` (adapted to each datum, so that the integrand rises by equal steps).
        gradient: ``"covariance"`` (``"auto"`` is that), which suits any site, or ``"reparameterized"``.
        vectorize_particles: run all particles at once; see :class:`probgen.numpyro.Objective`.
        batch_plate: the plate over data; by default those around every site.

    Raises:
        ArgumentError: temperatures that do not ascend from 0 to 1, an unknown name, fewer than one particle.
        UnsupportedObjective: as for IWAE.

    Source:
        Masrani, Le, Wood (2019), The thermodynamic variational objective, arXiv 1907.00031; Brekelmans et al. (2020),
        All in the exponential family, arXiv 2007.00642, for the adapted grid.

    Example:
        >>> TVO(num_particles=10, temperatures=(0.0, 0.2, 1.0))
        TVO(num_particles=10, side='left', temperatures=(0.0, 0.2, 1.0), gradient='auto')
    """

    gradients: ClassVar[tuple[str, ...]] = ("auto", "covariance", "reparameterized")
    apart: ClassVar[bool] = True

    def __init__(
        self,
        *,
        num_particles: int = 5,
        side: str = "left",
        temperatures: int | Sequence[float] = 5,
        grid: str = "log-uniform",
        gradient: str = "auto",
        vectorize_particles: bool | Vectorize = True,
        batch_plate: str | None = None,
    ) -> None:
        super().__init__(
            num_particles=num_particles,
            gradient=gradient,
            vectorize_particles=vectorize_particles,
            batch_plate=batch_plate,
        )
        for name, value, known in (("side", side, ("left", "right")), ("grid", grid, GRIDS)):
            if value not in known:
                raise ArgumentError(f"unknown `{name}={value!r}`; {nearest(str(value), known)}")
        self.side, self.grid = side, grid
        self.temperatures = _checked(temperatures)

    def _temperatures_for(self, log_weights: Array) -> Sequence[Array | float]:
        if not isinstance(self.temperatures, int):
            return self.temperatures
        if self.grid == "moments":
            return moments_grid(log_weights, self.temperatures)
        return fixed_grid(self.temperatures, self.grid)

    def guide_coefficients(self, log_weights: Array, *, reparameterized: bool) -> Coefficients:
        """Of the covariance gradient; with the right side the model follows the importance-weighted bound."""
        temperatures = self._temperatures_for(log_weights)
        found = thermodynamic(log_weights, temperatures, side=self.side, reparameterized=reparameterized)
        return found if self.side == "left" else found._replace(model=normalized_weights(log_weights))

    def reported(self, log_weights: Array) -> Array:
        """The left sum, or the importance-weighted bound."""
        return self._sum(log_weights) if self.side == "left" else bounds.iwae(log_weights)

    def optimised(self, terms: PairTerms) -> Array:
        """The left sum, or minus the right one."""
        return self._sum(terms.log_weights) if self.side == "left" else -self._sum(terms.log_weights)

    def _sum(self, log_weights: Array) -> Array:
        return thermodynamic_value(log_weights, self._temperatures_for(log_weights), side=self.side)

    def __repr__(self) -> str:
        grid = f"temperatures={self.temperatures!r}"
        grid += f", grid={self.grid!r}" if isinstance(self.temperatures, int) else ""
        return f"TVO(num_particles={self.num_particles}, side={self.side!r}, {grid}, gradient={self.gradient!r})"


def _checked(temperatures: Any) -> int | tuple[float, ...]:
    if isinstance(temperatures, int) and not isinstance(temperatures, bool) and temperatures >= 1:
        return temperatures
    if isinstance(temperatures, tuple | list) and len(temperatures) >= 2:
        ends = all(isinstance(b, int | float) and not isinstance(b, bool) for b in temperatures)
        if ends and temperatures[0] == 0 and temperatures[-1] == 1 and _ascends(temperatures):
            return tuple(float(b) for b in temperatures)
    raise ArgumentError(
        "`temperatures` must be a number of intervals of at least 1, or numbers that ascend from 0 to 1, got "
        f"{temperatures!r}"
    )


def _ascends(temperatures: Sequence[float]) -> bool:
    return all(low < high for low, high in itertools.pairwise(temperatures))


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
