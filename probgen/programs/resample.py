"""All particles forward, one of them backward: what the resampled gradient of the importance-weighted bound needs."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from probgen.core.weights import normalized_weights
from probgen.programs.checks import sample_sites
from probgen.programs.execution import (
    Pair,
    RunOptions,
    aliased_trace,
    check_frozen_densities,
    densities_of,
    execute,
    frozen_densities,
    indices_of,
    no_guide,
)
from probgen.programs.param_scope import Program
from probgen.programs.read import plates, read_terms
from probgen.programs.run import guide_densities, model_densities
from probgen.programs.terms import PairTerms
from probgen.validation import validation


@dataclass(frozen=True)
class Resampled:
    """Particles and the one that was chosen among them, per datum.

    Attributes:
        terms: of all particles; the model's densities are without gradient.
        weight: the normalised weight of the chosen one, ``[1, batch]``, without gradient.
        chosen: of the chosen one alone, run again, with gradients; ``log_q`` is the guide's own, or frozen.
        log_q: ``log q`` of the chosen one under the guide that drew it, ``[1, batch]``.
    """

    terms: PairTerms
    weight: Tensor
    chosen: PairTerms
    log_q: Tensor


def resample_pair(
    model: Program, guide: Program | None, args: tuple[Any, ...], kwargs: dict[str, Any], options: RunOptions
) -> Resampled:
    """Runs the guide on K particles, the model on them without gradient, then the model on one drawn by weight.

    ``options.freeze_guide`` is about the second run alone, in which the chosen samples are aliases.
    """
    with validation(options.validate):
        return _resample(Pair(model, guide or no_guide, args, kwargs), options)


def _resample(pair: Pair, options: RunOptions) -> Resampled:
    first = replace(options, freeze_guide=False)
    guide = execute(pair, pair.guide, first, None)
    guide_trace, log_q = guide_densities(pair, guide, first)
    with torch.no_grad():
        model_trace, log_p = model_densities(pair, guide_trace, first, None)
    nesting = int(options.max_plate_nesting)
    terms = read_terms(
        model_trace, guide_trace, log_p, log_q, num_particles=options.num_particles, nesting=nesting, batch_plate=None
    )
    terms.require_importance_weights()
    weights = terms.log_weights.detach()  # [K, batch]
    index = _draw(weights)  # [1, batch]
    picked = _picked(guide_trace, terms, index, nesting)
    chosen = _run_chosen(pair, picked, options, guide, indices_of(guide_trace, model_trace), nesting)
    own_log_q = torch.as_tensor(terms.log_guide).expand_as(weights).gather(0, index)
    return Resampled(terms, normalized_weights(weights).gather(0, index), chosen, own_log_q)


def _draw(log_weights: Tensor) -> Tensor:
    """One particle for each datum with probability ``softmax(l)``, by the Gumbel-max trick; ``[1, batch]``."""
    noise = -torch.empty_like(log_weights).exponential_().log()
    return (log_weights + noise).argmax(0, keepdim=True)


def _picked(trace: poutine.Trace, terms: PairTerms, index: Tensor, nesting: int) -> poutine.Trace:
    """The guide's trace with the chosen particle's samples alone, as one particle without a plate would have them."""
    picked = trace.copy()
    layouts = {site.name: site for site in terms.latents}
    for node in list(sample_sites(trace)):
        site = layouts[node["name"]]
        event_dim = site.q.event_dim
        own = max((-frame.dim for frame in plates(node)), default=0)  # plates around this site
        where = site.layout.place(index, event_dim).expand(1, *site.value.shape[1:])
        value = site.value.gather(0, where)[0]  # [*plates, *event]
        shape = value.shape[nesting - own :]
        frames = [frame for frame in node["cond_indep_stack"] if frame in plates(node)]
        picked.nodes[node["name"]] = {**node, "value": value.reshape(shape), "cond_indep_stack": tuple(frames)}
    return picked


def _run_chosen(
    pair: Pair, picked: poutine.Trace, options: RunOptions, guide: Any, minibatch: poutine.Trace, nesting: int
) -> PairTerms:
    single = replace(options, num_particles=1, validate=False)
    replayed = aliased_trace(picked)
    if options.freeze_guide:
        log_q = frozen_densities(pair, replayed, single, guide)
        if options.check_frozen:
            with torch.no_grad():
                again = execute(pair, pair.guide, single, replayed, guide.store, set(log_q)).trace
                check_frozen_densities(densities_of(again, "guide"), log_q)
    else:
        log_q = {name: torch.zeros(()).to(value) for name, value in _values(replayed).items()}
    model_trace, log_p = model_densities(pair, replayed, single, minibatch)
    return read_terms(model_trace, replayed, log_p, log_q, num_particles=1, nesting=nesting, batch_plate=None)


def _values(trace: poutine.Trace) -> dict[str, Tensor]:
    return {site["name"]: site["value"] for site in sample_sites(trace)}
