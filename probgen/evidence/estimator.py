"""What is done with a minibatch: run the pair on chunks of particles, and keep statistics per datum."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from probgen.arguments import first_index
from probgen.errors import DataError, DivergedError, ProbgenError, ProgramError
from probgen.evidence.checks import Subsampling, check_batch, discrete_dims, joint_message
from probgen.evidence.result import Evidence
from probgen.evidence.streams import UnitStream, WeightStatistics, WeightStream, widest
from probgen.programs import PairTerms, RunOptions, SiteTerm, trace_pair
from probgen.programs.execution import no_guide
from probgen.programs.guard import failure
from probgen.programs.nonfinite import large_value
from probgen.programs.param_scope import Program, owner_of
from probgen.programs.run import guess_max_plate_nesting, trial


@dataclass(frozen=True)
class Minibatch:
    """Data as the programs take them, and how many they are."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    size: int


class Estimator:
    """Takes minibatches and keeps statistics per datum.

    Args:
        model: a Pyro program.
        guide: a Pyro program, or None.
        options: how the pair is run; the number of particles is set here.
        num_particles: K per datum.
        chunk: the most particles of one run.
        total: the number of data, or None where it is not known.
    """

    def __init__(
        self,
        model: Program,
        guide: Program | None,
        options: RunOptions,
        *,
        num_particles: int,
        chunk: int,
        total: int | None,
    ) -> None:
        self.model, self.guide, self.options = model, guide, options
        self.num_particles, self.chunk, self.total = num_particles, chunk, total
        self.parts: list[WeightStatistics] = []
        self.units = UnitStream()
        self.count = 0
        self.estimate: Callable[[Minibatch], WeightStatistics] | None = None
        self.kind, self.note, self.joint = "lower", "", False
        self.dims: int | None = None

    def add(self, batch: Minibatch) -> None:
        """Evaluates another minibatch."""
        if self.estimate is None:
            self.estimate = self._choose(batch)
        if self.joint and self.count:
            raise ProgramError(joint_message(self.total))
        with pyro.validation_enabled(False):
            statistics = _on_cpu(self.estimate(batch))
        self._check_range(batch, statistics.log_prob)
        self.parts.append(statistics)
        self.count += batch.size

    def _check_range(self, batch: Minibatch, log_prob: Tensor) -> None:
        """Refuses numbers whose density is not 0, as it seems, but too small for the dtype."""
        impossible = log_prob == -math.inf
        if bool(impossible.any()) and (large := large_value(batch.args, batch.kwargs)) is not None:
            datum = self.count + first_index(impossible)[0]
            raise DataError(f"log p(x) of datum {datum} is -inf; {large}: scale the data")

    def evidence(self) -> Evidence:
        """The statistics of all data, in their order."""
        if not self.parts:
            raise DataError("`data` is empty: at least one datum is required")
        joined = {f.name: torch.cat([getattr(p, f.name) for p in self.parts]) for f in fields(WeightStatistics)}
        return Evidence(
            **joined,
            kind=self.kind,
            num_particles=self.num_particles,
            unit_variances=self.units.variances(),
            dims=self.dims,
            joint=self.joint,
            note=self.note,
        )

    def _choose(self, batch: Minibatch) -> Callable[[Minibatch], WeightStatistics]:
        """Looks at the first minibatch with all of Pyro's checks on, and says how to estimate."""
        if self.guide is None and callable(getattr(self.model, "log_evidence", None)):
            self.kind, self.num_particles = "exact", 1
            return self._log_evidence
        terms = self._look(batch)
        self.joint, self.dims = terms.batch_shape == (), discrete_dims(terms, batch.size)
        if self.joint and self.total not in (None, batch.size):
            raise ProgramError(joint_message(self.total))
        if not terms.latents:
            self.kind, self.num_particles = "exact", 1
            return self._exact
        point = next((site.name for site in terms.latents if site.point), None)
        if point is not None:
            self.kind = "none"
            self.note = (
                f"the guide is a point mass at site '{point}' (AutoDelta), so there are no importance weights; use a "
                "guide with a density. `elbo` is log p(x, z) at the point"
            )
            return self._point
        terms.require_importance_weights()
        self._find_nesting(batch)
        return self._weighted

    def _look(self, batch: Minibatch) -> PairTerms:
        subsampling = Subsampling()
        try:
            with trial(self.model, self.guide or no_guide), pyro.validation_enabled(True), subsampling:
                terms = self._run(batch, 1, validate=True)
        except (ProgramError, ValueError, RuntimeError, IndexError) as error:
            partial = self.total is not None and self.total > batch.size
            if isinstance(error, ProbgenError) and not (partial and isinstance(owner_of(self.guide), AutoGuide)):
                raise
            cure = (
                ". If it has parameters for each datum, as autoguides have, evaluate the data that it was trained on, "
                f"all at once: `batch_size={self.total}`"
            )
            ours = isinstance(error, ProbgenError)
            reason = error if ours else failure(self.model, self.guide, batch.args, batch.kwargs, error)
            if isinstance(reason, DivergedError):
                raise reason from error
            raise ProgramError(f"the pair fails on {batch.size} data: {reason}{cure if partial else ''}") from error
        if subsampling.plates:
            raise ProgramError(
                f"the plate '{subsampling.plates[0]}' draws a minibatch of its own, so the evidence would cover only "
                "some of the data; give it the minibatch, `pyro.plate(name, size, subsample=x)`, or leave out "
                "`subsample_size=`"
            )
        check_batch(terms, batch.size)
        return terms

    def _find_nesting(self, batch: Minibatch) -> None:
        if self.num_particles > 1 and self.chunk > 1:
            nesting = guess_max_plate_nesting(self.model, self.guide, batch.args, batch.kwargs)
            self.options = replace(self.options, max_plate_nesting=nesting)

    def _run(self, batch: Minibatch, num_particles: int, *, validate: bool) -> PairTerms:
        options = replace(self.options, num_particles=num_particles, validate=validate)
        return trace_pair(self.model, self.guide, batch.args, batch.kwargs, options).plain

    def _log_evidence(self, batch: Minibatch) -> WeightStatistics:
        with pyro.validation_enabled(True):
            log_prob = self.model.log_evidence(*batch.args, **batch.kwargs)  # type: ignore[attr-defined]
        return _exact(log_prob)

    def _exact(self, batch: Minibatch) -> WeightStatistics:
        return _exact(_weights(self._run(batch, 1, validate=True), self.count)[0])

    def _point(self, batch: Minibatch) -> WeightStatistics:
        log_joint = _weights(self._run(batch, 1, validate=True), self.count)[0]
        unknown = torch.full_like(log_joint, math.nan)
        return WeightStatistics(unknown, log_joint, unknown, unknown, unknown, unknown)

    def _weighted(self, batch: Minibatch) -> WeightStatistics:
        """One minibatch, in chunks of particles."""
        stream, sums = WeightStream(self.num_particles), _LatentSums()
        for first in range(0, self.num_particles, self.chunk):
            count = min(self.chunk, self.num_particles - first)
            terms = self._run(batch, count, validate=first == 0)
            stream.update(_weights(terms, self.count), _matrix(terms.kl))
            if not self.joint and self.num_particles > 1:
                sums.update(terms, count)
        self.units.update(sums, self.num_particles)
        return stream.statistics()


