"""The figure of what the latents do: p(x | z) on a grid of two of them, or along each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probgen.arguments import positive_int
from probgen.errors import ProgramError
from probgen.plots.canvas import Labels, image_figure, limits_of
from probgen.plots.decoding import AtPriorCentres, Values, data_of, decode
from probgen.plots.drawing import Drawing, event_columns
from probgen.plots.images import pixels, shape_of
from probgen.plots.posterior import Posterior, posteriors
from probgen.plots.subject import Subject, looking, read, run
from probgen.plots.units import Units, choose_latent, marginals
from probgen.plots.vectors import line_panels
from probgen.programs import SiteTerm
from probgen.programs.param_scope import Program

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GRID, ALONG = 15, 10  # quantiles of a grid, and along one latent
FIRST, LAST = 0.02, 0.98  # of the quantiles
ACTIVITY_DATA = 500  # data that say which latents are most active


def traversal(
    model: Program,
    guide: Program | None,
    data: Any,
    *,
    num: int | None = None,
    max_latents: int = 10,
    site: str | None = None,
    seed: int | None = 0,
) -> Drawing:
    r"""Draws means of p(x | z) for z at quantiles of its prior.

    .. math:: z_i = F^{-1}(u_i), \quad u_i \text{ evenly from 0.02 to 0.98}

    with F the distribution function of the prior, such as N(0, 1). Two latents make a grid. Of more, each row moves one
    latent along its quantiles while the others stay at the posterior mean of the first datum; rows are the latents
    whose posterior means vary most over the data, the most active first. Other arguments of the programs, such as
    labels, are those of the first datum. Other latent sites, such as the layers of a hierarchy below the one that
    moves, are at the mean of their prior given it. Data that are no images are lines over their entries, a panel for
    each latent.

    Args:
        model: a Pyro program.
        guide: a Pyro program that takes the same arguments.
        data: what :func:`probgen.evaluate` takes. The first datum stands still, up to 500 say what is active.
        num: quantiles along a latent; by default 15 for a grid and 10 for rows.
        max_latents: the most rows.
        site: the latent site that moves; by default the first one that the model samples, the top of a hierarchy.
        seed: of the particles where the mean of the guide is not known.

    Returns:
        A :class:`Drawing` with a row for each image: the latents and the entries of x; of rows, also which one moves.

    Raises:
        ArgumentError: an unknown site, or a number below 1.
        DataError: the data are none, or do not fit.
        ProgramError: the pair fails on the data, has no continuous latent site for each datum, or the quantiles of its
            prior are not known.

    Source:
        Kingma, Welling (2014), Auto-encoding variational Bayes, appendix A, arXiv 1312.6114; Higgins et al. (2017),
        beta-VAE, figure 1.

    Example:
        >>> from probgen.guides import AmortizedNormal
        >>> from probgen.models import VAE
        >>> model, guide = VAE((16,), 2, (8,)), AmortizedNormal((16,), 2, (8,))
        >>> len(traversal(model, guide, torch.ones(5, 16), num=3).columns["z[0]"])
        9
    """
    positive_int("max_latents", max_latents)
    with looking(model, guide, seed):
        subject = read(model, guide, data, ACTIVITY_DATA)
        latent = choose_latent(subject, site)
        units = Units.of(latent, subject.first.size)
        image = shape_of(data_of(subject, 1), subject.batch) is not None
        grid = units.size == 2 and image
        count = positive_int("num", num if num is not None else GRID if grid else ALONG)
        ends = torch.linspace(FIRST, LAST, count, dtype=torch.float64) if count > 1 else torch.tensor([0.5]).double()
        places = _quantiles(subject, latent.name, ends)
        path = _grid(places, units) if grid else _rows(places, posteriors(subject, [latent])[latent.name], max_latents)
        values = decode(subject, {latent.name: path.latents}, torch.zeros(len(path.latents), dtype=torch.long))
        limits = limits_of(values.p, data_of(subject, len(subject.first.index)).rows)
    heading = _heading(path, values, subject)
    figure = _draw(path, places, values, subject, heading, limits)
    columns: dict[str, npt.NDArray[Any]] = {} if grid else {"moved": np.repeat(path.moved, count)}
    columns |= event_columns(latent.name, path.latents.numpy())
    columns |= event_columns(values.units.name, values.rows.cpu().numpy())
    return Drawing(figure, columns)


@dataclass(frozen=True)
class _Path:
    """The latents of all images, ``[M, U]``, row by row; and the names of those that move, none for a grid."""

    units: Units
    latents: Tensor
    moved: tuple[str, ...]


def _quantiles(subject: Subject, name: str, ends: Tensor) -> Tensor:
    """Quantiles of the prior of the first datum, ``[U, num]``, with latents above at the centre of theirs."""
    terms = run(AtPriorCentres()(subject.model), None, subject.first)
    site: SiteTerm = next(site for site in terms.sites if site.name == name)
    marginal = marginals(site.p)
    if marginal is None:
        raise ProgramError(
            f"the entries of site '{name}' depend on each other under its prior ({type(site.p).__name__}), so there "
            "are no quantiles to go along; use a prior with independent entries, or draw `probgen.plots.interpolation`"
        )
    units = Units.of(site, subject.first.size)
    columns = [units.rows(_quantile(marginal, end, name).expand(site.value.shape))[0, 0] for end in ends]
    return torch.stack(columns, -1).double().cpu()


def _quantile(marginal: Any, end: Tensor, name: str) -> Tensor:
    if isinstance(marginal, torch.distributions.Normal):  # its own icdf loses digits in float32
        return marginal.loc + marginal.scale * torch.special.ndtri(end).to(marginal.loc)
    try:
        quantile: Tensor = marginal.icdf(end.to(marginal.mean))
    except NotImplementedError:
        raise ProgramError(
            f"the quantiles of the prior of site '{name}' ({type(marginal).__name__}) are not known; give the "
            "distribution a method `icdf`, or draw `probgen.plots.interpolation`"
        ) from None
    return quantile


def _grid(places: Tensor, units: Units) -> _Path:
    """The first latent to the right, the second upwards."""
    up, right = torch.meshgrid(places[1].flip(0), places[0], indexing="ij")
    return _Path(units, torch.stack((right.flatten(), up.flatten()), -1), ())


def _rows(places: Tensor, posterior: Posterior, most: int) -> _Path:
    """Each of the most active latents along its quantiles, the others at the first datum's posterior mean."""
    activity = torch.nan_to_num(posterior.variance)
    moved = activity.argsort(descending=True, stable=True)[:most].tolist()
    rows = posterior.means[:1].repeat(len(moved) * places.shape[1], 1)
    for i, unit in enumerate(moved):
        rows[i * places.shape[1] : (i + 1) * places.shape[1], unit] = places[unit]
    return _Path(posterior.units, rows, tuple(posterior.units.names[unit] for unit in moved))


