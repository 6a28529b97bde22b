"""Runs a pair: guide first, then the model on the guide's samples, with particles in a plate of their own."""

import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

from probgen.arguments import positive_int
from probgen.errors import DivergedError, ProbgenError, UnsupportedObjective
from probgen.programs.checks import (
    Replay,
    bad_density,
    check_cut,
    check_guide,
    check_minibatches,
    check_pair,
    check_support,
    sample_sites,
)
from probgen.programs.guard import guarded
from probgen.programs.modules import modules_of, untrained
from probgen.programs.nonfinite import bad_parameter, require_defined
from probgen.programs.param_scope import (
    Program,
    StoreState,
    check_ownership,
    frozen,
    leaves,
    owner_of,
    preserved_buffers,
    private_store,
    users_store,
)
from probgen.programs.read import PARTICLES, Densities, nesting_of, read_terms
from probgen.programs.terms import PairTerms, stack
from probgen.seeding import preserved_rng, seeded
from probgen.validation import validation


@dataclass(frozen=True)
class RunOptions:
    """How a pair is run.

    Attributes:
        num_particles: samples of the guide per datum, K.
        vectorize_particles: run all particles at once, in a plate left of all others; otherwise one by one.
        max_plate_nesting: how deep the programs' plates nest; guessed by a trial run where infinite.
        batch_plate: the plate over data; by default those around every latent and observed site.
        freeze_guide: compute ``log q`` with the guide's parameters cut out of the graph, on aliases of the
            samples, as sticking-the-landing and doubly reparameterized gradients need.
        private: keep parameters in a scope of the pair; otherwise in the user's store, as `pyro.infer.SVI` needs.
        validate: check observed values against their supports; reads tensors, so tracers switch it off.
        check_frozen: compare the frozen guide's densities with the guide's own, which dropout makes differ.
    """

    num_particles: int = 1
    vectorize_particles: bool = True
    max_plate_nesting: float = math.inf
    batch_plate: str | None = None
    freeze_guide: bool = False
    private: bool = True
    validate: bool = True
    check_frozen: bool = False


def no_guide(*args: Any, **kwargs: Any) -> None:
    """The empty guide, for models without latent sites."""


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
    pair = _Pair(model, guide or no_guide, args, kwargs)
    count = check_num_particles(options.num_particles)
    if count > 1 and options.vectorize_particles:
        if math.isinf(options.max_plate_nesting):
            options = replace(options, max_plate_nesting=guess_max_plate_nesting(model, guide, args, kwargs))
        return _record(pair, options).terms
    single = replace(options, num_particles=1)
    first = _record(pair, single)
    others = [_record(pair, single, minibatch=first.minibatch).terms for _ in range(count - 1)]
    return stack([first.terms, *others]) if others else first.terms


def guess_max_plate_nesting(
    model: Program, guide: Program | None, args: tuple[Any, ...], kwargs: dict[str, Any], *, validate: bool = True
) -> int:
    """The depth of the pair's plates, by a trial run that leaves generators and buffers as they were."""
    with trial(model, guide or no_guide), validation(validate):
        return _record(_Pair(model, guide or no_guide, args, kwargs), RunOptions(validate=validate)).nesting


def declared_parameters(
    model: Program, guide: Program | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Tensor]:
    """The unconstrained tensors that a pair registers with Pyro, by their names there, by a trial run."""
    pair = _Pair(model, guide or no_guide, args, kwargs)
    options = RunOptions(validate=False)
    with trial(pair.model, pair.guide), validation(False):
        guided = _run(pair, pair.guide, options, None)
        modelled = _run(pair, pair.model, options, guided.trace)
    return guided.parameters | modelled.parameters


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
class _Pair:
    model: Program
    guide: Program
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class _Recording:
    terms: PairTerms
    nesting: int
    minibatch: poutine.Trace  # the plates' indices alone, so that later particles see the same data


def _record(pair: _Pair, options: RunOptions, minibatch: poutine.Trace | None = None) -> _Recording:
    """One run of guide and model, all particles at once."""
    guide = _run(pair, pair.guide, options, minibatch)
    guide_trace = guide.trace
    check_guide(guide_trace)
    if options.freeze_guide:
        guide_trace = _aliased(guide_trace)
        log_q = _frozen_densities(pair, guide_trace, options, guide)
        if options.check_frozen:
            _check_frozen(_densities(guide.trace, "guide"), log_q)
            check_cut([site["value"] for site in sample_sites(guide_trace)], log_q)
    else:
        log_q = _densities(guide_trace, "guide")
    model_trace = _run(pair, pair.model, options, _joined(guide_trace, minibatch)).trace
    check_pair(model_trace, guide_trace)
    if options.validate:
        check_minibatches(model_trace, guide_trace)
        for site in sample_sites(model_trace):
            if site["is_observed"]:
                check_support(site)
    log_p = _densities(model_trace, "model")
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
    return _Recording(terms, nesting, _indices(guide_trace, model_trace))


