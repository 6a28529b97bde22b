"""What holds for every figure of every pair: nothing is touched, seeds decide, labels can be read, files are whole."""

import itertools
import random
from typing import Any

import matplotlib
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib._pylab_helpers import Gcf
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from torch import Tensor, nn

from probgen import evaluate
from probgen.errors import ArgumentError, ArgumentTypeError, DataError, ProgramError
from probgen.guides import AmortizedNormal
from probgen.models import VAE, GaussianMixture
from probgen.plots import (
    Drawing,
    evidence,
    interpolation,
    kl_per_latent,
    latents,
    reconstructions,
    samples,
    training,
    traversal,
)

FIGURES = {
    "reconstructions": reconstructions,
    "latents": latents,
    "traversal": traversal,
    "interpolation": interpolation,
    "kl_per_latent": kl_per_latent,
}


def drawn(model: Any, guide: Any, data: Any, seed: int = 0) -> dict[str, Drawing]:
    made = {name: figure(model, guide, data, seed=seed) for name, figure in FIGURES.items()}
    made["samples"] = samples(model, count=9, seed=seed)
    return made


def drawn_with_evidence(model: Any, guide: Any, data: Any) -> dict[str, Drawing]:
    return drawn(model, guide, data) | {"evidence": evidence(evaluate(model, guide, data, num_particles=30))}


def visible_texts(figure: Figure) -> list[Text]:
    """The texts of a figure, without the labels of ticks that lie beyond the ends of their axis."""
    FigureCanvasAgg(figure).draw()
    beyond = set()
    for axis in figure.findobj(Axis):
        low, high = sorted(axis.get_view_interval())
        margin = 1e-6 * (high - low)
        for tick in axis.get_major_ticks():
            if not low - margin <= tick.get_loc() <= high + margin:
                beyond |= {tick.label1, tick.label2}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in texts if text not in beyond]


def check_layout(figure: Figure, name: str) -> None:
    width, height = figure.get_size_inches() * figure.dpi
    boxes = [(text.get_text(), text.get_window_extent()) for text in visible_texts(figure)]
    for text, box in boxes:
        assert box.x0 >= 0, (name, text)
        assert box.y0 >= 0, (name, text)
        assert box.x1 <= width, (name, text)
        assert box.y1 <= height, (name, text)
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), (name, one, other)


def test_labels_neither_overlap_nor_are_cut_off(any_pair: tuple[Any, ...]) -> None:
    for name, drawing in drawn_with_evidence(*any_pair).items():
        texts = [text.get_text() for text in visible_texts(drawing.figure)]
        assert texts, name
        assert drawing.figure.texts or any(axes.get_title() for axes in drawing.figure.axes), name
        check_layout(drawing.figure, name)


def test_nothing_is_touched(any_pair: tuple[Any, ...]) -> None:
    model, guide, data = any_pair
    modules = [module for program in (model, guide) for module in program.modules()]
    for i, module in enumerate(modules):
        module.training = i % 2 == 0
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 2 == 0)
    pyro.param("own", torch.ones(2))
    store = {name: (id(value), value.detach().clone()) for name, value in pyro.get_param_store().items()}
    tensors = {name: t.detach().clone() for program in (model, guide) for name, t in program.state_dict().items()}
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    modes, wanted = [m.training for m in modules], [p.requires_grad for m in modules for p in m.parameters()]
    settings = dict(matplotlib.rcParams)
    drawn(model, guide, data)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert [m.training for m in modules] == modes
    assert [p.requires_grad for m in modules for p in m.parameters()] == wanted
    after = dict(pyro.get_param_store().items())
    assert list(after) == list(store)
    assert torch.equal(after["own"], store["own"][1])
    for program in (model, guide):
        assert all(torch.equal(t, tensors[name]) for name, t in program.state_dict().items())
    assert Gcf.figs == {}
    assert dict(matplotlib.rcParams) == settings


def test_same_seed_same_numbers(any_pair: tuple[Any, ...]) -> None:
    first, second = drawn(*any_pair), drawn(*any_pair)
    assert {name: d.to_csv() for name, d in first.items()} == {name: d.to_csv() for name, d in second.items()}
    assert first["samples"].to_csv() != samples(any_pair[0], count=9, seed=1).to_csv()
    assert first["reconstructions"].to_csv() != reconstructions(*any_pair, seed=1).to_csv()


