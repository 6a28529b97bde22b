"""The figure of a comparison: bounds with error bars, and what each model draws beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probgen.plots.drawing import as_png as as_png
from probgen.plots.style import BLUE, GREY, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from probgen.comparison import Comparison, Run
    from probgen.evidence import Row
    from probgen.plots.images import Image, Pictures

ROW_INCHES = 0.9
LEFT_INCHES = 5.2


def plot_comparison(comparison: Comparison, *, num_images: int = 8, seed: int = 0) -> Figure:
    """Draws a comparison.

    On the left, log p(x) and the ELBO of each objective, in nats per datum, with their standard errors over the data;
    with several seeds, small marks are the seeds. On the right, where the data are images, samples from the prior and
    data with their reconstructions below, of the first seed.

    Args:
        comparison: what :func:`probgen.compare` returns; its :meth:`to_csv` has the numbers.
        num_images: images in a row.
        seed: of the samples.

    Returns:
        A figure that no global state knows: ``figure.savefig(path)`` writes it, notebooks show it.
    """
    from matplotlib.figure import Figure

    rows = comparison.rows
    drawn = _drawn(comparison, num_images, seed)
    shown = [pictures for pictures in drawn if pictures is not None]
    strip = _strip_inches(shown[0]) if shown else 0.0
    height = max(2.6, ROW_INCHES * len(rows) + 1.3)
    figure = Figure(figsize=(LEFT_INCHES + 2 * strip + 0.6, height))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.06, wspace=0.03)
    grid = figure.add_gridspec(
        len(rows), 3 if shown else 1, width_ratios=[LEFT_INCHES, strip, strip] if shown else None
    )
    bounds = figure.add_subplot(grid[:, 0])
    _plot_bounds(bounds, rows, comparison.runs)
    for i, pictures in enumerate(drawn if shown else ()):
        samples, pairs = (None, None) if pictures is None else (pictures.samples, _pairs(pictures))
        _plot_strip(figure.add_subplot(grid[i, 1]), samples, "Samples" if i == 0 else None)
        _plot_strip(figure.add_subplot(grid[i, 2]), pairs, "Data above reconstructions" if i == 0 else None)
    handles, labels = bounds.get_legend_handles_labels()  # plain marks come first there
    figure.legend(handles[::-1], labels[::-1], loc="outside lower left", ncols=len(labels), frameon=False)
    return figure


def _drawn(comparison: Comparison, count: int, seed: int) -> list[Pictures | None]:
    """What the first run of each label draws."""
    from probgen.plots.images import pictures

    first: dict[str, Run] = {}
    for run in comparison.runs:
        first.setdefault(run.label, run)
    drawn = []
    for run in first.values():
        with run.parameters():
            drawn.append(pictures(run.model, run.guide, comparison.eval_data, count=count, seed=seed))
    return drawn


def _plot_bounds(axes: Axes, rows: Sequence[Row], runs: Sequence[Run]) -> None:
    places = range(len(rows))
    for y, row in zip(places, rows, strict=True):
        axes.plot([row.elbo, row.log_prob], [y, y], color=GREY, linewidth=1, zorder=1)
    errors = [0.0 if math.isnan(row.standard_error) else row.standard_error for row in rows]
    style: dict[str, Any] = {"linestyle": "none", "capsize": 3, "markersize": 6, "elinewidth": 1.2}
    axes.errorbar([row.elbo for row in rows], places, marker="s", color=VERMILION, label="ELBO", **style)
    axes.errorbar(
        [row.log_prob for row in rows],
        places,
        xerr=errors,
        marker="o",
        color=BLUE,
        label=_evidence_label(rows),
        **style,
    )
    if len(runs) > len(rows):
        position = {row.label: y for y, row in zip(places, rows, strict=True)}
        means = [run.evidence.mean for run in runs]
        heights = [position[run.label] + 0.18 for run in runs]
        axes.plot(means, heights, linestyle="none", marker="|", color=BLUE, markersize=6, label="single seeds")
    axes.set_ylim(len(rows) - 0.55, -0.45)
    axes.set_yticks(list(places), [_wrapped(row.label) for row in rows])
    axes.set_xlabel("nats per datum, held-out data")
    axes.set_title("Bounds (bar: standard error over the data)", fontsize="medium")
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _evidence_label(rows: Sequence[Row]) -> str:
    counts = {row.num_particles for row in rows if row.kind == "lower"}
    return f"log p(x), {counts.pop()} particles" if len(counts) == 1 else "log p(x)"


def _wrapped(label: str) -> str:
    """A long spec on two lines."""
    return label.replace(":", ":\n", 1) if len(label) > 12 else label


def _plot_strip(axes: Axes, rows: list[Image] | Image | None, title: str | None) -> None:
    from probgen.plots.images import tiled

    axes.set_axis_off()
    if title is not None:
        axes.set_title(title, fontsize="medium")
    if rows is None:
        axes.text(0.5, 0.5, "none", color=GREY, ha="center", va="center", transform=axes.transAxes)
        return
    images = rows if isinstance(rows, list) else list(np.array_split(rows, 2)) if len(rows) % 2 == 0 else [rows]
    low, high = float(min(r.min() for r in images)), float(max(r.max() for r in images))
    low, high = (0.0, 1.0) if low >= 0.0 and high <= 1.0 else (low, high)
    axes.imshow(tiled(images), cmap="gray", vmin=low, vmax=high, interpolation="nearest")


def _pairs(pictures: Pictures) -> list[Image]:
    return [pictures.data] if pictures.reconstructions is None else [pictures.data, pictures.reconstructions]


def _strip_inches(pictures: Pictures) -> float:
    """The width at which a strip of two rows fills its height."""
    count, height, width = pictures.data.shape[:3]
    return max(2.4, 0.95 * ROW_INCHES * count * (width + 1) / (2 * (height + 1)))  # the title needs as much
