"""The figure of how much each latent says: its KL divergence from the prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from probgen.arguments import positive_int
from probgen.errors import ProgramError, UnsupportedObjective
from probgen.evidence.result import ACTIVE
from probgen.plots.drawing import Drawing
from probgen.plots.posterior import PARTICLES, Moments, particles, particles_needed, site_of
from probgen.plots.style import COLORS, GREY, counted, new_figure, tidy, title
from probgen.plots.subject import looking, read
from probgen.plots.units import Units, drawable_latents, entrywise, marginals
from probgen.programs import PairTerms, SiteTerm
from probgen.programs.param_scope import Program
from probgen.programs.sampling import is_point

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLOSED, MARGINAL, SAMPLED = "closed form", "closed form, marginal", "Monte Carlo"
JOINT = "Monte Carlo, all units together"
MOST_NAMES = 40  # bars that have room for their names


def kl_per_latent(
    model: Program,
    guide: Program | None,
    data: Any,
    *,
    num_particles: int = PARTICLES,
    num_data: int = 1000,
    seed: int | None = 0,
) -> Drawing:
    r"""Draws the divergence of each latent dimension from its prior, the largest first.

    .. math:: KL_d = \frac{1}{N} \sum_{n=1}^N KL\big(q(z_d \mid x_n) \,\|\, p(z_d)\big)

    It is in closed form, given the sites sampled before, where torch knows it and the guide samples its sites in the
    order of the model; for a normal with full covariance it is that of the marginals. Elsewhere it is the mean over
    particles of ``log q(z_d) - log p(z_d)``: these terms add up to the divergence of the whole, and where the guide has
    another order than the model a single one may be negative. A density that is none of single entries, as of a flow,
    gives one bar for its site.

    A dimension is active if the variance of its posterior mean over the data is above 0.01.

    Args:
        model: a Pyro program.
        guide: a Pyro program that takes the same arguments.
        data: what :func:`probgen.evaluate` takes.
        num_particles: samples of the guide per datum, where there is no closed form.
        num_data: the most data to take; of more, as many at random.
        seed: of that choice and of the particles.

    Returns:
        A :class:`Drawing` with a row for each bar: site, unit, KL in nats per datum, variance of the posterior mean,
        whether it is active, and how the KL was computed.

    Raises:
        ArgumentError: a number below 1.
        DataError: the data are none, or do not fit.
        ProgramError: the pair fails on the data, has no continuous latent site for each datum, or is a point mass.

    Source:
        Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders, arXiv 1509.00519, section 5.2: what is
        active.

    Example:
        >>> from probgen.guides import AmortizedNormal
        >>> from probgen.models import VAE
        >>> model, guide = VAE((16,), 3, (8,)), AmortizedNormal((16,), 3, (8,))
        >>> drawing = kl_per_latent(model, guide, torch.ones(5, 16))
        >>> drawing.columns["method"].tolist()
        ['closed form', 'closed form', 'closed form']
    """
    positive_int("num_particles", num_particles)
    with looking(model, guide, seed):
        subject = read(model, guide, data, num_data, spread=True, name="num_data")
        sites = drawable_latents(subject)
        point = next((name for name, site in sites.items() if site.point), None)
        if point is not None:
            raise ProgramError(
                f"the guide is a point mass at site '{point}' (AutoDelta), whose divergence from the prior is not "
                "finite; use a guide with a density"
            )
        size = subject.first.size
        totals = {name: _Total(Units.of(site, size), Moments(Units.of(site, size))) for name, site in sites.items()}
        count = _particles(subject.terms, sites, num_particles)
        for chunk in subject.chunks:
            runs = particles(subject, chunk, count)
            for total in totals.values():
                total.add(runs)
    bars = sorted((bar for total in totals.values() for bar in total.bars()), key=lambda bar: -bar.kl)
    return Drawing(_draw(bars, list(totals), subject.batch.size), _columns(bars))


@dataclass(frozen=True)
class Bar:
    """One bar: see :func:`kl_per_latent`; ``variance`` is NaN and ``active`` None where nothing is known."""

    site: str
    unit: str
    kl: float
    variance: float
    active: bool | None
    method: str


class _Total:
    """Adds up the divergences of one site over the data."""

    def __init__(self, units: Units, moments: Moments) -> None:
        self.units, self.moments = units, moments
        self.method = ""
        self._parts: list[Tensor] = []

    def add(self, runs: list[PairTerms]) -> None:
        """Adds some data, of which each run has another particle."""
        sites = [site_of(terms, self.units.name) for terms in runs]
        self.moments.add(sites)
        rows = torch.cat([self._rows(*pair) for pair in zip(runs, sites, strict=True)])  # [K, B, U]
        self._parts.append(rows.mean(0).cpu().double())

    def _rows(self, terms: PairTerms, site: SiteTerm) -> Tensor:
        self.method, values = divergences(terms, site)
        return values[..., None] if self.method == JOINT else self.units.rows(values.expand(site.value.shape))

    def bars(self) -> list[Bar]:
        """One bar for each unit, or one for the site."""
        kl = torch.cat(self._parts).mean(0).tolist()
        posterior = self.moments.posterior()
        if self.method == JOINT:
            return [Bar(self.units.name, self.units.name, kl[0], float("nan"), None, JOINT)]
        known = not bool(posterior.variance.isnan().any())
        return [
            Bar(self.units.name, name, value, variance, active if known else None, self.method)
            for name, value, variance, active in zip(
                self.units.names, kl, posterior.variance.tolist(), posterior.active.tolist(), strict=True
            )
        ]


def divergences(terms: PairTerms, site: SiteTerm) -> tuple[str, Tensor]:
    """How the divergence of a site is computed, and its terms, which broadcast to the site's value.

    Of a density that is none of single entries: ``log q - log p``, ``[1, B]``.
    """
    q, p = _density_of(terms, site), site.p
    base_q, base_p = entrywise(q), entrywise(p)
    in_order = tuple(s.name for s in terms.latents if s.p is not None) == terms.model_order
    marginal_q = marginals(q)
    if in_order and base_p is not None and marginal_q is not None:
        try:
            closed = kl_divergence(marginal_q, base_p)
            return (MARGINAL if base_q is None else CLOSED), _masked(closed, site)
        except NotImplementedError:
            pass
    if base_q is not None and base_p is not None and not is_point(base_q):
        return SAMPLED, _masked(base_q.log_prob(site.value) - base_p.log_prob(site.value), site)
    if site.log_q is None or site.log_p is None:
        raise UnsupportedObjective(f"site '{site.name}' has no density under both programs")
    return JOINT, site.log_q - site.log_p


def _density_of(terms: PairTerms, site: SiteTerm) -> Any:
    """The guide's distribution; of a copy of an auxiliary site, as in Pyro's autoguides, that site's."""
    if is_point(site.q):
        for other in terms.latents:
            if other.p is None and torch.equal(other.value, site.value):
                return other.q
    return site.q


