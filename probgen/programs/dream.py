"""Data that the model dreams, on which a guide can be trained: sleep."""

from dataclasses import replace
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from probgen.errors import UnsupportedObjective
from probgen.programs.checks import check_pair, sample_sites
from probgen.programs.execution import Pair, RunOptions, densities_of, execute, indices_of, no_guide
from probgen.programs.param_scope import Program
from probgen.programs.read import nesting_of, read_terms
from probgen.programs.sampling import is_point
from probgen.programs.terms import PairTerms
from probgen.validation import validation


def dream_pair(
    model: Program, guide: Program | None, args: tuple[Any, ...], kwargs: dict[str, Any], options: RunOptions
) -> PairTerms:
    """The terms of the guide on data and latents drawn from the model, one dream for each datum.

    The arguments that the model observes are replaced by what it draws there; all others stay.

    Raises:
        UnsupportedObjective: the model observes something made of its arguments, which cannot be replaced.
    """
    with validation(False):
        return _dream(Pair(model, guide or no_guide, args, kwargs), replace(options, num_particles=1, validate=False))


def _dream(pair: Pair, options: RunOptions) -> PairTerms:
    with torch.no_grad():
        awake = execute(pair, pair.guide, options, None).trace
        seen = execute(pair, pair.model, options, awake).trace
        free = Pair(poutine.uncondition(pair.model), pair.guide, pair.args, pair.kwargs)
        dreamt = execute(free, free.model, options, indices_of(seen)).trace
    observed = [site["name"] for site in sample_sites(seen) if site["is_observed"]]
    for name in observed:
        dreamt.nodes[name]["is_observed"] = True
    values: dict[str, Any] = {name: (seen.nodes[name]["value"], dreamt.nodes[name]["value"]) for name in observed}
    args, kwargs = _with_dreams(pair, values)
    asleep = Pair(pair.model, pair.guide, args, kwargs)
    latents = {site["name"] for site in sample_sites(dreamt)} - set(observed)
    guide_trace = execute(asleep, asleep.guide, options, dreamt, latents=latents).trace
    check_pair(dreamt, guide_trace)
    for site in sample_sites(guide_trace):
        if site["infer"].get("is_auxiliary") or is_point(site["fn"]):
            raise UnsupportedObjective(
                f"sleep scores the guide on dreams of the model, which have no value for its site '{site['name']}' "
                '(an auxiliary one, as in Pyro\'s autoguides); use `guide_update="wake"`'
            )
    with torch.no_grad():
        log_p = densities_of(dreamt, "model")
    log_q = densities_of(guide_trace, "guide")
    nesting = nesting_of(dreamt, guide_trace)
    return read_terms(dreamt, guide_trace, log_p, log_q, num_particles=1, nesting=nesting, batch_plate=None)


def _with_dreams(pair: Pair, values: dict[str, tuple[Tensor, Tensor]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with each one that is observed replaced by what the model drew in its place."""
    used: set[str] = set()

    def swap(argument: Any) -> Any:
        for name, (data, dream) in values.items():
            if isinstance(argument, Tensor) and _same_memory(argument, data):
                used.add(name)
                return dream.reshape(argument.shape).to(argument.dtype)
        return argument

    args = tuple(swap(argument) for argument in pair.args)
    kwargs = {key: swap(argument) for key, argument in pair.kwargs.items()}
    if missing := [name for name in values if name not in used]:
        raise UnsupportedObjective(
            f"sleep replaces the data by what the model draws, but site '{missing[0]}' observes no argument of the "
            "programs as it is (perhaps something computed from one); observe an argument, or use "
            '`guide_update="wake"`'
        )
    return args, kwargs


def _same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether the numbers of both are the same ones in the same order: one tensor, or another shape of it."""
    if a is b:
        return True
    if a.numel() != b.numel() or a.data_ptr() != b.data_ptr() or a.dtype != b.dtype:
        return False
    return (a.is_contiguous() and b.is_contiguous()) or (a.shape, a.stride()) == (b.shape, b.stride())
