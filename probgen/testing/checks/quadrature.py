"""Integrals over one or two latent dimensions, and sums over discrete sites, as a truth to compare with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to, constraints

from probgen.data.batches import Call
from probgen.programs.param_scope import Program
from probgen.programs.sampling import is_point
from probgen.testing.checks.outcome import NotApplicable
from probgen.testing.checks.running import Recorded, Values, log_density, record

SPREADS = 8.0  # of the samples' standard deviations on each side
NODES = {1: 601, 2: 161}  # for each dimension
PILOT = 200


@dataclass(frozen=True)
class Grid:
    """Values of one site for every datum, and what each counts.

    Attributes:
        values: ``[nodes, *shape of a value]``.
        log_weight: log of the volume of a node, ``[nodes, ...]`` laid out over the plates of the site.
    """

    values: Tensor
    log_weight: Tensor


def grid_of(program: Program, call: Call, name: str) -> Grid:
    """All values of a discrete site, or nodes that cover what samples of a continuous one cover.

    Raises:
        NotApplicable: neither is feasible.
    """
    alone = record(program, call)
    site = alone.sites[name]
    if site["fn"].has_enumerate_support:
        return _enumerated(site)
    if not _support(site["fn"]).is_discrete and not is_point(site["fn"]):
        return _nodes(program, call, alone, name)
    raise NotApplicable(f"site '{name}' ({type(site['fn']).__name__}) can be neither summed nor integrated over")


def _support(distribution: Any) -> Any:
    try:
        return distribution.support
    except NotImplementedError:  # of a flow; nothing bounds it
        return constraints.independent(constraints.real, distribution.event_dim)


def _enumerated(site: Any) -> Grid:
    try:
        support = site["fn"].enumerate_support(expand=True)
    except NotImplementedError:
        raise NotApplicable(f"site '{site['name']}' has too many values to sum over") from None
    return Grid(support, torch.zeros(len(support), *(1,) * len(site["fn"].batch_shape)))


def _nodes(program: Program, call: Call, alone: Recorded, name: str) -> Grid:
    site = alone.sites[name]
    transform = biject_to(_support(site["fn"]))
    if (batch := len(site["fn"].batch_shape)) > 1:
        raise NotApplicable(f"site '{name}' lies in {batch} plates, over which an integral is a product")
    pilot = record(program, call, particles=PILOT, depth=alone.depth).sites[name]["value"].detach()
    if pilot.dim() == site["value"].dim():
        raise NotApplicable(f"site '{name}' lies outside the plate of particles")
    free = transform.inv(pilot)  # [pilot, plates, free dimensions]
    flat = free.reshape(*free.shape[: 1 + batch], -1)
    dims = flat.shape[-1]
    if dims not in NODES:
        raise NotApplicable(f"site '{name}' has {dims} dimensions, too many for quadrature")
    unit = torch.linspace(-SPREADS, SPREADS, NODES[dims], dtype=flat.dtype, device=flat.device)
    points = torch.cartesian_prod(*[unit] * dims).reshape(-1, *(1,) * batch, dims)
    spread = flat.std(0).clamp(min=1e-6)  # [plates, dims]
    nodes = (flat.mean(0) + spread * points).reshape(-1, *free.shape[1:])
    volume = (spread.log() + math.log(float(unit[1] - unit[0]))).sum(-1)
    values = transform(nodes)
    jacobian = transform.log_abs_det_jacobian(nodes, values)
    return Grid(values, volume + jacobian)


def log_mass(program: Program, call: Call, name: str, given: Values, hidden: Sequence[str]) -> Tensor:
    """The log of the integral of one site's density, given values of others, for each datum.

    Args:
        program: which samples it.
        call: its data.
        name: the site.
        given: values of sites before it.
        hidden: sites whose densities do not count.
    """
    depth = record(program, call).depth
    grid = grid_of(poutine.condition(program, data=given) if given else program, call, name)
    fixed = poutine.condition(program, data={**given, name: grid.values})
    shown = poutine.block(fixed, hide=list(hidden))
    density = log_density(shown, call, {}, particles=len(grid.values), depth=depth)
    return torch.logsumexp((density + grid.log_weight).detach(), 0)


def log_evidence(model: Program, call: Call) -> Tensor:
    """The log of p(x) for each datum, exactly or by quadrature over the one latent site.

    Raises:
        NotApplicable: the model has more latent sites than one, or too many dimensions.
    """
    drawn = record(model, call).drawn
    if len(drawn) > 1:
        raise NotApplicable(f"{len(drawn)} latent sites are too many for quadrature")
    if not drawn:
        return log_density(model, call, {})[0].detach()
    return log_mass(model, call, next(iter(drawn)), {}, ())
