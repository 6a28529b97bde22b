"""Executes one program of a pair under Pyro's handlers, and records what it did."""

import math
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from probgen.errors import DivergedError, ProbgenError, UnsupportedObjective
from probgen.programs.checks import Replay, bad_density, sample_sites
from probgen.programs.nonfinite import bad_parameter
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
from probgen.programs.read import PARTICLES, Densities
from probgen.programs.sampling import PLAIN, Sampling, SamplingMessenger


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
        sampling: how sites are sampled that are not sampled as their distribution says.
        leaves: where the guide is frozen, its samples are leaves of the graph instead of aliases.
    """

    num_particles: int = 1
    vectorize_particles: bool = True
    max_plate_nesting: float = math.inf
    batch_plate: str | None = None
    freeze_guide: bool = False
    private: bool = True
    validate: bool = True
    check_frozen: bool = False
    sampling: Sampling = PLAIN
    leaves: bool = False


def no_guide(*args: Any, **kwargs: Any) -> None:
    """The empty guide, for models without latent sites."""


@dataclass(frozen=True)
class Pair:
    """Both programs and what they are called with."""

    model: Program
    guide: Program
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Execution:
    """What one run of a program leaves."""

    trace: poutine.Trace
    store: StoreState
    parameters: dict[str, Tensor]  # unconstrained, by the names of the store


def execute(
    pair: Pair,
    program: Program,
    options: RunOptions,
    replayed: poutine.Trace | None,
    state: StoreState | None = None,
    latents: set[str] | None = None,
) -> Execution:
    """Runs one program, on the samples of ``replayed`` where there are some.

    Args:
        pair: whose arguments it takes.
        program: the model or the guide.
        options: how it is run.
        replayed: samples, and the minibatch.
        state: the parameters of an earlier run of it, to be found again.
        latents: names of the sites whose samples are given; None where it samples them itself.
    """
    with ExitStack() as contexts:
        store = contexts.enter_context(private_store(state) if options.private else users_store(program))
        recorder = contexts.enter_context(poutine.trace())
        if replayed is not None:
            contexts.enter_context(Replay(replayed))
        if not options.sampling.plain:
            contexts.enter_context(SamplingMessenger(options.sampling, latents))
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
    return Execution(recorder.trace, store, parameters)


def _blame_statements(trace: poutine.Trace, options: RunOptions, error: Exception) -> None:
    """Raises if a program has failed on a ``pyro.param`` that is not finite: after the failure, it is not there."""
    declared = {name: value for name, value in leaves(trace).items() if not isinstance(value, nn.Parameter)}
    if options.validate and (parameter := bad_parameter(declared)) is not None:
        raise DivergedError(f"a program fails: {parameter}; start from finite values") from error


def densities_of(trace: poutine.Trace, side: str) -> Densities:
    """The log-density of every site of a trace, at its value."""
    densities = {}
    for site in sample_sites(trace):
        try:
            densities[site["name"]] = site["fn"].log_prob(site["value"])
        except (ProbgenError, NotImplementedError):
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            raise bad_density(site, side, error) from error
    return densities


def aliased_trace(trace: poutine.Trace, *, as_leaves: bool = False) -> poutine.Trace:
    """The trace with every sample replaced by a view of it, on which gradients can be rescaled, or by a leaf."""
    return replaced(trace, _leaf if as_leaves else lambda value: value.view_as(value))


def _leaf(value: Tensor) -> Tensor:
    leaf = value.detach().requires_grad_(value.is_floating_point())
    return leaf.view_as(leaf)  # a node of the graph, as an alias is


def replaced(trace: poutine.Trace, change: Callable[..., Tensor]) -> poutine.Trace:
    """The trace with every sample changed."""
    changed = trace.copy()
    for site in list(sample_sites(trace)):
        changed.nodes[site["name"]] = {**site, "value": change(site["value"])}
    return changed


def frozen_densities(pair: Pair, aliased: poutine.Trace, options: RunOptions, guide: Execution) -> Densities:
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
        trace = execute(pair, pair.guide, options, aliased, guide.store, latents_of(aliased)).trace
        try:
            return densities_of(trace, "guide")
        except (NotImplementedError, KeyError) as error:
            raise UnsupportedObjective(
                "a transform of the guide has no inverse (a planar flow?), so its log-density cannot be computed with "
                'frozen parameters; use `gradient="pathwise"`'
            ) from error


def check_frozen_densities(own: Densities, frozen_guide: Densities) -> None:
    """Refuses a guide that gives other densities when it is run again on its own samples."""
    for name, density in own.items():
        other = frozen_guide[name].detach()
        tolerance = 1e-3 if density.dtype == torch.float32 else 1e-6  # inverses of flows lose a few digits
        if not torch.allclose(density, other, rtol=tolerance, atol=tolerance, equal_nan=True):
            raise UnsupportedObjective(
                f"running the guide twice on the same samples gives another log-density at site '{name}' (dropout, or "
                'other noise of its own); put that layer into eval mode, or use `gradient="pathwise"`'
            )


def joined(guide: poutine.Trace, minibatch: poutine.Trace | None) -> poutine.Trace:
    """The guide's trace with the indices of plates that only the model has."""
    if minibatch is None:
        return guide
    joined = guide.copy()
    for name, node in minibatch.nodes.items():
        if name not in joined.nodes:
            joined.add_node(name, **node)
    return joined


def indices_of(*traces: poutine.Trace) -> poutine.Trace:
    """The plates of traces alone: which minibatch they saw."""
    indices = poutine.Trace()
    for trace in traces:
        for name, node in trace.nodes.items():
            if node["type"] == "sample" and site_is_subsample(node) and name not in indices.nodes:
                indices.add_node(name, **node)
    return indices


def latents_of(trace: poutine.Trace) -> set[str]:
    """Names of a guide's sites."""
    return {site["name"] for site in sample_sites(trace)}
