"""What every model does before it samples: take its data, or count what to generate."""

from typing import Any

import pyro.distributions as dist
from torch import Tensor

from probgen.arguments import positive_int
from probgen.likelihoods import Likelihood


def observed_batch(likelihood: Likelihood, x: Any, num_samples: int, parameter: Tensor) -> tuple[Tensor | None, int]:
    """The data as the likelihood takes them, and the size of the plate.

    Args:
        likelihood: p(x | z).
        x: ``[B, *event_shape]``, or None to generate.
        num_samples: the size of the plate without data.
        parameter: one of the model's, whose dtype and device the data take or must have.

    Returns:
        The data or None, and B or ``num_samples``.

    Raises:
        DataError: the data do not fit.
        ArgumentError: ``num_samples`` is below 1.
    """
    if x is None:
        return None, positive_int("num_samples", num_samples)
    x = likelihood.cast(x, parameter.dtype, device=parameter.device)
    return x, x.shape[0]


def standard_normal(size: int, like: Tensor) -> dist.TorchDistribution:
    """N(0, I) over ``size`` dimensions, in the dtype and on the device of a parameter."""
    return dist.Normal(like.new_zeros(size), like.new_ones(size)).to_event(1)
