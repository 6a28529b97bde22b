"""KL per latent against closed forms, quadrature and the whole divergence."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoNormal
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import kl_divergence

from probgen.errors import ArgumentError, ProgramError
from probgen.guides import AmortizedFlow, AmortizedMultivariateNormal
from probgen.objectives.elbo import analytic_kl
from probgen.plots import kl_per_latent
from probgen.programs import run_pair


def by_unit(drawing: Any, name: str = "kl") -> dict[str, Any]:
    return dict(zip(drawing.columns["unit"].tolist(), drawing.columns[name].tolist(), strict=True))


def test_normal_against_its_formula(pair: Any) -> None:
    model, guide, x = pair("vae-8")
    drawing = kl_per_latent(model, guide, x)
    q = guide.posterior(x).base_dist
    expected = (0.5 * (q.loc**2 + q.scale**2 - 1) - q.scale.log()).mean(0).detach()
    found = by_unit(drawing)
    np.testing.assert_allclose([found[f"z[{i}]"] for i in range(8)], expected, rtol=1e-12)
    assert drawing.columns["kl"].tolist() == sorted(found.values(), reverse=True)
    bars = drawing.figure.axes[0].patches
    np.testing.assert_array_equal([bar.get_height() for bar in bars], drawing.columns["kl"])
    variance = by_unit(drawing, "variance_of_mean")
    np.testing.assert_allclose([variance[f"z[{i}]"] for i in range(8)], q.loc.var(0).detach(), rtol=1e-12)
    active = by_unit(drawing, "active")
    assert active == {unit: str(value > 0.01) for unit, value in variance.items()}
    heading = drawing.figure.axes[0].get_title().replace("\n", " ")
    assert f"sum {float(expected.sum()):.2f} nats" in heading
    assert f"{sum(v == 'True' for v in active.values())} of 8 active" in heading
    assert any("> 0.01" in text.get_text() for text in drawing.figure.legends[0].get_texts())
    assert "nats" in drawing.figure.axes[0].get_ylabel()


def test_collapsed_units_are_inactive(pair: Any) -> None:
    model, guide, x = pair("vae-8")
    with torch.no_grad():
        for parameter in list(guide.encoder.parameters())[-2:]:
            parameter[5] = 0.0  # the mean of the last units
            parameter[6] = 0.0
    drawing = kl_per_latent(model, guide, x)
    active = by_unit(drawing, "active")
    assert (active["z[5]"], active["z[6]"]) == ("False", "False")
    shades = {unit: bar.get_alpha() for unit, bar in zip(active, drawing.figure.axes[0].patches, strict=True)}
    assert shades["z[5]"] < 1.0


def test_hierarchy_adds_up_to_the_whole_divergence(pair: Any) -> None:
    """Top-down in closed form given the layer above, bottom-up by Monte Carlo: within five standard errors."""
    model, guide, x = pair("top-down")
    drawing = kl_per_latent(model, guide, x, num_particles=100)
    assert set(drawing.columns["method"]) == {"closed form"}
    terms = run_pair(model, guide, x, num_particles=1000)
    whole = analytic_kl(terms).detach().mean(1)  # [K]: what is left of the noise is that of the layer above
    error = float(whole.std()) * math.sqrt(1 / 100 + 1 / 1000)
    assert drawing.columns["kl"].sum() == pytest.approx(float(whole.mean()), abs=5 * error)
    model, guide, x = pair("bottom-up")
    drawing = kl_per_latent(model, guide, x, num_particles=100)
    assert set(drawing.columns["method"]) == {"Monte Carlo"}
    assert set(drawing.columns["site"]) == {"z_1", "z_2"}
    whole = run_pair(model, guide, x, num_particles=1000).kl.detach().mean(1)
    error = float(whole.std()) * math.sqrt(1 / 100 + 1 / 1000)
    assert drawing.columns["kl"].sum() == pytest.approx(float(whole.mean()), abs=5 * error)


def test_full_covariance_gives_marginals(pair: Any) -> None:
    model, _, x = pair("vae-2")
    guide = AmortizedMultivariateNormal((16,), 2, (8,))
    drawing = kl_per_latent(model, guide, x)
    q = guide.posterior(x)
    expected = (0.5 * (q.mean**2 + q.variance - 1) - 0.5 * q.variance.log()).mean(0).detach()
    np.testing.assert_allclose([by_unit(drawing)[f"z[{i}]"] for i in range(2)], expected, rtol=1e-9)
    assert set(drawing.columns["method"]) == {"closed form, marginal"}


def test_flow_gives_one_bar(pair: Any) -> None:
    pytest.importorskip("zuko")
    model, _, x = pair("vae-2")
    guide = AmortizedFlow((16,), 2, (8,), num_transforms=2, context_dim=4, flow_hidden=(8,))
    drawing = kl_per_latent(model, guide, x, num_particles=100)
    whole = run_pair(model, guide, x, num_particles=1000).kl.detach().mean(1)
    error = float(whole.std()) * math.sqrt(1 / 100 + 1 / 1000)
    assert drawing.columns["unit"].tolist() == ["z"]
    assert drawing.columns["kl"][0] == pytest.approx(float(whole.mean()), abs=5 * error)


def heavy(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


def heavy_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.StudentT(9.0, torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.5])).to_event(1))


def test_monte_carlo_against_quadrature() -> None:
    """torch knows no KL of Student's t: means of 40 x 200 independent terms, within five standard errors."""
    drawing = kl_per_latent(heavy, heavy_guide, torch.zeros(40), num_particles=200)
    for unit, (loc, scale) in enumerate(((0.0, 1.0), (1.0, 0.5))):
        mean, square = (moment_of_log_ratio(stats.t(9.0, loc, scale), power) for power in (1, 2))
        error = math.sqrt((square - mean**2) / (40 * 200))
        assert by_unit(drawing)[f"z[{unit}]"] == pytest.approx(mean, abs=5 * error)
    assert set(drawing.columns["method"]) == {"Monte Carlo"}
    assert set(drawing.columns["active"]) == {"False"}  # the mean is the same for all data


