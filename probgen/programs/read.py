"""Reads a recorded pair of traces: which plates hold the data, and what each site adds to a log-weight."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from probgen.errors import ProgramError, nearest
from probgen.programs.checks import Site, check_density_shape, sample_sites
from probgen.programs.terms import Layout, PairTerms, SiteTerm

PARTICLES = "num_particles_vectorized"
Densities = dict[str, Tensor]


def plates(site: Site) -> list[Any]:
    """The vectorized plates around a site, without the particles'."""
    return [frame for frame in site["cond_indep_stack"] if frame.vectorized and frame.name != PARTICLES]


def nesting_of(*traces: poutine.Trace) -> int:
    """How deep the plates of these traces nest."""
    return max((-frame.dim for trace in traces for site in sample_sites(trace) for frame in plates(site)), default=0)


def read_terms(
    model_trace: poutine.Trace,
    guide_trace: poutine.Trace,
    log_p: Densities,
    log_q: Densities,
    *,
    num_particles: int,
    nesting: int,
    batch_plate: str | None,
) -> PairTerms:
    """The terms of a recorded pair; ``log_p`` and ``log_q`` are the sites' log-densities as recorded."""
    guide = {site["name"]: site for site in sample_sites(guide_trace)}
    model = {site["name"]: site for site in sample_sites(model_trace)}
    both = [*guide.values(), *model.values()]
    batch = _batch_plates(both, batch_plate)
    shared, tempered = _split_scale(both, guide, batch, nesting + 1)

    def layout(site: Site) -> Layout:
        return Layout(
            depth=nesting + 1,
            batch_dims=tuple(frame.dim for frame in batch),
            batch_shape=tuple(frame.size for frame in batch),
            num_particles=num_particles,
            mask=site["mask"],
            inner_scale=_inner_scale(site, batch, shared is not None),
        )

    def density(densities: Densities, site: Site | None) -> Tensor | None:
        if site is None:
            return None
        check_density_shape(site, densities[site["name"]], nesting + 1)
        return layout(site).collapse(densities[site["name"]])

    random = any(site["infer"].get("is_auxiliary") for site in guide.values())
    latents = [
        SiteTerm(
            name=name,
            value=site["value"],
            log_p=density(log_p, model.get(name)),
            log_q=density(log_q, site),
            score=replace(layout(site), mask=None, inner_scale=1.0).collapse(log_q[name]),
            observed=False,
            local=bool(plates(site)),
            reparameterized=bool(site["fn"].has_rsample),
            point=not random and is_delta(site["fn"]),
            p=model[name]["fn"] if name in model else None,
            q=site["fn"],
            layout=layout(site),
            model_layout=layout(model[name]) if name in model else None,
        )
        for name, site in guide.items()
    ]
    observed = [
        SiteTerm(
            name=name,
            value=site["value"],
            log_p=density(log_p, site),
            log_q=None,
            score=None,
            observed=True,
            local=bool(plates(site)),
            reparameterized=False,
            point=False,
            p=site["fn"],
            q=None,
            layout=layout(site),
            model_layout=layout(site),
        )
        for name, site in model.items()
        if name not in guide
    ]
    factor = math.prod(_factor(frame) for frame in batch)
    inside = [f.name for site in both for f in site["cond_indep_stack"] if f not in batch and _factor(f) != 1.0]
    return PairTerms(
        sites=tuple(latents + observed),
        model_order=tuple(name for name in model if name in guide),
        scale=factor if shared is None else factor * shared,
        batch_shape=tuple(frame.size for frame in batch),
        subsampled_inside=inside[0] if inside else None,
        tempered=tempered,
    )


def is_delta(fn: Any) -> bool:
    """Whether a distribution is a point, perhaps under transforms or independent dimensions."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)


def _factor(frame: Any) -> float:
    """A plate's N/B; taken from the plate, since ``site["scale"]`` mixes it with the user's scale."""
    if frame.full_size is None or frame.full_size == -1:
        return 1.0
    return float(frame.full_size / frame.size)


def _batch_plates(sites: list[Site], batch_plate: str | None) -> list[Any]:
    """The plates around every site, or the named one; outermost dimension first."""
    frames = {frame.name: frame for site in sites for frame in plates(site)}
    common = [name for name in frames if all(name in {f.name for f in plates(site)} for site in sites)]
    if batch_plate is not None:
        if batch_plate not in frames:
            raise ProgramError(f"there is no plate `batch_plate='{batch_plate}'`; {nearest(batch_plate, frames)}")
        if batch_plate not in common:
            outside = [s["name"] for s in sites if batch_plate not in {f.name for f in plates(s)}]
            raise ProgramError(
                f"`batch_plate='{batch_plate}'` does not enclose site '{outside[0]}', so there is no log-weight per "
                "datum; leave `batch_plate` out for joint weights"
            )
        common = [batch_plate]
    for site in sites:
        for frame in plates(site):
            if frame.name in common and (frame.dim, frame.size) != (frames[frame.name].dim, frames[frame.name].size):
                raise ProgramError(
                    f"plate '{frame.name}' has another dim or size at site '{site['name']}' than elsewhere; "
                    "use the same `dim=` and size in model and guide"
                )
    return sorted((frames[name] for name in common), key=lambda frame: frame.dim)


def _user_scale(site: Site) -> Tensor | float:
    """The user's ``poutine.scale`` alone, freed from the plates' N/B."""
    scale = site["scale"] / math.prod(_factor(frame) for frame in site["cond_indep_stack"])
    return 1.0 if isinstance(scale, float) and math.isclose(scale, 1.0, rel_tol=1e-9) else scale


def _inner_scale(site: Site, batch: list[Any], shared: bool) -> Tensor | float:
    """What multiplies the site inside the log-weight: N/B of inner plates, and a scale that is not shared."""
    names = {frame.name for frame in batch}
    inner = math.prod(_factor(frame) for frame in site["cond_indep_stack"] if frame.name not in names)
    return inner if shared else inner * _user_scale(site)


def _split_scale(
    sites: list[Site], guide: dict[str, Site], batch: list[Any], depth: int
) -> tuple[Tensor | float | None, str | None]:
    """(a user's scale shared by all sites, or None; the name of a latent site with one of its own, or None).

    Shared by all sites, a scale multiplies the bound; on observed sites alone it tempers the likelihood
    inside the weight; on latent sites it is no importance weight any more.
    """
    scales = [_user_scale(site) for site in sites]
    if all(_same(scales[0], scale) for scale in scales):
        shared = _per_datum(scales[0], batch, depth)
        if shared is not None:
            return shared, None
    own = [s["name"] for s, scale in zip(sites, scales, strict=True) if s["name"] in guide and not _same(scale, 1.0)]
    return None, (own[0] if own else None)


def _same(a: Tensor | float, b: Tensor | float) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and bool(torch.isclose(a, b, rtol=1e-6).all()))
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return False
    return math.isclose(a, b, rel_tol=1e-9)


def _per_datum(scale: Tensor | float, batch: Iterable[Any], depth: int) -> Tensor | float | None:
    """A shared scale as ``[batch]``; None where it varies inside a datum."""
    if not isinstance(scale, Tensor) or scale.dim() == 0:
        return scale
    scale = scale.reshape((1,) * (depth - scale.dim()) + scale.shape)  # [1, *plates]
    dims = {frame.dim for frame in batch}
    if any(scale.shape[dim] != 1 for dim in range(-depth, 0) if dim not in dims):
        return None
    return scale.reshape([scale.shape[frame.dim] for frame in batch])
