"""The figure of training: loss and bounds over the epochs, of one run or of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from probgen.arguments import positive_int
from probgen.errors import ArgumentError, ArgumentTypeError, DataError
from probgen.plots.drawing import Drawing
from probgen.plots.style import bits_scale, new_figure, run_style, tidy, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Column = npt.NDArray[np.float64]
Run = dict[str, Column]
FIELDS = ("step", "epoch", "loss", "bound", "eval_bound")
SHARE = 20  # the moving average is over one in so many epochs
EARLY = 0.2  # of the epochs, which may lie off the scale


def training(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], *, window: int | None = None, dims: int | None = None
) -> Drawing:
    r"""Draws loss and bounds over the epochs, with their moving averages.

    .. math:: \bar{b}_t = \frac{1}{w} \sum_{s = t - w + 1}^{t} b_s

    On the left the loss that was minimised, on the right the bound: pale lines are the epochs, full ones their average
    over the last ``w``, of fewer at the start. Points are the bound on held-out data. Entries that are missing or not
    finite are left out, also of the averages.

    Args:
        runs: by label, the lines of ``metrics.jsonl``: dictionaries with ``epoch`` (or ``step``), ``loss``, ``bound``
            and ``eval_bound`` in nats per datum, None where there is none.
        window: w, in epochs; by default a twentieth of the longest run, at least 1.
        dims: entries of a datum, where all are discrete: the bounds then have a second scale in bits per dimension.

    Returns:
        A :class:`Drawing` with a row for each run and epoch.

    Raises:
        ArgumentError: no run, or a window or number of entries below 1.
        ArgumentTypeError: runs or lines that are no mappings, or an entry that is no number.
        DataError: no run has a loss or bound.

    Example:
        >>> rows = [{"epoch": 1, "loss": 90.0, "bound": -90.0}, {"epoch": 2, "loss": 80.0, "bound": -80.0}]
        >>> drawing = training({"elbo": rows}, window=2)
        >>> drawing.columns["bound_average"].tolist()
        [-90.0, -85.0]
    """
    table = {label: _columns(label, rows) for label, rows in _checked(runs).items()}
    if dims is not None:
        positive_int("dims", dims)
    longest = max(len(run["epoch"]) for run in table.values())
    window = max(1, longest // SHARE) if window is None else positive_int("window", window)
    for run in table.values():
        run |= {f"{name}_average": moving_average(run[name], window) for name in ("loss", "bound")}
    if not _finite(table, ("loss", "bound", "eval_bound")).size:
        raise DataError("no line of `runs` has a finite `loss`, `bound` or `eval_bound`, so there is nothing to draw")
    columns: dict[str, npt.NDArray[Any]] = {
        "run": np.repeat(list(table), [len(run["epoch"]) for run in table.values()])
    }
    columns |= {name: np.concatenate([run[name] for run in table.values()]) for name in next(iter(table.values()))}
    return Drawing(_draw(table, window, dims), columns)


def moving_average(values: Column, window: int) -> Column:
    """The mean of the last ``window`` entries, of fewer at the start; NaN and infinity are left out.

    Args:
        values: ``[n]``.
        window: at least 1.

    Returns:
        ``[n]``; NaN where no entry of the window is finite.

    Example:
        >>> moving_average(np.array([1.0, 3.0, math.nan, 5.0]), 2).tolist()
        [1.0, 2.0, 3.0, 5.0]
    """
    finite = np.isfinite(values)
    ends = np.arange(1, len(values) + 1)
    parts = [slice(max(0, end - window), end) for end in ends]
    return np.array([values[p][finite[p]].mean() if finite[p].any() else math.nan for p in parts], dtype=np.float64)


def _checked(runs: Any) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    if not isinstance(runs, Mapping):
        raise ArgumentTypeError(
            f"`runs` must be a mapping from labels to the lines of metrics.jsonl, such as `{{'a': lines}}`, got "
            f"{type(runs).__name__}"
        )
    if not runs:
        raise ArgumentError("`runs` is empty: at least one run is required")
    return runs


def _columns(label: str, rows: Sequence[Mapping[str, Any]]) -> Run:
    """The entries of a run as columns, NaN where there is none."""
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ArgumentTypeError(f"line {i} of run {label!r} must be a dictionary, got {type(row).__name__}")
    run = {name: np.array([_number(label, row, name) for row in rows], dtype=np.float64) for name in FIELDS}
    run["epoch"] = np.where(np.isnan(run["epoch"]), np.arange(1.0, len(rows) + 1), run["epoch"])
    return run


def _number(label: str, row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    if value is None:
        return math.nan
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ArgumentTypeError(f"`{name}` of run {label!r} must be a number or None, got {value!r}")
    return float(value) if math.isfinite(value) else math.nan


def _draw(table: Mapping[str, Run], window: int, dims: int | None) -> Figure:
    panels = {"loss": ("Loss", ("loss",)), "bound": ("Bound on log p(x)", ("bound", "eval_bound"))}
    panels = {name: panel for name, panel in panels.items() if _finite(table, panel[1]).size}
    figure = new_figure(4.3 * len(panels) + (1.0 if len(panels) == 1 else 0.0), 3.8)
    average = "" if window == 1 else f", mean of the last {window} epochs"
    for axes, (name, (heading, fields)) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for number, (label, run) in enumerate(table.items()):
            _plot(axes, run, name, window, label, run_style(number))
        title(axes, f"{heading}{average}", 3.8)
        axes.set_xlabel("epoch")
        axes.set_ylabel("nats per datum")
        tidy(axes)
        _whole_epochs(axes, table)
        _focus(axes, table, fields)
        if name == "bound" and dims is not None:
            _add_bits(axes, dims)
    _legend(figure, table)
    return figure


def _finite(table: Mapping[str, Run], fields: Sequence[str], first: float = 0.0) -> Column:
    """The finite entries of some columns, without a share of each run's first ones."""
    columns = [run[name][round(first * len(run[name])) :] for run in table.values() for name in fields]
    return np.concatenate([column[np.isfinite(column)] for column in columns])


