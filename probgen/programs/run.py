"""Runs a pair: guide first, then the model on the guide's samples, with particles in a plate of their own."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

from probgen.arguments import positive_int
from probgen.errors import UnsupportedObjective
from probgen.programs.checks import (
    check_cut,
    check_guide,
    check_minibatches,
    check_pair,
    check_points,
    check_support,
    sample_sites,
)
from probgen.programs.execution import (
    Execution,
    Pair,
    RunOptions,
    aliased_trace,
    check_frozen_densities,
    densities_of,
    execute,
    frozen_densities,
    indices_of,
    joined,
    latents_of,
    no_guide,
)
from probgen.programs.guard import guarded
from probgen.programs.modules import modules_of, untrained
from probgen.programs.nonfinite import require_defined
from probgen.programs.param_scope import Program, owner_of, preserved_buffers
from probgen.programs.read import Densities, nesting_of, read_terms
from probgen.programs.terms import PairTerms, stack
from probgen.seeding import preserved_rng, seeded
from probgen.validation import validation


def check_num_particles(num_particles: Any) -> int:
    """``num_particles`` itself, if it is a whole number of at least 1.

    Raises:
        ArgumentError: it is not.
    """
    return positive_int("num_particles", num_particles)


def log_weights(
    model: Program,
    guide: Program | None,
    *args: Any,
    num_particles: int | tuple[int, int] = 1,
    seed: int | None = None,
    batch_plate: str | None = None,
    **kwargs: Any,
) -> Tensor:
    r"""Importance log-weights of a pair, per datum.

    .. math:: l_k = \log p(x, z_k) - \log q(z_k \mid x), \quad z_k \sim q(\cdot \mid x)

    Batch plates are those that enclose every latent site of the guide and every observed site; plates inside are
    summed. With a latent site outside every plate the weights are joint, one per particle. The subsampling factor
    N/B of a batch plate is not part of a weight: it multiplies a bound.

    Args:
        model: a Pyro program.
        guide: a Pyro program that takes the same arguments, or None for a model without latent sites.
        *args: passed to both.
        num_particles: K samples of the guide per datum, or (M, K) for M groups of K.
        seed: seeds this call and restores the generators; None draws from the global ones.
        batch_plate: name of the plate over data, where the rule above is not what you mean.
        **kwargs: passed to both.

    Returns:
        ``[K, batch]``, ``[M, K, batch]``, or without ``batch`` where the weights are joint; differentiable, in nats.

    Raises:
        ArgumentError: a number of particles below 1.
        DataError: observed values that are not finite, outside the support of their site, or too large for their
            density.
        DivergedError: a weight is NaN or +inf; names the first bad parameter or site.
        ProgramError: model and guide do not fit each other, or fail.
        UnsupportedObjective: the guide has point masses, or N/B would sit inside the weights.

    Source:
        Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders, arXiv 1509.00519.

    Example:
        >>> from probgen.guides import AmortizedNormal
        >>> from probgen.models import VAE
        >>> model, guide = VAE((4,), latent_dim=2), AmortizedNormal((4,), latent_dim=2)
        >>> tuple(log_weights(model, guide, torch.ones(3, 4), num_particles=5).shape)
        (5, 3)
    """
    groups = num_particles if isinstance(num_particles, tuple) else (num_particles,)
    total = math.prod([check_num_particles(count) for count in groups])
    with seeded(seed), guarded(model, guide, args, kwargs), untrained(modules_of(model, guide)):
        terms = run_pair(model, guide, *args, num_particles=total, batch_plate=batch_plate, **kwargs)
        terms.require_importance_weights()
        weights = terms.log_weights  # [M * K, batch]
        require_defined(weights, model, guide, args, kwargs, terms)
    return weights.reshape(*groups, *weights.shape[1:])


def run_pair(
    model: Program,
    guide: Program | None,
    *args: Any,
    num_particles: int = 1,
    batch_plate: str | None = None,
    freeze_guide: bool = False,
    **kwargs: Any,
) -> PairTerms:
    """Runs a pair on ``*args, **kwargs`` and returns its terms; the other arguments are as in :class:`RunOptions`."""
    options = RunOptions(num_particles=num_particles, batch_plate=batch_plate, freeze_guide=freeze_guide)
    return trace_pair(model, guide, args, kwargs, options)


def trace_pair(
    model: Program, guide: Program | None, args: tuple[Any, ...], kwargs: dict[str, Any], options: RunOptions
) -> PairTerms:
    """Runs a pair as ``options`` say; ``args`` and ``kwargs`` go to both programs."""
    with validation(options.validate):
        return _trace_pair(model, guide, args, kwargs, options)


def _trace_pair(
    model: Program, guide: Program | None, args: tuple[Any, ...], kwargs: dict[str, Any], options: RunOptions
) -> PairTerms:
    pair = Pair(model, guide or no_guide, args, kwargs)
    count = check_num_particles(options.num_particles)
    if count > 1 and options.vectorize_particles:
        if math.isinf(options.max_plate_nesting):
            options = replace(options, max_plate_nesting=guess_max_plate_nesting(model, guide, args, kwargs))
        return record(pair, options).terms
    single = replace(options, num_particles=1)
    first = record(pair, single)
    others = [record(pair, single, minibatch=first.minibatch).terms for _ in range(count - 1)]
    return stack([first.terms, *others]) if others else first.terms


def trace_leaves(
    model: Program, guide: Program | None, args: tuple[Any, ...], kwargs: dict[str, Any], options: RunOptions
) -> tuple[PairTerms, dict[str, Tensor]]:
    """As :func:`trace_pair` with the guide frozen and its samples cut from it; and these samples, with their path."""
    options = replace(options, freeze_guide=True, leaves=True)
    with validation(options.validate):
        recording = record(Pair(model, guide or no_guide, args, kwargs), options)
    return recording.terms, recording.samples


def guess_max_plate_nesting(
    model: Program, guide: Program | None, args: tuple[Any, ...], kwargs: dict[str, Any], *, validate: bool = True
) -> int:
    """The depth of the pair's plates, by a trial run that leaves generators and buffers as they were."""
    with trial(model, guide or no_guide), validation(validate):
        return record(Pair(model, guide or no_guide, args, kwargs), RunOptions(validate=validate)).nesting


