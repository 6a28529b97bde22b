"""What every objective shares: it runs a pair, bounds log p(x), and gives a loss with the right gradient."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from numpyro.infer.elbo import ELBO as NumPyroELBO

from probgen.arguments import positive_int
from probgen.core import estimators
from probgen.core.estimators import Coefficients, Derivatives
from probgen.errors import ArgumentError, UnsupportedObjective, nearest
from probgen.numpyro import surrogate
from probgen.numpyro.nonfinite import is_traced, not_finite
from probgen.numpyro.run import Draws, Pair, Params, Program, Vectorize, as_key, completed, no_guide
from probgen.numpyro.surrogate import Run
from probgen.numpyro.terms import PairTerms


@dataclass(frozen=True)
class Estimate:
    """One estimate of an objective on one minibatch, in nats.

    Attributes:
        bound: the plain bound on log p(x), ``[batch]``, without gradient.
        value: the objective that is maximised, ``[batch]``, without gradient; differs from ``bound`` if regularised.
        surrogate: a scalar whose gradient estimates that of the scaled sum of ``value``; its value means nothing.
        scale: what multiplies each datum, ``[batch]``: the subsampling factor N/B times a scale shared by all sites.
        mutable: what the programs' ``numpyro.mutable`` statements hold afterwards.
        sign: -1 for a lower bound, which is maximised, and 1 for an upper one.
    """

    bound: Array
    value: Array
    surrogate: Array
    scale: Array
    mutable: dict[str, Any]
    sign: float = -1.0

    @property
    def loss(self) -> Array:
        """The scaled sum of minus ``value`` (of ``value``, for an upper bound), with the gradient of the surrogate."""
        value = self.sign * (stop_gradient(self.value) * self.scale).sum()
        return stop_gradient(value) - (self.surrogate - stop_gradient(self.surrogate))


class Objective(NumPyroELBO):
    """Base of all objectives; a subclass says how particles combine to a bound, and which gradients are right.

    An objective is the ``loss`` of ``numpyro.infer.SVI`` and of :class:`probgen.numpyro.SVI`.

    Args:
        num_particles: samples of the guide per datum.
        gradient: the gradient estimator, one of the class's ``gradients``.
        vectorize_particles: True runs all particles at once by ``jax.vmap``, False one after the other by
            ``jax.lax.map``; or a function like those of ``numpyro.infer.ELBO``.
        batch_plate: the plate over data; by default those around every latent and observed site.
    """

    can_infer_discrete = True
    gradients: ClassVar[tuple[str, ...]] = ("auto", "pathwise")
    refused: ClassVar[dict[str, str]] = {}  # known estimators that are wrong here -> why, and what is right

    def __init__(
        self,
        *,
        num_particles: int = 1,
        gradient: str = "auto",
        vectorize_particles: bool | Vectorize = True,
        batch_plate: str | None = None,
    ) -> None:
        super().__init__(
            num_particles=positive_int("num_particles", num_particles), vectorize_particles=vectorize_particles
        )
        self.gradient = gradient
        self.batch_plate = batch_plate
        self._check_gradient(gradient)
        if gradient in ("rloo", "vimco"):
            self._require_particles(gradient, 2)

    def _require_particles(self, gradient: str, fewest: int) -> None:
        if self.num_particles < fewest:
            raise ArgumentError(
                f'`gradient="{gradient}"` takes its baseline from the other particles: `num_particles` must be at '
                f'least {fewest}, got {self.num_particles}; or use `gradient="score"`'
            )

    def _check_gradient(self, gradient: Any) -> None:
        if gradient in self.refused:
            raise UnsupportedObjective(f'{type(self).__name__} with `gradient="{gradient}"`: {self.refused[gradient]}')
        if gradient not in self.gradients:
            raise ArgumentError(
                f"unknown `gradient={gradient!r}` for {type(self).__name__}; {nearest(str(gradient), self.gradients)}"
            )

    def derivatives(self, log_weights: Array) -> Derivatives:
        """The bound of K log-weights, axis 0, with its derivatives."""
        raise NotImplementedError

    def value(self, log_weights: Array) -> Array:
        """The bound of K log-weights, axis 0; the rest unreduced."""
        return self.derivatives(log_weights).value

    def baseline(self, log_weights: Array) -> Array | float:
        """What is subtracted from the bound where it multiplies a score, ``[K, batch]``."""
        if self.gradient == "score":
            return 0.0
        if self.gradient == "vimco":
            return estimators.vimco(self.value, log_weights)
        return estimators.leave_one_out(self.value, log_weights)

    def coefficients(self, log_weights: Array, *, scored: bool) -> Coefficients:
        """What multiplies the gradients of each particle; ``scored``: some site has no path."""
        derivatives = self.derivatives(log_weights)
        if self.gradient in ("dreg", "gdreg", "stl"):
            return estimators.doubly_reparameterized(derivatives)
        if scored:
            return estimators.score_function(derivatives, self.baseline(log_weights))
        return estimators.pathwise(derivatives)

    def estimate(self, run: Run) -> Estimate:
        """The bound, and a surrogate with its gradient, of one run.

        Raises:
            UnsupportedObjective: this gradient or bound would be wrong for this pair.
        """
        terms, scalar = self._run(run)
        value = self.value(stop_gradient(terms.log_weights))
        plain = value if terms.unscaled is None else self.value(stop_gradient(terms.plain.log_weights))
        return Estimate(plain, value, jnp.asarray(scalar), stop_gradient(terms.scale), terms.mutable)

    def _run(self, run: Run) -> tuple[PairTerms, Any]:
        if self.gradient in ("dreg", "stl"):
            return surrogate.frozen(run, self._rule, self.gradient)
        if self.gradient in ("score", "rloo", "vimco"):
            return surrogate.detached(run, self._rule)
        return surrogate.total(run, self._rule)

    def _rule(self, terms: PairTerms) -> Coefficients:
        terms.require_importance_weights(self.num_particles)
        everywhere = self.gradient in ("score", "rloo", "vimco")
        if self.gradient == "pathwise":
            surrogate.require_reparameterized(terms, "pathwise")
        scored = everywhere or not all(site.reparameterized for site in terms.latents)
        return self.coefficients(terms.log_weights, scored=scored)

    def run_of(
        self, rng_key: Array, params: Params, model: Program, guide: Program | None, args: Any, kwargs: Any
    ) -> Run:
        """A run with the particles of this objective."""
        pair = Pair(model, guide or no_guide, args, kwargs, self.batch_plate)
        return Run(pair, params, Draws.of(rng_key, self.num_particles), self.vectorize_particles_fn)

    def loss_with_mutable_state(
        self, rng_key: Array, param_map: Params, model: Program, guide: Program | None, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """The loss with its gradient, and what ``numpyro.mutable`` statements hold; ``numpyro.infer.SVI`` calls it.

        Raises:
            ProbgenError: the pair does not fit together or the batch, or this objective would be wrong for it.
        """
        estimate = self.estimate(self.run_of(rng_key, param_map, model, guide, args, kwargs))
        return {"loss": estimate.loss, "mutable_state": estimate.mutable or None}

    def bound(
        self,
        model: Program,
        guide: Program | None,
        *args: Any,
        rng_key: Array | int = 0,
        params: Params | None = None,
        **kwargs: Any,
    ) -> Array:
        """The plain bound per datum, ``[batch]``, in nats, without gradient.

        Raises:
            DivergedError: a bound is NaN or +inf.
        """
        key = as_key(rng_key)
        given = completed(Pair(model, guide or no_guide, args, kwargs), params or {}, key)
        bound = self.estimate(self.run_of(key, given, model, guide, args, kwargs)).bound
        if not is_traced(bound) and bool((jnp.isnan(bound) | (bound == jnp.inf)).any()):
            raise not_finite("a bound is NaN or +inf", given)
        return stop_gradient(bound)

    def __repr__(self) -> str:
        count = getattr(self, "particle_groups", self.num_particles)
        return f"{type(self).__name__}(num_particles={count}, gradient={self.gradient!r})"