def moment_of_log_ratio(q: Any, power: int) -> float:
    """E_q[(log q - log p)^power] for a standard normal p."""
    p = stats.norm()
    return float(integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)) ** power, -30, 30)[0])


def shifted_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        flow = dist.TransformedDistribution(
            dist.Normal(torch.zeros(2), 1.0), [dist.transforms.AffineTransform(0.0, 1.0)]
        )
        pyro.sample("z", flow.to_event(1))


def test_noise_of_few_particles_is_no_activity() -> None:
    """The mean of ten draws of N(0, 1) has a variance of 0.1, none of it the data's: within five standard errors."""
    variance = kl_per_latent(heavy, shifted_guide, torch.zeros(500), num_particles=10).columns["variance_of_mean"]
    np.testing.assert_allclose(variance, 0.0, atol=5 * 0.1 * math.sqrt(2 / 500 + 2 / (500 * 9)))


def curve(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z**2, 1.0), obs=x)


def test_autonormal_has_a_closed_form() -> None:
    x, guide = torch.linspace(0, 2, 30), AutoNormal(curve)
    guide(x)
    drawing = kl_per_latent(curve, guide, x)
    q = dist.Normal(guide.locs.z.detach(), guide.scales.z.detach())
    expected = float(kl_divergence(q, dist.Normal(0.0, 1.0)).mean())
    assert drawing.columns["kl"].tolist() == pytest.approx([expected], rel=1e-12)
    assert drawing.columns["method"].tolist() == ["closed form"]


def test_masked_data_count_as_zero() -> None:
    mask = torch.arange(10) < 4

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=mask):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=mask):
            pyro.sample("z", dist.Normal(1.0, 1.0))

    assert kl_per_latent(model, guide, torch.zeros(10)).columns["kl"][0] == pytest.approx(0.5 * 4 / 10)


def test_many_data_are_a_sample_of_them(pair: Any) -> None:
    model, guide, x = pair("vae-2")
    heading = kl_per_latent(model, guide, x, num_data=10).figure.axes[0].get_title()
    assert "mean over 10 data" in heading.replace("\n", " ")


def test_one_datum_tells_nothing_about_activity(pair: Any) -> None:
    model, guide, x = pair("vae-2")
    drawing = kl_per_latent(model, guide, x[:1])
    assert set(drawing.columns["active"]) == {""}
    assert "active" not in drawing.figure.axes[0].get_title()


def test_refusals(pair: Any) -> None:
    x, guide = torch.linspace(0, 2, 30), AutoDelta(curve)
    guide(x)
    with pytest.raises(ProgramError, match=r"point mass at site 'z' \(AutoDelta\)"):
        kl_per_latent(curve, guide, x)
    for name in ("num_particles", "num_data"):
        with pytest.raises(ArgumentError, match=f"`{name}` must be a whole number of at least 1, got 0"):
            kl_per_latent(*pair("vae-2"), **{name: 0})
