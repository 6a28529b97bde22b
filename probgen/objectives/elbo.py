"""The evidence lower bound, its beta form, and its gradients."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from probgen.config import describe
from probgen.core import bounds
from probgen.errors import ArgumentError, UnsupportedObjective, nearest
from probgen.objectives.base import Objective
from probgen.objectives.schedules import Schedule, make_schedule, value_at
from probgen.programs import PairTerms, SiteTerm
from probgen.programs.read import is_delta

KL_ESTIMATES = ("monte-carlo", "analytic")


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
        gradient: ``"auto"`` (pathwise where a site has ``rsample``, elsewhere the score function with a
            leave-one-out baseline), ``"pathwise"``, or ``"stl"`` (sticking the landing: without the score of log q,
            which is zero in expectation; its variance vanishes at the exact posterior).
        vectorize_particles: run all particles at once; see :class:`Objective`.
        max_plate_nesting: how deep the programs' plates nest; guessed by a trial run where infinite.

    Raises:
        ArgumentError: an unknown name, a ``beta`` or ``free_bits`` below 0, fewer than one particle.
        UnsupportedObjective: a combination that would be wrong, at construction or on the first run.

    Source:
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

    gradients: ClassVar[tuple[str, ...]] = ("auto", "pathwise", "stl")
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
        gradient: str = "auto",
        vectorize_particles: bool = True,
        max_plate_nesting: float = math.inf,
    ) -> None:
        super().__init__(
            num_particles=num_particles,
            gradient=gradient,
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
        self.kl = kl
        self.beta = make_schedule("beta", beta)
        self.free_bits = free_bits
        self._beta: float | Tensor = self.beta if not callable(self.beta) else torch.tensor(0.0, dtype=torch.float64)
        self.at_step(0)

    def at_step(self, step: int) -> None:
        """Sets ``beta`` to its value at a step; in place, where a captured step sees it."""
        if callable(self.beta):
            self._beta.fill_(value_at("beta", self.beta, step))  # type: ignore[union-attr]

    def combine(self, integrand: Tensor) -> Tensor:
        """The mean over particles."""
        return bounds.elbo(integrand)

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
        return terms.kl if self.kl == "monte-carlo" else analytic_kl(terms, free_bits)

    def __repr__(self) -> str:
        beta = f"beta={describe(self.beta)}"
        free = f", free_bits={self.free_bits!r}" if self.free_bits else ""
        return f"ELBO(num_particles={self.num_particles}, kl={self.kl!r}, {beta}{free}, gradient={self.gradient!r})"


def analytic_kl(terms: PairTerms, free_bits: float = 0.0) -> Tensor | float:
    """KL(q || p) summed over sites, each in closed form given the sites sampled before it, ``[K, batch]``.

    Args:
        terms: of one run.
        free_bits: what each latent dimension of a datum counts at least, in nats.

    Raises:
        UnsupportedObjective: a site without a closed form, or a guide whose order is not the model's.
    """
    shared = tuple(site.name for site in terms.latents if site.p is not None)
    if shared != terms.model_order:
        raise UnsupportedObjective(
            f'`kl="analytic"` needs a guide that samples its sites in the model\'s order, {_names(terms.model_order)}, '
            f'but the guide\'s is {_names(shared)}; use `kl="monte-carlo"`'
        )
    total: Tensor | float = 0.0
    for site in terms.latents:
        if free_bits > 0 and (site.p is None or is_delta(site.q)):
            raise UnsupportedObjective(
                f"`free_bits` needs a divergence for each dimension of site '{site.name}', which as an auxiliary site "
                "or a function of other sites (as in Pyro's autoguides) has none; use a guide with a density at every "
                "site of the model, or `free_bits=0`"
            )
        term = site.log_q if site.p is None else _site_kl(site, free_bits)
        total = total + term  # type: ignore[operator]  # every latent site has a log_q
    return total


def _site_kl(site: SiteTerm, free_bits: float) -> Tensor:
    if is_delta(site.q):  # a function of earlier sites, as in Pyro's autoguides; the KL of Pyro forgets its jacobian
        return site.log_q - site.log_p  # type: ignore[operator]
    if not _same_layout(site.model_layout, site.layout):
        raise UnsupportedObjective(
            f"site '{site.name}' has another mask or scale in the model than in the guide, so its KL has no closed "
            'form; use `kl="monte-carlo"`'
        )
    try:
        return site.layout.collapse(kl_divergence(site.q, site.p) if free_bits == 0 else _free_kl(site, free_bits))
    except NotImplementedError:
        raise UnsupportedObjective(
            f"torch knows no closed form of KL({type(site.q).__name__} || {type(site.p).__name__}) for site "
            f"'{site.name}'; use `kl=\"monte-carlo\"`"
        ) from None


def _free_kl(site: SiteTerm, free_bits: float) -> Tensor:
    """The sum over a site's dimensions of their divergences, each at least ``free_bits``; laid out as a log-density."""
    q, p = _elementwise(site.q), _elementwise(site.p)
    if q.event_shape or p.event_shape:
        family = type(q if q.event_shape else p).__name__
        raise UnsupportedObjective(
            f"`free_bits` needs a divergence for each dimension of site '{site.name}', but {family} does not factorise "
            "over them; use a diagonal guide and prior, or `free_bits=0`"
        )
    dimensions = kl_divergence(q, p).clamp(min=free_bits)  # [K, batch, event]
    event = len(site.q.event_shape)
    return dimensions.flatten(dimensions.dim() - event).sum(-1) if event else dimensions


def _elementwise(distribution: Any) -> Any:
    """The distribution of the entries of an event, as far as it is made of independent ones."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def _same_layout(a: Any, b: Any) -> bool:
    return all(_equal(x, y) for x, y in ((a.mask, b.mask), (a.inner_scale, b.inner_scale)))


def _equal(x: Any, y: Any) -> bool:
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return x is y or (x.shape == y.shape and torch.equal(x, y))
    return not isinstance(x, Tensor) and not isinstance(y, Tensor) and x == y


def _names(names: tuple[str, ...]) -> str:
    return " -> ".join(f"'{name}'" for name in names)
