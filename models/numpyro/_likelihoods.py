"""What a network's raw outputs say about the data, by the names of :mod:`probgen.likelihoods`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import torch
from jax import Array, nn

from probgen.arguments import event_shape as checked_event_shape
from probgen.arguments import positive_float, positive_int
from probgen.config import parse_spec
from probgen.errors import ArgumentError, nearest
from probgen.likelihoods import make_likelihood as torch_likelihood
from probgen.nets.equinox import as_batch


@dataclass(frozen=True)
class Likelihood:
    """p(x | raw outputs).

    Attributes:
        event_shape: the shape of one datum.
        outputs_per_dim: raw outputs for each entry of an event.
        elementwise: from so many arrays ``[*batch, *event]`` to the distribution of the entries.
        integers: whether data are whole numbers.
    """

    event_shape: tuple[int, ...]
    outputs_per_dim: int
    elementwise: Callable[[list[Array]], Any]
    integers: bool = False

    @property
    def num_outputs(self) -> int:
        """The number of raw outputs."""
        return self.outputs_per_dim * math.prod(self.event_shape)

    def distribution(self, raw: Array) -> Any:
        """p(x | .) from raw outputs ``[*batch, num_outputs]``, laid out ``[*batch, outputs_per_dim, *event_shape]``."""
        raw = raw.reshape(*raw.shape[:-1], self.outputs_per_dim, *self.event_shape)
        axis = raw.ndim - 1 - len(self.event_shape)
        parts = [jnp.take(raw, i, axis=axis) for i in range(self.outputs_per_dim)]
        return self.elementwise(parts).to_event(len(self.event_shape))

    def cast(self, x: Any, dtype: Any) -> Array:
        """Data ``[B, *event_shape]`` in the dtype of the networks, or as whole numbers.

        Raises:
            DataError: not an array, or of another shape.
        """
        return as_batch(x, self.event_shape, jnp.int32 if self.integers else dtype)


def _bernoulli(shape: tuple[int, ...]) -> Likelihood:
    return Likelihood(shape, 1, lambda parts: dist.BernoulliLogits(parts[0]))


def _normal(shape: tuple[int, ...], *, min_scale: float = 1e-3) -> Likelihood:
    least = positive_float("min_scale", min_scale)
    return Likelihood(shape, 2, lambda parts: dist.Normal(parts[0], nn.softplus(parts[1]) + least))


def _normal_fixed(shape: tuple[int, ...], *, scale: float = 1.0) -> Likelihood:
    scale = positive_float("scale", scale)
    return Likelihood(shape, 1, lambda parts: dist.Normal(parts[0], scale))


def _categorical(shape: tuple[int, ...], *, num_categories: int) -> Likelihood:
    count = positive_int("num_categories", num_categories, at_least=2)
    return Likelihood(shape, count, lambda parts: dist.CategoricalLogits(jnp.stack(parts, -1)), integers=True)


LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {
    "bernoulli": _bernoulli,
    "categorical": _categorical,
    "normal": _normal,
    "normal-fixed": _normal_fixed,
}


def make_likelihood(spec: str | Likelihood, event_shape: Sequence[int]) -> Likelihood:
    """A likelihood by name or spec.

    Args:
        spec: ``"bernoulli"``, ``"normal:min_scale=0.01"``, or a :class:`Likelihood`.
        event_shape: the shape of one datum.

    Raises:
        ArgumentError: an unknown name or argument.

    Example:
        >>> make_likelihood("normal:min_scale=0.01", (4,)).num_outputs
        8
    """
    if isinstance(spec, Likelihood):
        return spec
    name, arguments = parse_spec(spec)
    if name not in LIKELIHOODS:
        raise ArgumentError(f"likelihood {name!r} is unknown to NumPyro's models; {nearest(name, LIKELIHOODS)}")
    try:
        return LIKELIHOODS[name](checked_event_shape(event_shape), **arguments)
    except TypeError as error:
        raise ArgumentError(f"likelihood {name!r}: {error}") from error


def output_bias(spec: Any, likelihood: Likelihood, data_mean: Any) -> Array:
    """Raw outputs at which the likelihood has the mean of the data, as probgen's own for torch.

    Args:
        spec: the likelihood's name or spec.
        likelihood: the same, built.
        data_mean: ``[*event_shape]`` or a number.
    """
    mean = torch.as_tensor(np.asarray(data_mean), dtype=torch.float64)
    return jnp.asarray(torch_likelihood(spec, likelihood.event_shape).output_bias(mean).numpy())
