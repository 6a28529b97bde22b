"""Scatter, traversal and interpolation against the programs' own encoders and decoders."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import lognorm, norm
from sklearn.decomposition import PCA
from torch import Tensor

from probgen.data import Dataset
from probgen.errors import ArgumentError, DataError, ProgramError
from probgen.guides import AmortizedFlow
from probgen.nets import loc_and_scale
from probgen.plots import interpolation, latents, traversal
from probgen.programs import run_pair


def values(drawing: Any, name: str = "x") -> np.ndarray:
    columns = [column for title, column in drawing.columns.items() if title.startswith(f"{name}[") or title == name]
    return np.stack(columns, -1)


def posterior_means(guide: Any, *args: Tensor) -> Tensor:
    return guide.posterior(*args).mean.detach()


def points(drawing: Any) -> np.ndarray:
    lines = drawing.figure.axes[0].lines
    return np.concatenate([np.stack((line.get_xdata(), line.get_ydata()), -1) for line in lines])


def test_two_latents_are_the_axes(pair: Any) -> None:
    model, guide, (x, y) = pair("conditional")
    drawing = latents(model, guide, (x, y))
    means = posterior_means(guide, x, y).numpy()
    np.testing.assert_allclose(values(drawing, "z"), means, atol=1e-12)
    np.testing.assert_array_equal(drawing.columns["label"], y)
    order = np.argsort(y.numpy(), kind="stable")
    np.testing.assert_allclose(points(drawing), means[order], atol=1e-12)
    axes = drawing.figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z[0]", "z[1]")
    assert [text.get_text() for text in drawing.figure.legends[0].get_texts()] == ["0", "1", "2"]


def test_more_latents_are_projected(pair: Any) -> None:
    model, guide, x = pair("vae-8")
    drawing = latents(model, guide, x)
    pca = PCA(2, svd_solver="full")
    expected = pca.fit_transform(posterior_means(guide, x).numpy())
    found = np.stack((drawing.columns["PC 1"], drawing.columns["PC 2"]), -1)
    np.testing.assert_allclose(found * np.sign((found * expected).sum(0)), expected, atol=1e-10)
    np.testing.assert_array_equal(points(drawing), found)
    axes = drawing.figure.axes[0]
    shares = [f"({100 * share:.1f} % of the variance)" for share in pca.explained_variance_ratio_]
    assert axes.get_xlabel().endswith(shares[0])
    assert axes.get_ylabel().endswith(shares[1])
    assert np.isnan(drawing.columns["label"]).all()
    assert not drawing.figure.legends


def test_one_latent_has_labels_beside(pair: Any) -> None:
    model, guide, x = pair("vae-1")
    labels = [f"class {i % 3}" for i in range(30)]
    drawing = latents(model, guide, x, labels=labels)
    assert [text.get_text() for text in drawing.figure.axes[0].get_yticklabels()] == sorted(set(labels))
    strokes = drawing.figure.axes[0].lines[1]
    np.testing.assert_array_equal(strokes.get_xdata(), values(drawing, "z")[1::3, 0])
    assert sum(patch.get_height() for patch in latents(model, guide, x).figure.axes[0].patches) == 30


def test_labels_come_from_the_data_set(pair: Any) -> None:
    model, guide, x = pair("vae-2")
    y = torch.arange(30) % 4
    data = Dataset(x, y)
    drawing = latents(model, guide, data, num_data=12)
    chosen = drawing.columns["datum"]
    assert len(set(chosen)) == 12
    assert max(chosen) > 12  # from everywhere
    np.testing.assert_array_equal(drawing.columns["label"], y[chosen])
    np.testing.assert_allclose(values(drawing, "z"), posterior_means(guide, x[chosen]), atol=1e-12)
    given = latents(model, guide, data, labels=np.arange(30), num_data=12)
    np.testing.assert_array_equal(given.columns["label"], given.columns["datum"])
    assert len(latents(model, guide, data, labels=np.arange(30)).figure.axes) == 2  # with a scale of colours
    with pytest.raises(DataError, match=r"one for each datum, \[N\], got shape \(5,\) for at least 30 data"):
        latents(model, guide, x, labels=torch.zeros(5))


def test_means_of_hierarchies(pair: Any) -> None:
    """By Monte Carlo above, within five standard errors of 64 particles (the spread is that of 2000)."""
    model, guide, x = pair("bottom-up")
    loc, scale = loc_and_scale(guide.encoder(x), guide.min_scale)
    z_1 = dist.Normal(loc, scale).sample((2000,))
    above, _ = loc_and_scale(guide.posteriors[0](z_1), guide.min_scale)
    error = (above.std(0) / np.sqrt(64)).detach()
    found = torch.from_numpy(values(latents(model, guide, x), "z_2"))
    assert ((found - above.mean(0).detach()).abs() <= 5 * error + 1e-12).all()
    lower = torch.from_numpy(values(latents(model, guide, x, site="z_1"), "z_1"))
    np.testing.assert_allclose(lower, loc.detach(), atol=1e-12)  # given nothing above: exact


def test_means_of_flows(pair: Any) -> None:
    pytest.importorskip("zuko")
    model, _, x = pair("vae-2")  # 60 means within 5.5 standard errors
    guide = AmortizedFlow((16,), 2, (8,), num_transforms=2, context_dim=4, flow_hidden=(8,))
    draws = run_pair(model, guide, x, num_particles=2000).latents[0].value.detach()
    found = torch.from_numpy(values(latents(model, guide, x), "z"))
    assert ((found - draws.mean(0)).abs() <= 5.5 * draws.std(0) / np.sqrt(64)).all()


def test_grid_of_two_latents_lies_on_normal_quantiles(pair: Any) -> None:
    model, guide, x = pair("vae-2")
    drawing = traversal(model, guide, x, num=5)
    places = norm.ppf(np.linspace(0.02, 0.98, 5))
    right, up = np.meshgrid(places, places[::-1])
    z = np.stack((right.ravel(), up.ravel()), -1)
    np.testing.assert_allclose(values(drawing, "z"), z, atol=1e-12)
    expected = model.decode(torch.from_numpy(z)).mean.detach().numpy()
    np.testing.assert_allclose(values(drawing), expected, atol=1e-12)
    shown = np.asarray(drawing.figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(shown[:4, 5:9], expected[1].reshape(4, 4), atol=1e-12)  # first row, second column
    labels = [text.get_text() for text in drawing.figure.axes[0].get_xticklabels()]
    assert labels == ["−2.1", "−0.6", "0.0", "0.6", "2.1"]
    assert len(traversal(model, guide, x).columns["z[0]"]) == 15 * 15


def test_more_latents_move_one_by_one(pair: Any) -> None:
    model, guide, x = pair("vae-8")
    drawing = traversal(model, guide, x, num=4, max_latents=3)
    means = posterior_means(guide, x)
    units = means.var(0).argsort(descending=True)[:3].tolist()
    z = means[:1].repeat(12, 1).numpy()
    for i, unit in enumerate(units):
        z[4 * i : 4 * i + 4, unit] = norm.ppf(np.linspace(0.02, 0.98, 4))
    np.testing.assert_allclose(values(drawing, "z"), z, atol=1e-12)
    assert drawing.columns["moved"].tolist() == [f"z[{unit}]" for unit in units for _ in range(4)]
    np.testing.assert_allclose(values(drawing), model.decode(torch.from_numpy(z)).mean.detach(), atol=1e-12)
    heading = drawing.figure.texts[0].get_text().replace("\n", " ")
    assert "the 3 most active of 8 latents" in heading
    assert "at the posterior mean of datum 0" in heading


def test_labels_stay_those_of_the_first_datum(pair: Any) -> None:
    model, guide, (x, y) = pair("conditional")
    drawing = traversal(model, guide, (x[2:], y[2:]), num=3)
    z = torch.from_numpy(values(drawing, "z"))
    expected = model.decode(z, y[2].expand(9)).mean.detach()
    np.testing.assert_allclose(values(drawing), expected, atol=1e-12)
    assert "other arguments are those of datum 0" in drawing.figure.texts[0].get_text().replace("\n", " ")


def test_layers_below_are_at_the_mean_of_their_prior(pair: Any) -> None:
    model, guide, x = pair("top-down")
    drawing = traversal(model, guide, x, num=3)
    z_2 = torch.from_numpy(values(drawing, "z_2"))
    z_1, _ = loc_and_scale(model.priors[0](z_2), model.min_scale)
    np.testing.assert_allclose(values(drawing), model.decode(z_1).mean.detach(), atol=1e-12)
    lower = traversal(model, guide, x, num=3, site="z_1")  # around what the prior says with z_2 at its mean, 0
    loc, scale = loc_and_scale(model.priors[0](torch.zeros(2)), model.min_scale)
    for i, name in enumerate(lower.columns["moved"][::3]):
        unit = int(name[-2])
        places = (loc + scale * torch.from_numpy(norm.ppf([0.02, 0.5, 0.98]))[:, None]).detach()[:, unit]
        np.testing.assert_allclose(values(lower, "z_1")[3 * i : 3 * i + 3, unit], places, atol=1e-12)


def skewed(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.LogNormal(0.5, 2.0))
        pyro.sample("x", dist.Normal(torch.stack((z, -z, z.log()), -1), 1.0).to_event(1), obs=x)


def skewed_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.LogNormal(x[:, 0], 1.0))


def test_other_priors_have_their_own_quantiles() -> None:
    """Vectors are lines, a panel for each latent."""
    drawing = traversal(skewed, skewed_guide, torch.randn(6, 3), num=5)
    places = lognorm(2.0, scale=np.exp(0.5)).ppf(np.linspace(0.02, 0.98, 5))
    np.testing.assert_allclose(values(drawing, "z")[:, 0], places, rtol=1e-12)
    np.testing.assert_allclose(values(drawing)[:, 1], -places, rtol=1e-12)
    lines = drawing.figure.axes[0].lines
    np.testing.assert_array_equal([line.get_ydata() for line in lines], values(drawing))


def test_priors_without_quantiles_are_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Dirichlet(torch.ones(3)))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def gamma(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(torch.ones(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Dirichlet(torch.ones(3)))

    with pytest.raises(ProgramError, match=r"entries of site 'z' depend on each other under its prior \(Dirichlet\)"):
        traversal(model, guide, torch.randn(5, 3))
    with pytest.raises(ProgramError, match=r"quantiles of the prior of site 'z' \(Gamma\) are not known"):
        traversal(gamma, guide, torch.randn(5, 3))


def parts(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("parts", 3, dim=-2):
            z = pyro.sample("z", dist.Normal(torch.arange(3.0)[:, None], 1.0))
            pyro.sample("x", dist.Normal(10 * z, 1.0), obs=x.T)


def parts_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("parts", 3, dim=-2):
            pyro.sample("z", dist.Normal(x.T, 1.0))


def test_plates_inside_a_datum_are_units() -> None:
    x = torch.randn(6, 3) * torch.tensor([1.0, 3.0, 2.0])
    drawing = latents(parts, parts_guide, x, site="z")
    np.testing.assert_allclose(values(drawing, "z"), x, atol=1e-12)
    moved = traversal(parts, parts_guide, x, site="z", num=3)
    assert moved.columns["moved"][0] == "z[1]"
    np.testing.assert_allclose(values(moved), 10 * values(moved, "z"), atol=1e-12)
    np.testing.assert_allclose(values(moved, "z")[:3, 1], 1.0 + norm.ppf([0.02, 0.5, 0.98]), atol=1e-12)


def test_two_plates_around_everything_are_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1), pyro.plate("parts", 3, dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1), pyro.plate("parts", 3, dim=-2):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ProgramError, match="a figure needs one plate over the data"):
        latents(model, guide, torch.randn(6, 3))


def test_interpolation_is_a_line_between_posterior_means(pair: Any) -> None:
    model, guide, x = pair("vae-8")
    drawing = interpolation(model, guide, x, steps=5, pairs=3)
    means = posterior_means(guide, x)
    rows = values(drawing).reshape(3, 7, 16)
    for i in range(3):
        z = torch.stack([(1 - t) * means[2 * i] + t * means[2 * i + 1] for t in torch.linspace(0, 1, 5)])
        np.testing.assert_allclose(rows[i, 1:-1], model.decode(z).mean.detach(), atol=1e-12)
        np.testing.assert_array_equal(rows[i, [0, -1]], x[2 * i : 2 * i + 2])
    np.testing.assert_array_equal(drawing.columns["t"][:7], [np.nan, 0, 0.25, 0.5, 0.75, 1, np.nan])
    assert drawing.columns["to"][::7].tolist() == [1, 3, 5]
    shown = np.asarray(drawing.figure.axes[0].images[0].get_array())
    np.testing.assert_array_equal(shown[5:9, 5:9], rows[1, 1].reshape(4, 4))


def test_interpolation_moves_all_layers(pair: Any) -> None:
    """x depends on z_1 alone, whose posterior mean is exact bottom-up: the ends are its decoded means."""
    model, guide, x = pair("bottom-up")
    drawing = interpolation(model, guide, x, steps=2, pairs=2)
    loc, _ = loc_and_scale(guide.encoder(x[:4]), guide.min_scale)
    expected = model.decode(loc).mean.detach()
    found = values(drawing)[np.isfinite(drawing.columns["t"])]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_interpolation_keeps_to_one_label(pair: Any) -> None:
    model, guide, (x, y) = pair("conditional")
    drawing = interpolation(model, guide, (x, y), steps=2, pairs=3)
    start, end = (drawing.columns[side][::4] for side in ("from", "to"))
    assert (y[start] == y[end]).all()
    means = posterior_means(guide, x, y)
    expected = model.decode(means[end], y[start]).mean.detach()
    np.testing.assert_allclose(values(drawing)[2::4], expected, atol=1e-12)
    lone = interpolation(model, guide, (x[:2], y[:2]), steps=2, pairs=3)  # no two of one label
    assert (lone.columns["from"][0], lone.columns["to"][0]) == (0, 1)


@pytest.mark.parametrize(
    ("figure", "options", "message"),
    [
        (traversal, {"num": 0}, "`num` must be a whole number of at least 1, got 0"),
        (traversal, {"max_latents": 0}, "`max_latents` must be a whole number of at least 1, got 0"),
        (interpolation, {"steps": 1}, "`steps` must be a whole number of at least 2, got 1"),
        (interpolation, {"pairs": 0}, "`pairs` must be a whole number of at least 1, got 0"),
        (latents, {"num_data": 2.5}, "`num_data` must be a whole number of at least 1, got 2.5"),
    ],
)
def test_numbers_are_checked(pair: Any, figure: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        figure(*pair("vae-2"), **options)
