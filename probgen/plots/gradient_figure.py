"""The figure of a gradient report: signal, noise, cost and bias of each estimator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from probgen.plots.drawing import Drawing
from probgen.plots.style import BLUE, GREEN, GREY, VERMILION, counted, new_figure, tidy, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from probgen.comparison import GradientReport, GradientRow

LOOKS = {"model": (BLUE, "o"), "guide": (VERMILION, "s")}
OTHER = (GREEN, "D")
PANEL, ROW = 2.6, 0.42  # inches
MOST_TICKS = 5  # powers of ten that are marked, about
LONGEST = 26  # characters of a label in one line
SEEN = 3.0  # standard errors from which on a bias is drawn


@dataclass(frozen=True)
class Panel:
    """A column of the figure.

    Attributes:
        heading: above it.
        axis: below it.
        value: of a row; nothing is drawn where it is not a finite number above 0.
        error: of that value, or None.
        blank: what is written where nothing is drawn, or nothing.
    """

    heading: str
    axis: str
    value: Callable[[GradientRow], float]
    error: Callable[[GradientRow], float] | None = None
    blank: Callable[[GradientRow], str] = lambda row: ""


PANELS = (
    Panel(
        "Signal-to-noise ratio",
        "|E g| / sqrt(variance)",
        lambda row: row.snr,
        lambda row: row.snr_error,
        lambda row: "no noise" if row.snr == math.inf else "no signal seen",
    ),
    Panel(
        "Variance",
        "of the gradient, nats²",
        lambda row: row.variance,
        lambda row: row.variance_error,
        lambda row: "none",
    ),
    Panel("Variance x time", "nats² ms", lambda row: row.variance_time, None, lambda row: "none"),
)
BIAS = Panel(
    "Bias",
    "|E g - reference|, nats",
    lambda row: row.bias if row.bias_score > SEEN else math.nan,
    None,
    lambda row: "" if math.isnan(row.bias) else "none seen",
)


def gradient_report(report: GradientReport) -> Drawing:
    """Draws a gradient report: a row for each objective, and a column for each quantity.

    The columns are the signal-to-noise ratio and the variance, with their standard errors, the variance times the time
    of a step, and, where the report has a reference, the bias: only where it is more than three standard errors from
    0. All scales are logarithmic.

    Args:
        report: what :func:`probgen.gradient_report` returns.

    Returns:
        A :class:`Drawing` with the columns of the report's rows.

    Example:
        >>> import probgen, torch
        >>> from probgen.guides import AmortizedNormal
        >>> from probgen.models import PPCA
        >>> pair = PPCA(3, 1), AmortizedNormal((3,), 1, (4,))
        >>> report = probgen.gradient_report(*pair, torch.ones(5, 3), ["elbo"], seed=0, num_replicates=40)
        >>> gradient_report(report).columns["player"].tolist()
        ['model', 'guide']
    """
    return Drawing(_draw(report), _columns(report.rows))


def _columns(rows: Sequence[GradientRow]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.array([getattr(row, name) for row in rows]) for name in vars(rows[0])}


def _draw(report: GradientReport) -> Figure:
    panels = [*PANELS, BIAS] if any(not math.isnan(row.bias) for row in report.rows) else [*PANELS]
    labels = report.labels
    left = 0.085 * max(len(line) for label in labels for line in _wrapped(label).split("\n"))
    figure = new_figure(left + PANEL * len(panels), max(2.4, ROW * len(labels) * _lines(labels) + 1.6))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, place in zip(panels, axes, strict=True):
        _plot(place, panel, report)
    axes[0].set_yticks(range(len(labels)), [_wrapped(label) for label in labels], fontsize="small")
    axes[0].set_ylim(len(labels) - 0.5, -0.5)
    handles, names = axes[0].get_legend_handles_labels()
    where = counted(report.settings["num_data"], "datum", "data")
    count = counted(report.settings["num_replicates"], "replicate")
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.suptitle(f"Gradients of the loss summed over {where}, {count} (bars: standard errors)", fontsize="medium")
    return figure


def _plot(axes: Axes, panel: Panel, report: GradientReport) -> None:
    players = report.players
    for i, player in enumerate(players):
        colour, marker = LOOKS.get(player, OTHER)
        shift = 0.16 * (2 * i - len(players) + 1)
        rows = [(report.labels.index(row.label) + shift, row) for row in report.rows if row.player == player]
        drawn = [(y, row) for y, row in rows if math.isfinite(panel.value(row)) and panel.value(row) > 0]
        for y, row in rows:
            if (y, row) not in drawn and (text := panel.blank(row)):
                axes.text(
                    0.03, y, text, color=GREY, fontsize="x-small", va="center", transform=axes.get_yaxis_transform()
                )
        axes.errorbar(
            [panel.value(row) for _, row in drawn],
            [y for y, _ in drawn],
            xerr=None if panel.error is None else [_error(panel, row) for _, row in drawn],
            color=colour,
            marker=marker,
            markersize=5,
            capsize=2,
            linestyle="none",
            label=f"{player}'s parameters",
        )
    _scale(axes, [panel.value(row) for row in report.rows])
    axes.set_xlabel(panel.axis)
    title(axes, panel.heading, PANEL)
    tidy(axes, grid="x")
    axes.tick_params(axis="y", length=0)


def _error(panel: Panel, row: GradientRow) -> float:
    """The bar's half length; shorter than the value, which has no logarithm below 0."""
    error = panel.error(row) if panel.error is not None else 0.0
    return min(error, 0.95 * panel.value(row)) if math.isfinite(error) else 0.0


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic scale from one power of ten to another, so that at least two are marked."""
    from matplotlib.ticker import NullFormatter

    logs = [math.log10(value) for value in values if math.isfinite(value) and value > 0]
    low, high = (math.floor(min(logs) - 0.05), math.ceil(max(logs) + 0.05)) if logs else (-1, 1)
    axes.set_xscale("log")
    axes.set_xlim(10.0**low, 10.0**high)
    axes.set_xticks([10.0**power for power in range(low, high + 1, -(-(high - low) // MOST_TICKS))])
    axes.xaxis.set_minor_formatter(NullFormatter())


def _wrapped(label: str) -> str:
    """A long spec on two lines, parted at the comma or colon nearest to its middle."""
    ends = [i + 1 for i, letter in enumerate(label[:-1]) if letter in ",:"]
    if len(label) <= LONGEST or not ends:
        return label
    end = min(ends, key=lambda i: abs(2 * i - len(label)))
    return f"{label[:end]}\n{label[end:].lstrip()}"


def _lines(labels: Sequence[str]) -> float:
    return 1.25 if any("\n" in _wrapped(label) for label in labels) else 1.0
