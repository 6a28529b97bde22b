"""Multi-layer perceptrons on any leading dimensions."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from probgen.arguments import choice, positive_int, sizes
from probgen.arguments import event_shape as checked_event_shape
from probgen.nets.tensors import concatenate

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky-relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def make_activation(name: str) -> nn.Module:
    """A fresh activation module.

    Raises:
        ArgumentError: the name is unknown.

    Example:
        >>> make_activation("tanh")
        Tanh()
    """
    return ACTIVATIONS[choice("activation", name, ACTIVATIONS)]()


def init_linear(layer: nn.Linear, activation: str) -> nn.Linear:
    r"""Initialises a linear layer for the activation of its network, and returns it.

    tanh networks get uniform weights in :math:`\pm\sqrt{6 / (n_{in} + n_{out})}` and zero biases: that keeps the
    variance of a signal through layers of a symmetric activation with slope 1 at zero, and it is what the published
    numbers of Burda et al. used. The rule does not hold for other activations, which keep PyTorch's default.

    Source:
        Glorot, Bengio (2010), Understanding the difficulty of training deep feedforward neural networks, AISTATS.

    Example:
        >>> bool((init_linear(nn.Linear(2, 3), "tanh").bias == 0).all())
        True
    """
    if activation == "tanh":
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Sequential):
    """Linear layers with an activation between them, and none after the last.

    Args:
        in_features: size of the last dimension of the input.
        hidden: widths of the hidden layers, from the input; empty for an affine map.
        out_features: size of the last dimension of the output.
        activation: a name in :data:`ACTIVATIONS`.

    Shapes:
        ``[..., in_features]`` to ``[..., out_features]``.

    Raises:
        ArgumentError: a size below 1 or an unknown activation.

    Example:
        >>> net = MLP(4, (8, 8), 2)
        >>> tuple(net(torch.ones(5, 3, 4)).shape)
        (5, 3, 2)
    """

    def __init__(self, in_features: int, hidden: Sequence[int], out_features: int, *, activation: str = "tanh") -> None:
        in_features = positive_int("in_features", in_features)
        widths = (in_features, *sizes("hidden", hidden), positive_int("out_features", out_features))
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [init_linear(nn.Linear(before, after), activation), make_activation(activation)]
        super().__init__(*layers[:-1])

    @property
    def output(self) -> nn.Linear:
        """The last layer."""
        return cast(nn.Linear, self[-1])


class MLPEncoder(nn.Module):
    """An MLP of a flattened event and, where there is one, a context vector.

    Args:
        event_shape: the shape of one datum.
        hidden: widths of the hidden layers, nearest the data first.
        out_features: number of outputs.
        activation: a name in :data:`ACTIVATIONS`.
        context_features: size of the context vector; 0 for none.

    Shapes:
        ``[..., *event_shape]`` and ``[..., context_features]`` to ``[..., out_features]``.

    Raises:
        ArgumentError: a size below 1 or an unknown activation.

    Example:
        >>> net = MLPEncoder((1, 2, 2), (8,), 3, context_features=5)
        >>> tuple(net(torch.ones(6, 1, 2, 2), torch.ones(6, 5)).shape)
        (6, 3)
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        hidden: Sequence[int],
        out_features: int,
        *,
        activation: str = "tanh",
        context_features: int = 0,
    ) -> None:
        super().__init__()
        self.event_shape = checked_event_shape(event_shape)
        in_features = math.prod(self.event_shape) + context_features
        self.layers = MLP(in_features, hidden, out_features, activation=activation)

    @property
    def output(self) -> nn.Linear:
        """The last layer."""
        return self.layers.output

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Outputs ``[..., out_features]``."""
        features = x.flatten(-len(self.event_shape))  # [..., *event] -> [..., D]
        if context is not None:
            features = concatenate(features, context)
        outputs: Tensor = self.layers(features)
        return outputs


class MLPDecoder(nn.Module):
    """An MLP to ``outputs_per_dim`` numbers for each entry of an event, flat.

    Args:
        in_features: size of the last dimension of the input.
        hidden: widths of the hidden layers, nearest the *data* first, so that an encoder and a decoder with the same
            ``hidden`` are mirror images.
        event_shape: the shape of one datum.
        outputs_per_dim: numbers for each of its entries.
        activation: a name in :data:`ACTIVATIONS`.

    Shapes:
        ``[..., in_features]`` to ``[..., outputs_per_dim * prod(event_shape)]``, laid out as
        ``[..., outputs_per_dim, *event_shape]``.

    Raises:
        ArgumentError: a size below 1 or an unknown activation.

    Example:
        >>> tuple(MLPDecoder(2, (8,), (1, 4, 4), 2)(torch.ones(3, 5, 2)).shape)
        (3, 5, 32)
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        event_shape: Sequence[int],
        outputs_per_dim: int = 1,
        *,
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        out_features = outputs_per_dim * math.prod(checked_event_shape(event_shape))
        self.layers = MLP(in_features, sizes("hidden", hidden)[::-1], out_features, activation=activation)

    def set_output_bias(self, bias: Tensor) -> None:
        """Sets what the network adds to its outputs, ``[outputs_per_dim * prod(event_shape)]``."""
        with torch.no_grad():
            self.layers.output.bias.copy_(bias)

    def forward(self, z: Tensor) -> Tensor:
        """Raw outputs, flat."""
        outputs: Tensor = self.layers(z)
        return outputs