class _LatentSums:
    """Sums over particles of the values and squared values of each local, continuous latent site."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}

    def __iter__(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        return ((name, *sums) for name, sums in self._sums.items())

    def update(self, terms: PairTerms, num_particles: int) -> None:
        """Adds a chunk of particles."""
        for site in terms.latents:
            if site.p is None or not site.value.is_floating_point():
                continue  # auxiliary, or an index, whose mean says nothing
            values = _by_datum(site, num_particles)
            sums = (values.sum(0), (values**2).sum(0))
            before = self._sums.get(site.name)
            self._sums[site.name] = sums if before is None else (before[0] + sums[0], before[1] + sums[1])


def _by_datum(site: SiteTerm, num_particles: int) -> Tensor:
    """A latent site's value as ``[K, batch, *units]``: dimensions of plates inside a datum count as units."""
    event_dim = site.q.event_dim
    dims = site.layout.depth + event_dim
    value = site.value.reshape((1,) * (dims - site.value.dim()) + site.value.shape)  # [K or 1, *plates, *event]
    batch = [dim - event_dim for dim in site.layout.batch_dims]
    value = value.movedim(batch, list(range(1, 1 + len(batch))))
    return widest(value.expand(num_particles, *value.shape[1:]))


def _weights(terms: PairTerms, first: int) -> Tensor:
    """Log-weights ``[K, batch]``, joint ones as ``[K, 1]``; ``first`` is the number of the batch's first datum.

    Raises:
        DivergedError: a weight is NaN or +inf.
    """
    weights = _matrix(terms.log_weights)
    bad = torch.isnan(weights) | (weights == math.inf)
    if bool(bad.any()):
        particle, column = (int(i) for i in bad.nonzero()[0])
        raise DivergedError(_bad_weight(terms, particle, column, first, float(weights[particle, column])))
    return weights.float() if weights.dtype in (torch.float16, torch.bfloat16) else weights


def _bad_weight(terms: PairTerms, particle: int, column: int, first: int, value: float) -> str:
    where = "the joint log-weight" if terms.batch_shape == () else f"the log-weight of datum {first + column}"
    for site in terms.sites:
        for side, density in (("model", site.log_p), ("guide", site.log_q)):
            if density is not None and not math.isfinite(entry := float(_matrix(density)[particle, column])):
                return (
                    f"{where} is {value}: the {side}'s log-density at site '{site.name}' is {entry}; its parameters "
                    "may have diverged (train with a smaller learning rate or `max_grad_norm=`)"
                )
    return f"{where} is {value}"


def _matrix(values: Tensor | float) -> Tensor:
    tensor = torch.as_tensor(values)
    return tensor.reshape(-1, 1) if tensor.dim() < 2 else tensor


def _exact(log_prob: Tensor) -> WeightStatistics:
    log_prob = widest(log_prob)
    zeros = torch.zeros_like(log_prob)
    return WeightStatistics(log_prob, log_prob, zeros, zeros + 1, zeros - math.inf, zeros)


def _on_cpu(statistics: WeightStatistics) -> WeightStatistics:
    values = (getattr(statistics, f.name) for f in fields(WeightStatistics))
    return WeightStatistics(*(value.detach().cpu().double() for value in values))
