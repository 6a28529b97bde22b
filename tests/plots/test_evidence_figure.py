"""Histograms of an evaluation hold its numbers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from probgen import Evidence, evaluate
from probgen.errors import ArgumentError, ArgumentTypeError
from probgen.models import PPCA
from probgen.plots import evidence


def made(count: int = 200, **changes: Any) -> Evidence:
    generator = torch.Generator().manual_seed(0)
    columns = {name: torch.randn(count, generator=generator) for name in ("log_prob", "elbo", "kl", "khat")}
    columns["ess"] = 100 * torch.rand(count, generator=generator)
    fields = columns | {"monte_carlo_error": 0.1 + columns["kl"] ** 2, "kind": "lower", "num_particles": 100}
    return Evidence(**(fields | changes))


def counts(axes: Axes) -> list[float]:
    return [patch.get_height() for patch in axes.patches]


def test_histograms_count_the_table() -> None:
    given = made()
    drawing = evidence(given)
    FigureCanvasAgg(drawing.figure).draw()
    for axes, name in zip(drawing.figure.axes, ("log_prob", "ess", "khat"), strict=True):
        column = np.asarray(drawing.columns[name])
        np.testing.assert_array_equal(column, getattr(given, name).numpy())
        np.testing.assert_array_equal(counts(axes), np.histogram(column, "auto")[0])
    log_prob, ess, khat = drawing.figure.axes
    assert log_prob.get_xlabel() == "nats per datum"
    assert "lower bound, 100 particles" in log_prob.get_title()
    assert "100 particles" in ess.get_xlabel()
    assert khat.lines[0].get_xdata() == [given.khat_threshold] * 2
    assert f"{100 * given.khat_share:.1f} % over it" in khat.get_legend().get_texts()[0].get_text()
    assert log_prob.lines[0].get_xdata()[0] == pytest.approx(given.mean)


def test_exact_evidence_stands_alone() -> None:
    drawing = evidence(evaluate(PPCA(3, 2), None, torch.randn(20, 3)))
    assert len(drawing.figure.axes) == 1
    assert list(drawing.columns) == ["datum", "log_prob"]
    assert "exact" in drawing.figure.axes[0].get_title()


def test_bits_per_dimension_where_the_data_are_discrete() -> None:
    figure = evidence(made(dims=16)).figure
    FigureCanvasAgg(figure).draw()
    (second,) = figure.axes[0].child_axes
    ends = -np.array(figure.axes[0].get_xlim()) / (16 * math.log(2))
    np.testing.assert_allclose(sorted(second.get_xlim()), sorted(ends))
    assert not evidence(made()).figure.axes[0].child_axes


def test_too_few_particles_have_no_khat() -> None:
    drawing = evidence(made(khat=torch.full((200,), math.nan), num_particles=5))
    assert len(drawing.figure.axes) == 2
    assert drawing.to_csv().splitlines()[1].endswith(",")


def test_perfect_guides_are_counted_beside() -> None:
    khat = torch.linspace(0, 1, 200)
    khat[:30] = -math.inf
    axes = evidence(made(khat=khat)).figure.axes[2]
    assert sum(counts(axes)) == 170
    assert axes.texts[0].get_text() == "30 at -inf"
    FigureCanvasAgg(evidence(made(khat=torch.full((200,), -math.inf))).figure).draw()


def test_one_datum() -> None:
    figure = evidence(made(1)).figure
    FigureCanvasAgg(figure).draw()
    assert "±" not in figure.axes[0].get_legend().get_texts()[0].get_text()


def test_refusals() -> None:
    with pytest.raises(ArgumentError, match="no evidence to draw: the guide is a point mass"):
        evidence(made(kind="none", note="the guide is a point mass"))
    with pytest.raises(ArgumentError, match="one number for all data"):
        evidence(made(1, joint=True))
    with pytest.raises(ArgumentTypeError, match=r"what `probgen.evaluate` returns, got Tensor"):
        evidence(torch.zeros(3))  # type: ignore[arg-type]
