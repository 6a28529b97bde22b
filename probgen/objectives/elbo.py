"""The evidence lower bound, its beta form, and its gradients."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from probgen.core import bounds
from probgen.errors import ArgumentError, UnsupportedObjective, nearest
from probgen.objectives.base import Objective
from probgen.programs import PairTerms, SiteTerm
from probgen.programs.read import is_delta

KL_ESTIMATES = ("monte-carlo", "analytic")


class ELBO(Objective):
    r"""The evidence lower bound.

    .. math:: \mathcal{L} = E_{q(z|x)}[\log p(x \mid z)] - \beta \, KL(q(z \mid x) \| p(z)) \le \log p(x)
              \quad (\beta = 1)

    With ``beta`` other than 1 that objective is trained, and :meth:`bound` still reports the plain ELBO.

    Args:
        num_particles: samples per datum, over which the estimate is averaged.
        kl: ``"monte-carlo"``, or ``"analytic"`` for sites whose divergence torch knows in closed form. The latter
            needs a guide that samples its sites in the model's order: only then does each site's divergence
            condition on what both programs have sampled before it.
        beta: weight of the divergence, at least 0.
        gradient: ``"auto"`` (pathwise where a site has ``rsample``, elsewhere the score function with a
            leave-one-out baseline), ``"pathwise"``, or ``"stl"`` (sticking the landing: without the score of log q,
            which is zero in expectation; its variance vanishes at the exact posterior).
        vectorize_particles: run all particles at once; see :class:`Objective`.
        max_plate_nesting: how deep the programs' plates nest; guessed by a trial run where infinite.

    Raises:
        ArgumentError: an unknown name, a ``beta`` below 0, fewer than one particle.
        UnsupportedObjective: a combination that would be wrong, at construction or on the first run.

    Source:
        Kingma, Welling (2014), arXiv 1312.6114; Higgins et al. (2017), beta-VAE; Roeder, Wu, Duvenaud (2017),
        Sticking the landing, arXiv 1703.09194.

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
        beta: float = 1.0,
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
        if isinstance(beta, bool) or not isinstance(beta, int | float) or not math.isfinite(beta) or beta < 0:
            raise ArgumentError(f"`beta` must be a finite number of at least 0, got {beta!r}")
        if kl == "analytic" and gradient == "stl":
            raise UnsupportedObjective(
                '`gradient="stl"` drops the score of log q, which an analytic KL does not contain; use '
                '`kl="monte-carlo"` with "stl", or `kl="analytic"` with `gradient="auto"`'
            )
        self.kl = kl
        self.beta = beta

    def combine(self, integrand: Tensor) -> Tensor:
        """The mean over particles."""
        return bounds.elbo(integrand)

    def integrand(self, terms: PairTerms) -> Tensor:
        """``log p(x | z) - beta KL``, ``[K, batch]``."""
        return terms.log_likelihood - self.beta * self._divergence(terms)  # type: ignore[return-value]

    def plain(self, terms: PairTerms, integrand: Tensor) -> Tensor:
        """``log p(x | z) - KL``, ``[K, batch]``."""
        if self.beta == 1.0 and terms.unscaled is None:
            return integrand
        terms = terms.plain
        with torch.no_grad():
            return terms.log_likelihood - self._divergence(terms)  # type: ignore[return-value]

    def _divergence(self, terms: PairTerms) -> Tensor | float:
        return terms.kl if self.kl == "monte-carlo" else analytic_kl(terms)

    def __repr__(self) -> str:
        return (
            f"ELBO(num_particles={self.num_particles}, kl={self.kl!r}, beta={self.beta!r}, gradient={self.gradient!r})"
        )


def analytic_kl(terms: PairTerms) -> Tensor | float:
    """KL(q || p) summed over sites, each in closed form given the sites sampled before it, ``[K, batch]``.

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
        term = site.log_q if site.p is None else _site_kl(site)
        total = total + term  # type: ignore[operator]  # every latent site has a log_q
    return total


def _site_kl(site: SiteTerm) -> Tensor:
    if is_delta(site.q):  # a function of earlier sites, as in Pyro's autoguides; the KL of Pyro forgets its jacobian
        return site.log_q - site.log_p  # type: ignore[operator]
    if not _same_layout(site.model_layout, site.layout):
        raise UnsupportedObjective(
            f"site '{site.name}' has another mask or scale in the model than in the guide, so its KL has no closed "
            'form; use `kl="monte-carlo"`'
        )
    try:
        return site.layout.collapse(kl_divergence(site.q, site.p))
    except NotImplementedError:
        raise UnsupportedObjective(
            f"torch knows no closed form of KL({type(site.q).__name__} || {type(site.p).__name__}) for site "
            f"'{site.name}'; use `kl=\"monte-carlo\"`"
        ) from None


def _same_layout(a: Any, b: Any) -> bool:
    return all(_equal(x, y) for x, y in ((a.mask, b.mask), (a.inner_scale, b.inner_scale)))


def _equal(x: Any, y: Any) -> bool:
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return x is y or (x.shape == y.shape and torch.equal(x, y))
    return not isinstance(x, Tensor) and not isinstance(y, Tensor) and x == y


def _names(names: tuple[str, ...]) -> str:
    return " -> ".join(f"'{name}'" for name in names)
