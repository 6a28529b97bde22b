"""The entries of a site, datum by datum, whatever its event and the plates inside a datum."""

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from probgen.errors import ArgumentError, ProgramError, nearest
from probgen.plots.drawing import entry_names
from probgen.plots.subject import Subject
from probgen.programs import PairTerms, SiteTerm


@dataclass(frozen=True)
class Units:
    """How a site's value ``[*plates, *event]`` becomes ``[B, U]`` and back.

    Attributes:
        name: of the site.
        shape: of what one datum has: sizes of plates inside it, then those of the event.
        axis: the axis of the data, counted from the right.
        dims: the axes of a value of one particle.
    """

    name: str
    shape: tuple[int, ...]
    axis: int
    dims: int

    @classmethod
    def of(cls, site: SiteTerm, size: int) -> "Units":
        """The layout of a site in a run of one particle on ``size`` data.

        Raises:
            ProgramError: no axis of the site is that of the data.
        """
        event_dim = (site.q if site.p is None else site.p).event_dim
        shape = tuple(site.value.shape)
        axis = site.layout.batch_dims[0] - event_dim if site.layout.batch_dims else -len(shape)
        if len(shape) < -axis or shape[axis] != size:
            raise ProgramError(
                f"site '{site.name}' has shape {shape} for {size} data, and no plate over the data around it and all "
                "other sites, so that nothing can be drawn for each datum"
            )
        place = len(shape) + axis
        return cls(site.name, shape[:place] + shape[place + 1 :], axis, len(shape))

    @property
    def size(self) -> int:
        """The number of entries of one datum."""
        return math.prod(self.shape)

    @property
    def names(self) -> list[str]:
        """``z[0]``, ``z[1]``, ...; for one entry ``z``."""
        return entry_names(self.name, self.size)

    def rows(self, value: Tensor) -> Tensor:
        """A value as ``[1, B, U]``."""
        return value.movedim(self.axis, 0).reshape(1, -1, self.size)

    def value(self, rows: Tensor) -> Tensor:
        """``[B, U]`` as a value of one particle."""
        return rows.reshape(len(rows), *self.shape).movedim(0, self.axis)


def choose_latent(subject: Subject, site: str | None) -> SiteTerm:
    """The latent site that a figure shows: the named one, or the first continuous one in the order of the model.

    Raises:
        ArgumentError: there is no such site.
        ProgramError: the pair has no latent site that can be drawn.
    """
    found = drawable_latents(subject)
    if site is not None:
        if site not in found:
            raise ArgumentError(f"`site`: no continuous latent site is called {site!r}; {nearest(site, found)}")
        return found[site]
    return next(iter(found.values()))


def drawable_latents(subject: Subject) -> dict[str, SiteTerm]:
    """The continuous latent sites with a value for each datum, in the order of the model.

    Raises:
        ProgramError: there are none.
    """
    terms = subject.terms
    latents = {site.name: site for site in terms.latents if site.p is not None}
    if not latents:
        raise ProgramError("the model has no latent site, so there is no latent space to draw")
    continuous = {name: latents[name] for name in terms.model_order if not is_discrete(latents[name].p)}
    if not continuous:
        raise ProgramError(
            f"the latent sites of the model are discrete ({', '.join(latents)}), so there is no latent space to draw"
        )
    if terms.batch_shape == ():
        raise ProgramError(_joint(terms))
    return continuous


def _joint(terms: PairTerms) -> str:
    outside = next((site.name for site in terms.latents if not site.local), None)
    where = "no plate over the data" if outside is None else f"site '{outside}' outside the plate over the data"
    return f"the pair has {where}, so that no latent belongs to one datum and there is no latent space to draw"


def is_discrete(fn: dist.TorchDistribution) -> bool:
    """Whether a distribution is over a discrete set."""
    try:
        return fn.support is not None and bool(fn.support.is_discrete)
    except NotImplementedError:
        return False


def entrywise(fn: dist.TorchDistribution) -> dist.TorchDistribution | None:
    """The distribution of the entries of an event, if they are independent; None if they are not.

    Example:
        >>> type(entrywise(dist.Normal(torch.zeros(2), 1.0).to_event(1))).__name__
        'Normal'
    """
    while isinstance(fn, torch.distributions.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return None if fn.event_dim else fn


def marginals(fn: dist.TorchDistribution) -> dist.TorchDistribution | None:
    """The distribution of each entry of an event by itself, where it is known: :func:`entrywise`, or of normals."""
    base = entrywise(fn)
    if base is not None:
        return base
    if isinstance(fn, torch.distributions.MultivariateNormal | torch.distributions.LowRankMultivariateNormal):
        return dist.Normal(fn.mean, fn.variance.sqrt())
    return None
