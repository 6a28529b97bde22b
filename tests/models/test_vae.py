"""The neural models against their formulas."""

import pyro
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from probgen.errors import ArgumentError, DataError
from probgen.likelihoods import NormalFixed
from probgen.models import VAE, ConditionalVAE, HierarchicalVAE
from probgen.nets import MLP, ConvDecoder, ConvEncoder, loc_and_scale, make_decoder, make_encoder
from probgen.nets.conv import halvings

X = torch.bernoulli(torch.full((5, 16), 0.5))


def log_joint(model: torch.nn.Module, *args: Tensor, **values: Tensor) -> Tensor:
    with pyro.condition(data=values):
        traced = pyro.poutine.trace(model).get_trace(*args)
    traced.compute_log_prob()
    return sum(traced.nodes[n]["log_prob"] for n in (*values, "x"))  # type: ignore[return-value]


def normal(z: Tensor, loc: Tensor | float = 0.0, scale: Tensor | float = 1.0) -> Tensor:
    return Normal(loc, scale).log_prob(z).sum(-1)


def test_vae_is_its_formula() -> None:
    model, z = VAE((16,), 2, (8, 4)), torch.randn(5, 2)
    hidden = torch.tanh(torch.nn.functional.linear(z, *model.decoder.layers[0].parameters()))
    assert hidden.shape == (5, 4)  # nearest the data first: 8 is next to x
    expected = normal(z) + Bernoulli(logits=model.decoder(z)).log_prob(X).sum(-1)
    torch.testing.assert_close(log_joint(model, X, z=z), expected)


def test_conditional_vae_is_its_formula_and_depends_on_labels() -> None:
    model, z, y = ConditionalVAE((16,), 2, (8,), num_classes=3), torch.randn(5, 2), torch.tensor([0, 1, 2, 0, 1])
    one_hot = torch.nn.functional.one_hot(y, 3).float()
    expected = normal(z) + Bernoulli(logits=model.decoder(torch.cat([z, one_hot], -1))).log_prob(X).sum(-1)
    torch.testing.assert_close(log_joint(model, X, y, z=z), expected)
    assert not torch.allclose(log_joint(model, X, (y + 1) % 3, z=z), expected)


def test_hierarchical_vae_is_its_formula() -> None:
    model = HierarchicalVAE((16,), (4, 3, 2), (8,), min_scale=0.2)
    z = [torch.randn(5, d) for d in (4, 3, 2)]
    expected = normal(z[2]) + Bernoulli(logits=model.decoder(z[0])).log_prob(X).sum(-1)
    for below, above, prior in zip(z, z[1:], model.priors, strict=False):
        loc, raw = prior(above).chunk(2, -1)
        expected = expected + normal(below, loc, torch.log1p(raw.exp()) + 0.2)
    torch.testing.assert_close(log_joint(model, X, z_1=z[0], z_2=z[1], z_3=z[2]), expected)


def test_hidden_widths_may_differ_between_stochastic_layers() -> None:
    model = HierarchicalVAE((784,), (100, 50), ((200, 200), (100, 100)))
    widths = [layer.out_features for layer in model.priors[0] if hasattr(layer, "out_features")]
    assert widths == [100, 100, 200]  # 50 - 100 - 100 - (loc, scale) of 100
    with pytest.raises(ArgumentError, match="one for each of 2 stochastic layers"):
        HierarchicalVAE((784,), (100, 50), ((200,), (100,), (50,)))


def test_data_mean_sets_where_the_decoder_starts() -> None:
    mean = X.mean(0)
    model = VAE((16,), 2, (8,), data_mean=mean)
    plain = VAE((16,), 2, (8,))
    with torch.no_grad():
        model.decoder.layers.output.weight.zero_()
    torch.testing.assert_close(model.decode(torch.randn(3, 2)).mean, mean.clamp(0.001, 0.999).expand(3, 16))
    assert (plain.decoder.layers.output.bias == 0).all()
    conv = VAE((1, 4, 4), 2, (4,), network="conv", data_mean=mean.reshape(1, 4, 4))
    torch.testing.assert_close(conv.decoder.bias.sigmoid(), mean.clamp(0.001, 0.999))


def test_conditional_vae_generates_from_labels_or_draws_them() -> None:
    model = ConditionalVAE((16,), 2, (8,), num_classes=3)
    assert model(y=torch.tensor([2, 2, 2, 2])).shape == (4, 16)
    drawn = pyro.poutine.trace(model).get_trace(num_samples=6)
    assert drawn.nodes["y"]["value"].shape == (6,)
    assert "y" not in pyro.poutine.trace(model).get_trace(X, torch.zeros(5, dtype=torch.long)).nodes


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, r"`y` is required: the labels of `x`, integers of shape \[batch\] below 3"),
        (torch.zeros(5, 1, dtype=torch.long), r"`y` must have shape \[5\], one label for each datum, got \[5, 1\]"),
        (torch.zeros(4, dtype=torch.long), r"`y` must have shape \[5\]"),
        (torch.zeros(5), r"`y` must hold integers, got dtype torch.float32"),
        (torch.tensor([0, 1, 2, 3, 0]), r"`y` must be a class in \{0, ..., 2\}, got 3 at index \(3,\)"),
        (torch.tensor([0, -1, 2, 0, 0]), r"got -1 at index \(1,\)"),
        ([0, 1, 2, 0, 1], r"`y` must be a torch\.Tensor, got list"),
    ],
)
def test_labels_that_do_not_fit_are_refused(y: object, message: str) -> None:
    model = ConditionalVAE((16,), 2, (8,), num_classes=3)
    with pytest.raises(DataError, match=message):
        model(X, y)


