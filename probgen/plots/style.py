"""What all figures look like: colours, sizes, axes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe, Ito (2008), Color universal design: colours that stay apart for colour-blind readers. Their yellow is left out,
# which is too pale for lines on white.
BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
COLORS = (BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, BLACK)
GREY = "#999999"
PALE = "#DDDDDD"
SEQUENTIAL = "viridis"
LINES = ("-", "--", ":", "-.")
CHARACTER = 0.079  # inches of a letter in a title, on average and rounded up


def new_figure(width: float, height: float) -> Figure:
    """A figure of a size in inches, which lays its axes out by itself and belongs to no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    return figure


def tidy(axes: Axes, *, grid: str | None = "y") -> None:
    """No frame at the top and right, and pale lines behind the data along one axis, both, or none."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    if grid is not None:
        axes.grid(axis=grid, color=PALE, linewidth=0.6)  # type: ignore[arg-type]


def wrapped(text: str, width: float) -> str:
    """A title on as many lines as it needs to be ``width`` inches wide.

    Example:
        >>> wrapped("a title of several words", 1.0).count(chr(10))
        2
    """
    return textwrap.fill(text, max(12, int(width / CHARACTER)), break_long_words=False)


def title(axes: Axes, text: str, width: float) -> None:
    """Puts a title above axes that are about ``width`` inches wide."""
    axes.set_title(wrapped(text, width), fontsize="medium")


def run_style(number: int) -> dict[str, Any]:
    """Colour and line of the n-th of several runs: seven colours, then the same with other lines."""
    return {"color": COLORS[number % len(COLORS)], "linestyle": LINES[number // len(COLORS) % len(LINES)]}


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun.

    Example:
        >>> counted(1, "datum", "data"), counted(1200, "datum", "data")
        ('1 datum', '1,200 data')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def bits_scale(dims: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """From a log-probability in nats to bits per dimension, ``-nats / (D ln 2)``, and back, for a second scale.

    Example:
        >>> forward, back = bits_scale(8)
        >>> round(forward(-8 * math.log(2)), 12), round(back(forward(-3.0)), 12)
        (1.0, -3.0)
    """
    unit = dims * math.log(2)
    return (lambda nats: -nats / unit), (lambda bits: -bits * unit)
