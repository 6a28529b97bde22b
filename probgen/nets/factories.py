"""Encoders and decoders by the name of their network."""

from collections.abc import Sequence

from probgen.arguments import choice
from probgen.nets.conv import ConvDecoder, ConvEncoder
from probgen.nets.mlp import MLPDecoder, MLPEncoder

Encoder = MLPEncoder | ConvEncoder
Decoder = MLPDecoder | ConvDecoder

NETWORKS: dict[str, tuple[type[MLPEncoder] | type[ConvEncoder], type[MLPDecoder] | type[ConvDecoder]]] = {
    "conv": (ConvEncoder, ConvDecoder),
    "mlp": (MLPEncoder, MLPDecoder),
}


def make_encoder(
    event_shape: Sequence[int],
    hidden: Sequence[int],
    out_features: int,
    *,
    network: str = "mlp",
    activation: str = "tanh",
    context_features: int = 0,
) -> Encoder:
    """A network from an event (and a context vector) to ``out_features`` numbers.

    Args:
        event_shape: the shape of one datum.
        hidden: widths of the layers (mlp) or channels of the strided convolutions (conv), nearest the data first.
        out_features: number of outputs.
        network: a name in :data:`NETWORKS`.
        activation: a name in :data:`probgen.nets.ACTIVATIONS`.
        context_features: size of the context vector; 0 for none.

    Raises:
        ArgumentError: an unknown name or a size that cannot work.

    Example:
        >>> type(make_encoder((1, 8, 8), (4,), 2, network="conv")).__name__
        'ConvEncoder'
    """
    encoder, _ = NETWORKS[choice("network", network, NETWORKS)]
    return encoder(event_shape, hidden, out_features, activation=activation, context_features=context_features)


def make_decoder(
    in_features: int,
    hidden: Sequence[int],
    event_shape: Sequence[int],
    outputs_per_dim: int = 1,
    *,
    network: str = "mlp",
    activation: str = "tanh",
) -> Decoder:
    """A network from ``in_features`` numbers to ``outputs_per_dim`` for each entry of an event, flat.

    Args:
        in_features: number of inputs.
        hidden: as in :func:`make_encoder`, nearest the data first.
        event_shape: the shape of one datum.
        outputs_per_dim: numbers for each of its entries.
        network: a name in :data:`NETWORKS`.
        activation: a name in :data:`probgen.nets.ACTIVATIONS`.

    Raises:
        ArgumentError: an unknown name or a size that cannot work.

    Example:
        >>> type(make_decoder(2, (8,), (784,))).__name__
        'MLPDecoder'
    """
    _, decoder = NETWORKS[choice("network", network, NETWORKS)]
    return decoder(in_features, hidden, event_shape, outputs_per_dim, activation=activation)
