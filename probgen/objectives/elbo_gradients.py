"""Gradients of the ELBO at sites that are not sampled along a path: score functions, antithetic pairs, enumeration."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from probgen.core import bounds
from probgen.core.estimators import leave_one_out
from probgen.errors import UnsupportedObjective
from probgen.programs import PairTerms, SiteTerm
from probgen.programs.sampling import (
    ANTITHETIC,
    DETACHED,
    ENUMERATED,
    PROBED,
    RELAXED,
    STRAIGHT_THROUGH,
    bernoulli_logits,
)

MODES: Mapping[str, str | None] = {
    "auto": None,
    "pathwise": None,
    "stl": None,
    "score": DETACHED,
    "rloo": DETACHED,
    "disarm": ANTITHETIC,
    "enumerate": ENUMERATED,
    "relaxed": RELAXED,
    "straight-through": STRAIGHT_THROUGH,
}


def shares(terms: PairTerms, num_particles: int) -> Tensor | float:
    """What each run counts in the mean over particles, ``[S * K, batch]``: ``q(s) / K`` of its enumerated states."""
    enumerated = [site.score for site in terms.latents if site.mode == ENUMERATED and site.score is not None]
    if not enumerated:
        return 1.0 / num_particles
    return torch.stack(enumerated).sum(0).exp() / num_particles


def mean_over(share: Tensor | float, integrand: Tensor) -> Tensor:
    """``sum share * integrand`` over the particles; a state of probability 0 counts 0, whatever its integrand."""
    if isinstance(share, float):
        return bounds.elbo(integrand)
    possible = share.detach() > 0.0
    return (share * torch.where(possible, integrand, 0.0)).sum(0)


def without_own_scores(terms: PairTerms, integrand: Tensor, beta: Tensor | float) -> Tensor:
    """The integrand with ``log q`` constant at sites without a path.

    Its gradient there has the mean 0 at fixed samples, and would only add noise: at the exact posterior, all of it.
    """
    for site in terms.latents:
        if scored(site) and site.log_q is not None:
            integrand = integrand + beta * (site.log_q - site.log_q.detach())
    return integrand


def scored(site: SiteTerm) -> bool:
    """Whether a site's gradient needs its ``log q``: neither a path nor a sum over its states."""
    return not site.reparameterized and site.mode != ENUMERATED


class Costs:
    """What a score function multiplies: the part of the integrand that a site's samples can have changed.

    By default the integrand of the datum. Where the site lies in plates inside the datum, costs of other plates'
    entries are summed over what they share alone (Rao-Blackwellisation by plates, as in Pyro's ``Trace_ELBO``).

    Args:
        terms: of one run.
        integrand: ``[P, batch]``, without gradient.
        beta: weight of ``log q - log p`` in it; None where it has other parts, and is not taken apart.
    """

    def __init__(self, terms: PairTerms, integrand: Tensor, beta: Tensor | float | None) -> None:
        self._terms = terms
        self._integrand = integrand
        self._beta = beta

    def plated(self, site: SiteTerm) -> Tensor | None:
        """Costs by the site's own plates, ``[P, *plates]``; None where they are those of the datum."""
        if self._beta is None or site.density_q is None:
            return None
        density = replace(site.layout, mask=None, inner_scale=1.0).arrange(site.density_q)
        keep = [dim for dim in range(1, density.dim()) if density.shape[dim] != 1]
        batch = [density.dim() + dim for dim in site.layout.batch_dims]
        if set(keep) <= set(batch):
            return None
        if self._dims_are_shared():
            return None
        parts = [self._cost(other) for other in self._terms.sites]
        if any(part is None for part in parts):
            return None
        total: Tensor | float = 0.0
        for part in parts:
            away = [dim for dim in range(1, density.dim()) if dim not in (*keep, *batch)]
            summed = part.detach().sum(away, keepdim=True) if away else part.detach()  # type: ignore[union-attr]
            total = total + summed
        return total.expand(density.shape)  # type: ignore[union-attr]

    def _dims_are_shared(self) -> bool:
        """Whether two plates lie on one dim, so that costs of one would be taken for costs of the other."""
        frames = {frame for site in self._terms.sites for frame in site.frames}
        return len({dim for _, dim in frames}) < len(frames)

    def _cost(self, site: SiteTerm) -> Tensor | None:
        if site.observed:
            return site.plated_p
        if site.density_q is None:
            return None
        log_p = site.plated_p if site.p is not None else 0.0
        return self._beta * (log_p - site.plated_q)  # type: ignore[operator, return-value]

    def of_datum(self) -> Tensor:
        """The integrand, ``[P, batch]``."""
        return self._integrand