def _masked(values: Tensor, site: SiteTerm) -> Tensor:
    """Zero where the site is masked; a mask has the shape of the log-density."""
    mask = site.layout.mask
    if not isinstance(mask, Tensor):
        return values if mask is not False else torch.zeros_like(values)
    return values * mask.reshape(*mask.shape, *[1] * site.q.event_dim)


def _particles(terms: PairTerms, sites: dict[str, SiteTerm], num_particles: int) -> int:
    """1 where nothing depends on samples."""
    closed = all(divergences(terms, site)[0] in (CLOSED, MARGINAL) for site in sites.values())
    return particles_needed(terms, num_particles) if closed else num_particles


def _columns(bars: list[Bar]) -> dict[str, npt.NDArray[Any]]:
    return {
        "site": np.array([bar.site for bar in bars]),
        "unit": np.array([bar.unit for bar in bars]),
        "kl": np.array([bar.kl for bar in bars]),
        "variance_of_mean": np.array([bar.variance for bar in bars]),
        "active": np.array(["" if bar.active is None else str(bar.active) for bar in bars]),
        "method": np.array([bar.method for bar in bars]),
    }


def _draw(bars: list[Bar], sites: list[str], size: int) -> Figure:
    from matplotlib.patches import Patch

    figure = new_figure(6.4, 3.8)
    axes = figure.add_subplot()
    colours = {site: COLORS[i % len(COLORS)] for i, site in enumerate(sites)}
    for place, bar in enumerate(bars):
        axes.bar(place, bar.kl, color=colours[bar.site], alpha=0.3 if bar.active is False else 1.0, width=0.8)
    names = [bar.unit for bar in bars]
    if len(bars) <= MOST_NAMES:
        turned = 90 if len(bars) > 12 else 0
        axes.set_xticks(range(len(bars)), names, rotation=turned, fontsize="small")
    axes.set_xlabel(f"{len(bars)} latents, sorted" if len(bars) > MOST_NAMES else "latent, sorted")
    axes.set_ylabel("KL, nats per datum")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlim(-0.6, len(bars) - 0.4)
    title(axes, _heading(bars, size), 5.6)
    tidy(axes)
    rule = f"variance of the posterior mean over the data > {ACTIVE}"
    shades = {f"active: {rule}": 1.0, "inactive": 0.3} if any(bar.active is not None for bar in bars) else {}
    handles = [Patch(color=colour, label=site) for site, colour in colours.items() if len(sites) > 1]
    shade = GREY if len(sites) > 1 else COLORS[0]
    handles += [Patch(color=shade, alpha=alpha, label=label) for label, alpha in shades.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(2, len(handles)), frameon=False)
    return figure


def _heading(bars: list[Bar], size: int) -> str:
    active = [bar.active for bar in bars if bar.active is not None]
    shown = "KL(q(z | x) || p(z)) of each latent" if len(bars) > 1 else f"KL(q(z | x) || p(z)) of {bars[0].unit}"
    how = " and ".join(sorted({bar.method for bar in bars}))
    known = f"; {sum(active)} of {len(active)} active" if active else ""
    return (
        f"{shown}, {how}, mean over {counted(size, 'datum', 'data')}: sum {sum(bar.kl for bar in bars):.2f} nats{known}"
    )
