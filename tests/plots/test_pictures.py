"""Reconstructions and samples are what the programs give."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from probgen.data import Dataset
from probgen.errors import ArgumentError, DataError, ProgramError
from probgen.guides import AmortizedNormal
from probgen.models import PPCA, VAE, ConditionalVAE, GaussianMixture
from probgen.plots import reconstructions, samples


def values(drawing: Any, name: str = "x") -> np.ndarray:
    columns = [column for title, column in drawing.columns.items() if title.startswith(name)]
    return np.stack(columns, -1)


class Sharp(nn.Module):
    """q(z | x) within 1e-9 of two entries of the data."""

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1e-9).to_event(1))


def test_input_above_output() -> None:
    """A guide that is all but a point: the reconstruction is the decoder's mean there, up to 1e-9 times its slope."""
    model, x = VAE((16,), 2, (8,)), torch.randint(2, (20, 16)).double()
    drawing = reconstructions(model, Sharp(), x, count=12)
    assert drawing.columns["datum"].tolist() == [*range(12), *range(12)]
    assert drawing.columns["kind"].tolist() == ["data"] * 12 + ["reconstruction"] * 12
    expected = model.decode(x[:12, :2]).mean.detach().numpy()
    np.testing.assert_array_equal(values(drawing)[:12], x[:12])
    np.testing.assert_allclose(values(drawing)[12:], expected, atol=1e-7)
    (image,) = drawing.figure.axes[0].images
    shown = np.asarray(image.get_array())
    assert shown.shape == (4 * 5 - 1, 10 * 5 - 1)  # two rows of ten, each above its reconstructions
    np.testing.assert_array_equal(shown[:4, :4], x[0].reshape(4, 4))
    np.testing.assert_allclose(shown[5:9, :4], expected[0].reshape(4, 4), atol=1e-7)
    np.testing.assert_array_equal(shown[10:14, 5:9], x[11].reshape(4, 4))
    assert image.get_clim() == (0.0, 1.0)
    labels = [text.get_text() for text in drawing.figure.axes[0].get_yticklabels()]
    assert labels == ["data", "reconstruction"] * 2


def test_grey_scale_of_real_data_is_their_range() -> None:
    x = 5 * torch.randn(20, 16)
    drawing = reconstructions(VAE((16,), 2, (8,), "normal"), AmortizedNormal((16,), 2, (8,)), x, count=6)
    shown = x[:6]
    assert drawing.figure.axes[0].images[0].get_clim() == (float(shown.min()), float(shown.max()))
    assert len(drawing.figure.axes) == 2  # with a scale beside it


def test_vectors_are_matrices() -> None:
    x = torch.randn(10, 5)
    drawing = reconstructions(PPCA(5, 2), Sharp(), x, count=4)
    data, rebuilt = drawing.figure.axes[:2]
    np.testing.assert_array_equal(np.asarray(data.images[0].get_array()), x[:4])
    np.testing.assert_array_equal(np.asarray(rebuilt.images[0].get_array()), values(drawing)[4:])
    assert data.images[0].get_clim() == rebuilt.images[0].get_clim()


def test_dynamic_data_are_bits() -> None:
    data = Dataset(torch.full((20, 16), 0.5), binarize="dynamic")
    model, guide = VAE((16,), 2, (8,)), AmortizedNormal((16,), 2, (8,))
    first, second, other = (reconstructions(model, guide, data, seed=seed) for seed in (0, 0, 1))
    assert set(values(first)[:8].flatten()) == {0.0, 1.0}
    assert first.to_csv() == second.to_csv()
    assert first.to_csv() != other.to_csv()


def test_samples_of_ppca_follow_the_prior() -> None:
    """z = W^+ (mean - mu) is a standard normal: mean and covariance within five standard errors of 4000 draws."""
    model = PPCA(5, 2)
    drawn = values(samples(model, count=4000)) - model.mean.detach().numpy()
    loadings = model.loadings.detach().numpy()
    z = drawn @ np.linalg.pinv(loadings).T
    np.testing.assert_allclose(z @ loadings.T, drawn, atol=1e-12)
    np.testing.assert_allclose(z.mean(0), 0, atol=5 / np.sqrt(4000))
    np.testing.assert_allclose(np.cov(z.T), np.eye(2), atol=5 * np.sqrt(2 / 4000))


def test_without_latents_samples_are_draws() -> None:
    model = GaussianMixture(2, 3)
    with torch.no_grad():
        model.raw_scales.fill_(-20.0)  # scales of 0.001
    drawing = samples(model, count=50)
    distance = np.abs(values(drawing)[:, None] - model.locs.detach().numpy()).max(-1).min(1)
    assert 0 < distance.max() < 6 * 0.0011
    assert "50 samples of p(x)" in drawing.figure.axes[0].get_title()
    (points,) = drawing.figure.axes[0].lines
    np.testing.assert_array_equal(points.get_xdata(), values(drawing)[:, 0])


def test_labels_are_repeated() -> None:
    model = ConditionalVAE((16,), 2, (), num_classes=3)
    with torch.no_grad():
        next(model.decoder.parameters())[:, :2] = 0.0  # the mean depends on the label alone
    drawn = values(samples(model, None, torch.tensor([0, 2]), count=5))
    expected = model.decode(torch.zeros(5, 2), torch.tensor([0, 2, 0, 2, 0])).mean.detach()
    np.testing.assert_allclose(drawn, expected, atol=1e-12)
    drawn = values(samples(model, y=np.array([1]), count=2))
    np.testing.assert_allclose(drawn, model.decode(torch.zeros(2, 2), torch.ones(2).long()).mean.detach(), atol=1e-12)
    assert len(values(samples(model, count=7))) == 7  # labels are drawn too


def chain(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(10.0 + z, 1.0), obs=x)
        pyro.factor("weight", -(z**2))
        pyro.deterministic("twice", 2 * z)


def test_observed_values_are_left_out() -> None:
    one, other = samples(chain, torch.zeros(3), count=8), samples(chain, torch.ones(3), count=8)
    assert one.to_csv() == other.to_csv()
    assert ((values(one) > 5) & (values(one) < 15)).all()


def test_samples_that_cannot_be() -> None:
    with pytest.raises(ProgramError, match="no argument `num_samples`"):
        samples(chain)
    with pytest.raises(ArgumentError, match="`count` must be a whole number of at least 1, got 0"):
        samples(PPCA(3, 2), count=0)
    with pytest.raises(DataError, match=r"must hold a tensor \[batch, \.\.\.\]"):
        samples(chain, None)

    def no_mean(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            flow = dist.TransformedDistribution(dist.Normal(z, 1.0), [dist.transforms.SigmoidTransform()])
            pyro.sample("x", flow, obs=x)

    with pytest.raises(ProgramError, match="site 'x' has a distribution whose mean is not known"):
        samples(no_mean, torch.full((3,), 0.5))


def test_categories_show_the_most_probable() -> None:
    model = VAE((16,), 2, (8,), "categorical:num_categories=5")
    drawing = samples(model, count=4)
    assert set(values(drawing).flatten()) <= set(range(5))
    assert "mode of p(x | z)" in drawing.figure.texts[0].get_text()
    assert drawing.figure.axes[0].images[0].get_clim() == (0.0, 4.0)