def test_labels_and_num_samples_must_agree() -> None:
    model = ConditionalVAE((16,), 2, (8,), num_classes=3)
    with pytest.raises(ArgumentError, match="`num_samples` is 3, but `y` has 2 labels"):
        model(y=torch.tensor([0, 1]), num_samples=3)


def test_bits_of_other_values_are_refused() -> None:
    with pytest.raises(DataError, match=r"`x` must be 0 or 1 .*, got 2.0 at index \(0, 3\)"):
        VAE((16,), 2, (8,))(torch.zeros(1, 16).index_fill(1, torch.tensor([3]), 2.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": (0,)}, r"`hidden\[0\]` must be a whole number of at least 1, got 0"),
        ({"hidden": "wide"}, r"`hidden` must be a tuple of whole numbers"),
        ({"activation": "tahn"}, "`activation`: 'tahn' is unknown; did you mean 'tanh'"),
        ({"network": "conf"}, "`network`: 'conf' is unknown; did you mean 'conv'"),
        ({"network": "conv"}, r"network 'conv' needs `event_shape` \(channels, height, width\), got \(16,\)"),
        ({"network": "conv", "event_shape": (1, 4, 4), "hidden": ()}, "`hidden` must have at least 1 entry"),
        ({"likelihood": "bernouli"}, "did you mean 'bernoulli'"),
        ({"likelihood": NormalFixed((3,))}, r"`likelihood` is for events \(3,\)"),
        ({"data_mean": [0.5]}, r"`data_mean` must be a number or of shape \(16,\), got shape \(1,\)"),
        ({"event_shape": ()}, "`event_shape` must have at least 1 entry"),
        ({"latent_dim": True}, "`latent_dim` must be a whole number of at least 1, got True"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        VAE(**({"event_shape": (16,), "latent_dim": 2} | arguments))  # type: ignore[arg-type]


# --- networks ---


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (7, 5), (1, 9), (3, 1)])
@pytest.mark.parametrize("channels", [(2,), (3, 4), (2, 3, 4)])
def test_convolutions_fit_every_size_and_any_leading_dims(size: tuple[int, int], channels: tuple[int, ...]) -> None:
    shape = (2, *size)
    encoder, decoder = ConvEncoder(shape, channels, 5, context_features=3), ConvDecoder(4, channels, shape, 2)
    x, context, z = torch.randn(6, *shape), torch.randn(6, 3), torch.randn(6, 4)
    assert encoder(x, context).shape == (6, 5)
    assert decoder(z).shape == (6, 2 * 2 * size[0] * size[1])
    split = encoder(x.reshape(2, 3, *shape), context.reshape(2, 3, 3))
    torch.testing.assert_close(split, encoder(x, context).reshape(2, 3, 5))
    torch.testing.assert_close(decoder(z.reshape(3, 2, 4)), decoder(z).reshape(3, 2, -1))
    torch.testing.assert_close(decoder(z[0]), decoder(z)[0])


def test_convolutions_halve_and_round_up() -> None:
    assert halvings(28, 3) == (28, 14, 7, 4)
    assert halvings(1, 2) == (1, 1, 1)


def test_context_broadcasts_over_particles() -> None:
    encoder = make_encoder((4,), (8,), 3, context_features=2)
    x, z = torch.randn(5, 4), torch.randn(7, 5, 2)
    torch.testing.assert_close(encoder(x, z)[3], encoder(x, z[3]))


def test_only_tanh_networks_get_glorot_weights() -> None:
    wide = MLP(1000, (1000,), 1000)
    bound = (6 / 2000) ** 0.5
    assert all(0.99 * bound < layer.weight.abs().max() <= bound for layer in wide if hasattr(layer, "weight"))
    assert (wide.output.bias == 0).all()
    assert MLP(1000, (), 10, activation="relu").output.weight.abs().max() <= 1000**-0.5


def test_layouts_of_mlp_and_conv_decoders_agree() -> None:
    """Constant maps come out in the same places."""
    bias = torch.arange(2 * 3 * 4 * 4.0)
    for network in ("mlp", "conv"):
        decoder = make_decoder(2, (4,), (3, 4, 4), 2, network=network)
        for parameter in decoder.parameters():
            torch.nn.init.zeros_(parameter)
        decoder.set_output_bias(bias)
        torch.testing.assert_close(decoder(torch.randn(1, 2))[0], bias)


def test_scales_never_reach_zero() -> None:
    _, scale = loc_and_scale(torch.full((2,), -1e4), 1e-3)
    assert scale.item() == pytest.approx(1e-3)
