"""p(x | features): what a network's raw outputs say about the data.

A likelihood knows the event's shape, how many raw outputs it needs, which data it takes, and the Pyro distribution.
It has no parameters of its own. Models take one by name (``"bernoulli"``), by spec (``"normal:min_scale=0.01"``) or
as an instance.
"""

import math
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from probgen import distributions
from probgen.arguments import event_shape as checked_event_shape
from probgen.arguments import positive_float, positive_int
from probgen.config import build, canonical, parse_spec
from probgen.distributions import DiscretizedLogisticDistribution, Grid, checked_levels
from probgen.errors import ArgumentError, nearest
from probgen.nets.inputs import cast_event, check_values
from probgen.nets.tensors import at_least_single
from probgen.validation import validates


class Likelihood:
    """p(x | raw) for events of one shape: the interface; see the classes below.

    Args:
        event_shape: the shape of one datum.

    Attributes:
        outputs_per_dim: raw outputs for each entry of an event.
        required: what an entry of the data must be, for messages.

    Raises:
        ArgumentError: the shape has no dimension, or an empty one.
    """

    outputs_per_dim: int = 1
    required: str = "finite"

    def __init__(self, event_shape: Sequence[int]) -> None:
        self.event_shape = checked_event_shape(event_shape)

    @property
    @final
    def num_outputs(self) -> int:
        """The number of raw outputs: ``outputs_per_dim * prod(event_shape)``."""
        return self.outputs_per_dim * math.prod(self.event_shape)

    @final
    def distribution(self, raw: Tensor) -> TorchDistribution:
        """The distribution of an event.

        Args:
            raw: ``[*batch, num_outputs]``, laid out as ``[*batch, outputs_per_dim, *event_shape]``.

        Returns:
            A Pyro distribution of batch shape ``batch`` and event shape ``event_shape``. Half-precision outputs
            (autocast) are taken to float32 first.
        """
        raw = at_least_single(raw).reshape(*raw.shape[:-1], self.outputs_per_dim, *self.event_shape)
        parts = raw.unbind(-1 - len(self.event_shape))  # outputs_per_dim times [*batch, *event]
        return self._elementwise(parts).to_event(len(self.event_shape))

    @final
    def cast(
        self,
        x: Any,
        dtype: torch.dtype | None = None,
        *,
        name: str = "x",
        device: torch.device | None = None,
    ) -> Tensor:
        """Data as this likelihood takes them.

        Shape and dtype are always checked. Values are checked as :func:`probgen.validation.validates` says, since
        that reads them.

        Args:
            x: ``[B, *event_shape]``.
            dtype: of the networks' parameters; torch's default if None. Categorical data become ``torch.long``.
            name: the argument, for messages.
            device: where the data must lie, or None for anywhere.

        Returns:
            ``[B, *event_shape]``.

        Raises:
            DataError: of another shape or dtype, on another device, empty, or with a value outside the support.
        """
        dtype = self._dtype(dtype or torch.get_default_dtype())
        x = cast_event(x, self.event_shape, dtype, name=name, device=device)
        if validates():
            check_values(x, self._valid(x), self.required, name=name)
        return x

    def output_bias(self, data_mean: Any) -> Tensor:
        """Raw outputs ``[num_outputs]`` that place the distribution at the mean of the data; others are 0.

        Args:
            data_mean: ``[*event_shape]`` or a number.

        Raises:
            ArgumentError: not finite or of another shape.
        """
        mean = self._mean(data_mean, self.event_shape)
        others = [torch.zeros_like(mean)] * (self.outputs_per_dim - 1)
        return torch.stack([self._raw_loc(mean), *others]).flatten()

    def _elementwise(self, parts: tuple[Tensor, ...]) -> TorchDistribution:
        """The distribution of the entries, from ``outputs_per_dim`` tensors ``[*batch, *event]``."""
        raise NotImplementedError

    def _dtype(self, dtype: torch.dtype) -> torch.dtype:
        return dtype

    def _valid(self, x: Tensor) -> Tensor:
        return torch.isfinite(x)

    def _raw_loc(self, mean: Tensor) -> Tensor:
        return mean

    @staticmethod
    def _mean(data_mean: Any, shape: tuple[int, ...]) -> Tensor:
        mean = torch.as_tensor(np.asarray(data_mean) if not isinstance(data_mean, Tensor) else data_mean)
        mean = mean.detach().to(torch.get_default_dtype())
        if mean.dim() and tuple(mean.shape) != shape:
            raise ArgumentError(f"`data_mean` must be a number or of shape {shape}, got shape {tuple(mean.shape)}")
        if not bool(torch.isfinite(mean).all()):
            raise ArgumentError("`data_mean` must be finite, got NaN or infinity")
        return mean.expand(shape)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(event_shape={self.event_shape})"


