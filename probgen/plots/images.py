"""Data as pictures: which shape they have, and what a trained pair draws beside a comparison."""

from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from probgen.data import is_in_memory
from probgen.errors import ProbgenError
from probgen.plots.decoding import Values, data_of, generate, reconstruct
from probgen.plots.subject import Batch, looking, read
from probgen.programs.param_scope import Program

Image = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pictures:
    """Images ``[n, H, W]`` or ``[n, H, W, 3]``; None where a pair has none.

    Attributes:
        samples: means of p(x | z) with z from the prior, twice as many as data; without latent sites, samples of x.
        data: the data.
        reconstructions: means of p(x | z) with z from the guide.
    """

    samples: Image | None
    data: Image
    reconstructions: Image | None


def image_shape(event_shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of an event as a picture, or None where it is none: flat events of a square number are squares.

    Example:
        >>> image_shape((64,)), image_shape((1, 28, 28)), image_shape((3, 8, 8)), image_shape((5,))
        ((8, 8), (28, 28), (3, 8, 8), None)
    """
    if len(event_shape) == 1 and event_shape[0] > 1:
        side = isqrt(event_shape[0])
        return (side, side) if side * side == event_shape[0] else None
    if len(event_shape) == 3 and event_shape[0] in (1, 3):
        return event_shape if event_shape[0] == 3 else event_shape[1:]
    return event_shape if len(event_shape) == 2 else None


def shape_of(values: Values, batch: Batch | None) -> tuple[int, ...] | None:
    """The shape of a picture that the site's values have, or that of the data which they are; None if they are none."""
    size = values.units.size
    like = batch.tensors[0].shape[1:] if batch is not None and batch.tensors else None
    event = tuple(like) if like is not None and like.numel() == size else values.units.shape
    return image_shape(event)


def pictures(model: Program, guide: Program | None, data: Any, *, count: int, seed: int = 0) -> Pictures | None:
    """Draws with a trained pair.

    Args:
        model: a Pyro program.
        guide: a Pyro program, or None.
        data: in memory, as for :func:`probgen.evaluate`; the first argument of the programs is shown.
        count: how many data, and twice as many samples.
        seed: of the draws.

    Returns:
        None where the data are no images, or the pair cannot draw at all.
    """
    if not is_in_memory(data):
        return None
    try:
        with looking(model, guide, seed):
            subject = read(model, guide, data, 2 * count)
            shown = data_of(subject, count)
            shape = shape_of(shown, subject.batch)
            if shape is None:
                return None
            rebuilt = reconstruct(subject, count) if subject.terms.latents else None
            samples = _samples(model, subject.batch, 2 * count)
    except ProbgenError:
        return None  # such as a distribution without a mean; a comparison does without
    return Pictures(
        None if samples is None else pixels(samples.rows, shape),
        pixels(shown.rows, shape),
        None if rebuilt is None else pixels(rebuilt.rows, shape),
    )


def _samples(model: Program, batch: Batch, count: int) -> Values | None:
    try:
        return generate(model, batch, count)
    except ProbgenError:
        return None


def pixels(rows: Tensor, shape: tuple[int, ...]) -> Image:
    """Rows ``[n, D]`` as images ``[n, H, W]`` or ``[n, H, W, 3]``."""
    images: Image = rows.detach().double().cpu().reshape(len(rows), *shape).numpy()
    return np.moveaxis(images, 1, -1) if len(shape) == 3 else images


def tiled(rows: list[Image], *, gap: int = 1) -> Image:
    """Rows of images as one picture, with NaN (drawn as background) between them and where a row is shorter.

    Args:
        rows: arrays ``[n, H, W]`` or ``[n, H, W, 3]`` of one shape.
        gap: pixels between images.

    Returns:
        ``[r (H + gap) - gap, n (W + gap) - gap]``, with a last dimension of 3 for colours.

    Example:
        >>> tiled([np.zeros((4, 8, 8)), np.ones((4, 8, 8))]).shape
        (17, 35)
    """
    count, (height, width) = max(map(len, rows)), rows[0].shape[1:3]
    canvas = np.full((len(rows) * (height + gap), count * (width + gap), *rows[0].shape[3:]), np.nan)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + gap), j * (width + gap)
            canvas[top : top + height, left : left + width] = image
    return canvas[:-gap, :-gap] if gap else canvas