def score_term(site: SiteTerm, costs: Costs, share: Tensor | float, num_particles: int, *, baseline: bool) -> Tensor:
    """``sum_k (R_k - b_k) log q(z_k)`` of one site, ``[batch]``, with ``b_k`` the mean cost of the other particles."""
    plated = costs.plated(site)
    if plated is None:
        signal = _signal(costs.of_datum(), share, num_particles, baseline=baseline)
        return (signal * site.score).sum(0)  # type: ignore[operator]
    layout = replace(site.layout, mask=None, inner_scale=1.0)
    if not isinstance(share, float):
        share = layout.place(share, 0)
    signal = _signal(plated, share, num_particles, baseline=baseline)
    return layout.collapse(signal * layout.arrange(site.density_q)).sum(0)  # type: ignore[arg-type]


def _signal(cost: Tensor, share: Tensor | float, num_particles: int, *, baseline: bool) -> Tensor:
    """``share * cost`` minus its mean over the other particles of the same states, ``[P, ...]``."""
    known = torch.isfinite(cost)
    shared = (share.detach() if isinstance(share, Tensor) else share) * torch.where(known, cost, 0.0)
    if not baseline or num_particles == 1:
        return shared
    by_state = shared.reshape(-1, num_particles, *shared.shape[1:]).transpose(0, 1)  # [K, S, ...]
    others = leave_one_out(lambda rest: rest.mean(0), by_state)
    return (by_state - others).transpose(0, 1).reshape(shared.shape)


def disarm_term(site: SiteTerm, costs: Costs, num_particles: int) -> Tensor:
    r"""DisARM, ``[batch]``: antithetic pairs ``(b, b')``, Rao-Blackwellised over their common noise.

    .. math:: \tfrac12 (f(b) - f(b')) (-1)^{b'_i} 1[b_i \ne b'_i] \, \sigma(|\phi_i|) \, \phi_i

    Source:
        Dong, Mnih, Tucker (2020), DisARM: an antithetic gradient estimator for binary latent variables, arXiv
        2006.10680; Yin, Ho, Yan, Qian, Zhou (2020), arXiv 2006.11013, found the same.
    """
    half = num_particles // 2
    logits = bernoulli_logits(site.name, site.q)[:half]
    first, second = site.value[:half], site.value[half:]
    factor = torch.where(first != second, 1.0 - 2.0 * second, 0.0) * logits.detach().abs().sigmoid()
    event = site.q.event_dim
    entries = factor * logits
    entries = entries.flatten(entries.dim() - event).sum(-1) if event else entries  # [K/2, *plates]
    layout = replace(site.layout, mask=None, inner_scale=1.0, num_particles=half)
    plated = costs.plated(site)
    if plated is None:
        cost = costs.of_datum()
        return (0.5 * (cost[:half] - cost[half:]) * layout.collapse(entries)).mean(0)
    return layout.collapse(0.5 * (plated[:half] - plated[half:]) * entries).mean(0)


def check_antithetic(terms: PairTerms) -> None:
    """Refuses a site whose logits depend on another site, so that the samples of an antithetic pair differ in them.

    Args:
        terms: of a run in which antithetic sites are fair coins, many particles of them.

    Raises:
        UnsupportedObjective: naming the site.
    """
    probes = {site.name: site.value for site in terms.latents if site.mode == PROBED}
    for site in terms.latents:
        if site.mode == PROBED:
            logits = bernoulli_logits(site.name, site.q)
            others = [value for name, value in probes.items() if name != site.name]
            if _reaches(logits, others) or not torch.equal(logits, logits[:1].expand_as(logits)):
                raise UnsupportedObjective(
                    f"`gradient=\"disarm\"` at site '{site.name}': its logits depend on another site, so the two "
                    'samples of a pair have different ones; give this site "rloo" by a dictionary, and "disarm" to '
                    "the site that comes first"
                )


def _reaches(logits: Tensor, others: list[Tensor]) -> bool:
    """Whether the graph of the logits has one of the samples in it, be its derivative 0."""
    if not logits.requires_grad or not others:
        return False
    found = torch.autograd.grad(logits.sum(), others, allow_unused=True, retain_graph=True)
    return any(gradient is not None for gradient in found)


def check_site_gradients(gradients: Any, allowed: tuple[str, ...]) -> None:
    """Refuses a dictionary of gradients that names no known ones, or one that is about the whole guide.

    Raises:
        UnsupportedObjective: naming the site.
    """
    for site, name in gradients.items():
        if not isinstance(site, str) or name not in allowed:
            raise UnsupportedObjective(
                f"`gradient` gives site {site!r} {name!r}; for single sites there are {', '.join(map(repr, allowed))}"
            )
