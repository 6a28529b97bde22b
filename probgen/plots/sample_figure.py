"""The figure of what a model generates."""

import math
from typing import Any

import numpy as np

from probgen.arguments import positive_int
from probgen.plots.canvas import Labels, image_figure, limits_of
from probgen.plots.decoding import Values, generate
from probgen.plots.drawing import Drawing, entry_names, event_columns
from probgen.plots.images import pixels, shape_of
from probgen.plots.style import counted
from probgen.plots.subject import Batch, device_of, looking, run_arguments
from probgen.plots.vectors import matrices, points
from probgen.programs.param_scope import Program


def samples(model: Program, *args: Any, count: int = 64, seed: int | None = 0, **kwargs: Any) -> Drawing:
    """Draws what a model generates: means of p(x | z) with z from the prior; without latent sites, samples of x.

    Images are tiles of a square. Other data are a matrix with a sample a row; with two entries they are points, with
    one a histogram. The scale is that of :func:`probgen.plots.reconstructions`; where it is the range of the data, it
    is the range of what is drawn.

    Args:
        model: a Pyro program.
        *args: arguments as the program takes them, such as data or labels: their observed values are left out, and
            they are repeated as often as ``count`` needs. Without any the model is asked for ``num_samples=count``.
        count: how many samples.
        seed: of the draws; None draws from Pyro's global generator.
        **kwargs: likewise, by name.

    Returns:
        A :class:`Drawing` with a row for each sample.

    Raises:
        ArgumentError: a count below 1.
        ProgramError: the model fails, has no argument ``num_samples`` where nothing else is given, or its mean of
            p(x | z) is not known.

    Example:
        >>> import torch
        >>> from probgen.models import ConditionalVAE
        >>> model = ConditionalVAE((16,), latent_dim=2, hidden=(8,), num_classes=3)
        >>> drawing = samples(model, None, torch.tensor([0, 1, 2]), count=9)
        >>> drawing
        Drawing(9 rows of sample, x[0], x[1], x[2], x[3], x[4], ...)
    """
    count = positive_int("count", count)
    with looking(model, None, seed):
        batch = run_arguments(args, kwargs, device_of(model, None)) if args or kwargs else None
        values = generate(model, batch, count)
    rows = values.rows.cpu().numpy()
    columns = {"sample": np.arange(len(rows))} | event_columns(values.units.name, rows)
    return Drawing(_figure(values, batch), columns)


def _figure(values: Values, batch: Batch | None) -> Any:
    heading = f"{counted(len(values.rows), 'sample')}: {values.what}"
    if values.what.startswith("samples"):
        heading = f"{counted(len(values.rows), 'sample')} of p(x)"
    shape, limits = shape_of(values, batch), limits_of(values.p, values.rows)
    if shape is not None:
        images = pixels(values.rows, shape)
        across = math.ceil(math.sqrt(len(images)))
        return image_figure(np.array_split(images, range(across, len(images), across)), Labels(heading), limits)
    rows = values.rows.cpu().numpy()
    if rows.shape[1] <= 2:
        return points(rows, heading, entry_names(values.units.name, rows.shape[1]))
    return matrices({"": rows}, heading, limits, "sample")