class Bernoulli(Likelihood):
    r"""Independent bits, :math:`p(x_d = 1) = \mathrm{sigmoid}(raw_d)`.

    Args:
        event_shape: the shape of one datum.

    Example:
        >>> p = Bernoulli((2,)).distribution(torch.zeros(3, 2))
        >>> p.log_prob(torch.ones(3, 2)).exp()
        tensor([0.2500, 0.2500, 0.2500])
    """

    required = "0 or 1 (for grey values in [0, 1] binarize the data or use 'discretized-logistic')"

    def _elementwise(self, parts: tuple[Tensor, ...]) -> TorchDistribution:
        return distributions.Bernoulli(logits=parts[0])

    def _valid(self, x: Tensor) -> Tensor:
        return (x == 0) | (x == 1)

    def _raw_loc(self, mean: Tensor) -> Tensor:
        """The logit of the mean clipped to [0.001, 0.999] (Burda et al. 2016, arXiv 1509.00519, code)."""
        if bool(((mean < 0) | (mean > 1)).any()):
            raise ArgumentError(
                f"`data_mean` must lie in [0, 1] for bits, got {float(mean.min())} to {float(mean.max())}"
            )
        return torch.logit(mean.clamp(0.001, 0.999))


class Normal(Likelihood):
    r"""Independent normals, :math:`x_d \sim N(raw_d, s_d^2)`, :math:`s_d = \mathrm{softplus}(raw_{D + d}) + s_{min}`.

    A density: its logarithm has no upper bound but the one that ``min_scale`` sets, ``-D log(min_scale sqrt(2 pi))``.
    Choose it near the noise of the data.

    Args:
        event_shape: the shape of one datum.
        min_scale: lower bound of the standard deviations.

    Raises:
        ArgumentError: ``min_scale`` is not above 0.

    Source:
        Kingma, Welling (2014), Auto-encoding variational Bayes, appendix C.2, arXiv 1312.6114.

    Example:
        >>> Normal((3,), min_scale=0.1).distribution(torch.zeros(5, 6)).batch_shape
        torch.Size([5])
    """

    outputs_per_dim = 2

    def __init__(self, event_shape: Sequence[int], *, min_scale: float = 1e-3) -> None:
        super().__init__(event_shape)
        self.min_scale = positive_float("min_scale", min_scale)

    def _elementwise(self, parts: tuple[Tensor, ...]) -> TorchDistribution:
        return dist.Normal(parts[0], F.softplus(parts[1]) + self.min_scale)


class NormalFixed(Likelihood):
    r"""Independent normals of a given standard deviation, :math:`x_d \sim N(raw_d, \mathrm{scale}^2)`.

    Args:
        event_shape: the shape of one datum.
        scale: the standard deviation of every entry.

    Raises:
        ArgumentError: ``scale`` is not above 0.

    Example:
        >>> p = NormalFixed((1,), scale=2.0).distribution(torch.zeros(1, 1))
        >>> round(float(p.log_prob(torch.zeros(1, 1))), 4)
        -1.6121
    """

    def __init__(self, event_shape: Sequence[int], *, scale: float = 1.0) -> None:
        super().__init__(event_shape)
        self.scale = positive_float("scale", scale)

    def _elementwise(self, parts: tuple[Tensor, ...]) -> TorchDistribution:
        return dist.Normal(parts[0], self.scale)


