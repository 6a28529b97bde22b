"""Networks for NumPyro without probabilities, by equinox: the twins of the MLPs of :mod:`probgen.nets`."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, nn
from numpyro.contrib.module import eqx_module

from probgen.arguments import choice, positive_int, sizes
from probgen.errors import ArgumentError, DataError, MissingExtra, UnsupportedObjective

try:
    import equinox as eqx
except ImportError as error:
    raise MissingExtra(
        'probgen\'s models and guides for NumPyro need equinox; install it by `pip install "probgen[equinox]"`'
    ) from error

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "elu": nn.elu,
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "leaky-relu": nn.leaky_relu,
    "relu": nn.relu,
    "silu": nn.silu,
    "softplus": nn.softplus,
    "tanh": jnp.tanh,
}


class Linear(eqx.Module):
    """An affine map of the last dimension; its weight is laid out as torch's, ``[out, in]``."""

    weight: Array
    bias: Array

    def __init__(self, in_features: int, out_features: int, activation: str, rng_key: Array) -> None:
        weight_key, bias_key = jax.random.split(rng_key)
        tanh = activation == "tanh"  # Glorot and Bengio 2010, as in probgen.nets; elsewhere torch's default
        bound = math.sqrt(6 / (in_features + out_features)) if tanh else 1 / math.sqrt(in_features)
        self.weight = jax.random.uniform(weight_key, (out_features, in_features), minval=-bound, maxval=bound)
        zeros = jnp.zeros(out_features)
        self.bias = zeros if tanh else jax.random.uniform(bias_key, zeros.shape, minval=-bound, maxval=bound)

    def __call__(self, x: Array) -> Array:
        """Outputs ``[..., out]``."""
        return x @ self.weight.T + self.bias


class MLP(eqx.Module):
    """Linear layers with an activation between them, and none after the last.

    Args:
        in_features: size of the last dimension of the input.
        hidden: widths of the hidden layers, from the input; empty for an affine map.
        out_features: size of the last dimension of the output.
        activation: a name in :data:`ACTIVATIONS`.
        rng_key: draws the weights; a key of ``jax.random`` or an integer seed.

    Raises:
        ArgumentError: a size below 1 or an unknown activation.

    Example:
        >>> MLP(4, (8, 8), 2)(jnp.ones((5, 3, 4))).shape
        (5, 3, 2)
    """

    layers: tuple[Linear, ...]
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        *,
        activation: str = "tanh",
        rng_key: Array | int = 0,
    ) -> None:
        in_features = positive_int("in_features", in_features)
        widths = (in_features, *sizes("hidden", hidden), positive_int("out_features", out_features))
        keys = jax.random.split(as_key(rng_key), len(widths) - 1)
        self.activation = choice("activation", activation, ACTIVATIONS)
        pairs = zip(itertools.pairwise(widths), keys, strict=True)
        self.layers = tuple(Linear(before, after, activation, key) for (before, after), key in pairs)

    def __call__(self, x: Array) -> Array:
        """Outputs ``[..., out_features]``."""
        for layer in self.layers[:-1]:
            x = ACTIVATIONS[self.activation](layer(x))
        return self.layers[-1](x)

    def with_output_bias(self, bias: Array) -> "MLP":
        """The same network with another bias of the last layer."""
        changed: MLP = eqx.tree_at(lambda net: net.layers[-1].bias, self, bias.astype(self.layers[-1].bias.dtype))
        return changed


def as_key(rng_key: Any) -> Array:
    """A key of ``jax.random``, also from an integer seed.

    Raises:
        ArgumentError: neither of the two.
    """
    if isinstance(rng_key, int) and not isinstance(rng_key, bool):
        return jax.random.key(rng_key)
    if isinstance(rng_key, jax.Array):
        return rng_key
    raise ArgumentError(f"`rng_key` must be a key of `jax.random` or an integer seed, got {type(rng_key).__name__}")


def as_batch(x: Any, event_shape: tuple[int, ...], dtype: Any, *, name: str = "x") -> Array:
    """A batch of events in ``dtype``; what has it already is passed on as it is.

    Raises:
        DataError: not an array, of another rank or shape, or empty.
    """
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise DataError(f"`{name}` must be an array, got {type(x).__name__}; use `jax.numpy.asarray`")
    if tuple(x.shape[1:]) != event_shape or x.ndim == 0:
        wanted = "[batch, " + ", ".join(map(str, event_shape)) + "]"
        raise DataError(f"`{name}` must have shape {wanted}, got {list(x.shape)}")
    if x.shape[0] == 0:
        raise DataError(f"`{name}` must hold at least one datum, got shape {list(x.shape)}")
    return x if x.dtype == dtype else jnp.asarray(x).astype(dtype)


def require_mlp(network: str) -> None:
    """Refuses networks that there are only in torch.

    Raises:
        ArgumentError: an unknown name.
        UnsupportedObjective: convolutions.
    """
    if choice("network", network, ("conv", "mlp")) == "conv":
        raise UnsupportedObjective(
            '`network="conv"` is there for Pyro alone; use `network="mlp"`, or a program with a network of your own'
        )


def loc_and_scale(raw: Array, min_scale: float) -> tuple[Array, Array]:
    """Splits outputs ``[..., 2 D]`` into a location and a positive scale, ``softplus(raw) + min_scale``.

    Example:
        >>> loc, scale = loc_and_scale(jnp.zeros((3, 4)), 0.5)
        >>> loc.shape, round(float(scale[0, 0]), 4)
        ((3, 2), 1.1931)
    """
    loc, raw_scale = jnp.split(raw, 2, axis=-1)
    return loc, nn.softplus(raw_scale) + min_scale


def modules(name: str, networks: Any) -> Any:
    """The networks with parameters that are registered as ``numpyro.param(name + "$params")``."""
    return eqx_module(name, networks)
