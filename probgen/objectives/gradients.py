"""Gradient estimators: functions whose *gradient* estimates that of a bound's expectation.

``combine`` is the bound as a function of K log-weights, axis 0 the particles; the results are unreduced.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from probgen.errors import UnsupportedObjective
from probgen.programs import PairTerms

Combine = Callable[[Tensor], Tensor]


def score_function(combine: Combine, integrand: Tensor, score: Tensor) -> Tensor:
    r"""Score-function gradient with a leave-one-out baseline, plus the pathwise part.

    .. math:: \nabla f(l_1 \ldots l_K) + \sum_k (f - b_k) \nabla \log q(z_k), \quad b_k = f(l_{j \ne k})

    The baseline is the bound of the other particles, which are independent of the k-th, so the estimate is
    unbiased; with one particle there is none. In the first term ``l_k`` keeps its own ``-log q(z_k)``.

    Args:
        combine: the bound f.
        integrand: ``[K, batch]``.
        score: ``log q`` of the sites without rsample, ``[K, batch]``.

    Returns:
        ``[batch]``; its value is f plus noise, only its gradient is meant.

    Source:
        Mnih, Rezende (2016), Variational inference for Monte Carlo objectives, arXiv 1602.06725 (who take the
        geometric mean for the left-out particle); Kool, van Hoof, Welling (2019).
    """
    value = combine(integrand)
    baseline = leave_one_out(combine, integrand.detach())  # [K, batch]
    # Where the other particles have no weight at all there is no baseline; where none has, no signal.
    baseline = torch.where(torch.isfinite(baseline), baseline, 0.0)
    signal = torch.where(torch.isfinite(value.detach()), value.detach() - baseline, 0.0)
    return value + (signal * score).sum(0)


def leave_one_out(combine: Combine, integrand: Tensor) -> Tensor:
    """The bound of all particles but the k-th, ``[K, batch]``; zero for K = 1."""
    count = integrand.shape[0]
    if count == 1:
        return torch.zeros_like(integrand)
    others = torch.arange(count - 1, device=integrand.device)[:, None].repeat(1, count)  # [K - 1, K]
    others = others + (others >= torch.arange(count, device=integrand.device))  # column k skips k
    return combine(integrand[others])  # [K - 1, K, batch] -> [K, batch]


def require_reparameterized(terms: PairTerms, gradient: str, instead: str) -> None:
    """Refuses a guide with a site that has no ``rsample``.

    Raises:
        UnsupportedObjective: naming the first such site.
    """
    for site in terms.latents:
        if not site.reparameterized:
            raise UnsupportedObjective(
                f"`gradient=\"{gradient}\"` needs `rsample` at every latent site, but the guide's site '{site.name}' "
                f"({type(site.q).__name__}) has none; use {instead}"
            )
