"""Networks without probabilities, and the checks of what goes into them; none of it imports Pyro."""

from probgen.nets.conv import ConvDecoder, ConvEncoder
from probgen.nets.factories import NETWORKS, make_decoder, make_encoder
from probgen.nets.mlp import ACTIVATIONS, MLP, MLPDecoder, MLPEncoder
from probgen.nets.tensors import concatenate, loc_and_scale

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "NETWORKS",
    "ConvDecoder",
    "ConvEncoder",
    "MLPDecoder",
    "MLPEncoder",
    "concatenate",
    "loc_and_scale",
    "make_decoder",
    "make_encoder",
]
