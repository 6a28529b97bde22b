"""The figure of an evaluation: how log p(x) and the trust in it are spread over the data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from probgen.errors import ArgumentError, ArgumentTypeError
from probgen.plots.drawing import Drawing
from probgen.plots.style import BLUE, GREEN, ORANGE, VERMILION, bits_scale, counted, new_figure, tidy, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from probgen.evidence import Evidence

Column = npt.NDArray[np.float64]


def evidence(evidence: Evidence) -> Drawing:
    """Draws histograms of log p(x), of the effective sample size and of Pareto k-hat, over the data.

    Exact evidence has neither weights nor their diagnostics: log p(x) stands alone. It has a second scale in bits per
    dimension where the data are discrete.

    Args:
        evidence: what :func:`probgen.evaluate` returns.

    Returns:
        A :class:`Drawing` with a row for each datum.

    Raises:
        ArgumentTypeError: something else.
        ArgumentError: evidence of kind ``"none"``, or one number for all data together.

    Example:
        >>> import torch
        >>> from probgen import evaluate
        >>> from probgen.guides import AmortizedNormal
        >>> from probgen.models import PPCA
        >>> drawing = evidence(evaluate(PPCA(3, 2), None, torch.zeros(10, 3)))
        >>> list(drawing.columns)
        ['datum', 'log_prob']
    """
    _check(evidence)
    columns: dict[str, npt.NDArray[Any]] = {"datum": np.arange(len(evidence.log_prob))}
    columns["log_prob"] = _array(evidence.log_prob)
    if evidence.kind != "exact":
        columns |= {"ess": _array(evidence.ess), "khat": _array(evidence.khat)}
    known = {name: values for name, values in columns.items() if name != "datum" and not np.isnan(values).all()}
    figure = new_figure(3.6 * len(known) + (1.2 if len(known) == 1 else 0), 3.5)
    for axes, name in zip(figure.subplots(1, len(known), squeeze=False)[0], known, strict=True):
        _PANELS[name](axes, known[name], evidence)
        tidy(axes)
    return Drawing(figure, columns)


def _check(evidence: Any) -> None:
    from probgen.evidence import Evidence

    if not isinstance(evidence, Evidence):
        raise ArgumentTypeError(f"`evidence` must be what `probgen.evaluate` returns, got {type(evidence).__name__}")
    if evidence.kind == "none":
        raise ArgumentError(f"there is no evidence to draw: {evidence.note}")
    if evidence.joint:
        raise ArgumentError(
            "this evidence is one number for all data together, because a latent site is shared by them; there is no "
            "histogram over data to draw"
        )


def _array(values: Tensor) -> Column:
    array: Column = values.detach().cpu().double().numpy()
    return array


def histogram(axes: Axes, values: Column, color: str, *, most: int = 40) -> None:
    """A histogram of the finite values, with the number of the others beside it."""
    finite = values[np.isfinite(values)]
    if len(finite):
        edges = np.histogram_bin_edges(finite, "auto")
        edges = edges if len(edges) <= most + 1 else np.linspace(edges[0], edges[-1], most + 1)
        axes.hist(finite, bins=edges.tolist(), color=color)
    missing = [f"{(values == end).sum():,} at {end}" for end in (-math.inf, math.inf) if (values == end).any()]
    if missing:
        axes.text(0.02, 0.97, "\n".join(missing), transform=axes.transAxes, va="top", fontsize="small")
    axes.set_ylabel("number of data")
    axes.locator_params(axis="y", integer=True)
    axes.locator_params(axis="x", nbins=4)


def _log_prob(axes: Axes, values: Column, evidence: Evidence) -> None:
    histogram(axes, values, BLUE)
    error = evidence.standard_error
    bars = "" if math.isnan(error) else f" ± {error:.2f}"
    axes.axvline(evidence.mean, color="black", linewidth=1.2, label=f"mean {evidence.mean:.2f}{bars}")
    particles = "exact" if evidence.kind == "exact" else f"lower bound, {counted(evidence.num_particles, 'particle')}"
    title(axes, f"log p(x), {particles}", 3.0)
    axes.set_xlabel("nats per datum")
    _legend(axes)
    if evidence.dims is not None:
        second = axes.secondary_xaxis("top", functions=bits_scale(evidence.dims))
        second.set_xlabel("bits per dimension", fontsize="small")
        second.locator_params(axis="x", nbins=4)


def _ess(axes: Axes, values: Column, evidence: Evidence) -> None:
    histogram(axes, values, GREEN)
    middle = float(np.median(values))
    axes.axvline(middle, color="black", linewidth=1.2, label=f"median {middle:.1f}")
    title(axes, "Effective sample size", 3.0)
    axes.set_xlabel(f"ESS, of {counted(evidence.num_particles, 'particle')}")
    _legend(axes)


def _khat(axes: Axes, values: Column, evidence: Evidence) -> None:
    histogram(axes, values, ORANGE)
    threshold = evidence.khat_threshold
    over = f", {100 * evidence.khat_share:.1f} % over it"
    axes.axvline(threshold, color=VERMILION, linestyle="--", label=f"threshold {threshold:.2f}{over}")
    title(axes, "Pareto k-hat of the weights", 3.0)
    axes.set_xlabel("k-hat")
    _legend(axes)


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False, fontsize="small")


_PANELS = {"log_prob": _log_prob, "ess": _ess, "khat": _khat}
