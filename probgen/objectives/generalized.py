"""Generalised doubly reparameterized gradients: the model's own distributions by a path as well."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent

from probgen.core.weights import normalized_weights
from probgen.errors import UnsupportedObjective
from probgen.programs import PairTerms, SiteTerm
from probgen.programs.sampling import is_point

LOCATION_SCALE = (
    torch.distributions.Normal,
    torch.distributions.Laplace,
    torch.distributions.Cauchy,
    torch.distributions.Gumbel,
    torch.distributions.StudentT,
)


def generalized_surrogate(terms: PairTerms, samples: dict[str, Tensor]) -> Tensor:
    r"""The surrogate of GDReG for the importance-weighted bound.

    With partial derivatives by each site's value ``z_s``, the others fixed, and ``w`` the normalised weights,

    - phi: :math:`\sum_k w_k^2 \, \partial l_k / \partial z_s \cdot \nabla_\phi z_s`, as in DReG;
    - theta of a site's distribution in the model, ``z_s = T(e; theta)`` at the e that gives the sample:
      :math:`\sum_k (w_k \, \partial [\log p(x, z) - \log p(z_s \mid \cdot)] / \partial z_s
      - w_k^2 \, \partial l_k / \partial z_s) \cdot \nabla_\theta T`;
    - theta of the likelihood: :math:`\sum_k w_k \nabla_\theta \log p(x \mid z_k)`.

    Args:
        terms: of a run on leaves, the guide frozen.
        samples: what the guide drew, with its path, by site.

    Returns:
        ``[batch]``; its value means nothing.

    Raises:
        UnsupportedObjective: a learned prior that is not of a location-scale family.

    Source:
        Bauer, Mnih (2021), Generalized doubly reparameterized gradient estimators, arXiv 2101.11046.
    """
    for site in terms.latents:
        if is_point(site.q):
            raise UnsupportedObjective(
                f"`gradient=\"gdreg\"` needs a density at every site of the guide, but '{site.name}' is a function of "
                'other sites, as in Pyro\'s autoguides; use `gradient="dreg"`'
            )
    log_weights = terms.log_weights
    w = normalized_weights(log_weights.detach())  # [K, batch]
    sites = list(terms.latents)
    leaves = [site.value for site in sites]
    log_p = terms.log_likelihood + terms.log_prior
    squared = _partials(w**2 * log_weights, leaves)
    weighted = _partials(w * log_p, leaves)
    likelihood = terms.log_likelihood
    total = (w * likelihood).sum(0) if isinstance(likelihood, Tensor) else w.sum(0) * 0.0
    for site, of_l, of_p in zip(sites, squared, weighted, strict=True):
        total = total + _per_datum(site, samples[site.name] * of_l)
        if site.p is not None and site.p.log_prob(site.value.detach()).requires_grad:
            own = _partials(w * site.log_p, [site.value])[0]
            moved = _relocated(site) * (of_p - own - of_l)
            total = total + _per_datum(site, _masked(moved, site))
    return total


def _partials(term: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(term.sum(), leaves, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]


def _per_datum(site: SiteTerm, product: Tensor) -> Tensor:
    """Sums a product laid out as the site's value to ``[batch]``."""
    event = site.q.event_dim
    summed = product.flatten(product.dim() - event).sum(-1) if event else product
    return replace(site.layout, mask=None, inner_scale=1.0).collapse(summed).sum(0)


def _masked(product: Tensor, site: SiteTerm) -> Tensor:
    mask = site.model_layout.mask  # type: ignore[union-attr]  # the site is in the model
    if mask is None or mask is True:
        return product
    mask = torch.as_tensor(mask, device=product.device)
    return torch.where(mask.reshape(*mask.shape, *[1] * site.q.event_dim), product, 0.0)


def _relocated(site: SiteTerm) -> Tensor:
    """The sample as a function of the parameters of the model's distribution: its noise is what is fixed."""
    p: Any = site.p
    while isinstance(p, Independent):
        p = p.base_dist
    if isinstance(p, torch.distributions.MultivariateNormal):
        noise = torch.linalg.solve_triangular(p.scale_tril, (site.value - p.loc)[..., None], upper=False).detach()
        return p.loc + (p.scale_tril.tril() @ noise)[..., 0]
    if not isinstance(p, LOCATION_SCALE):
        raise UnsupportedObjective(
            f'`gradient="gdreg"` needs a location-scale family for a learned distribution of the model, but site '
            f"'{site.name}' is {type(p).__name__} there; use `gradient=\"dreg\"`"
        )
    return p.loc + p.scale * ((site.value - p.loc) / p.scale).detach()
