"""Gradients of the ELBO at sites that are not sampled along a path: score functions and antithetic pairs."""

from typing import Any

import jax.numpy as jnp
from jax import Array, nn
from jax.lax import stop_gradient

from probgen.core.estimators import leave_one_out
from probgen.errors import UnsupportedObjective
from probgen.numpyro.nonfinite import is_traced
from probgen.numpyro.surrogate import weighted
from probgen.numpyro.terms import PairTerms, SiteTerm


def shares(terms: PairTerms, num_particles: int) -> Array:
    """What each run counts in the mean over particles, ``[P, batch]``: ``q(s) / K`` of its enumerated states."""
    enumerated = [site.score for site in terms.latents if site.enumerated and site.score is not None]
    if enumerated:
        return jnp.exp(sum(enumerated[1:], start=enumerated[0])) / num_particles
    return jnp.full((num_particles, *terms.batch_shape), 1.0 / num_particles, jnp.result_type(terms.scale))


class Costs:
    """What a score function multiplies: the part of the integrand that a site's samples can have changed.

    By default the integrand of the datum. Where the site lies in plates inside the datum, costs of other plates'
    entries are summed over what they share alone (Rao-Blackwellisation by plates, as in Pyro's ``Trace_ELBO``).

    Args:
        terms: of one run, without gradient.
        integrand: ``[K, batch]``, without gradient.
        beta: weight of ``log q - log p`` in it; None where it has other parts, and is not taken apart.
        share: what each run counts, ``[P, batch]``, without gradient.
        num_particles: K particles of each joint state of enumerated sites.
    """

    def __init__(self, terms: PairTerms, integrand: Array, beta: Any, share: Array, num_particles: int) -> None:
        self.share, self.num_particles = share, num_particles
        self._terms = terms
        self._beta = beta
        self.of_datum = integrand

    def plated(self, site: SiteTerm) -> Array | None:
        """Costs by the site's own plates, ``[K, *plates]``; None where they are those of the datum."""
        density = site.plated_score
        if self._beta is None or density is None:
            return None
        keep = [dim - density.ndim for dim in range(1, density.ndim) if density.shape[dim] != 1]
        if set(keep) <= set(site.layout.batch_dims):
            return None
        found = [self._cost(other) for other in self._terms.sites]
        parts = [part for part in found if part is not None]
        if len(parts) < len(found):
            return None
        away = tuple(dim for dim in range(1 - density.ndim, 0) if dim not in (*keep, *site.layout.batch_dims))
        total: Any = 0.0
        for part in parts:
            total = total + part.sum(away, keepdims=True)
        return jnp.broadcast_to(total, density.shape)

    def _cost(self, site: SiteTerm) -> Array | None:
        if site.observed:
            return site.plated_p
        if site.plated_q is None or (site.log_p is not None and site.plated_p is None):
            return None
        log_p = 0.0 if site.plated_p is None else site.plated_p
        cost: Array = self._beta * (log_p - site.plated_q)
        return cost


def score(site: SiteTerm, costs: Costs, scale: Array, *, baseline: bool) -> Any:
    """``sum_k (R_k - b_k) log q(z_k)`` of one site, with ``b_k`` the mean cost of the other particles."""
    plated = costs.plated(site)
    if plated is None:
        return weighted(_signal(costs.of_datum, costs.share, costs.num_particles, baseline) * scale, site.score)
    share = site.layout.spread(costs.share, plated, 0)
    signal = _signal(plated, share, costs.num_particles, baseline) * _spread(site, scale, plated)
    return weighted(signal, site.plated_score)


def _signal(cost: Array, share: Array, num_particles: int, baseline: bool) -> Array:
    """``share * cost`` minus its mean over the other particles of the same states, ``[P, ...]``."""
    shared = share * jnp.where(jnp.isfinite(cost), cost, 0.0)
    if not baseline or num_particles == 1:
        return shared
    by_state = shared.reshape(-1, num_particles, *shared.shape[1:]).swapaxes(0, 1)  # [K, S, ...]
    others = leave_one_out(lambda rest: rest.mean(0), by_state)
    signal: Array = (by_state - others).swapaxes(0, 1).reshape(shared.shape)
    return signal


def _spread(site: SiteTerm, scale: Array, like: Array) -> Array:
    return site.layout.spread(scale[None], like, 0)


def _require_alike(name: str, alike: Array) -> None:
    """Refuses antithetic pairs that differ in their logits: one antithetic site depends on another."""
    if not is_traced(alike) and not bool(alike):
        raise UnsupportedObjective(
            f"`gradient=\"disarm\"` at site '{name}': its logits depend on another site, so the two samples of a pair "
            'have different ones; give this site "rloo" by a dictionary, and "disarm" to the site that comes first'
        )


def disarm(site: SiteTerm, costs: Costs, scale: Array) -> Any:
    """A scalar with the DisARM gradient of the logits of a Bernoulli site, from particles in antithetic pairs.

    ``1/2 (f(b) - f(b')) (-1)^(b') 1[b != b'] sigmoid(|logit|)`` for each entry, the mean over pairs.

    Source:
        Dong, Mnih, Tucker (2020), DisARM: an antithetic gradient estimator, arXiv 2006.10680; Yin, Ho, Yan, Qian, Zhou
        (2020), arXiv 2006.11013, found the same.
    """
    half = site.value.shape[0] // 2
    first, second = site.value[:half], site.value[half:]  # [K/2, *plates, *event]
    logits, others = site.logits[:half], site.logits[half:]  # type: ignore[index]  # of antithetic sites
    alike = jnp.all(stop_gradient(logits) == stop_gradient(others))
    _require_alike(site.name, alike)
    plated = costs.plated(site)
    if plated is None:
        gap = site.layout.spread((costs.of_datum[:half] - costs.of_datum[half:]) * scale, first, site.event_dim)
    else:
        gap = (plated[:half] - plated[half:]) * _spread(site, scale, plated)
        own = first.ndim - 1 - site.event_dim  # plates of the site
        gap = gap.reshape(half, *gap.shape[gap.ndim - own :], *[1] * site.event_dim)
    slope = 0.5 * jnp.where(jnp.isfinite(gap), gap, 0.0) * (first - second) * nn.sigmoid(jnp.abs(logits))
    slope = jnp.where(alike, slope, jnp.nan)  # inside `jax.jit`, where nothing can be raised, never a wrong number
    return jnp.sum(stop_gradient(slope) * logits) / half
