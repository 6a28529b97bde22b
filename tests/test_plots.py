"""The comparison's figure: nothing overlaps, nothing is cut off, nothing global is touched."""

import functools
import itertools
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib._pylab_helpers import Gcf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from probgen.comparison import Comparison, RunSpec, compare, grid
from probgen.guides import AmortizedNormal
from probgen.models import PPCA, VAE, GaussianMixture
from probgen.objectives import ELBO, IWAE, MaximumLikelihood
from probgen.plots import plot_comparison
from probgen.plots.images import image_shape, pictures, tiled
from probgen.plots.table import Column, to_csv, to_markdown

ADAM = functools.partial(torch.optim.Adam, lr=1e-2)
LABELS = ("elbo", "elbo:kl=analytic", "iwae:num_particles=50,gradient=dreg")


def compared(runs: Any, x: Tensor, **options: Any) -> Comparison:
    return compare(runs, x, eval_data=x, num_steps=1, num_particles=5, progress=False, **options)


@pytest.fixture(scope="module")
def digits() -> Comparison:
    model = functools.partial(VAE, (1, 4, 4), 2, (8,))
    guide = functools.partial(AmortizedNormal, (1, 4, 4), 2, (8,))
    objectives = {label: IWAE() if "iwae" in label else ELBO() for label in LABELS}
    return compared(grid(model, guide, objectives, ADAM), torch.randint(2, (20, 1, 4, 4)).float(), seeds=(0, 1))


def visible_texts(figure: Figure) -> list[Text]:
    FigureCanvasAgg(figure).draw()
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def test_labels_neither_overlap_nor_are_cut_off(digits: Comparison) -> None:
    figure = plot_comparison(digits)
    boxes = [(text.get_text(), text.get_window_extent()) for text in visible_texts(figure)]
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), (one, other)


def test_content(digits: Comparison) -> None:
    figure = plot_comparison(digits, num_images=5)
    bounds, *strips = figure.axes
    assert len(strips) == 2 * len(LABELS)
    assert "nats per datum" in bounds.get_xlabel()
    assert bounds.get_title()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["log p(x), 5 particles", "ELBO", "single seeds"]
    drawn = [line.get_xdata() for line in bounds.lines if len(np.atleast_1d(line.get_xdata())) == len(LABELS)]
    rows = digits.rows
    assert any(np.allclose(values, [row.log_prob for row in rows]) for values in drawn)
    assert any(np.allclose(values, [row.elbo for row in rows]) for values in drawn)
    top = bounds.transData.transform((0, 0))[1] - bounds.transData.transform((0, 1))[1]
    assert top > 0  # the first objective is above
    (samples,), (data,) = strips[0].images, strips[1].images
    assert samples.get_array().shape == (2 * 5 - 1, 5 * 5 - 1)
    shown = np.asarray(data.get_array().filled(np.nan))
    np.testing.assert_array_equal(shown[:4, :4], digits.eval_data[0, 0].numpy())


def test_no_global_state(digits: Comparison) -> None:
    before = dict(matplotlib.rcParams)
    plot_comparison(digits)
    assert Gcf.figs == {}
    assert dict(matplotlib.rcParams) == before


def test_data_that_are_no_images_have_no_strips() -> None:
    runs = grid(
        functools.partial(PPCA, 3, 1), functools.partial(AmortizedNormal, (3,), 1, (4,)), {"elbo": ELBO()}, ADAM
    )
    figure = plot_comparison(compared(runs, torch.randn(10, 3)))
    assert len(figure.axes) == 1
    visible_texts(figure)


def test_models_without_latents_have_samples_and_no_reconstructions() -> None:
    spec = RunSpec(functools.partial(GaussianMixture, 4, 2), None, ADAM, MaximumLikelihood())
    x = torch.randn(10, 4)
    got = compared({"mixture": spec}, x)
    drawn = pictures(got.runs[0].model, None, x, count=3)
    assert drawn is not None
    assert drawn.samples is not None
    assert drawn.samples.shape == (6, 2, 2)
    assert drawn.reconstructions is None
    np.testing.assert_array_equal(drawn.data, x[:3].reshape(3, 2, 2).numpy())
    visible_texts(plot_comparison(got))


def test_pictures_are_means_given_prior_and_guide() -> None:
    """A guide that knows the datum gives it back; the prior's draws do not depend on the data."""
    model, guide = VAE((4,), 2, (3,)), AmortizedNormal((4,), 2, (3,))
    x = torch.randint(2, (12, 4)).float()
    drawn, others = pictures(model, guide, x, count=3), pictures(model, guide, 1 - x, count=3)
    assert drawn is not None
    assert others is not None
    assert drawn.samples is not None
    assert others.samples is not None
    np.testing.assert_array_equal(drawn.samples, others.samples)
    assert drawn.reconstructions is not None
    assert others.reconstructions is not None
    assert not np.allclose(drawn.reconstructions, others.reconstructions)
    assert ((drawn.samples > 0) & (drawn.samples < 1)).all()  # means, not draws of bits
    assert model.training


@pytest.mark.parametrize(
    ("event_shape", "wanted"),
    [
        ((64,), (8, 8)),
        ((1, 5, 4), (5, 4)),
        ((3, 5, 4), (3, 5, 4)),
        ((5, 4), (5, 4)),
        ((5,), None),
        ((2, 5, 4), None),
        ((), None),
    ],
)
def test_image_shape(event_shape: tuple[int, ...], wanted: tuple[int, ...] | None) -> None:
    assert image_shape(event_shape) == wanted


def test_colours_stay_last() -> None:
    canvas = tiled([np.zeros((2, 4, 5, 3)), np.ones((1, 4, 5, 3))])
    assert canvas.shape == (9, 11, 3)
    assert np.isnan(canvas[5:, 6:]).all()  # the second row is shorter
    assert np.isnan(canvas[4]).all()


def test_tables_escape() -> None:
    columns = [Column("a|b", "title"), Column("f", "field")]
    assert to_markdown(columns, [Column("x|y", "z")]).splitlines()[2] == r"| x\|y | z |"
    assert to_csv([Column("x,y", 'say "z"')]).splitlines()[1] == '"x,y","say ""z""",'