class Noisy(nn.Module):
    """A guide whose numbers differ in train mode, of the batch and of luck."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.layers = nn.Sequential(nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 2))

    def forward(self, x: Tensor) -> None:
        self.calls += 1
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.layers(x), 1.0).to_event(1))


def test_noise_and_running_statistics_stay(pair: Any) -> None:
    model, _, x = pair("vae-2")
    guide = Noisy()
    columns = latents(model, guide, x).columns
    before = guide.layers[0].running_mean.clone()
    assert guide.layers[1].training
    guide.eval()
    expected = guide.layers(x).detach().numpy()
    np.testing.assert_allclose(np.stack((columns["z[0]"], columns["z[1]"]), -1), expected, atol=1e-12)
    assert torch.equal(guide.layers[0].running_mean, before)
    assert guide.calls == 0


def curve(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z**2, 1.0), obs=x)


def local_normals(x: Tensor) -> None:
    loc = pyro.param("loc", lambda: torch.linspace(-1, 1, 60))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 0.5))


@pytest.mark.parametrize("name", list(FIGURES))
def test_functions_with_a_parameter_for_each_datum(name: str) -> None:
    """Some figures show only a few data, on which such a guide cannot run: all of them are run."""
    assert isinstance(FIGURES[name](curve, local_normals, torch.linspace(0, 2, 60)), Drawing)
    assert list(pyro.get_param_store()) == []  # what the drawing made is gone


@pytest.mark.parametrize("guide", [AutoNormal, AutoDelta])
def test_autoguides(guide: Any) -> None:
    x, auto = torch.linspace(0, 2, 60), guide(curve)
    with pytest.raises(ProgramError, match="has not run yet"):
        reconstructions(curve, auto, x)
    auto(x)
    locs = latents(curve, auto, x, num_data=60).columns["z"]
    assert locs.shape == (60,)
    assert isinstance(traversal(curve, auto, x), Drawing)


def outside(x: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(w, 1.0), obs=x)


def test_refusals(pair: Any) -> None:
    model, guide, x = pair("vae-2")
    mixture, points = GaussianMixture(4, 2), torch.randn(10, 4)
    for name, figure in FIGURES.items():
        with pytest.raises(ProgramError, match="no latent site"):
            figure(mixture, None, points)
        with pytest.raises(ProgramError, match="'z', which the guide lacks"):
            figure(model, None, x)
        with pytest.raises(DataError, match=r"shape \[batch, 16\]"):
            figure(model, guide, x[:, :5])
        with pytest.raises(ArgumentTypeError, match="one-shot iterator"):
            figure(model, guide, iter([x]))
        with pytest.raises(DataError, match="empty"):
            figure(model, guide, x[:0])
        with pytest.raises(ArgumentError, match="`seed` must be"):
            figure(model, guide, x, seed=-1)
        if name in ("latents", "traversal"):
            with pytest.raises(ArgumentError, match=r"called 'zz'; did you mean 'z'\?"):
                figure(model, guide, x, site="zz")
        if name != "reconstructions":
            auto = AutoDiagonalNormal(outside)
            auto(points[:, 0])
            with pytest.raises(ProgramError, match="'_AutoDiagonalNormal_latent' outside the plate"):
                figure(outside, auto, points[:, 0])
            pyro.clear_param_store()


def test_discrete_latents_are_no_space() -> None:
    model, x = GaussianMixture(4, 2, summed_out=False), torch.randn(10, 4)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", model.posterior(x), infer={"enumerate": "parallel"})

    with pytest.raises(ProgramError, match=r"discrete \(z\)"):
        latents(model, guide, x)
    assert isinstance(reconstructions(model, guide, x), Drawing)


def test_streams_give_the_same_as_data_in_memory(pair: Any) -> None:
    model, guide, (x, y) = pair("conditional")
    stream = [(x[i : i + 7], y[i : i + 7]) for i in range(0, 30, 7)]
    for name, figure in FIGURES.items():
        assert figure(model, guide, stream).to_csv() == figure(model, guide, (x, y)).to_csv(), name
    named = {"x": x, "y": y}
    assert latents(model, guide, named).to_csv() == latents(model, guide, (x, y)).to_csv()


def test_single_datum(pair: Any) -> None:
    model, guide, x = pair("vae-8")
    for name, figure in FIGURES.items():
        if name == "interpolation":
            with pytest.raises(DataError, match="one datum, but a line needs two"):
                figure(model, guide, x[:1])
        else:
            visible_texts(figure(model, guide, x[:1]).figure)
    visible_texts(evidence(evaluate(model, guide, x[:1], num_particles=30)).figure)


def test_float32_and_colours() -> None:
    torch.set_default_dtype(torch.float32)
    model, guide = VAE((3, 4, 4), 3, (8,), "normal"), AmortizedNormal((3, 4, 4), 3, (8,))
    x = torch.rand(20, 3, 4, 4)
    for drawing in drawn_with_evidence(model, guide, x).values():
        visible_texts(drawing.figure)
    back = reconstructions(model, guide, x, count=2).columns
    np.testing.assert_array_equal(back["x[47]"][:2], x[:2, 2, 3, 3].numpy())


def test_training_is_exported() -> None:
    assert isinstance(training({"a": [{"epoch": 1, "loss": 1.0}]}), Drawing)
