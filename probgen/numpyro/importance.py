"""Importance-weighted bounds: IWAE, its relatives, and Rényi's."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from probgen.arguments import positive_int
from probgen.core import estimators
from probgen.core.estimators import Coefficients, Derivatives
from probgen.errors import ArgumentError, UnsupportedObjective
from probgen.numpyro import surrogate
from probgen.numpyro.base import Objective
from probgen.numpyro.generalized import generalized
from probgen.numpyro.run import Vectorize
from probgen.numpyro.surrogate import Run
from probgen.numpyro.terms import PairTerms

_STL_IS_BIASED = (
    "dropping the score of log q is biased for importance-weighted bounds (its mean adds the wake-phi gradient, arXiv "
    '1810.04152); use `gradient="dreg"`'
)
_NO_PATHS = 'there is no such estimator of this bound; use `gradient="auto"` or "dreg"'


class IWAE(Objective):
    r"""The importance-weighted bound: tighter than the ELBO, and tighter with every particle.

    .. math:: \mathcal{L}_K = E\Big[\log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)}\Big] \le \log p(x)

    Args:
        num_particles: K samples per datum.
        gradient: ``"auto"`` (pathwise where a site has ``rsample``, elsewhere the score function with the bound of
            the other particles as baseline), ``"pathwise"``, ``"dreg"`` (doubly reparameterized), ``"gdreg"`` (the
            same also for the model's own learned distributions of latents), ``"score"``, ``"rloo"`` and ``"vimco"``
            (score functions at every site, without baseline, with that of the other particles, with their geometric
            mean in place of the particle), ``"resampled"`` (backward through one particle drawn by weight),
            ``"resampled-dreg"``.
        vectorize_particles: run all particles at once; see :class:`probgen.numpyro.Objective`.
        batch_plate: the plate over data; by default those around every site.

    Raises:
        ArgumentError: an unknown gradient, fewer than one particle.
        UnsupportedObjective: weights that are no importance weights, or a site without ``rsample`` under a gradient
            that needs it.

    Source:
        Burda, Grosse, Salakhutdinov (2016), arXiv 1509.00519; Tucker, Lawson, Gu, Maddison (2019), arXiv 1810.04152;
        Mnih, Rezende (2016), arXiv 1602.06725; Bauer, Mnih (2021), arXiv 2101.11046.

    Example:
        >>> IWAE(num_particles=50, gradient="dreg")
        IWAE(num_particles=50, gradient='dreg')
    """

    gradients: ClassVar[tuple[str, ...]] = (
        "auto",
        "pathwise",
        "dreg",
        "gdreg",
        "score",
        "rloo",
        "vimco",
        "resampled",
        "resampled-dreg",
    )
    refused: ClassVar[dict[str, str]] = {"stl": _STL_IS_BIASED}

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

    def derivatives(self, log_weights: Array) -> Derivatives:
        """``logsumexp - log K`` over particles; first derivatives w."""
        return estimators.power_mean(log_weights, 1.0)

    def _run(self, run: Run) -> tuple[PairTerms, Any]:
        if self.gradient in ("resampled", "resampled-dreg"):
            key = jax.random.fold_in(run.draws.minibatch, 1)
            return surrogate.resampled(run, self._rule, key, self.gradient)
        if self.gradient == "gdreg":
            return generalized(run, self._rule)
        return super()._run(run)


class Renyi(Objective):
    r"""The variational Rényi bound of order alpha, between the IWAE bound (alpha = 0) and the ELBO (alpha -> 1).

    .. math:: \mathcal{L}_\alpha = E\Big[\frac{1}{1-\alpha} \log \frac1K \sum_{k=1}^K
              \Big(\frac{p(x, z_k)}{q(z_k \mid x)}\Big)^{1-\alpha}\Big]

    A lower bound on log p(x) for alpha >= 0. For alpha < 0 the K-sample mean is neither a lower nor an upper bound.

    Args:
        alpha: the order, any number but 1.
        num_particles: K samples per datum.
        gradient: ``"auto"``, ``"pathwise"``, ``"dreg"`` or ``"score"``, as in :class:`IWAE`; unbiased for the gradient
            of the K-sample mean.
        vectorize_particles: run all particles at once; see :class:`probgen.numpyro.Objective`.
        batch_plate: the plate over data; by default those around every site.

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
    refused: ClassVar[dict[str, str]] = {"stl": _STL_IS_BIASED}

    def __init__(
        self,
        *,
        alpha: float,
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
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise ArgumentError(f"`alpha` must be a finite number, got {alpha!r}")
        if alpha == 1:
            raise ArgumentError("`alpha=1` is the limit in which the Rényi bound is the ELBO; use `ELBO()`")
        self.alpha = float(alpha)

    def derivatives(self, log_weights: Array) -> Derivatives:
        """``(logsumexp (1 - alpha) l - log K) / (1 - alpha)`` over particles."""
        return estimators.power_mean(log_weights, 1.0 - self.alpha)

    def __repr__(self) -> str:
        return f"Renyi(alpha={self.alpha:g}, num_particles={self.num_particles}, gradient={self.gradient!r})"


class CIWAE(Objective):
    r"""The combination of ELBO and IWAE bound.

    .. math:: \mathcal{L} = \beta \, \mathrm{ELBO} + (1 - \beta) \, \mathrm{IWAE}_K

    Args:
        num_particles: K samples per datum.
        beta: the share of the ELBO, in [0, 1].
        gradient: ``"auto"``, ``"pathwise"`` or ``"dreg"``, as in :class:`IWAE`.
        vectorize_particles: run all particles at once; see :class:`probgen.numpyro.Objective`.
        batch_plate: the plate over data; by default those around every site.

    Raises:
        ArgumentError: a ``beta`` out of range, an unknown gradient, fewer than one particle.
        UnsupportedObjective: as for IWAE.

    Source:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better, arXiv 1802.04537.

    Example:
        >>> CIWAE(beta=0.3)
        CIWAE(num_particles=5, beta=0.3, gradient='auto')
    """

    gradients: ClassVar[tuple[str, ...]] = ("auto", "pathwise", "dreg")
    refused: ClassVar[dict[str, str]] = {
        "stl": _STL_IS_BIASED,
        "score": _NO_PATHS,
        "rloo": 'that is `gradient="auto"` at sites without rsample',
        "vimco": 'there is no such estimator of this bound; use `gradient="auto"`',
    }

    def __init__(
        self,
        *,
        num_particles: int = 5,
        beta: float = 0.5,
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
        if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 <= beta <= 1:
            raise ArgumentError(f"`beta` of CIWAE must be a number from 0 to 1, got {beta!r}")
        self.beta = float(beta)

    def derivatives(self, log_weights: Array) -> Derivatives:
        """``beta mean + (1 - beta) (logsumexp - log K)`` over particles."""
        return estimators.ciwae(log_weights, self.beta)

    def __repr__(self) -> str:
        return f"CIWAE(num_particles={self.num_particles}, beta={self.beta:g}, gradient={self.gradient!r})"


class MIWAE(Objective):
    r"""The mean over M of importance-weighted bounds with K particles each.

    .. math:: \mathcal{L}_{M,K} = E\Big[\frac1M \sum_{m=1}^M \log \frac1K \sum_{k=1}^K
              \frac{p(x, z_{mk})}{q(z_{mk} \mid x)}\Big] = \mathcal{L}_K

    As tight as IWAE with K particles, with a gradient of less variance.

    Args:
        num_particles: (M, K).
        gradient: ``"auto"``, ``"pathwise"`` or ``"dreg"``, as in :class:`IWAE`.
        vectorize_particles: run all particles at once; see :class:`probgen.numpyro.Objective`.
        batch_plate: the plate over data; by default those around every site.

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
    refused: ClassVar[dict[str, str]] = CIWAE.refused

    def __init__(
        self,
        *,
        num_particles: tuple[int, int] = (2, 5),
        gradient: str = "auto",
        vectorize_particles: bool | Vectorize = True,
        batch_plate: str | None = None,
    ) -> None:
        name = type(self).__name__
        if not isinstance(num_particles, tuple) or len(num_particles) != 2:
            raise ArgumentError(f"`num_particles` of {name} must be a pair (M, K), got {num_particles!r}")
        groups, count = (positive_int("num_particles", number) for number in num_particles)
        super().__init__(
            num_particles=groups * count,
            gradient=gradient,
            vectorize_particles=vectorize_particles,
            batch_plate=batch_plate,
        )
        self.particle_groups = (groups, count)

    def derivatives(self, log_weights: Array) -> Derivatives:
        """The mean over M of ``logsumexp - log K`` within groups."""
        return estimators.miwae(log_weights, self.particle_groups)

    def coefficients(self, log_weights: Array, *, scored: bool) -> Coefficients:
        """As everywhere, but with the baseline of each group made of its own particles."""
        if not scored or self.gradient == "dreg":
            return super().coefficients(log_weights, scored=scored)
        inner = estimators.grouped(log_weights, self.particle_groups)  # [K, M, batch]
        within = estimators.power_mean(inner, 1.0)
        own = estimators.leave_one_out(lambda others: estimators.power_mean(others, 1.0).value, inner)
        signal = estimators.score_function(within, own).score / self.particle_groups[0]  # type: ignore[operator]
        first = self.derivatives(log_weights).first
        return Coefficients(first, first, estimators.ungrouped(signal), first)


class PIWAE(MIWAE):
    r"""Two players: the model by IWAE with all M K particles, the guide by MIWAE.

    Args:
        num_particles: (M, K).
        gradient: ``"auto"``, ``"pathwise"`` or ``"dreg"``, as in :class:`IWAE`.
        vectorize_particles: run all particles at once; see :class:`probgen.numpyro.Objective`.
        batch_plate: the plate over data; by default those around every site.

    Raises:
        ArgumentError: ``num_particles`` is not a pair of whole numbers of at least 1, or an unknown gradient.
        UnsupportedObjective: as for IWAE, or a site without ``rsample``.

    Source:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better, arXiv 1802.04537.

    Example:
        >>> PIWAE(num_particles=(4, 8))
        PIWAE(num_particles=(4, 8), gradient='auto')
    """

    def value(self, log_weights: Array) -> Array:
        """The bound of the model: IWAE with all particles."""
        return estimators.power_mean(log_weights, 1.0).value

    def coefficients(self, log_weights: Array, *, scored: bool) -> Coefficients:
        """The model's of IWAE, the others of MIWAE."""
        model = estimators.power_mean(log_weights, 1.0).first
        return super().coefficients(log_weights, scored=scored)._replace(model=model)

    def _run(self, run: Run) -> tuple[PairTerms, Any]:
        if self.gradient == "dreg":
            return surrogate.frozen(run, self._rule, "dreg", apart=True)
        return surrogate.two_players(run, self._rule)


class MaximumLikelihood(Objective):
    r"""The exact log-likelihood of a model without latent sites: flows, autoregressive models, summed-out mixtures.

    .. math:: \mathcal{L} = \log p(x)

    Args:
        batch_plate: the plate over data; by default those around every site.

    Raises:
        UnsupportedObjective: the pair has a latent site; use ``ELBO`` or ``IWAE``.

    Example:
        >>> MaximumLikelihood()
        MaximumLikelihood()
    """

    def __init__(self, *, batch_plate: str | None = None) -> None:
        super().__init__(num_particles=1, batch_plate=batch_plate)

    def derivatives(self, log_weights: Array) -> Derivatives:
        """The one particle."""
        return Derivatives(log_weights[0], jnp.ones_like(log_weights), jnp.ones_like(log_weights))

    def _rule(self, terms: PairTerms) -> Coefficients:
        if terms.latents:
            raise UnsupportedObjective(
                f"MaximumLikelihood needs a model without latent sites, but '{terms.latents[0].name}' is latent; use "
                "`ELBO` or `IWAE`, or sum the site out"
            )
        return super()._rule(terms)

    def __repr__(self) -> str:
        return "MaximumLikelihood()"