def _heading(path: _Path, values: Values, subject: Subject) -> str:
    units = path.units
    what, datum = f"{values.what[:1].upper()}{values.what[1:]}", f"datum {int(subject.batch.index[0])}"
    given = f"; other arguments are those of {datum}" if len(subject.batch.tensors) > 1 else ""
    if not path.moved:
        return f"{what} on quantiles of the prior of {units.name}{given}"
    if units.size == 1:
        return f"{what} along {units.name}, at quantiles of its prior{given}"
    shown = (
        "each latent" if len(path.moved) == units.size else f"the {len(path.moved)} most active of {units.size} latents"
    )
    return f"{what} along {shown}, at quantiles of the prior, the others at the posterior mean of {datum}{given}"


def _draw(
    path: _Path, places: Tensor, values: Values, subject: Subject, heading: str, limits: tuple[float, float]
) -> Figure:
    shape = shape_of(values, subject.batch)
    count = places.shape[1]
    if shape is None:
        rows = values.rows.cpu().numpy().reshape(len(path.moved), count, -1)
        ends = np.linspace(FIRST, LAST, count) if count > 1 else np.array([0.5])
        name = f"{values.units.name} ({values.what})"
        return line_panels(list(zip(path.moved, rows, strict=True)), ends, heading, "quantile of the prior", name)
    images = np.split(pixels(values.rows, shape), len(values.rows) // count)
    if path.moved:
        labels = Labels(heading, rows=path.moved, columns=_shares(count), x="quantile of the prior")
        return image_figure(images, labels, limits)
    right, up = _marks(places[0]), _marks(places[1].flip(0))
    first, second = path.units.names
    return image_figure(images, Labels(heading, rows=up, columns=right, x=first, y=second), limits)


def _shares(count: int) -> list[str]:
    if count == 1:
        return ["0.5"]
    return [f"{share:.2f}" for share in np.linspace(FIRST, LAST, count)]


def _marks(places: Tensor) -> list[str]:
    return [f"{place + 0.0:.1f}".replace("-0.0", "0.0").replace("-", "−") for place in places.tolist()]