def _plot(axes: Axes, run: Run, name: str, window: int, label: str, style: dict[str, Any]) -> None:
    """One run: its epochs, their average, and on the right the held-out bound."""
    epochs = run["epoch"]
    marker = "o" if np.isfinite(run[name]).sum() < 2 else ""  # a line of one epoch cannot be seen
    if window > 1:
        axes.plot(epochs, run[name], **style, linewidth=1, alpha=0.3)
    axes.plot(epochs, run[f"{name}_average"], **style, linewidth=1.8, marker=marker, label=label)
    known = np.isfinite(run["eval_bound"])
    if name == "bound" and known.any():
        few = style | {"linestyle": ":"}
        axes.plot(epochs[known], run["eval_bound"][known], **few, linewidth=1, marker="o", markersize=3.5)


def _whole_epochs(axes: Axes, table: Mapping[str, Run]) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = np.concatenate([run["epoch"] for run in table.values()])
    if np.ptp(epochs) < 1:
        axes.set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)
        axes.set_xticks(np.unique(np.round(epochs)))
        return
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _focus(axes: Axes, table: Mapping[str, Run], fields: Sequence[str]) -> None:
    """Cuts off the first epochs where they would flatten all others, and says so."""
    values, rest = _finite(table, fields), _finite(table, fields, EARLY)
    if len(rest) < 5 or np.ptp(rest) == 0 or np.ptp(values) <= 3 * np.ptp(rest):
        return
    margin = 0.05 * np.ptp(rest)
    axes.set_ylim(rest.min() - margin, rest.max() + margin)
    axes.set_xlabel("epoch (the first are off the scale)")


def _add_bits(axes: Axes, dims: int) -> None:
    """A second scale: bits per dimension, ``-nats / (D ln 2)``."""
    second = axes.secondary_yaxis("right", functions=bits_scale(dims))
    second.set_ylabel("bits per dimension")
    second.spines["right"].set_visible(True)


def _legend(figure: Figure, table: Mapping[str, Run]) -> None:
    from matplotlib.lines import Line2D

    handles: list[Any] = [Line2D([], [], **run_style(i), linewidth=1.8, label=label) for i, label in enumerate(table)]
    if any(np.isfinite(run["eval_bound"]).any() for run in table.values()):
        handles.append(Line2D([], [], color="black", linestyle=":", marker="o", markersize=3.5, label="held-out data"))
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), int(90 / (longest + 8))))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
