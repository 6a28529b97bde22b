"""The figure of reconstructions: data above what the pair makes of them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from probgen.errors import ProgramError
from probgen.plots.canvas import Labels, Limits, image_figure, limits_of
from probgen.plots.decoding import Values, data_of, reconstruct
from probgen.plots.drawing import Drawing, event_columns
from probgen.plots.images import Image, pixels, shape_of
from probgen.plots.subject import Subject, looking, read
from probgen.plots.vectors import matrices
from probgen.programs.param_scope import Program

IN_A_ROW = 10


def reconstructions(
    model: Program, guide: Program | None, data: Any, *, count: int = 8, seed: int | None = 0
) -> Drawing:
    """Draws data above their reconstructions: means of p(x | z), with z drawn from q(z | x).

    Images are grey on a scale from 0 to 1 where the data are so bounded, and over the range of the data elsewhere. Data
    that are no images are two matrices, a datum a row.

    Args:
        model: a Pyro program.
        guide: a Pyro program that takes the same arguments.
        data: what :func:`probgen.evaluate` takes; the first ones are drawn.
        count: how many.
        seed: of the draws from the guide; None draws from Pyro's global generator.

    Returns:
        A :class:`Drawing` with a row for each datum and one for each reconstruction.

    Raises:
        ArgumentError: a count below 1.
        DataError: the data are none, or do not fit.
        ProgramError: the pair fails on the data, has no latent site, or its mean of p(x | z) is not known.

    Example:
        >>> import torch
        >>> from probgen.guides import AmortizedNormal
        >>> from probgen.models import VAE
        >>> model, guide = VAE((16,), 2, (8,)), AmortizedNormal((16,), 2, (8,))
        >>> drawing = reconstructions(model, guide, torch.ones(20, 16), count=4)
        >>> drawing.columns["datum"].tolist(), drawing.columns["kind"][[0, -1]].tolist()
        ([0, 1, 2, 3, 0, 1, 2, 3], ['data', 'reconstruction'])
    """
    with looking(model, guide, seed):
        subject = read(model, guide, data, count)
        if not subject.terms.latents:
            raise ProgramError(
                "the model has no latent site, so nothing is encoded and there is nothing to reconstruct; draw "
                "`probgen.plots.samples` instead"
            )
        shown, rebuilt = data_of(subject, count), reconstruct(subject, count)
    parts = {"data": shown.rows.cpu().numpy(), "reconstruction": rebuilt.rows.cpu().numpy()}
    size = len(shown.rows)
    columns: dict[str, npt.NDArray[Any]] = {
        "datum": np.tile(subject.batch.index[:size].numpy(), 2),
        "kind": np.repeat(list(parts), size),
    }
    columns |= event_columns(shown.units.name, np.concatenate(list(parts.values())))
    return Drawing(_figure(subject, shown, rebuilt, parts), columns)


def _figure(subject: Subject, shown: Values, rebuilt: Values, parts: dict[str, npt.NDArray[Any]]) -> Any:
    limits: Limits = limits_of(rebuilt.p, shown.rows)
    heading = f"Data above reconstructions ({rebuilt.what}, z from the guide)"
    shape = shape_of(shown, subject.batch)
    if shape is None:
        return matrices(parts, heading, limits, "datum")
    pairs = [np.array_split(pixels(v.rows, shape), range(IN_A_ROW, len(v.rows), IN_A_ROW)) for v in (shown, rebuilt)]
    rows: list[Image] = [row for pair in zip(*pairs, strict=True) for row in pair]
    names = ["data", "reconstruction"] * (len(rows) // 2)
    return image_figure(rows, Labels(heading, rows=names), limits)
