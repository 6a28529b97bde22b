"""Divergences in closed form, site by site."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from numpyro.distributions.kl import kl_divergence

from probgen.errors import UnsupportedObjective
from probgen.numpyro.distributions import elementwise, family, sum_rightmost
from probgen.numpyro.read import SiteKL
from probgen.numpyro.terms import PairTerms


def site_kl(free_bits: float = 0.0, *, per: str = "dimension") -> SiteKL:
    """A function that gives KL(q || p) of one site, ``[*plates]``, in nats.

    Args:
        free_bits: what each latent dimension of a datum counts at least, in nats.
        per: ``"dimension"``, or ``"site"`` for what each site of a datum counts at least.
    """

    def divergence(name: str, q: Any, p: Any) -> Array:
        try:
            if free_bits == 0 or per == "site":
                return jnp.maximum(kl_divergence(q, p), free_bits) if free_bits else kl_divergence(q, p)
            return _free_kl(name, q, p, free_bits)
        except NotImplementedError:
            raise UnsupportedObjective(
                f"NumPyro knows no closed form of KL({family(q)} || {family(p)}) for site '{name}'; use "
                '`kl="monte-carlo"`'
            ) from None

    return divergence


def _free_kl(name: str, q: Any, p: Any, free_bits: float) -> Array:
    """The sum over a site's dimensions of their divergences, each at least ``free_bits``."""
    event_dim = len(q.event_shape)
    q, p = elementwise(q), elementwise(p)
    if q.event_shape or p.event_shape:
        joint = family(q if q.event_shape else p)
        raise UnsupportedObjective(
            f"`free_bits` needs a divergence for each dimension of site '{name}', but {joint} does not factorise over "
            "them; use a diagonal guide and prior, or `free_bits=0`"
        )
    return sum_rightmost(jnp.maximum(kl_divergence(q, p), free_bits), event_dim)


def analytic_kl(terms: PairTerms, free_bits: float = 0.0) -> Any:
    """KL(q || p) summed over sites, each in closed form given the sites sampled before it, ``[K, batch]``.

    Args:
        terms: of one run, with the divergences of :func:`site_kl`.
        free_bits: those that were counted.

    Raises:
        UnsupportedObjective: a site without a closed form, or a guide whose order is not the model's.
    """
    shared = tuple(site.name for site in terms.latents if site.log_p is not None)
    if shared != terms.model_order:
        raise UnsupportedObjective(
            f'`kl="analytic"` needs a guide that samples its sites in the model\'s order, {_names(terms.model_order)}, '
            f'but the guide\'s is {_names(shared)}; use `kl="monte-carlo"`'
        )
    total: Any = 0.0
    for site in terms.latents:
        if free_bits > 0 and (site.log_p is None or site.function or site.point):
            raise UnsupportedObjective(
                f"`free_bits` needs a divergence for each dimension of site '{site.name}', which as an auxiliary site "
                "or a function of other sites (as in NumPyro's autoguides) has none; use a guide with a density at "
                "every site of the model, or `free_bits=0`"
            )
        total = total + (site.log_q if site.log_p is None else site.kl)
    return total


def _names(names: tuple[str, ...]) -> str:
    return " -> ".join(f"'{name}'" for name in names)