@dataclass(frozen=True)
class _Execution:
    trace: poutine.Trace
    store: StoreState
    parameters: dict[str, Tensor]  # unconstrained, by the names of the store


def _run(
    pair: _Pair,
    program: Program,
    options: RunOptions,
    replayed: poutine.Trace | None,
    state: StoreState | None = None,
) -> _Execution:
    """Runs one program, on the samples of ``replayed`` where there are some."""
    with ExitStack() as contexts:
        store = contexts.enter_context(private_store(state) if options.private else users_store(program))
        recorder = contexts.enter_context(poutine.trace())
        if replayed is not None:
            contexts.enter_context(Replay(replayed))
        if options.num_particles > 1:
            dim = -1 - int(options.max_plate_nesting)
            contexts.enter_context(pyro.plate(PARTICLES, options.num_particles, dim=dim))
        try:
            program(*pair.args, **pair.kwargs)
        except Exception as error:
            _blame_statements(recorder.trace, options, error)
            raise
        check_ownership(recorder.trace, program, (pair.model, pair.guide))
        parameters = leaves(recorder.trace)
    return _Execution(recorder.trace, store, parameters)


def _blame_statements(trace: poutine.Trace, options: RunOptions, error: Exception) -> None:
    """Raises if a program has failed on a ``pyro.param`` that is not finite: after the failure, it is not there."""
    declared = {name: value for name, value in leaves(trace).items() if not isinstance(value, nn.Parameter)}
    if options.validate and (parameter := bad_parameter(declared)) is not None:
        raise DivergedError(f"a program fails: {parameter}; start from finite values") from error


def _densities(trace: poutine.Trace, side: str) -> Densities:
    densities = {}
    for site in sample_sites(trace):
        try:
            densities[site["name"]] = site["fn"].log_prob(site["value"])
        except (ProbgenError, NotImplementedError):
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            raise bad_density(site, side, error) from error
    return densities


def _aliased(trace: poutine.Trace) -> poutine.Trace:
    """The trace with every sample replaced by a view of it, on which gradients can be rescaled."""
    aliased = trace.copy()
    for site in list(sample_sites(trace)):
        aliased.nodes[site["name"]] = {**site, "value": site["value"].view_as(site["value"])}
    return aliased


def _frozen_densities(pair: _Pair, aliased: poutine.Trace, options: RunOptions, guide: _Execution) -> Densities:
    """``log q`` at the aliases with the guide's parameters detached.

    The guide runs again, and the densities are computed inside the frozen scope, because transforms read
    their parameters when ``log_prob`` runs.
    """
    owner = owner_of(pair.guide)
    parameters = list(guide.parameters.values())
    if isinstance(owner, nn.Module):
        parameters.extend(owner.parameters())
    with frozen(parameters), preserved_buffers(owner), poutine.block(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*was not registered in the param store.*")
        trace = _run(pair, pair.guide, options, aliased, guide.store).trace
        try:
            return _densities(trace, "guide")
        except (NotImplementedError, KeyError) as error:
            raise UnsupportedObjective(
                "a transform of the guide has no inverse (a planar flow?), so its log-density cannot be computed with "
                'frozen parameters; use `gradient="pathwise"`'
            ) from error


def _check_frozen(own: Densities, frozen_guide: Densities) -> None:
    for name, density in own.items():
        other = frozen_guide[name].detach()
        tolerance = 1e-3 if density.dtype == torch.float32 else 1e-6  # inverses of flows lose a few digits
        if not torch.allclose(density, other, rtol=tolerance, atol=tolerance, equal_nan=True):
            raise UnsupportedObjective(
                f"running the guide twice on the same samples gives another log-density at site '{name}' (dropout, or "
                'other noise of its own); put that layer into eval mode, or use `gradient="pathwise"`'
            )


def _joined(guide: poutine.Trace, minibatch: poutine.Trace | None) -> poutine.Trace:
    """The guide's trace with the indices of plates that only the model has."""
    if minibatch is None:
        return guide
    joined = guide.copy()
    for name, node in minibatch.nodes.items():
        if name not in joined.nodes:
            joined.add_node(name, **node)
    return joined


def _indices(*traces: poutine.Trace) -> poutine.Trace:
    indices = poutine.Trace()
    for trace in traces:
        for name, node in trace.nodes.items():
            if node["type"] == "sample" and site_is_subsample(node) and name not in indices.nodes:
                indices.add_node(name, **node)
    return indices
