"""The evidence lower bound, its beta form, and its gradients."""

import copy
import math
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from probgen.config import describe
from probgen.core import bounds
from probgen.core.estimators import Derivatives, elbo
from probgen.errors import ArgumentError, UnsupportedObjective, nearest
from probgen.objectives.analytic_kl import analytic_kl
from probgen.objectives.base import Estimate, Objective
from probgen.objectives.elbo_gradients import (
    MODES,
    Costs,
    check_site_gradients,
    disarm_term,
    mean_over,
    score_term,
    scored,
    shares,
    without_own_scores,
)
from probgen.objectives.gradients import require_reparameterized, weighted
from probgen.objectives.pair import PairLoss
from probgen.objectives.schedules import Schedule, make_schedule, value_at
from probgen.programs import PairTerms
from probgen.programs.sampling import ANTITHETIC, RELAXED, Sampling

KL_ESTIMATES = ("monte-carlo", "analytic")
FREE_BITS_PER = ("dimension", "site")


class ELBO(Objective):
    r"""The evidence lower bound.

    .. math:: \mathcal{L} = E_{q(z|x)}[\log p(x \mid z)] - \beta \, KL(q(z \mid x) \| p(z)) \le \log p(x)
              \quad (\beta = 1)

    With ``beta`` other than 1 that objective is trained, and :meth:`bound` still reports the plain ELBO. With
    ``free_bits`` the divergence of each latent dimension counts as at least that much,
    :math:`\sum_j \max(\lambda, KL_j)` for each datum, so that none is worth pushing further down.

    Args:
        num_particles: samples per datum, over which the estimate is averaged.
        kl: ``"monte-carlo"``, or ``"analytic"`` for sites whose divergence torch knows in closed form. The latter
            needs a guide that samples its sites in the model's order: only then does each site's divergence
            condition on what both programs have sampled before it.
        beta: weight of the divergence, at least 0; a number, or a schedule of the step: any function of it,
            :class:`probgen.objectives.Linear` or ``Cyclical``, or their specs such as ``"linear:steps=1000"``. The loop
            and ``pyro.infer.SVI`` count steps; a loop of your own calls :meth:`at_step`.
        free_bits: lambda, in nats for each latent dimension; needs ``kl="analytic"`` and sites whose guide and prior
            factorise over their dimensions.
        free_bits_per: ``"dimension"``, or ``"site"`` for the divergence of each latent site as a whole.
        gradient: one of these for all sites, or a dictionary from site to name (``"auto"`` for sites it leaves out).

            - ``"auto"``: pathwise where a site has ``rsample``, elsewhere as ``"rloo"``;
            - ``"pathwise"``: the path of every sample;
            - ``"stl"``: sticking the landing: without the score of log q, which is zero in expectation; its variance
              vanishes at the exact posterior; for the whole guide alone;
            - ``"score"``: score function, Rao-Blackwellised by plates, without baseline;
            - ``"rloo"``: likewise with the mean cost of the other particles as baseline;
            - ``"disarm"``: antithetic pairs of Bernoulli samples; an even number of particles;
            - ``"enumerate"``: the exact sum over a discrete site's states, all of them run as particles;
            - ``"relaxed"``: Bernoulli and OneHotCategorical sites replaced, in model and guide, by Concrete ones of the
              given ``temperature``: the exact gradient of another objective, the ELBO of the relaxed programs;
            - ``"straight-through"``: discrete samples with the gradient of their means: biased.
        temperature: of relaxed sites, above 0.
        vectorize_particles: run all particles at once; see :class:`Objective`.
        max_plate_nesting: how deep the programs' plates nest; guessed by a trial run where infinite.

    Raises:
        ArgumentError: an unknown name, a ``beta`` or ``free_bits`` below 0, fewer than one particle.
        UnsupportedObjective: a combination that would be wrong, at construction or on the first run.

    Source:
        Dong, Mnih, Tucker (2020), DisARM, arXiv 2006.10680; Maddison, Mnih, Teh (2017), arXiv 1611.00712; Bengio,
        Léonard, Courville (2013), arXiv 1308.3432; Kool, van Hoof, Welling (2019), for rloo;
        Kingma, Welling (2014), arXiv 1312.6114; Higgins et al. (2017), beta-VAE; Roeder, Wu, Duvenaud (2017),
        Sticking the landing, arXiv 1703.09194; Kingma et al. (2016), arXiv 1606.04934, for free bits (who average
        over the minibatch first, which makes the objective depend on its size).

    Example:
        >>> from probgen.guides import AmortizedNormal
        >>> from probgen.models import VAE
        >>> model, guide = VAE((4,), latent_dim=2), AmortizedNormal((4,), latent_dim=2)
        >>> loss = ELBO(kl="analytic")(model, guide)(torch.ones(3, 4))
        >>> loss.backward()
    """

    gradients: ClassVar[tuple[str, ...]] = tuple(MODES)
    refused: ClassVar[dict[str, str]] = {
        "dreg": 'the weights of an ELBO are constant, so "dreg" is "stl" here; use `gradient="stl"`'
    }

    def __init__(
        self,
        *,
        num_particles: int = 1,
        kl: str = "monte-carlo",
        beta: float | str | Schedule = 1.0,
        free_bits: float = 0.0,
        free_bits_per: str = "dimension",
        gradient: str | dict[str, str] = "auto",
        temperature: float = 0.5,
        vectorize_particles: bool = True,
        max_plate_nesting: float = math.inf,
    ) -> None:
        super().__init__(
            num_particles=num_particles,
            gradient=gradient,  # type: ignore[arg-type]  # here it may be a dictionary
            vectorize_particles=vectorize_particles,
            max_plate_nesting=max_plate_nesting,
        )
        if kl not in KL_ESTIMATES:
            raise ArgumentError(f"unknown `kl={kl!r}`; {nearest(str(kl), KL_ESTIMATES)}")
        if isinstance(free_bits, bool) or not isinstance(free_bits, int | float) or not 0 <= free_bits < math.inf:
            raise ArgumentError(f"`free_bits` must be a finite number of nats of at least 0, got {free_bits!r}")
        if free_bits > 0 and kl != "analytic":
            raise UnsupportedObjective(
                "`free_bits` bounds the divergence of each latent dimension, of which a Monte Carlo estimate may be "
                'negative; use `kl="analytic"`'
            )
        if kl == "analytic" and gradient == "stl":
            raise UnsupportedObjective(
                '`gradient="stl"` drops the score of log q, which an analytic KL does not contain; use '
                '`kl="monte-carlo"` with "stl", or `kl="analytic"` with `gradient="auto"`'
            )
        if kl == "analytic" and "relaxed" in self._names():
            raise UnsupportedObjective(
                'no closed form of the KL of relaxed sites is known; use `kl="monte-carlo"` with `gradient="relaxed"`'
            )
        if free_bits_per not in FREE_BITS_PER:
            raise ArgumentError(
                f"unknown `free_bits_per={free_bits_per!r}`; {nearest(str(free_bits_per), FREE_BITS_PER)}"
            )
        if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
            raise ArgumentError(f"`temperature` of relaxed sites must be a finite number above 0, got {temperature!r}")
        self.temperature = float(temperature)
        self._unrelaxed: ELBO | None = None
        self.free_bits_per = free_bits_per
        self._check_particles()
        self.kl = kl
        self.beta = make_schedule("beta", beta)
        self.free_bits = free_bits
        self._beta: float | Tensor = self.beta if not callable(self.beta) else torch.tensor(0.0, dtype=torch.float64)
        self.at_step(0)

    def _check_gradient(self, gradient: Any) -> None:
        if not isinstance(gradient, dict):
            return super()._check_gradient(gradient)
        check_site_gradients(gradient, tuple(name for name in MODES if name != "stl"))

    def _names(self) -> set[str]:
        return set(self.gradient.values()) if isinstance(self.gradient, dict) else {self.gradient}

    def _check_particles(self) -> None:
        names = self._names()
        if "rloo" in names:
            self._require_particles("rloo", 2)
        if "disarm" in names and (self.num_particles % 2 or "enumerate" in names):
            raise ArgumentError(
                '`gradient="disarm"` takes particles in pairs: `num_particles` must be even, and no other site may be '
                f"enumerated; got {self.num_particles}"
            )
        for name in ("disarm", "enumerate"):
            if name in names and not self.vectorize_particles:
                raise ArgumentError(f'`gradient="{name}"` needs `vectorize_particles=True`')

    @property
    def freezes_guide(self) -> bool:
        """Whether the guide is run again with frozen parameters."""
        return self.gradient == "stl"

    @property
    def sampling(self) -> Sampling:
        """How the guide's sites are sampled."""
        if isinstance(self.gradient, dict):
            return Sampling(sites={s: MODES[g] for s, g in self.gradient.items()}, temperature=self.temperature)
        return Sampling(default=MODES[self.gradient], temperature=self.temperature)

    def at_step(self, step: int) -> None:
        """Sets ``beta`` to its value at a step; in place, where a captured step sees it."""
        if callable(self.beta):
            self._beta.fill_(value_at("beta", self.beta, step))  # type: ignore[union-attr]

    def combine(self, integrand: Tensor) -> Tensor:
        """The mean over particles."""
        return bounds.elbo(integrand)

    def derivatives(self, integrand: Tensor) -> Derivatives:
        """Of the mean."""
        return elbo(integrand)

    def evaluate(self, pair: PairLoss, args: tuple[Any, ...], kwargs: dict[str, Any], **options: Any) -> Estimate:
        """As the base; without gradient, relaxed sites are taken as the discrete ones that they are."""
        if not torch.is_grad_enabled() and RELAXED in (self.sampling.default, *self.sampling.sites.values()):
            return pair.other(self._discrete()).objective.evaluate(
                pair.other(self._discrete()), args, kwargs, **options
            )
        return super().evaluate(pair, args, kwargs, **options)

    def estimate(self, terms: PairTerms) -> Estimate:
        """The bound, and a surrogate with its gradient, each site by its own estimator."""
        integrand = self.integrand(terms)
        plain = self.plain(terms, integrand)
        share = shares(terms, self.num_particles)
        self._check_sites(terms)
        if self.freezes_guide:
            surrogate = weighted(terms, integrand, self.coefficients(integrand.detach()))
        else:
            surrogate = self._surrogate(terms, integrand, share)
        ordinary = not any(scored(site) for site in terms.latents) and not self.freezes_guide
        value = surrogate if ordinary else mean_over(share, integrand).detach()
        bound = value if plain is integrand else mean_over(share, plain)
        return Estimate(bound.detach(), value, surrogate, terms.scale, terms)

    def _surrogate(self, terms: PairTerms, integrand: Tensor, share: Tensor | float) -> Tensor:
        analytic = self.kl == "analytic"
        carried = integrand if analytic else without_own_scores(terms, integrand, self._beta)
        total = mean_over(share, carried)
        costs = Costs(terms, integrand.detach(), None if analytic else self._beta)
        for site in terms.latents:
            if site.mode == ANTITHETIC:
                total = total + disarm_term(site, costs, self.num_particles)
            elif scored(site):
                baseline = self._gradient_at(site.name) != "score"
                total = total + score_term(site, costs, share, self.num_particles, baseline=baseline)
        return total

    def _gradient_at(self, site: str) -> str:
        return self.gradient.get(site, "auto") if isinstance(self.gradient, dict) else self.gradient

    def _check_sites(self, terms: PairTerms) -> None:
        """Refuses sites that a gradient cannot be right for."""
        for site in terms.latents:
            gradient = self._gradient_at(site.name)
            if gradient in ("pathwise", "stl"):
                require_reparameterized(
                    replace(terms, sites=(site,)), gradient, 'gradient="auto", "rloo", "disarm" or "enumerate" there'
                )

    def _discrete(self) -> "ELBO":
        """This objective without relaxing anything, for its value alone."""
        if self._unrelaxed is None:
            self._unrelaxed = copy.copy(self)  # shares what schedules set
            self._unrelaxed._pair = None
            self._unrelaxed.gradient = (
                {site: "auto" if name == "relaxed" else name for site, name in self.gradient.items()}
                if isinstance(self.gradient, dict)
                else "auto"
            )
        return self._unrelaxed

    def integrand(self, terms: PairTerms) -> Tensor:
        """``log p(x | z) - beta KL``, ``[K, batch]``."""
        return terms.log_likelihood - self._beta * self._divergence(terms, self.free_bits)  # type: ignore[return-value]

    def plain(self, terms: PairTerms, integrand: Tensor) -> Tensor:
        """``log p(x | z) - KL``, ``[K, batch]``."""
        if self.beta == 1.0 and self.free_bits == 0.0 and terms.unscaled is None:
            return integrand
        terms = terms.plain
        with torch.no_grad():
            return terms.log_likelihood - self._divergence(terms)  # type: ignore[return-value]

    def _divergence(self, terms: PairTerms, free_bits: float = 0.0) -> Tensor | float:
        return terms.kl if self.kl == "monte-carlo" else analytic_kl(terms, free_bits, per=self.free_bits_per)

    def __repr__(self) -> str:
        beta = f"beta={describe(self.beta)}"
        free = f", free_bits={self.free_bits!r}" if self.free_bits else ""
        if self.free_bits and self.free_bits_per != "dimension":
            free += f", free_bits_per={self.free_bits_per!r}"
        free += f", temperature={self.temperature:g}" if "relaxed" in self._names() else ""
        return f"ELBO(num_particles={self.num_particles}, kl={self.kl!r}, {beta}{free}, gradient={self.gradient!r})"
