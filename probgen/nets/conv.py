"""Convolutional encoder and decoder for events ``(C, H, W)``, on any leading dimensions."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from probgen.arguments import event_shape as checked_event_shape
from probgen.arguments import positive_int, sizes
from probgen.errors import ArgumentError
from probgen.nets.mlp import init_linear, make_activation
from probgen.nets.tensors import concatenate

_KERNEL: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": 1}


def image_shape(event_shape: Sequence[int]) -> tuple[int, int, int]:
    """An event shape of three dimensions: channels, height, width.

    Raises:
        ArgumentError: it has another number of dimensions.

    Example:
        >>> image_shape((1, 28, 28))
        (1, 28, 28)
    """
    shape = checked_event_shape(event_shape)
    if len(shape) != 3:
        raise ArgumentError(
            f"network 'conv' needs `event_shape` (channels, height, width), got {shape}; reshape the data or use 'mlp'"
        )
    return shape


def halvings(size: int, count: int) -> tuple[int, ...]:
    """A side length and what ``count`` convolutions of stride 2 make of it: each halves it, rounding up.

    Example:
        >>> halvings(28, 3)
        (28, 14, 7, 4)
    """
    lengths = [size]
    for _ in range(count):
        lengths.append((lengths[-1] + 1) // 2)
    return tuple(lengths)


class ConvEncoder(nn.Module):
    """Strided 3x3 convolutions, then a linear layer on the flattened map and, where there is one, a context vector.

    Args:
        event_shape: (C, H, W).
        channels: of each convolution, nearest the data first; each halves height and width.
        out_features: number of outputs.
        activation: a name in :data:`probgen.nets.ACTIVATIONS`.
        context_features: size of the context vector; 0 for none.

    Shapes:
        ``[..., C, H, W]`` and ``[..., context_features]`` to ``[..., out_features]``.

    Raises:
        ArgumentError: the event is not an image, there are no channels, or the activation is unknown.

    Example:
        >>> tuple(ConvEncoder((1, 8, 8), (4, 8), 5)(torch.ones(3, 2, 1, 8, 8)).shape)
        (3, 2, 5)
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: Sequence[int],
        out_features: int,
        *,
        activation: str = "relu",
        context_features: int = 0,
    ) -> None:
        super().__init__()
        self.event_shape = image_shape(event_shape)
        channels = sizes("hidden", channels, at_least=1)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((self.event_shape[0], *channels)):
            layers += [nn.Conv2d(before, after, **_KERNEL), make_activation(activation)]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        height, width = (halvings(side, len(channels))[-1] for side in self.event_shape[1:])
        in_features = channels[-1] * height * width + context_features
        self.output = init_linear(nn.Linear(in_features, positive_int("out_features", out_features)), activation)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Outputs ``[..., out_features]``."""
        leading = x.shape[:-3]
        features = self.layers(x.reshape(-1, *self.event_shape))  # [N, C, H, W] -> [N, F]
        features = features.reshape(*leading, features.shape[-1])  # [..., F]
        if context is not None:
            features = concatenate(features, context)
        outputs: Tensor = self.output(features)
        return outputs


class ConvDecoder(nn.Module):
    """A linear layer to a small map, then transposed 3x3 convolutions that double it to the event's size.

    The bias is one number for each output, not for each channel: the mean image then is a bias, as in an MLP.

    Args:
        in_features: size of the last dimension of the input.
        channels: as in :class:`ConvEncoder`, nearest the *data* first; the same tuple gives a mirror image.
        event_shape: (C, H, W).
        outputs_per_dim: numbers for each entry of the event.
        activation: a name in :data:`probgen.nets.ACTIVATIONS`.

    Shapes:
        ``[..., in_features]`` to ``[..., outputs_per_dim * C * H * W]``, laid out as
        ``[..., outputs_per_dim, C, H, W]``.

    Raises:
        ArgumentError: the event is not an image, there are no channels, or the activation is unknown.

    Example:
        >>> tuple(ConvDecoder(2, (4, 8), (1, 28, 28))(torch.ones(3, 5, 2)).shape)
        (3, 5, 784)
    """

    def __init__(
        self,
        in_features: int,
        channels: Sequence[int],
        event_shape: Sequence[int],
        outputs_per_dim: int = 1,
        *,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        maps, height, width = image_shape(event_shape)
        channels = sizes("hidden", channels, at_least=1)
        heights, widths = halvings(height, len(channels)), halvings(width, len(channels))
        self.seed_shape = (channels[-1], heights[-1], widths[-1])
        first = nn.Linear(positive_int("in_features", in_features), math.prod(self.seed_shape))
        self.input = init_linear(first, activation)
        steps = list(itertools.pairwise((outputs_per_dim * maps, *channels)))
        layers: list[nn.Module] = []
        for level in reversed(range(len(channels))):
            after, before = steps[level]
            # Stride 2 turns a side s into 2 s - 1 and the padding adds the missing row where the side was even.
            padding = (heights[level] - 2 * heights[level + 1] + 1, widths[level] - 2 * widths[level + 1] + 1)
            up = nn.ConvTranspose2d(before, after, **_KERNEL, output_padding=padding, bias=level > 0)
            layers += [make_activation(activation), up]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.bias = nn.Parameter(torch.zeros(outputs_per_dim * maps * height * width))

    def set_output_bias(self, bias: Tensor) -> None:
        """Sets what the network adds to its outputs, ``[outputs_per_dim * C * H * W]``."""
        with torch.no_grad():
            self.bias.copy_(bias)

    def forward(self, z: Tensor) -> Tensor:
        """Raw outputs, flat."""
        leading = z.shape[:-1]
        maps = self.input(z).reshape(-1, *self.seed_shape)  # [..., F] -> [N, C, h, w]
        outputs: Tensor = self.layers(maps)
        return outputs.reshape(*leading, outputs.shape[-1]) + self.bias
