"""The divergence of guide and prior in closed form, site by site."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, kl_divergence
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

from probgen.errors import UnsupportedObjective
from probgen.programs import PairTerms, SiteTerm
from probgen.programs.sampling import is_point


def analytic_kl(terms: PairTerms, free_bits: float = 0.0, *, per: str = "dimension") -> Tensor | float:
    """KL(q || p) summed over sites, each in closed form given the sites sampled before it, ``[K, batch]``.

    Args:
        terms: of one run.
        free_bits: what each latent dimension, or site, of a datum counts at least, in nats.
        per: ``"dimension"`` or ``"site"``.

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
        if free_bits > 0 and (site.p is None or is_point(site.q)):
            raise UnsupportedObjective(
                f"`free_bits` needs a divergence for each dimension of site '{site.name}', which as an auxiliary site "
                "or a function of other sites (as in Pyro's autoguides) has none; use a guide with a density at every "
                "site of the model, or `free_bits=0`"
            )
        each = free_bits if per == "dimension" else 0.0
        term = site.log_q if site.p is None else _site_kl(site, each)
        if free_bits > 0 and per == "site":
            term = term.clamp(min=free_bits)  # type: ignore[union-attr]
        total = total + term  # type: ignore[operator]  # every latent site has a log_q
    return total


def _site_kl(site: SiteTerm, free_bits: float) -> Tensor:
    if site.parts:  # particles that ran one by one, each with distributions of its own
        return torch.cat([_site_kl(part, free_bits) for part in site.parts])
    if is_point(site.q):  # a function of earlier sites, as in Pyro's autoguides; the KL of Pyro forgets its jacobian
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
        with disable_proxy_modes_tracing():  # which masks and scales there are is structure, not arithmetic
            return x is y or (x.shape == y.shape and torch.equal(x, y))
    return not isinstance(x, Tensor) and not isinstance(y, Tensor) and x == y


def _names(names: tuple[str, ...]) -> str:
    return " -> ".join(f"'{name}'" for name in names)
