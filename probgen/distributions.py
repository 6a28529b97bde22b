"""Distributions that Pyro lacks."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from probgen.arguments import positive_int
from probgen.errors import ArgumentError


def checked_levels(levels: Any) -> int:
    """``levels`` itself, if it is a whole number from 2 to 65536.

    Raises:
        ArgumentError: it is not.
    """
    levels = positive_int("levels", levels, at_least=2)
    if levels > 65536:
        raise ArgumentError(f"`levels` must be at most 65536 (16 bits), got {levels}")
    return levels


class Bernoulli(dist.Bernoulli):
    r"""Pyro's Bernoulli with a cheaper log-probability of bits.

    .. math:: \log p(x) = \log\sigma\big((2x - 1) \, \mathrm{logit}\big), \quad x \in \{0, 1\}

    Pyro's is minus a cross-entropy, and negates all of ``[num_particles, batch, dim]`` once more. Only for bits:
    elsewhere the formula means nothing, and such data are refused before they get here.

    Args:
        logits: ``[*batch]``.

    Example:
        >>> Bernoulli(logits=torch.tensor(0.0)).log_prob(torch.tensor(1.0))
        tensor(-0.6931)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of bits, of the broadcast shape of ``value`` and the batch."""
        if self._validate_args:
            self._validate_sample(value)
        return F.logsigmoid((2 * value - 1) * self.logits)


class Grid(constraints.Constraint):
    """Values in ``{0, ..., levels - 1} / (levels - 1)``, up to the rounding of a float32 division."""

    is_discrete = True
    event_dim = 0

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def check(self, value: Tensor) -> Tensor:
        """Whether each entry lies on the grid."""
        index = value * (self.levels - 1)
        near = (index - index.round()).abs() <= 1e-3 + 8 * torch.finfo(torch.float32).eps * (self.levels - 1)
        return near & (index > -0.5) & (index < self.levels - 0.5)

    def __repr__(self) -> str:
        return f"Grid(levels={self.levels})"


class DiscretizedLogisticDistribution(TorchDistribution):
    r"""A logistic distribution rounded to the nearest of n points ``0, 1/(n - 1), ..., 1``; the ends take the tails.

    .. math::
        P(x) = \sigma(u) - \sigma(l), \quad u = (x + h - \mathrm{loc}) / s, \quad l = (x - h - \mathrm{loc}) / s,
        \quad h = 1 / (2 (n - 1))

    with :math:`u = \infty` at the last point and :math:`l = -\infty` at the first. The logarithm is computed as
    :math:`\log\sigma(u) + \log\sigma(-l) + \log(1 - e^{l - u})`, where nothing cancels, however far the tail.

    Args:
        loc: ``[*batch]``, in the units of the data.
        scale: ``[*batch]``, above 0.
        levels: n, the number of grid points.

    Source:
        Salimans, Karpathy, Chen, Kingma (2017), PixelCNN++, arXiv 1701.05517.

    Example:
        >>> p = DiscretizedLogisticDistribution(torch.tensor(0.3), torch.tensor(0.1), 5)
        >>> round(float(p.log_prob(torch.linspace(0, 1, 5)).exp().sum()), 5)
        1.0
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012
    has_rsample = False

    def __init__(self, loc: Tensor, scale: Tensor, levels: int = 256, *, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.levels = checked_levels(levels)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The grid."""
        return Grid(self.levels)

    @property
    def mean(self) -> Tensor:
        """The exact mean, ``[*batch]``: the sum over the bin edges of P(x above it), divided by n - 1."""
        top = self.levels - 1
        edges = (torch.arange(top, device=self.loc.device, dtype=self.loc.dtype) + 0.5) / top
        return torch.sigmoid((self.loc[..., None] - edges) / self.scale[..., None]).mean(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of grid points, of the broadcast shape of ``value`` and the batch."""
        if self._validate_args:
            self._validate_sample(value)
        top = self.levels - 1
        log_below_upper = F.logsigmoid((value + 0.5 / top - self.loc) / self.scale)  # log sigmoid(u)
        log_above_lower = F.logsigmoid((self.loc - value + 0.5 / top) / self.scale)  # log sigmoid(-l)
        inside = log_below_upper + log_above_lower + torch.log(-torch.expm1(-1 / (top * self.scale)))
        tails = torch.where(value * top > top - 0.5, log_above_lower, inside)
        return torch.where(value * top < 0.5, log_below_upper, tails)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws grid points, ``[*sample_shape, *batch]``."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            noise = uniform.clamp_min(torch.finfo(uniform.dtype).tiny).log() - torch.log1p(-uniform)
            top = self.levels - 1
            return ((self.loc + self.scale * noise) * top).round().clamp(0, top) / top

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "DiscretizedLogisticDistribution":
        """The same distribution with another batch shape."""
        new: DiscretizedLogisticDistribution = self._get_checked_instance(DiscretizedLogisticDistribution, _instance)
        shape = torch.Size(batch_shape)
        new.loc, new.scale, new.levels = self.loc.expand(shape), self.scale.expand(shape), self.levels
        super(DiscretizedLogisticDistribution, new).__init__(shape, validate_args=False)
        new._validate_args = self._validate_args
        return new
