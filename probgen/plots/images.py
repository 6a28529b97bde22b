"""What a trained pair draws: samples from the prior, and reconstructions of data."""

import inspect
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pyro import poutine
from torch import Tensor

from probgen.data import as_dataset, is_in_memory
from probgen.errors import ProbgenError
from probgen.programs import PairTerms, run_pair
from probgen.programs.param_scope import Program
from probgen.seeding import seeded
from probgen.svi.batches import as_call, to_device
from probgen.svi.parameters import mode, modules_of

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
        side = math.isqrt(event_shape[0])
        return (side, side) if side * side == event_shape[0] else None
    if len(event_shape) == 3 and event_shape[0] in (1, 3):
        return event_shape if event_shape[0] == 3 else event_shape[1:]
    return event_shape if len(event_shape) == 2 else None


def pictures(model: Program, guide: Program | None, data: Any, *, count: int, seed: int = 0) -> Pictures | None:
    """Draws with a trained pair.

    Args:
        model: a Pyro program.
        guide: a Pyro program, or None.
        data: in memory, as for :func:`probgen.evaluate`; the first argument of the programs is shown.
        count: how many data, and twice as many samples.
        seed: of the draws.

    Returns:
        None where the data are no images.
    """
    if not is_in_memory(data):
        return None
    batch = as_dataset(data).batch(slice(0, 2 * count), torch.Generator().manual_seed(seed))
    modules = modules_of(model, guide)
    device = next((p.device for module in modules for p in module.parameters()), torch.device("cpu"))
    args, kwargs = as_call(to_device(batch, device))
    x = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
    shape = None if x is None else image_shape(tuple(x.shape[1:]))
    if x is None or shape is None:
        return None
    with seeded(seed), torch.no_grad(), mode(modules, training=False):
        if guide is None:
            samples, reconstructions = _generated(model, len(x)), None
        else:
            prior = poutine.block(model, hide_fn=lambda site: site["type"] == "sample" and site["is_observed"])
            samples, reconstructions = (_means(model, q, args, kwargs, x) for q in (prior, guide))
    return Pictures(_images(samples, shape), _pixels(x[:count], shape), _images(reconstructions, shape, count))


def _means(model: Program, guide: Program, args: Any, kwargs: Any, x: Tensor) -> Tensor | None:
    """Means of the observed site that has the shape of the data; None where the pair gives none."""
    try:
        terms = run_pair(model, guide, *args, **kwargs)
        return _mean_like(terms, x)
    except (ProbgenError, NotImplementedError, ValueError):
        return None  # such as a guide with parameters for each datum; a figure does without


def _mean_like(terms: PairTerms, x: Tensor) -> Tensor | None:
    observed = (site for site in terms.sites if site.observed and site.value.shape == x.shape)
    site = next(observed, None)
    return None if site is None else site.p.mean.reshape(x.shape)


def _generated(model: Program, count: int) -> Tensor | None:
    if "num_samples" not in inspect.signature(getattr(model, "forward", model)).parameters:
        return None
    samples = model(num_samples=count)
    return samples if isinstance(samples, Tensor) else None


def _images(values: Tensor | None, shape: tuple[int, ...], count: int | None = None) -> Image | None:
    return None if values is None else _pixels(values[:count], shape)


def _pixels(values: Tensor, shape: tuple[int, ...]) -> Image:
    images: Image = values.detach().double().cpu().reshape(len(values), *shape).numpy()
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
