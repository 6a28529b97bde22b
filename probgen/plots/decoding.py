"""Means of p(x | z) for given z, for z from the prior and for z from the guide."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from probgen.errors import ProgramError
from probgen.plots.subject import Batch, Subject, run
from probgen.plots.units import Units, is_discrete
from probgen.programs import PairTerms, SiteTerm
from probgen.programs.param_scope import Program

AT_ONCE = 500  # rows of one run


@dataclass(frozen=True)
class Values:
    """Values of the observed site.

    Attributes:
        rows: ``[n, D]``.
        units: the layout of the site.
        p: its distribution in the last run, for its support.
        what: what the rows are, in words.
    """

    rows: Tensor
    units: Units
    p: dist.TorchDistribution
    what: str


class AtPriorCentres(Messenger):
    """Puts every latent site without a value at the mean of its prior, a discrete one at the mode."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is None and not msg["is_observed"] and not site_is_subsample(msg):
            fn = msg["fn"]
            msg["value"] = torch.nan_to_num(fn.mode) if is_discrete(fn) else centre(fn, msg["name"])[0]
            msg["is_observed"] = True


class Unobserved(UnconditionMessenger):
    """Lets the observed sites be sampled, and remembers which they are."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["infer"].get("_deterministic"):
            return
        if msg["is_observed"]:
            self.names.add(msg["name"])
        super()._pyro_sample(msg)


def centre(fn: dist.TorchDistribution, name: str) -> tuple[Tensor, str]:
    """The mean of a distribution, of one over whole numbers its mode; and which of them it is.

    Raises:
        ProgramError: neither is known.
    """
    try:
        mean = fn.mean
        if not bool(torch.isnan(mean).all()):
            return mean, "mean"
        return fn.mode, "mode"  # a categorical distribution
    except NotImplementedError:
        raise ProgramError(
            f"site '{name}' has a distribution whose mean is not known ({type(fn).__name__}), so there is nothing to "
            "draw for it; give the distribution a property `mean`"
        ) from None


def observed_site(terms: PairTerms, batch: Batch) -> SiteTerm:
    """The observed site that a figure shows: the one like the first argument, or else the one with most entries.

    Raises:
        ProgramError: nothing is observed.
    """
    return _most_like(batch, [site for site in terms.sites if site.observed])


def _most_like(batch: Batch, observed: list[SiteTerm]) -> SiteTerm:
    sites = [site for site in observed if not isinstance(site.p, dist.Unit)]
    if not sites:
        raise ProgramError("the model observes nothing, so there are no data to draw; pass them to a site by `obs=`")
    like = batch.tensors[0] if batch.tensors else torch.empty(0)
    ranks = [(site.value.shape == like.shape, site.value.numel() == like.numel(), site.value.numel()) for site in sites]
    return sites[ranks.index(max(ranks))]


def data_of(subject: Subject, count: int) -> Values:
    """The first data, as the observed site has them."""
    site = observed_site(subject.terms, subject.first)
    units = Units.of(site, subject.first.size)
    return Values(units.rows(site.value)[0][:count], units, site.p, "data")


def reconstruct(subject: Subject, count: int) -> Values:
    """Means of p(x | z) for the first data, with z from the guide, as the first run drew it."""
    site = observed_site(subject.terms, subject.first)
    return _centres(site, subject.first.size, count)


def decode(subject: Subject, latents: Mapping[str, Tensor], rows: Tensor) -> Values:
    """Means of p(x | z) for given latents.

    The model runs on data with the latents conditioned on, so that it knows the other arguments, such as labels.
    Other latent sites are at the mean of their prior, given what is above them; discrete ones at the mode.

    Args:
        subject: the pair and its data.
        latents: rows ``[M, U]`` of some latent sites, in the layout of the subject's first run.
        rows: which data stand behind each row, ``[M]``.

    Returns:
        Rows ``[M, D]``.
    """
    shown, size = observed_site(subject.terms, subject.first), subject.first.size
    sites = {site.name: site for site in subject.terms.latents}
    parts = []
    for part in torch.arange(len(rows)).split(AT_ONCE):
        values = {n: Units.of(sites[n], size).value(rows_of[part].to(sites[n].value)) for n, rows_of in latents.items()}
        program = AtPriorCentres()(poutine.condition(subject.model, data=values))
        terms = run(program, None, subject.batch.rows(rows[part]))
        site = next(site for site in terms.sites if site.name == shown.name)
        parts.append(_centres(site, len(part), len(part)))
    last = parts[-1]
    return Values(torch.cat([part.rows for part in parts]), last.units, last.p, last.what)


def generate(model: Program, batch: Batch | None, count: int) -> Values:
    """Means of p(x | z) with z from the prior; of models without latent sites, samples of x.

    Args:
        model: a Pyro program.
        batch: data, of which only the arguments beside the observed ones matter; without them the model is asked for
            ``num_samples``, and what it samples last is shown.
        count: how many.

    Raises:
        ProgramError: the model does not run, or its samples are not one for each datum.
    """
    if batch is None:
        if "num_samples" not in inspect.signature(getattr(model, "forward", model)).parameters:
            raise ProgramError(
                "the model has no argument `num_samples`, so it cannot say how many to generate; pass a batch as it "
                "takes them, whose observed values are then left out"
            )
        batch = Batch((), {"num_samples": count}, count, torch.arange(count))
    else:
        batch = batch.rows(torch.arange(count) % batch.size)
    unobserved = Unobserved()
    program = unobserved(model)
    terms = run(program, program, batch)
    site = _generated(terms, unobserved.names, batch)
    size = terms.batch_shape[0] if len(terms.batch_shape) == 1 else count
    if all(other is site or other.name in unobserved.names for other in terms.sites):
        units = Units.of(site, size)
        return Values(units.rows(site.value)[0][:count], units, site.p, "samples of p(x)")
    values = _centres(site, size, count)
    return Values(values.rows, values.units, values.p, f"{values.what}, z from the prior")


def _generated(terms: PairTerms, observed: set[str], batch: Batch) -> SiteTerm:
    """The site that has been observed and is like the data; where nothing was, the last of the model."""
    sites = {site.name: site for site in terms.sites}
    if not observed:
        return sites[terms.model_order[-1]]
    return _most_like(batch, [sites[name] for name in terms.model_order if name in observed])


def _centres(site: SiteTerm, size: int, count: int) -> Values:
    units = Units.of(site, size)
    values, what = centre(site.p, site.name)
    rows = units.rows(values.expand(site.value.shape))[0][:count]
    return Values(rows, units, site.p, f"{what} of p(x | z)")
