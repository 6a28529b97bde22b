"""Features of data: any function, and a small classifier's for 8 x 8 digits."""

import functools
import importlib.resources
import math
from collections.abc import Callable
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from probgen.core.divergences.arrays import like, numeric, one_sample, sample_pair
from probgen.core.divergences.pairs import joined
from probgen.core.ops import Array, namespace
from probgen.errors import ArgumentError, ArgumentTypeError, DataError
from probgen.nets import MLP

__all__ = ["digits_classifier", "digits_features"]

Features = Callable[[Any], Any]

DIGITS_HIDDEN = (128, 32)  # the last hidden layer is the features
_BLOCK = 1000  # data that a feature function is given at once


def pair_of_features(
    real: Array, generated: Array, features: Features | None, *, at_least: int = 2
) -> tuple[Array, Array]:
    """Features of both sets, ``[n, f]`` and ``[m, f]``.

    Raises:
        ArgumentTypeError: not arrays of floats of one library, or features that are not.
        ArgumentError: different dimensions, too few data, or features of another number than the data.
        DataError: an entry that is not finite.
    """
    namespace(real=real, generated=generated)
    pair = (_extracted("real", real, features), _extracted("generated", generated, features))
    for name, found in zip(("real", "generated"), pair, strict=True):
        one_sample(name, found, at_least=at_least)
    _, first, second = sample_pair(*pair, at_least=at_least)
    return first, second


def _extracted(name: str, x: Array, features: Features | None) -> Array:
    xp = namespace(**{name: x})
    if x.ndim < 1 or x.shape[0] < 1:
        raise ArgumentError(f"`{name}` must have the shape [n, ...], got {list(x.shape)}")
    if features is None:
        if not xp.is_floating(x):
            raise ArgumentTypeError(f"`{name}` must have a floating-point dtype, got {x.dtype}: convert it")
        return x.reshape(x.shape[0], -1)
    if not callable(features):
        raise ArgumentTypeError(f"`features` must be a function of a block of data, got {type(features).__name__}")
    blocks = [x[start : start + _BLOCK] for start in range(0, x.shape[0], _BLOCK)]
    return joined([_checked(features(block), block) for block in blocks])


def _checked(found: Any, block: Array) -> Array:
    namespace(**{"the result of `features`": found})
    if found.ndim != 2 or found.shape[0] != block.shape[0]:
        raise ArgumentError(
            f"`features` must map {list(block.shape)} to [{block.shape[0]}, f], got {list(found.shape)}: flatten each "
            "datum's features"
        )
    return found


def digits_classifier() -> nn.Sequential:
    """The classifier behind :func:`digits_features`: ``[n, 64]`` of greys in [0, 1] to logits ``[n, 10]``, frozen.

    A perceptron of 64-128-32-10 units, trained by ``benchmarks/digits_features.py`` on the 1,077 training digits of
    ``probgen.data.load("digits")``; it is right on 96.4 % of the 360 test digits.

    Returns:
        The network; its last hidden layer has 32 units.

    Example:
        >>> import torch
        >>> tuple(digits_classifier()(torch.zeros(5, 64)).shape)
        (5, 10)
    """
    net = digits_net()
    content = importlib.resources.files("probgen.diagnostics").joinpath("digits.safetensors").read_bytes()
    net.load_state_dict(safetensors.torch.load(content))
    return net.requires_grad_(False).eval()


def digits_net() -> nn.Sequential:
    """The classifier before it is trained."""
    return MLP(64, DIGITS_HIDDEN, 10, activation="relu")


@functools.cache
def _digits() -> nn.Sequential:
    return nn.Sequential(*list(digits_classifier())[:-1])


def digits_features(x: Array) -> Array:
    """Default features for 8 x 8 digits: the last hidden layer of :func:`digits_classifier`.

    Args:
        x: greys or bits in [0, 1], shape ``[n, 64]``, ``[n, 8, 8]`` or ``[n, 1, 8, 8]``, of any library; the values of
            scikit-learn's digits divided by 16.

    Returns:
        Shape ``[n, 32]``, of the same library; differentiable in torch.

    Raises:
        ArgumentTypeError: not an array of floats.
        ArgumentError: data of another size.
        DataError: an entry that is not finite, or values of another range.

    Example:
        >>> from probgen.data import load
        >>> tuple(digits_features(load("digits").x[:3]).shape)
        (3, 32)
    """
    xp = namespace(x=x)
    if not xp.is_floating(x):
        raise ArgumentTypeError(f"`x` must have a floating-point dtype, got {x.dtype}: convert it")
    if x.ndim < 2 or math.prod(x.shape[1:]) != 64:
        raise ArgumentError(f"`x` must have 64 values a datum, such as [n, 64] or [n, 1, 8, 8], got {list(x.shape)}")
    flat = one_sample("x", x.reshape(x.shape[0], 64), at_least=1)
    tensor = flat if isinstance(x, Tensor) else torch.as_tensor(numeric(flat).copy())
    if float(tensor.detach().abs().max()) > 2:  # some models leave [0, 1] a little
        raise DataError(f"`x` must lie in [0, 1], got values up to {float(tensor.detach().abs().max()):.3g}: scale it")
    outputs: Tensor = _digits().to(tensor.device)(tensor.float()).to(tensor.dtype)
    return outputs if isinstance(x, Tensor) else like(outputs.numpy(), x)