class DiscretizedLogistic(Likelihood):
    r"""Grey values on a grid: a logistic distribution rounded to the nearest of ``levels`` points in [0, 1].

    The location is the first raw output, in the units of the data; the scale is ``softplus(raw) + min_scale``.
    See :class:`probgen.distributions.DiscretizedLogisticDistribution`.

    Args:
        event_shape: the shape of one datum.
        levels: number of grid points; data are in ``{0, ..., levels - 1} / (levels - 1)``.
        min_scale: lower bound of the scale. The default is that of PixelCNN++, ``exp(-7)`` on [-1, 1], in units
            of [0, 1] and rounded.

    Raises:
        ArgumentError: fewer than 2 or more than 65536 levels, or ``min_scale`` not above 0.

    Source:
        Salimans, Karpathy, Chen, Kingma (2017), PixelCNN++, arXiv 1701.05517.

    Example:
        >>> likelihood = DiscretizedLogistic((2,), levels=3)
        >>> x = torch.tensor([[0.0, 0.5]])
        >>> bool(likelihood.distribution(torch.zeros(1, 4)).log_prob(x) < 0)
        True
    """

    outputs_per_dim = 2

    def __init__(self, event_shape: Sequence[int], *, levels: int = 256, min_scale: float = 5e-4) -> None:
        super().__init__(event_shape)
        self.levels = checked_levels(levels)
        self.min_scale = positive_float("min_scale", min_scale)
        top = self.levels - 1
        self.required = (
            f"one of {{0, ..., {top}}} / {top} (divide whole numbers by {top}; for another grid pass `levels=`, 17 for "
            "scikit-learn's digits)"
        )

    def _elementwise(self, parts: tuple[Tensor, ...]) -> TorchDistribution:
        return DiscretizedLogisticDistribution(parts[0], F.softplus(parts[1]) + self.min_scale, self.levels)

    def _valid(self, x: Tensor) -> Tensor:
        return Grid(self.levels).check(x)


class Categorical(Likelihood):
    r"""Independent entries in ``{0, ..., C - 1}``, :math:`p(x_d = c) = \mathrm{softmax}_c(raw_{c, d})`.

    Args:
        event_shape: the shape of one datum.
        num_categories: C, at least 2.

    Raises:
        ArgumentError: fewer than 2 categories.

    Example:
        >>> p = Categorical((2,), num_categories=4).distribution(torch.zeros(1, 8))
        >>> p.log_prob(torch.tensor([[0, 3]])).exp()
        tensor([0.0625])
    """

    def __init__(self, event_shape: Sequence[int], *, num_categories: int) -> None:
        super().__init__(event_shape)
        self.num_categories = positive_int("num_categories", num_categories, at_least=2)
        self.outputs_per_dim = self.num_categories
        self.required = f"one of {{0, ..., {self.num_categories - 1}}}"

    def _elementwise(self, parts: tuple[Tensor, ...]) -> TorchDistribution:
        return dist.Categorical(logits=torch.stack(parts, dim=-1))

    def _dtype(self, dtype: torch.dtype) -> torch.dtype:
        return torch.long

    def _valid(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x < self.num_categories)

    def output_bias(self, data_mean: Any) -> Tensor:
        """The logarithm of the categories' frequencies, clipped to at least 0.001.

        Args:
            data_mean: ``[*event_shape, num_categories]``, the mean of the indicators. The mean of the *labels* says
                nothing about the categories and is refused.

        Raises:
            ArgumentError: of another shape, or negative.
        """
        shape = (*self.event_shape, self.num_categories)
        given = tuple(np.shape(data_mean))
        if given != shape:
            raise ArgumentError(
                f"`data_mean` of categorical data must be the frequencies of the categories, {shape}, got shape {given}"
            )
        frequencies = self._mean(data_mean, shape)
        if bool((frequencies < 0).any()):
            raise ArgumentError(f"`data_mean` must not be negative, got {float(frequencies.min())}")
        return frequencies.clamp_min(0.001).log().movedim(-1, 0).flatten()


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "categorical": Categorical,
    "discretized-logistic": DiscretizedLogistic,
    "normal": Normal,
    "normal-fixed": NormalFixed,
}


def make_likelihood(likelihood: str | Likelihood, event_shape: Sequence[int]) -> Likelihood:
    """A likelihood for events of a shape, from a name, a spec or an instance.

    Args:
        likelihood: ``"bernoulli"``, ``"normal:min_scale=0.01"``, or a :class:`Likelihood`.
        event_shape: the shape of one datum.

    Raises:
        ArgumentError: an unknown name or argument, or an instance for another event shape.

    Example:
        >>> make_likelihood("normal:min_scale=0.01", (4,)).num_outputs
        8
    """
    event_shape = checked_event_shape(event_shape)
    if isinstance(likelihood, Likelihood):
        if likelihood.event_shape != event_shape:
            raise ArgumentError(
                f"`likelihood` is for events {likelihood.event_shape}, but `event_shape` is {event_shape}"
            )
        return likelihood
    name, arguments = parse_spec(likelihood)
    if canonical(name) not in LIKELIHOODS:
        raise ArgumentError(f"`likelihood`: {name!r} is unknown; {nearest(name, LIKELIHOODS)}")
    return build(LIKELIHOODS[name], {"event_shape": event_shape} | arguments, name=name)
