"""Data that are no images: matrices of values, points of two entries, and lines over the entries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from probgen.plots.canvas import Limits
from probgen.plots.style import BLUE, SEQUENTIAL, new_figure, tidy, title, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = npt.NDArray[Any]
FEW = 30  # entries that get a marker each
PANELS_IN_A_ROW = 4


def matrices(parts: dict[str, Rows], heading: str, limits: Limits, unit: str) -> Figure:
    """Matrices of values above each other, on one scale.

    Args:
        parts: rows ``[n, D]`` by their name.
        heading: the title.
        limits: the values at the ends of the scale.
        unit: what a row is.
    """
    width = 6.4
    figure = new_figure(width, 1.2 + sum(max(1.2, min(3.2, 0.2 * len(rows))) for rows in parts.values()))
    grid = figure.subplots(len(parts), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, rows) in zip(grid, parts.items(), strict=True):
        shown = axes.imshow(
            rows, aspect="auto", cmap=SEQUENTIAL, vmin=limits[0], vmax=limits[1], interpolation="nearest"
        )
        axes.set_ylabel(unit)
        axes.set_title(name, fontsize="small", loc="left")
        whole_ticks(axes, "y", len(rows))
        whole_ticks(axes, "x", rows.shape[1])
    grid[-1].set_xlabel("entry")
    figure.colorbar(shown, ax=list(grid), label="value", fraction=0.05)
    figure.suptitle(wrapped(heading, width), fontsize="medium")
    return figure


def points(rows: Rows, heading: str, names: Sequence[str]) -> Figure:
    """Data of two entries as points, of one entry as a histogram."""
    figure = new_figure(4.8, 4.2)
    axes = figure.add_subplot()
    if rows.shape[1] == 1:
        axes.hist(rows[:, 0], bins=min(40, max(5, len(rows) // 4)), color=BLUE)
        axes.set_ylabel("number")
    else:
        axes.plot(rows[:, 0], rows[:, 1], "o", color=BLUE, markersize=4, alpha=0.7, markeredgewidth=0)
        axes.set_ylabel(names[1])
    axes.set_xlabel(names[0])
    title(axes, heading, 3.8)
    tidy(axes, grid="both")
    return figure


def line_panels(
    panels: Sequence[tuple[str, Rows]], colours: npt.NDArray[Any], heading: str, scale: str, site: str
) -> Figure:
    """Panels of lines over the entries of a datum, coloured by what varies.

    Args:
        panels: a title and rows ``[n, D]`` each.
        colours: what varies along the rows, ``[n]``.
        heading: the title.
        scale: what ``colours`` are.
        site: whose entries they are.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    across = min(len(panels), PANELS_IN_A_ROW)
    down = math.ceil(len(panels) / across)
    width = max(4.8, 2.1 * across + 0.9)
    figure = new_figure(width, 1.9 * down + 0.9)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    colour = ScalarMappable(Normalize(float(colours.min()), float(colours.max())), cmap=SEQUENTIAL)
    for axes, (name, rows) in zip(grid.flat, panels, strict=False):
        for value, row in zip(colours, rows, strict=True):
            axes.plot(row, color=colour.to_rgba(value), linewidth=1.2, marker="." if len(row) <= FEW else "")
        axes.set_title(name, fontsize="small")
        tidy(axes)
        whole_ticks(axes, "x", rows.shape[1])
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel("entry", fontsize="medium")
    figure.supylabel(site, fontsize="medium")
    figure.colorbar(colour, ax=grid, label=scale, fraction=0.05)
    figure.suptitle(wrapped(heading, width), fontsize="medium")
    return figure


def whole_ticks(axes: Axes, axis: str, count: int) -> None:
    """At most about six ticks at whole numbers from 0 to ``count - 1``."""
    step = next(step for step in _steps() if count <= 6 * step)
    ticks = np.arange(0, count, step)
    (axes.set_xticks if axis == "x" else axes.set_yticks)(ticks)


def _steps() -> Any:
    return (factor * 10**power for power in range(12) for factor in (1, 2, 5))
