"""Rows of images as one picture, pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from probgen.distributions import Grid
from probgen.plots.drawing import DPI
from probgen.plots.images import Image, tiled
from probgen.plots.style import wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 6.4, 7.6  # inches that the pixels may take
LARGEST = 1.2  # inches that one image may be high
NARROWEST = 4.4  # inches of a figure, for the title
LINE = 0.19  # inches of a line of text
Limits = tuple[float, float]


@dataclass(frozen=True)
class Labels:
    """What stands around a picture.

    Attributes:
        title: above it.
        rows: a label for each row, or none.
        columns: a label for each column, or none.
        x: below the columns.
        y: left of the rows.
    """

    title: str
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    x: str = ""
    y: str = ""


def limits_of(p: dist.TorchDistribution, values: Tensor) -> Limits:
    """The range of the grey scale: that of the support where it has two ends, such as 0 to 1; else that of the values.

    Args:
        p: the distribution of the observed site.
        values: the data, or what is drawn where there are none.
    """
    try:
        support: Any = p.support
    except NotImplementedError:
        support = None
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.boolean or isinstance(support, Grid):
        return 0.0, 1.0
    ends = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if all(isinstance(end, int | float) for end in ends):
        return float(ends[0]), float(ends[1])  # type: ignore[arg-type]
    low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def image_figure(rows: list[Image], labels: Labels, limits: Limits, *, gap: int = 1) -> Figure:
    """A figure of rows of images, on which every pixel of the data covers equally many pixels of the file.

    Args:
        rows: arrays ``[n, H, W]`` or ``[n, H, W, 3]`` of one shape.
        labels: what stands around them.
        limits: the values that are black and white; others are cut off. Other limits than 0 and 1 get a scale.
        gap: pixels of the data between images.
    """
    canvas, shape = tiled(rows, gap=gap), rows[0].shape[1:3]
    scale = canvas.ndim == 2 and limits != (0.0, 1.0)
    figure, axes = _page(canvas.shape[:2], _zoom(canvas.shape, shape[0]), labels, scale)
    shown = axes.imshow(_colours(canvas, limits), cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")
    _label(axes, labels, [shape[0] + gap, shape[1] + gap], shape)
    if scale:
        place = axes.get_position()
        bar = figure.add_axes(
            (place.x1 + 0.15 / figure.get_figwidth(), place.y0, 0.12 / figure.get_figwidth(), place.height)
        )
        figure.colorbar(shown, cax=bar).ax.tick_params(labelsize="small")
    return figure


def _zoom(canvas: tuple[int, ...], height: int) -> int:
    """Pixels of the file for a pixel of the data, so that all fit and a single image does not fill the page."""
    fitting = min(WIDTH * DPI / canvas[1], HEIGHT * DPI / canvas[0], LARGEST * DPI / height)
    return max(1, int(fitting))


def _page(canvas: tuple[int, ...], zoom: int, labels: Labels, scale: bool) -> tuple[Figure, Axes]:
    """A figure of the right size, and axes for the canvas in its middle; all lengths in inches."""
    from matplotlib.figure import Figure

    height, width = (size * zoom / DPI for size in canvas)
    left = 0.2 + (0.25 if labels.y else 0.0) + 0.085 * max(map(len, labels.rows), default=0)
    right = 0.85 if scale else 0.2
    below = 0.12 + (LINE + 0.03 if labels.x else 0.0) + (LINE + 0.03 if any(labels.columns) else 0.0)
    full = max(left + width + right, NARROWEST)
    left += (full - left - width - right) / 2
    text = wrapped(labels.title, full - 0.3)
    above = 0.2 + LINE * (1 + text.count("\n"))
    whole = above + height + below
    figure = Figure(figsize=(full, whole))
    figure.text(0.5, 1 - 0.1 / whole, text, ha="center", va="top", fontsize="medium")
    return figure, figure.add_axes((left / full, below / whole, width / full, height / whole))


def _label(axes: Axes, labels: Labels, pitch: Sequence[int], shape: Sequence[int]) -> None:
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize="small", pad=3)
    axes.set_yticks([i * pitch[0] + (shape[0] - 1) / 2 for i in range(len(labels.rows))], labels.rows)
    axes.set_xticks([i * pitch[1] + (shape[1] - 1) / 2 for i in range(len(labels.columns))], labels.columns)
    axes.set_xlabel(labels.x, fontsize="small")
    axes.set_ylabel(labels.y, fontsize="small")


def _colours(canvas: Image, limits: Limits) -> Image:
    """Colours in [0, 1], white between the images; grey values as they are."""
    if canvas.ndim == 2:
        return canvas
    return np.nan_to_num(np.clip((canvas - limits[0]) / (limits[1] - limits[0]), 0.0, 1.0), nan=1.0)