def declared_parameters(
    model: Program, guide: Program | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Tensor]:
    """The unconstrained tensors that a pair registers with Pyro, by their names there, by a trial run."""
    modelled, guided = _declared(Pair(model, guide or no_guide, args, kwargs))
    return guided | modelled


def _declared(pair: Pair) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    options = RunOptions(validate=False)
    with trial(pair.model, pair.guide), validation(False):
        guided = execute(pair, pair.guide, options, None)
        modelled = execute(pair, pair.model, options, guided.trace)
    return modelled.parameters, guided.parameters


def parameters_by_side(
    model: Program, guide: Program | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Tensor], list[Tensor]]:
    """(the trained tensors of the model, those of the guide), by a trial run.

    Raises:
        UnsupportedObjective: both use one tensor, so that the sides cannot be trained apart.
    """
    pair = Pair(model, guide or no_guide, args, kwargs)
    with untrained(modules_of(model, guide)) as kept:
        both = _declared(pair)
    fixed = {id(value) for value in kept}
    sides = []
    for program, declared in zip((pair.model, pair.guide), both, strict=True):
        owner = owner_of(program)
        owned = list(owner.parameters()) if isinstance(owner, nn.Module) else []
        trained = [value for value in (*owned, *declared.values()) if value.requires_grad]
        sides.append({id(value): value for value in trained if id(value) not in fixed})
    if shared := sides[0].keys() & sides[1].keys():
        shape = tuple(sides[0][next(iter(shared))].shape)
        raise UnsupportedObjective(
            f"model and guide share a parameter of shape {shape}, but this objective trains them apart; give each its "
            "own, or use `IWAE`"
        )
    return list(sides[0].values()), list(sides[1].values())


def trial_terms(
    model: Program,
    guide: Program | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: RunOptions | None = None,
) -> PairTerms:
    """The terms of one particle, or as ``options`` say, for their structure alone, by a trial run."""
    probing = options is not None  # what depends on what is read off the graph
    options = options or RunOptions(validate=False)
    with trial(model, guide or no_guide), validation(False), torch.set_grad_enabled(probing):
        return record(Pair(model, guide or no_guide, args, kwargs), options).terms


@contextmanager
def trial(*programs: Program) -> Iterator[None]:
    """A run that only looks: no gradients, no effect on generators, buffers, outer Pyro handlers or a traced graph."""
    with ExitStack() as contexts:
        contexts.enter_context(disable_proxy_modes_tracing())
        contexts.enter_context(preserved_rng())
        contexts.enter_context(preserved_buffers(*map(owner_of, programs)))
        contexts.enter_context(torch.no_grad())
        contexts.enter_context(poutine.block())
        yield


@dataclass(frozen=True)
class Recording:
    """What one run of a pair leaves."""

    terms: PairTerms
    nesting: int
    minibatch: poutine.Trace  # the plates' indices alone, so that later particles see the same data
    samples: dict[str, Tensor]  # where the terms hold leaves, what the guide drew, with its path


def record(pair: Pair, options: RunOptions, minibatch: poutine.Trace | None = None) -> Recording:
    """One run of guide and model, all particles at once."""
    guide = execute(pair, pair.guide, options, minibatch)
    guide_trace, log_q = guide_densities(pair, guide, options)
    model_trace, log_p = model_densities(pair, guide_trace, options, minibatch)
    plated = options.num_particles > 1
    nesting = int(options.max_plate_nesting) if plated else nesting_of(model_trace, guide_trace)
    terms = read_terms(
        model_trace,
        guide_trace,
        log_p,
        log_q,
        num_particles=options.num_particles,
        nesting=nesting,
        batch_plate=options.batch_plate,
    )
    samples = {site["name"]: site["value"] for site in sample_sites(guide.trace)} if options.leaves else {}
    return Recording(terms, nesting, indices_of(guide_trace, model_trace), samples)


def guide_densities(pair: Pair, guide: Execution, options: RunOptions) -> tuple[poutine.Trace, Densities]:
    """(the trace that the model is to replay, log q of its samples), frozen where the options say so."""
    check_guide(guide.trace)
    if not options.freeze_guide:
        return guide.trace, densities_of(guide.trace, "guide")
    aliased = aliased_trace(guide.trace, as_leaves=options.leaves)
    log_q = frozen_densities(pair, aliased, options, guide)
    if options.check_frozen:
        check_frozen_densities(densities_of(guide.trace, "guide"), log_q)
        check_cut([site["value"] for site in sample_sites(aliased)], log_q)
        check_points(guide.trace)
    return aliased, log_q


def model_densities(
    pair: Pair, guide_trace: poutine.Trace, options: RunOptions, minibatch: poutine.Trace | None
) -> tuple[poutine.Trace, Densities]:
    """(the model's trace on the samples of the guide's, log p of its sites)."""
    replayed = joined(guide_trace, minibatch)
    trace = execute(pair, pair.model, options, replayed, latents=latents_of(guide_trace)).trace
    check_pair(trace, guide_trace)
    if options.validate:
        check_minibatches(trace, guide_trace)
        for site in sample_sites(trace):
            if site["is_observed"]:
                check_support(site)
    return trace, densities_of(trace, "model")
