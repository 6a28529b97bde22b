"""The figure of the way from one datum to another through the latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probgen.arguments import positive_int
from probgen.errors import DataError
from probgen.plots.canvas import Labels, Limits, image_figure, limits_of
from probgen.plots.decoding import Values, data_of, decode
from probgen.plots.drawing import Drawing, event_columns
from probgen.plots.images import pixels, shape_of
from probgen.plots.posterior import posteriors
from probgen.plots.subject import Batch, Subject, looking, read
from probgen.plots.units import drawable_latents
from probgen.plots.vectors import line_panels
from probgen.programs.param_scope import Program

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CANDIDATES = 20  # data for each pair, among which labels may agree


def interpolation(
    model: Program,
    guide: Program | None,
    data: Any,
    *,
    steps: int = 10,
    pairs: int = 4,
    seed: int | None = 0,
) -> Drawing:
    r"""Draws means of p(x | z) on the line between the posterior means of two data.

    .. math:: z_t = (1 - t) \, E_{q(z \mid x_a)}[z] + t \, E_{q(z \mid x_b)}[z], \quad 0 \le t \le 1

    All latent sites move together, so that the ends are what the pair makes of the two data. Each row is a pair, with
    the data themselves at its ends. Other arguments, such as labels, are those of the left datum; where they can be,
    the data of a pair are chosen to have the same ones.

    The way is straight, not on a sphere: the spherical one is right for *samples* of a standard normal prior, which lie
    near a sphere around 0. Posterior means do not, and a program's prior need be neither normal nor centred; a straight
    line needs no such assumption, and in a hierarchy it is as good for every layer.

    Args:
        model: a Pyro program.
        guide: a Pyro program that takes the same arguments.
        data: what :func:`probgen.evaluate` takes; the first ones are drawn.
        steps: points on the line, the ends among them.
        pairs: rows.
        seed: of the particles where the mean of the guide is not known.

    Returns:
        A :class:`Drawing` with a row for each image: the pair, its two data, t (none for the data themselves), x.

    Raises:
        ArgumentError: fewer than 2 steps or 1 pair.
        DataError: fewer than two data, or data that do not fit.
        ProgramError: the pair fails on the data, or has no continuous latent site for each datum.

    Source:
        White (2016), Sampling generative networks, arXiv 1609.04468, for the spherical way and its reason.

    Example:
        >>> from probgen.guides import AmortizedNormal
        >>> from probgen.models import VAE
        >>> model, guide = VAE((16,), 2, (8,)), AmortizedNormal((16,), 2, (8,))
        >>> drawing = interpolation(model, guide, torch.ones(4, 16), steps=3, pairs=2)
        >>> drawing.columns["t"].tolist()
        [nan, 0.0, 0.5, 1.0, nan, nan, 0.0, 0.5, 1.0, nan]
    """
    steps, pairs = positive_int("steps", steps, at_least=2), positive_int("pairs", pairs)
    with looking(model, guide, seed):
        subject = read(model, guide, data, min(2 * pairs * CANDIDATES, 250))
        sites = drawable_latents(subject)
        if subject.batch.size < 2:
            raise DataError("`data` is one datum, but a line needs two; pass more data")
        ends = torch.tensor(paired(subject.batch, pairs))  # [pairs, 2]
        t = torch.linspace(0, 1, steps, dtype=torch.float64)
        means = {name: found.means for name, found in posteriors(subject, sites.values()).items()}
        line = {name: _line(values[ends[:, 0]], values[ends[:, 1]], t) for name, values in means.items()}
        values = decode(subject, line, ends[:, 0].repeat_interleave(steps))
        shown = data_of(subject, subject.first.size)
    between = values.rows.reshape(len(ends), steps, -1)
    left, right = (shown.rows[ends[:, side]].to(between)[:, None] for side in (0, 1))
    rows = torch.cat((left, between, right), 1)  # [pairs, steps + 2, D]
    names = subject.batch.index[ends].numpy()
    columns: dict[str, npt.NDArray[Any]] = {"pair": np.repeat(np.arange(len(ends)), steps + 2)}
    columns |= {side: np.repeat(names[:, i], steps + 2) for i, side in enumerate(("from", "to"))}
    columns["t"] = np.tile([np.nan, *t.tolist(), np.nan], len(ends))
    columns |= event_columns(values.units.name, rows.flatten(0, 1).cpu().numpy())
    return Drawing(_draw(rows, t, names, values, subject, limits_of(values.p, shown.rows)), columns)


def paired(batch: Batch, pairs: int) -> list[tuple[int, int]]:
    """Rows of a batch in pairs, in order; each with the next one that has the same labels, or else the next one.

    Example:
        >>> y = torch.tensor([0, 1, 0, 1])
        >>> paired(Batch((torch.zeros(4, 3), y), {}, 4, torch.arange(4)), 2)
        [(0, 2), (1, 3)]
    """
    others = batch.tensors[1:]
    left, found = list(range(batch.size)), list[tuple[int, int]]()
    while len(left) > 1 and len(found) < pairs:
        a = left.pop(0)
        same = (b for b in left if all(torch.equal(value[a], value[b]) for value in others))
        b = next(same, left[0])
        left.remove(b)
        found.append((a, b))
    return found


def _line(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """``[pairs, U]`` twice as ``[pairs * steps, U]``."""
    return torch.lerp(start[:, None], end[:, None], t[:, None].to(start)).flatten(0, 1)


def _draw(rows: Tensor, t: Tensor, names: npt.NDArray[Any], values: Values, subject: Subject, limits: Limits) -> Figure:
    heading = f"{values.what[:1].upper()}{values.what[1:]} between the posterior means of two data"
    shape = shape_of(values, subject.batch)
    if shape is None:
        panels = [(f"data {a} to {b}", row[1:-1].cpu().numpy()) for (a, b), row in zip(names, rows, strict=True)]
        return line_panels(panels, t.numpy(), heading, "t", f"{values.units.name} ({values.what})")
    images = [pixels(row, shape) for row in rows]
    columns = ["data", *(f"{step:.2f}" for step in t.tolist()), "data"]
    labels = Labels(heading, [f"{a} to {b}" for a, b in names], columns, "t", "data")
    return image_figure(images, labels, limits)
