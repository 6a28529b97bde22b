"""The evidence lower bound, its beta form, and its gradients."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from probgen.arguments import choice, positive_float
from probgen.config import describe
from probgen.core import estimators
from probgen.core.estimators import Derivatives
from probgen.errors import ArgumentError, UnsupportedObjective, nearest
from probgen.numpyro import surrogate
from probgen.numpyro.base import Estimate, Objective
from probgen.numpyro.divergences import analytic_kl, site_kl
from probgen.numpyro.run import Vectorize
from probgen.numpyro.sampling import (
    ANTITHETIC,
    DETACHED,
    ENUMERATED,
    RELAXED,
    STRAIGHT_THROUGH,
    Sampling,
    enumeration,
)
from probgen.numpyro.scores import Costs, disarm, score, shares
from probgen.numpyro.surrogate import Run, weighted
from probgen.numpyro.terms import PairTerms
from probgen.objectives.schedules import make_schedule, value_at

Schedule = Callable[[int], float]
KL_ESTIMATES = ("monte-carlo", "analytic")
MODES = {
    "score": DETACHED,
    "rloo": DETACHED,
    "disarm": ANTITHETIC,
    "enumerate": ENUMERATED,
    "relaxed": RELAXED,
    "straight-through": STRAIGHT_THROUGH,
}


class ELBO(Objective):
    r"""The evidence lower bound.

    .. math:: \mathcal{L} = E_{q(z|x)}[\log p(x \mid z)] - \beta \, KL(q(z \mid x) \| p(z)) \le \log p(x)
              \quad (\beta = 1)

    With ``beta`` other than 1 that objective is trained, and :meth:`bound` still reports the plain ELBO. With
    ``free_bits`` the divergence of each latent dimension counts as at least that much, for each datum.

    Args:
        num_particles: samples per datum, over which the estimate is averaged.
        kl: ``"monte-carlo"``, or ``"analytic"`` for sites whose divergence NumPyro knows in closed form. The latter
            needs a guide that samples its sites in the model's order.
        beta: weight of the divergence, at least 0; a number, or a schedule of the step, as in
            :class:`probgen.objectives.ELBO`, which :class:`probgen.numpyro.SVI` follows.
        free_bits: lambda, in nats for each latent dimension, or each site; needs ``kl="analytic"``.
        free_bits_per: ``"dimension"`` or ``"site"``.
        gradient: ``"auto"`` (pathwise where a site has ``rsample``, elsewhere the score function with a
            leave-one-out baseline), ``"pathwise"``, ``"stl"`` (sticking the landing), ``"score"`` and ``"rloo"`` (score
            functions, without and with the baseline of the other particles), ``"disarm"`` (Bernoulli sites, with
            particles in antithetic pairs), ``"enumerate"`` (the exact sum over a discrete site's states, all of them
            run as particles), ``"relaxed"`` and ``"straight-through"`` (Bernoulli sites; biased
            surrogates); or a dict from site to one of these names.
        temperature: of relaxed sites.
        vectorize_particles: run all particles at once; see :class:`probgen.numpyro.Objective`.
        batch_plate: the plate over data; by default those around every site.

    Raises:
        ArgumentError: an unknown name, a ``beta`` or ``free_bits`` below 0, fewer than one particle.
        UnsupportedObjective: a combination that would be wrong, at construction or on the first run.

    Source:
        Kingma, Welling (2014), arXiv 1312.6114; Higgins et al. (2017), beta-VAE; Roeder, Wu, Duvenaud (2017), arXiv
        1703.09194; Kingma et al. (2016), arXiv 1606.04934, for free bits; Dong, Mnih, Tucker (2020), arXiv 2006.10680,
        for DisARM.

    Example:
        >>> ELBO(kl="analytic", beta=4.0)
        ELBO(num_particles=1, kl='analytic', beta=4.0, gradient='auto')
    """

    gradients: ClassVar[tuple[str, ...]] = ("auto", "pathwise", "stl", *MODES)
    refused: ClassVar[dict[str, str]] = {
        "dreg": 'the weights of an ELBO are constant, so "dreg" is "stl" here; use `gradient="stl"`',
    }

    def __init__(
        self,
        *,
        num_particles: int = 1,
        kl: str = "monte-carlo",
        beta: float | str | Schedule = 1.0,
        free_bits: float = 0.0,
        free_bits_per: str = "dimension",
        gradient: str | Mapping[str, str] = "auto",
        temperature: float = 0.5,
        vectorize_particles: bool | Vectorize = True,
        batch_plate: str | None = None,
    ) -> None:
        super().__init__(
            num_particles=num_particles,
            gradient=gradient,  # type: ignore[arg-type]  # a dict too, here alone
            vectorize_particles=vectorize_particles,
            batch_plate=batch_plate,
        )
        if kl not in KL_ESTIMATES:
            raise ArgumentError(f"unknown `kl={kl!r}`; {nearest(str(kl), KL_ESTIMATES)}")
        self.kl = kl
        self.beta = make_schedule("beta", beta)
        self.free_bits = _checked_free_bits(free_bits, kl)
        self.free_bits_per = choice("free_bits_per", free_bits_per, ("dimension", "site"))
        self.temperature = positive_float("temperature", temperature)
        self._check_combination()
        self._beta: Any = None if callable(self.beta) else self.beta

    def _check_gradient(self, gradient: Any) -> None:
        names = gradient.values() if isinstance(gradient, Mapping) else (gradient,)
        for name in names:
            super()._check_gradient(name)

    def _check_combination(self) -> None:
        names = self._names()
        if self.kl == "analytic" and (bad := names & {"stl", "relaxed"}):
            raise UnsupportedObjective(
                f'`gradient="{bad.pop()}"` works on the score of log q, or on another distribution, which an analytic '
                'KL does not contain; use `kl="monte-carlo"`, or `gradient="auto"`'
            )
        if self.kl == "analytic" and "straight-through" in names:
            raise UnsupportedObjective(
                '`gradient="straight-through"` takes the density at its samples; use `kl="monte-carlo"`'
            )
        if "rloo" in names:
            self._require_particles("rloo", 2)
        if "disarm" in names and (self.num_particles % 2 or "enumerate" in names):
            raise ArgumentError(
                '`gradient="disarm"` takes particles in antithetic pairs: `num_particles` must be even, and no other '
                f"site may be enumerated; got {self.num_particles}"
            )

    def _names(self) -> set[str]:
        return set(self.gradient.values()) if isinstance(self.gradient, Mapping) else {self.gradient}

    def schedule(self, steps: range) -> list[float] | None:
        """``beta`` at each of some steps; None where it is a number."""
        return [value_at("beta", self.beta, step) for step in steps] if callable(self.beta) else None

    def at(self, beta: Any) -> "ELBO":
        """This objective with ``beta`` at its value of a step, an array where steps are traced."""
        other = copy.copy(self)
        other._beta = beta
        return other

    def derivatives(self, log_weights: Array) -> Derivatives:
        """The mean over particles."""
        return estimators.elbo(log_weights)

    def integrand(self, terms: PairTerms) -> Array:
        """``log p(x | z) - beta KL``, ``[K, batch]``."""
        if self._beta is None:
            raise UnsupportedObjective(
                f"`beta={describe(self.beta)}` is a schedule of the step, of which `numpyro.infer.SVI` does not tell; "
                "use `probgen.numpyro.SVI`, or a number"
            )
        integrand: Array = terms.log_likelihood - self._beta * self._divergence(terms, self.free_bits)
        return integrand

    def _divergence(self, terms: PairTerms, free_bits: float) -> Any:
        return terms.kl if self.kl == "monte-carlo" else analytic_kl(terms, free_bits)

    def _plain(self, run: Run, terms: PairTerms, value: Array, share: Array) -> Array:
        """The mean of ``log p(x | z) - KL``, ``[batch]``: without beta, free bits and scales of some sites."""
        if terms.unscaled is None and self.free_bits == 0.0 and not callable(self.beta) and self.beta == 1.0:
            return value
        fixed = stop_gradient(terms.plain)
        if self.free_bits > 0:
            bare = replace(run, params=run.constants, pair=replace(run.pair, site_kl=site_kl()))
            fixed = stop_gradient(bare.live().plain)
        return _mean_over(share, fixed.log_likelihood - self._divergence(fixed, 0.0))

    def estimate(self, run: Run) -> Estimate:
        """The bound, and a surrogate with its gradient, of one run.

        Raises:
            UnsupportedObjective: this gradient or bound would be wrong for this pair.
        """
        if self.kl == "analytic":
            kl = site_kl(self.free_bits, per=self.free_bits_per)
            run = replace(run, pair=replace(run.pair, site_kl=kl))
        run = self._enumerated(run.sampled(self.sampling))
        terms = run.live()
        share = shares(terms, self.num_particles)
        integrand = jnp.atleast_1d(self.integrand(terms))
        integrand = jnp.broadcast_to(integrand, (len(run.draws.particles), *terms.batch_shape))
        scalar = self._pathwise(run, terms, integrand, share) + self._scored(terms, stop_gradient(integrand), share)
        value = _mean_over(share, integrand)
        plain = self._plain(run, terms, value, share)
        return Estimate(plain, value, jnp.asarray(scalar), stop_gradient(terms.scale), terms.mutable)

    def _enumerated(self, run: Run) -> Run:
        """The run with a block of particles for each joint state of the enumerated sites."""
        if "enumerate" not in self._names():
            return run
        trial = replace(run, draws=replace(run.draws, particles=run.draws.particles[:1])).live()
        sampling = enumeration(run.pair.sampling, trial.latents)
        return replace(run.sampled(sampling), draws=run.draws.repeated(sampling.num_states))

    @property
    def sampling(self) -> Sampling:
        """How the guide's sites are sampled."""
        if isinstance(self.gradient, Mapping):
            modes = {site: MODES.get(name) for site, name in self.gradient.items()}
            return Sampling(sites=modes, temperature=self.temperature)
        return Sampling(default=MODES.get(self.gradient), temperature=self.temperature)

    def _gradient_at(self, name: str) -> str:
        return self.gradient.get(name, "auto") if isinstance(self.gradient, Mapping) else self.gradient

    def _pathwise(self, run: Run, terms: PairTerms, integrand: Array, shares: Array) -> Any:
        """``sum share * integrand`` over particles; log q of "stl" sites with constant parameters."""
        for site in terms.latents:
            if self._gradient_at(site.name) in ("pathwise", "stl") and not site.reparameterized:
                surrogate.require_reparameterized(terms, self._gradient_at(site.name))
        possible = jnp.where(stop_gradient(shares) > 0.0, stop_gradient(integrand), 0.0)
        moving = weighted(possible * terms.scale, shares)  # probabilities of enumerated states
        share = stop_gradient(shares) * terms.scale
        if self.kl == "monte-carlo":  # log q at fixed samples has a gradient of mean 0, which would only add noise
            for site in terms.latents:
                if site.scored and site.log_q is not None:
                    integrand = integrand + self._beta * (site.log_q - stop_gradient(site.log_q))
        landing = [site for site in terms.latents if self._gradient_at(site.name) == "stl" and not site.function]
        total = weighted(share, integrand) + moving
        if not landing:
            return total
        constant = run.at(terms.values(), run.params, run.constants)
        for site in landing:
            total = (
                total
                + weighted(share * self._beta, site.log_q)
                - weighted(share * self._beta, constant.site(site.name).log_q)
            )
        return total

    def _scored(self, terms: PairTerms, integrand: Array, shares: Array) -> Any:
        """The score functions of the sites without a path, each with its baseline."""
        beta = None if self.kl == "analytic" else self._beta
        costs = Costs(stop_gradient(terms), integrand, beta, stop_gradient(shares), self.num_particles)
        total: Any = 0.0
        for site in terms.latents:
            name = self._gradient_at(site.name)
            if name == "disarm":
                total = total + disarm(site, costs, terms.scale)
            elif site.scored:
                total = total + score(site, costs, terms.scale, baseline=name != "score")
        return total

    def __repr__(self) -> str:
        beta = f"beta={describe(self.beta)}"
        free = f", free_bits={self.free_bits!r}" if self.free_bits else ""
        gradient = dict(self.gradient) if isinstance(self.gradient, Mapping) else self.gradient
        return f"ELBO(num_particles={self.num_particles}, kl={self.kl!r}, {beta}{free}, gradient={gradient!r})"


def _mean_over(share: Array, integrand: Any) -> Array:
    """``sum share * integrand``, without gradient; a state of probability 0 counts 0, whatever its integrand."""
    fixed = stop_gradient(share)
    return jnp.where(fixed > 0.0, fixed * stop_gradient(integrand), 0.0).sum(0)


def _checked_free_bits(free_bits: Any, kl: str) -> float:
    if isinstance(free_bits, bool) or not isinstance(free_bits, int | float) or not 0 <= free_bits < math.inf:
        raise ArgumentError(f"`free_bits` must be a finite number of nats of at least 0, got {free_bits!r}")
    if free_bits > 0 and kl != "analytic":
        raise UnsupportedObjective(
            "`free_bits` bounds the divergence of each latent dimension, of which a Monte Carlo estimate may be "
            'negative; use `kl="analytic"`'
        )
    return free_bits
