"""Posterior means of a latent site, and how much of the site is in use."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probgen.evidence.result import ACTIVE
from probgen.plots.subject import Batch, Subject, run
from probgen.plots.units import Units
from probgen.programs import PairTerms, SiteTerm
from probgen.programs.sampling import is_point

PARTICLES = 64


@dataclass(frozen=True)
class Posterior:
    """Means of q(z | x), datum by datum.

    Attributes:
        means: ``[N, U]``, float64.
        variance: of the means over the data, ``[U]``, without what the particles add to it; NaN for one datum.
        units: the layout of the site.
    """

    means: Tensor
    variance: Tensor
    units: Units

    @property
    def active(self) -> Tensor:
        """Which units vary with the data, ``[U]``: a variance above 0.01 (Burda et al. 2016, section 5.2)."""
        return self.variance > ACTIVE


class Moments:
    """Collects the posterior means of one site, run by run."""

    def __init__(self, units: Units) -> None:
        self.units = units
        self._means: list[Tensor] = []
        self._noise: list[Tensor] = []

    def add(self, sites: Sequence[SiteTerm]) -> None:
        """Adds some data, of which each run has another particle."""
        rows = [self.units.rows(mean_given_others(site)).cpu().double() for site in sites]
        values = torch.cat(rows)  # [K, B, U]
        self._means.append(values.mean(0))
        self._noise.append(values.var(0) / len(values) if len(values) > 1 else torch.zeros_like(values[0]))

    def posterior(self) -> Posterior:
        """The means of all data, and their variance over the data."""
        means = torch.cat(self._means)
        variance = means.var(0) if len(means) > 1 else torch.full_like(means[0], torch.nan)
        return Posterior(means, variance - torch.cat(self._noise).mean(0), self.units)


def posteriors(subject: Subject, sites: Iterable[SiteTerm], num_particles: int = PARTICLES) -> dict[str, Posterior]:
    """The posterior means of some latent sites, on all data.

    They are exact where the guide has one site whose mean is known; else they are means over particles, of the mean
    given the other sites where that is known.
    """
    moments = {site.name: Moments(Units.of(site, subject.first.size)) for site in sites}
    count = particles_needed(subject.terms, num_particles)
    for chunk in subject.chunks:
        terms = particles(subject, chunk, count)
        for name, moment in moments.items():
            moment.add([site_of(term, name) for term in terms])
    return {name: moment.posterior() for name, moment in moments.items()}


def particles(subject: Subject, batch: Batch, count: int) -> list[PairTerms]:
    """As many runs on the same data; one by one, which every program can and which needs least memory."""
    return [run(subject.model, subject.guide, batch).plain for _ in range(count)]


def site_of(terms: PairTerms, name: str) -> SiteTerm:
    """The site of that name."""
    return next(site for site in terms.sites if site.name == name)


def particles_needed(terms: PairTerms, num_particles: int) -> int:
    """1 where the guide's one site, or each of its points, has a known mean; otherwise ``num_particles``."""
    if all(site.point for site in terms.latents):
        return 1
    return 1 if len(terms.latents) == 1 and _known_mean(terms.latents[0]) is not None else num_particles


def mean_given_others(site: SiteTerm) -> Tensor:
    """The mean of a latent site under the guide given the sites before it, where it is known; else the sample."""
    mean = _known_mean(site)
    return site.value if mean is None else mean.expand(site.value.shape)


def _known_mean(site: SiteTerm) -> Tensor | None:
    if is_point(site.q):
        return None
    try:
        mean: Tensor = site.q.mean
    except NotImplementedError:
        return None
    return mean
