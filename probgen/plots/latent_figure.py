"""The figure of the latent space: posterior means, coloured by label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from probgen.errors import DataError
from probgen.plots.drawing import Drawing, event_columns
from probgen.plots.posterior import posteriors
from probgen.plots.style import BLUE, COLORS, GREY, SEQUENTIAL, counted, new_figure, tidy, title
from probgen.plots.subject import Batch, looking, read
from probgen.plots.units import choose_latent
from probgen.programs.param_scope import Program

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = npt.NDArray[np.float64]
MARKERS = "o^sDv"
ROOM = 0.05  # of the range of the points, between two labels among them
MOST_CLASSES = 20  # more labels than this are drawn on a scale


def latents(
    model: Program,
    guide: Program | None,
    data: Any,
    *,
    labels: Any = None,
    site: str | None = None,
    num_data: int = 2000,
    seed: int | None = 0,
) -> Drawing:
    """Draws the posterior means of a latent site as points, coloured by label.

    Two latents are the axes. More are projected onto the two directions in which their means vary most (PCA); the axes
    say how much of the variance they show. Of one latent the labels are the other axis.

    Args:
        model: a Pyro program.
        guide: a Pyro program that takes the same arguments.
        data: what :func:`probgen.evaluate` takes.
        labels: one for each datum, ``[N]``; by default those of a :class:`probgen.data.Dataset`, or else an argument of
            whole numbers ``[N]``, such as the labels of a conditional model.
        site: the latent site; by default the first one that the model samples, which is the top of a hierarchy.
        num_data: the most data to draw; of more, as many at random.
        seed: of that choice, and of the particles where the mean of the guide is not known.

    Returns:
        A :class:`Drawing` with a row for each datum: its number, label, posterior mean and place.

    Raises:
        ArgumentError: an unknown site, or a number below 1.
        DataError: the data are none, or labels of another length.
        ProgramError: the pair fails on the data, or has no continuous latent site for each datum.

    Example:
        >>> import torch
        >>> from probgen.guides import AmortizedNormal
        >>> from probgen.models import VAE
        >>> model, guide = VAE((16,), 3, (8,)), AmortizedNormal((16,), 3, (8,))
        >>> latents(model, guide, torch.ones(20, 16))
        Drawing(20 rows of datum, label, z[0], z[1], z[2], PC 1, ...)
    """
    with looking(model, guide, seed):
        subject = read(model, guide, data, num_data, spread=True, name="num_data")
        latent = choose_latent(subject, site)
        posterior = posteriors(subject, [latent])[latent.name]
    means = posterior.means.numpy()
    known = labels_of(subject.batch, labels)
    columns: dict[str, npt.NDArray[Any]] = {"datum": subject.batch.index.numpy()}
    columns["label"] = np.full(len(means), np.nan) if known is None else known
    columns |= event_columns(latent.name, means)
    heading = f"Posterior means of {latent.name}, {counted(len(means), 'datum', 'data')}"
    if means.shape[1] == 1:
        return Drawing(_rug(means[:, 0], known, heading, latent.name), columns)
    if means.shape[1] == 2:
        return Drawing(_scatter(means, known, heading, posterior.units.names), columns)
    places, shares = principal_components(means)
    columns |= {"PC 1": places[:, 0], "PC 2": places[:, 1]}
    names = [f"principal component {i + 1} ({100 * share:.1f} % of the variance)" for i, share in enumerate(shares)]
    heading += f": {means.shape[1]} latents on two axes"
    return Drawing(_scatter(places, known, heading, names), columns)


def principal_components(values: Rows) -> tuple[Rows, Rows]:
    """Values on their first two principal axes, each of which points to where its largest weight is positive.

    Args:
        values: ``[N, U]`` with at least 2 columns.

    Returns:
        Places ``[N, 2]``, and the shares ``[2]`` of the variance; NaN where nothing varies.

    Example:
        >>> places, shares = principal_components(np.array([[0.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 4.0, 1.0]]))
        >>> places[:, 0].round(6).tolist(), shares.round(6).tolist()
        ([-2.0, 0.0, 2.0], [1.0, 0.0])
    """
    centred = values - values.mean(0)
    _, singular, axes = np.linalg.svd(np.vstack([centred, np.zeros((2, centred.shape[1]))]), full_matrices=False)
    signs = np.sign(axes[[0, 1], np.abs(axes[:2]).argmax(1)])
    total = (singular**2).sum()
    shares = singular[:2] ** 2 / total if total > 0 else np.full(2, np.nan)
    return centred @ (signs[:, None] * axes[:2]).T, shares


def labels_of(batch: Batch, labels: Any) -> npt.NDArray[Any] | None:
    """Labels of the data in a batch: the given ones, those of the data set, or an argument of whole numbers.

    Raises:
        DataError: not one for each datum.
    """
    if labels is not None:
        given = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
        if given.ndim != 1 or len(given) <= int(batch.index.max()):
            raise DataError(
                f"`labels` must be one for each datum, [N], got shape {given.shape} for at least "
                f"{int(batch.index.max()) + 1} data"
            )
        return given[batch.index.numpy()]
    whole = [v for v in batch.tensors if v.dim() == 1 and not v.is_floating_point() and not v.is_complex()]
    known = batch.labels if batch.labels is not None else whole[0] if whole else None
    return None if known is None or known.dim() != 1 else known.cpu().numpy()


def _scatter(places: Rows, labels: npt.NDArray[Any] | None, heading: str, names: list[str]) -> Figure:
    figure = new_figure(6.4, 5.2)
    axes = figure.add_subplot()
    size = 5.0 if len(places) < 300 else 3.5
    style: dict[str, Any] = {"linestyle": "none", "markersize": size, "markeredgewidth": 0, "alpha": 0.75}
    classes = None if labels is None else _classes(labels)
    if classes is not None and labels is not None:
        for number, value in enumerate(classes):
            chosen = places[labels == value]
            axes.plot(chosen[:, 0], chosen[:, 1], label=str(value), **_class_style(number), **style)
        _name(axes, places, labels, classes)
        figure.legend(loc="outside right center", title="label", frameon=False, markerscale=1.6)
    elif labels is not None and labels.dtype.kind in "biuf":
        shown = axes.scatter(places[:, 0], places[:, 1], c=labels.astype(float), cmap=SEQUENTIAL, s=size**2)
        figure.colorbar(shown, ax=axes, label="label")
    else:
        axes.plot(places[:, 0], places[:, 1], marker="o", color=BLUE, **style)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    axes.set_aspect("equal", adjustable="datalim")
    title(axes, heading, 5.2)
    tidy(axes, grid="both")
    return figure


def _name(axes: Axes, places: Rows, labels: npt.NDArray[Any], classes: npt.NDArray[Any]) -> None:
    """Labels in the middle of their points, so that colours do not stand alone; none that would cover another."""
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=3, foreground="white")]
    room, named = ROOM * np.ptp(places, axis=0).max(), list[Rows]()
    for value in classes:
        middle = np.median(places[labels == value], axis=0)
        if all(np.abs(middle - other).max() > room for other in named):
            axes.text(
                middle[0],
                middle[1],
                str(value),
                ha="center",
                va="center",
                weight="bold",
                path_effects=outline,
                zorder=3,
            )
            named.append(middle)


def _rug(values: Rows, labels: npt.NDArray[Any] | None, heading: str, name: str) -> Figure:
    """One latent: a row of strokes for each label; on a scale if there are many, and one row without labels."""
    figure = new_figure(6.4, 3.6)
    axes = figure.add_subplot()
    classes = None if labels is None else _classes(labels)
    if labels is not None and classes is not None:
        for number, value in enumerate(classes):
            _strokes(axes, values[labels == value], np.full((labels == value).sum(), number), COLORS[number % 7])
        axes.set_yticks(range(len(classes)), [str(value) for value in classes])
        axes.set_ylim(len(classes) - 0.4, -0.6)
    elif labels is not None and labels.dtype.kind in "biuf":
        axes.plot(values, labels.astype(float), "o", color=BLUE, markersize=4, alpha=0.75, markeredgewidth=0)
    else:
        axes.hist(values, bins=min(40, max(5, len(values) // 10)), color=GREY)
    axes.set_ylabel("label" if axes.lines else "number of data")
    axes.set_xlabel(name)
    title(axes, heading, 5.5)
    tidy(axes, grid="x")
    return figure


def _strokes(axes: Axes, values: Rows, heights: Rows, color: str) -> None:
    axes.plot(values, heights, linestyle="none", marker="|", markersize=9, alpha=0.5, color=color)


def _classes(labels: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """The different labels, or None where they are too many or no classes."""
    classes = np.unique(labels)
    if labels.dtype.kind == "f" and not (classes == np.round(classes)).all():
        return None
    return classes if len(classes) <= MOST_CLASSES or labels.dtype.kind not in "biuf" else None


def _class_style(number: int) -> dict[str, Any]:
    """Seven colours, then the same with other markers."""
    return {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number // len(COLORS) % len(MARKERS)]}
