"""Log-densities and quadrature for the exact reference, in torch and by hand: nothing here is Pyro's."""

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from probgen.errors import ArgumentError


def normal(value: Tensor, loc: Tensor | float, scale: Tensor | float) -> Tensor:
    """Log-density of a normal variable."""
    scale = torch.as_tensor(scale, dtype=torch.float64)
    return -0.5 * ((value - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


def bernoulli(value: Tensor | float, logits: Tensor) -> Tensor:
    """Log-probability of 0 or 1: ``x a - log(1 + e^a)``."""
    return value * logits - torch.logaddexp(logits, torch.zeros_like(logits))


def categorical(index: Tensor, logits: Tensor) -> Tensor:
    """Log-probability of an index ``[S]`` under logits ``[..., C]``."""
    log_probs = logits - logits.logsumexp(-1, keepdim=True)
    return log_probs.expand(*index.shape, -1).gather(-1, index[..., None])[..., 0]


def bernoulli_kl(logits: Tensor, prior: Tensor) -> Tensor:
    """KL(Bernoulli(logits) || Bernoulli(prior))."""
    q = logits.sigmoid()
    at_0, at_1 = (bernoulli(bit, logits) - bernoulli(bit, prior) for bit in (0.0, 1.0))
    return (1 - q) * at_0 + q * at_1


def categorical_kl(logits: Tensor, prior: Tensor) -> Tensor:
    """KL of two categorical variables with logits ``[..., C]``."""
    log_q, log_p = (each - each.logsumexp(-1, keepdim=True) for each in (logits, prior))
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def normal_kl(loc: Tensor, scale: Tensor, prior_loc: Tensor | float, prior_scale: Tensor | float) -> Tensor:
    """KL(N(loc, scale) || N(prior_loc, prior_scale))."""
    prior_scale = torch.as_tensor(prior_scale, dtype=torch.float64)
    ratio = (scale / prior_scale) ** 2
    return 0.5 * (ratio + ((loc - prior_loc) / prior_scale) ** 2 - 1 - ratio.log())


REACH = 6.5  # standard deviations: what lies outside has probability 8e-11


def nodes_for(table: Mapping[int, int], particles: int) -> int:
    """How many nodes a dimension has in tuples of K particles.

    Raises:
        ArgumentError: there is no reference for that many particles: tuples of them would be too many.
    """
    if particles not in table:
        raise ArgumentError(
            f"the exact reference of this problem goes over all tuples of particles: `num_particles` must be at most "
            f"{max(table)}, got {particles}"
        )
    return table[particles]


def normal_nodes(nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes and log-weights that integrate against a standard normal, each ``[nodes]``.

    The trapezoidal sum, which converges exponentially for analytic integrands with normal tails. For a logarithm of
    sums of weights, whose singularities lie near the real line, it is far ahead of as many Gauss-Hermite nodes.

    Source:
        Trefethen, Weideman (2014), The exponentially convergent trapezoidal rule, SIAM Review 56.
    """
    points = torch.linspace(-REACH, REACH, nodes, dtype=torch.float64)
    log_weights = -0.5 * points**2
    return points, log_weights - log_weights.logsumexp(0)


def normal_nodes_plane(nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes of two independent standard normals and log-weights, each ``[nodes^2]``; without corners out of reach."""
    points, log_weights = normal_nodes(nodes)
    a, b = (grid.flatten() for grid in torch.meshgrid(points, points, indexing="ij"))
    kept = a**2 + b**2 <= REACH**2
    total = (log_weights[:, None] + log_weights).flatten()[kept]
    return a[kept], b[kept], total - total.logsumexp(0)


def logistic_nodes(nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes and log-weights that integrate against a standard logistic variable; denser where it mostly lies."""
    u = torch.linspace(-3.0, 3.0, nodes, dtype=torch.float64)
    points = 1.6 * u.sinh()
    log_weights = -points - 2 * torch.nn.functional.softplus(-points) + u.cosh().log()
    return points, log_weights - log_weights.logsumexp(0)


def concrete(scaled: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Log-density of a Concrete variable ``sigmoid(scaled)``, without the factor that its prior has as well."""
    shifted = logits - temperature * scaled
    return shifted - 2 * torch.logaddexp(shifted, torch.zeros_like(shifted))


def switch(logits: Tensor, noise: Tensor, gradient: str, temperature: float) -> tuple[Tensor, Tensor]:
    """(value, its logit or value) of a relaxed bit from logistic noise, or of a hard bit with the path of its mean."""
    if gradient == "relaxed":
        scaled = (logits + noise) / temperature
        return scaled.sigmoid(), scaled
    mean = logits.sigmoid()
    value = noise + mean - mean.detach()
    return value, value


def switch_log_prob(value: Tensor, logits: Tensor, gradient: str, temperature: float) -> Tensor:
    """Log-density at what :func:`switch` gives second."""
    return concrete(value, logits, temperature) if gradient == "relaxed" else bernoulli(value, logits)


def binary(count: int) -> Tensor:
    """All vectors of ``count`` bits, ``[2^count, count]``."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=count)), dtype=torch.float64)


def indices(states: int, length: int) -> Tensor:
    """All sequences of ``length`` indices, ``[states^length, length]``."""
    return torch.tensor(list(itertools.product(range(states), repeat=length)))
