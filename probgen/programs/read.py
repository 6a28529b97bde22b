"""Reads a recorded pair of traces: which plates hold the data, and what each site adds to a log-weight."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

from probgen.errors import ProgramError, nearest
from probgen.programs.checks import Site, check_density_shape, sample_sites
from probgen.programs.sampling import DETACHED, STRAIGHT_THROUGH, is_point
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
    reader = _Reader(model, guide, log_p, log_q, batch, num_particles, nesting + 1)
    if shared is not None:
        return reader.terms(shared)
    return replace(reader.terms(1.0, own_scales=True), tempered=tempered, unscaled=reader.terms(1.0))


@dataclass(frozen=True)
class _Reader:
    """Turns the nodes of both traces into terms."""

    model: dict[str, Site]
    guide: dict[str, Site]
    log_p: Densities
    log_q: Densities
    batch: list[Any]
    num_particles: int
    depth: int

    def terms(self, shared: Tensor | float, *, own_scales: bool = False) -> PairTerms:
        """All sites; ``shared`` multiplies the bound, and scales that differ stay inside with ``own_scales``."""
        observed = [site for name, site in self.model.items() if name not in self.guide]
        both = [*self.guide.values(), *self.model.values()]
        inside = [f.name for s in both for f in s["cond_indep_stack"] if f not in self.batch and _factor(f) != 1.0]
        return PairTerms(
            sites=(
                *(self._latent(s, own_scales) for s in self.guide.values()),
                *(self._observed(s, own_scales) for s in observed),
            ),
            model_order=tuple(name for name in self.model if name in self.guide),
            scale=math.prod(_factor(frame) for frame in self.batch) * shared,
            batch_shape=tuple(frame.size for frame in self.batch),
            subsampled_inside=inside[0] if inside else None,
        )

    def _latent(self, site: Site, own_scale: bool) -> SiteTerm:
        name, twin, mode = site["name"], self.model.get(site["name"]), site["infer"].get("_sampling")
        layout = self._layout(site, own_scale)
        random = any(other["infer"].get("is_auxiliary") for other in self.guide.values())
        return SiteTerm(
            name=name,
            value=site["value"],
            log_p=None if twin is None else self._collapse(self.log_p, twin, own_scale),
            log_q=self._collapse(self.log_q, site, own_scale),
            score=replace(layout, mask=None, inner_scale=1.0).collapse(self.log_q[name]),
            observed=False,
            local=bool(plates(site)),
            reparameterized=mode != DETACHED and (bool(site["fn"].has_rsample) or mode == STRAIGHT_THROUGH),
            point=not random and is_point(site["fn"]),
            p=None if twin is None else twin["fn"],
            q=site["fn"],
            layout=layout,
            model_layout=None if twin is None else self._layout(twin, own_scale),
            mode=mode,
            density_p=None if twin is None else self.log_p[name],
            density_q=self.log_q[name],
            frames=_frames(site, twin),
        )

    def _observed(self, site: Site, own_scale: bool) -> SiteTerm:
        layout = self._layout(site, own_scale)
        return SiteTerm(
            name=site["name"],
            value=site["value"],
            log_p=self._collapse(self.log_p, site, own_scale),
            log_q=None,
            score=None,
            observed=True,
            local=bool(plates(site)),
            reparameterized=False,
            point=False,
            p=site["fn"],
            q=None,
            layout=layout,
            model_layout=layout,
            density_p=self.log_p[site["name"]],
            frames=_frames(site),
        )

    def _collapse(self, densities: Densities, site: Site, own_scale: bool) -> Tensor:
        check_density_shape(site, densities[site["name"]], self.depth)
        return self._layout(site, own_scale).collapse(densities[site["name"]])

    def _layout(self, site: Site, own_scale: bool) -> Layout:
        names = {frame.name for frame in self.batch}
        inner = math.prod(_factor(frame) for frame in site["cond_indep_stack"] if frame.name not in names)
        return Layout(
            depth=self.depth,
            batch_dims=tuple(frame.dim for frame in self.batch),
            batch_shape=tuple(frame.size for frame in self.batch),
            num_particles=self.num_particles,
            mask=site["mask"],
            inner_scale=inner * _user_scale(site) if own_scale else inner,
        )


def _frames(*sites: Site | None) -> tuple[tuple[str, int], ...]:
    """(name, dim) of the plates around a site in the guide, the model, or both."""
    return tuple(sorted({(frame.name, frame.dim) for site in sites if site is not None for frame in plates(site)}))


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
    factor = math.prod(_factor(frame) for frame in site["cond_indep_stack"])
    scale = site["scale"] if factor == 1.0 else site["scale"] / factor
    return 1.0 if isinstance(scale, float) and math.isclose(scale, 1.0, rel_tol=1e-9) else scale


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
        with disable_proxy_modes_tracing():  # which plates and scales there are is structure, not arithmetic
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
