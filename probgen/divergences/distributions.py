"""What a divergence needs from a distribution: its log-density anywhere, its moments, its categories, its samples."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from torch.distributions.lowrank_multivariate_normal import LowRankMultivariateNormal

from probgen.seeding import seeded

_QUANTILES = (0.0005, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9995)


def log_density(p: Distribution, x: Tensor) -> Tensor:
    """``log p(x)`` per datum, -inf outside the support, where torch would raise."""
    inside = p.support.check(x)  # type: ignore[union-attr]  # a property that may raise
    if bool(inside.all()):
        return p.log_prob(x)
    shape = x.shape[: x.dim() - len(p.event_shape)]
    with seeded(0):
        anywhere = p.sample().expand(x.shape)
    mask = inside.reshape(shape + (1,) * len(p.event_shape))
    return torch.where(inside, p.log_prob(torch.where(mask, x, anywhere)), -math.inf)


def as_gaussian(p: Any) -> tuple[Tensor, Tensor] | None:
    """(mean [..., d], covariance [..., d, d]) of a Gaussian on vectors or numbers."""
    base = getattr(p, "base_dist", None)
    if isinstance(p, Independent) and isinstance(base, Normal) and len(p.event_shape) == 1:
        return base.loc, torch.diag_embed(base.variance)
    if isinstance(p, Normal):
        return p.loc[..., None], p.variance[..., None, None]
    if isinstance(p, (MultivariateNormal, LowRankMultivariateNormal)):
        return p.mean, p.covariance_matrix
    return None


def probabilities(p: Distribution, q: Distribution) -> tuple[Tensor, Tensor] | None:
    """Both distributions' probabilities on the last axis, if they have the same finite support."""
    if not (getattr(p, "has_enumerate_support", False) and getattr(q, "has_enumerate_support", False)):
        return None
    try:
        values, others = (d.enumerate_support(expand=False) for d in (p, q))  # [k, 1, ..., event]
    except NotImplementedError:
        return None
    if values.shape[0] != others.shape[0] or values.shape[values.dim() - len(p.event_shape) :] != p.event_shape:
        return None
    if not bool((values == others).all()):
        return None
    return p.log_prob(values).exp().movedim(0, -1), q.log_prob(values).exp().movedim(0, -1)


def support_of(p: Distribution) -> tuple[float, float] | None:
    """The bounds of the support of a distribution of one real number, or None."""
    support: Any = p.support
    if p.batch_shape or p.event_shape or support.is_discrete:
        return None
    low, high = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    return (-math.inf if low is None else float(low)), (math.inf if high is None else float(high))


def landmarks(p: Distribution) -> list[float]:
    """Where the mass of a distribution of one number lies: quantiles of draws that are always the same."""
    with seeded(0), torch.no_grad():
        draws = p.sample(torch.Size([4000])).double()
    found = torch.quantile(draws, torch.tensor(_QUANTILES, dtype=torch.float64)).tolist()
    center = getattr(p, "loc", None)  # where a density may have a kink
    return [*found, float(center)] if isinstance(center, Tensor) else found


def draw(p: Distribution, count: int) -> Tensor:
    """Independent samples, shape [count, *event]; pathwise differentiable where the distribution is."""
    shape = torch.Size([count])
    return p.rsample(shape) if p.has_rsample else p.sample(shape)


def score(log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``∇ log p`` at each sample."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(log_prob(leaf).sum(), leaf)[0]
