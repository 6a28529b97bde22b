"""What is asked of NumPyro's distributions, through the wrappers that masks, plates and events put around them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.lax import stop_gradient
from numpyro.distributions.distribution import ExpandedDistribution, Independent, MaskedDistribution


def innermost(fn: Any) -> Any:
    """The distribution without masks, expansions, event dimensions and transforms."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def family(fn: Any) -> str:
    """The name of the family, as users know it: ``Bernoulli`` for both of its parameterisations."""
    return type(innermost(fn)).__name__.removesuffix("Logits").removesuffix("Probs")


def is_delta(fn: Any) -> bool:
    """Whether a distribution is a point, perhaps under transforms or independent dimensions."""
    return isinstance(innermost(fn), dist.Delta)


def is_factor(fn: Any) -> bool:
    """Whether the site is a ``numpyro.factor``, which has a number instead of data."""
    return isinstance(innermost(fn), dist.Unit)


def unmasked(fn: Any) -> tuple[Any, Any]:
    """(the distribution without its mask; the mask, ``[*batch]``, or None)."""
    if isinstance(fn, MaskedDistribution):
        inner, mask = unmasked(fn.base_dist)
        return inner, fn._mask if mask is None else mask & fn._mask
    if isinstance(fn, ExpandedDistribution):
        inner, mask = unmasked(fn.base_dist)
        return (fn, None) if mask is None else (inner.expand(fn.batch_shape), mask)
    return fn, None


LOCATION_SCALE = (dist.Normal, dist.Laplace, dist.Cauchy, dist.Gumbel, dist.StudentT, dist.Logistic)


def relocated(fn: Any, value: Array) -> Array | None:
    """A sample as a function of the parameters of a distribution: its noise is what is fixed.

    Under a mask it has no gradient. None for a distribution that is not of a location-scale family.
    """
    base, inside = fn, []
    while isinstance(base, Independent | ExpandedDistribution | MaskedDistribution):
        if isinstance(base, MaskedDistribution):
            inside.append(jnp.reshape(base._mask, (*jnp.shape(base._mask), *[1] * len(base.event_shape))))
        base = base.base_dist
    if isinstance(base, dist.MultivariateNormal):
        gap = (value - base.loc)[..., None]
        tril = jnp.broadcast_to(base.scale_tril, (*gap.shape[:-2], *base.scale_tril.shape[-2:]))
        noise = stop_gradient(jax.scipy.linalg.solve_triangular(tril, gap, lower=True))
        moved = base.loc + (jnp.tril(tril) @ noise)[..., 0]  # what is above the diagonal has no part in the density
    elif isinstance(base, LOCATION_SCALE):
        moved = base.loc + base.scale * stop_gradient((value - base.loc) / base.scale)
    else:
        return None
    for mask in inside:
        moved = jnp.where(mask, moved, stop_gradient(moved))
    return moved


def elementwise(fn: Any) -> Any:
    """The distribution of the entries of an event, as far as it is made of independent ones; expanded as it was."""
    if isinstance(fn, ExpandedDistribution):
        inner = elementwise(fn.base_dist)
        extra = inner.batch_shape[len(fn.base_dist.batch_shape) :]
        return inner.expand((*fn.batch_shape, *extra))
    return elementwise(fn.base_dist) if isinstance(fn, Independent) else fn


def sum_rightmost(value: Array, dims: int) -> Array:
    """The sum over the last ``dims`` dimensions."""
    return jnp.sum(value, axis=tuple(range(-dims, 0))) if dims else value
