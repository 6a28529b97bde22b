"""Reads a recorded pair of traces: which plates hold the data, and what each site adds to a log-weight."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from probgen.errors import ProgramError, UnsupportedObjective, nearest
from probgen.numpyro.checks import Trace, bad_density, check_density_shape, sample_sites
from probgen.numpyro.distributions import family, innermost, is_delta, relocated, unmasked
from probgen.numpyro.messengers import Site
from probgen.numpyro.sampling import ANTITHETIC, DETACHED, ENUMERATED, STRAIGHT_THROUGH, bernoulli_logits, cardinality
from probgen.numpyro.terms import Layout, PairTerms, SiteTerm

SiteKL = Callable[[str, Any, Any], Array]  # (name, guide's distribution, model's) -> divergence, [*plates]


@dataclass(frozen=True)
class _Frame:
    """A plate, as one program declares it."""

    name: str
    dim: int
    size: int
    factor: float  # N/B


def read_terms(
    model_trace: Trace,
    guide_trace: Trace,
    *,
    batch_plate: str | None,
    site_kl: SiteKL | None = None,
    unset: tuple[str, ...] = (),
    relocate: bool = False,
) -> PairTerms:
    """The terms of a recorded pair of one particle; ``site_kl`` gives divergences in closed form.

    ``relocate`` asks for each value as a function of the parameters of the model's distribution.
    """
    guide = {site["name"]: site for site in sample_sites(guide_trace)}
    model = {site["name"]: site for site in sample_sites(model_trace)}
    frames = {site["name"]: _frames(site, guide_trace) for site in guide.values()}
    for site in model.values():
        frames[site["name"]] = [*frames.get(site["name"], []), *_frames(site, model_trace)]
    both = [*guide.values(), *model.values()]
    batch = _batch_plates(both, frames, batch_plate)
    scales = [_user_scale(site, model_trace if i >= len(guide) else guide_trace) for i, site in enumerate(both)]
    shared, tempered = _split_scale(both, scales, guide, batch)
    mutable = {
        name: site["value"]
        for trace in (guide_trace, model_trace)
        for name, site in trace.items()
        if site["type"] == "mutable"
    }
    reader = _Reader(model, guide, model_trace, guide_trace, batch, site_kl, mutable, unset, relocate)
    if shared is not None:
        return reader.terms(shared)
    return replace(reader.terms(1.0, own_scales=True), tempered=tempered, unscaled=reader.terms(1.0))


@dataclass(frozen=True)
class _Reader:
    """Turns the sites of both traces into terms."""

    model: dict[str, Site]
    guide: dict[str, Site]
    model_trace: Trace
    guide_trace: Trace
    batch: list[_Frame]
    site_kl: SiteKL | None
    mutable: dict[str, Any]
    unset: tuple[str, ...]
    relocate: bool

    def terms(self, shared: Any, *, own_scales: bool = False) -> PairTerms:
        """All sites; ``shared`` multiplies the bound, and scales that differ stay inside with ``own_scales``."""
        observed = [site for name, site in self.model.items() if name not in self.guide]
        scale = math.prod(frame.factor for frame in self.batch) * shared
        return PairTerms(
            sites=(
                *(self._latent(site, own_scales) for site in self.guide.values()),
                *(self._observed(site, own_scales) for site in observed),
            ),
            scale=jnp.broadcast_to(jnp.asarray(scale, dtype=jnp.result_type(float)), self._layout.batch_shape),
            mutable=self.mutable,
            unscaled=None,
            model_order=tuple(name for name in self.model if name in self.guide),
            batch_shape=self._layout.batch_shape,
            subsampled=any(frame.factor != 1.0 for frame in self.batch),
            subsampled_inside=self._subsampled_inside(),
            tempered=None,
            unset=self.unset,
        )

    def _subsampled_inside(self) -> str | None:
        names = {frame.name for frame in self.batch}
        for sites, trace in ((self.guide, self.guide_trace), (self.model, self.model_trace)):
            for site in sites.values():
                for frame in _frames(site, trace):
                    if frame.name not in names and frame.factor != 1.0:
                        return frame.name
        return None

    @property
    def _layout(self) -> Layout:
        sites = [*self.guide.values(), *self.model.values()]
        depth = max((-frame.dim for site in sites for frame in site["cond_indep_stack"]), default=0)
        return Layout(tuple(frame.dim for frame in self.batch), tuple(frame.size for frame in self.batch), depth)

    def _latent(self, site: Site, own_scale: bool) -> SiteTerm:
        name, twin = site["name"], self.model.get(site["name"])
        random = any(other["infer"].get("is_auxiliary") for other in self.guide.values())
        is_function = is_delta(site["fn"])
        density, score = _guide_densities(site)
        return SiteTerm(
            value=site["value"],
            log_p=None if twin is None else self._collapse(twin, _density(twin, "model"), self.model_trace, own_scale),
            log_q=self._collapse(site, density, self.guide_trace, own_scale),
            score=self._layout.collapse(score),
            kl=None if self.site_kl is None or twin is None else self._kl(site, twin, own_scale),
            relocated=self._relocated(site, twin),
            logits=_logits(site),
            plated_p=None if twin is None else self._plated(twin, _density(twin, "model"), self.model_trace, own_scale),
            plated_q=self._plated(site, density, self.guide_trace, own_scale),
            plated_score=self._arrange(score),
            name=name,
            observed=False,
            local=bool(site["cond_indep_stack"]),
            reparameterized=_has_path(site),
            function=is_function and random,
            point=is_function and not random,
            family=family(site["fn"]),
            prior_family="" if twin is None else family(twin["fn"]),
            event_dim=len(site["fn"].event_shape),
            **_enumerated(site, self._layout),
            layout=self._layout,
        )

    def _relocated(self, site: Site, twin: Site | None) -> Array | None:
        if not self.relocate or twin is None or is_delta(site["fn"]):
            return None
        return relocated(twin["fn"], site["value"])

    def _kl(self, site: Site, twin: Site, own_scale: bool) -> Array:
        """The divergence in closed form, or ``log q - log p`` at a site that is a function of others."""
        if is_delta(site["fn"]):
            log_q = self._collapse(site, _density(site, "guide"), self.guide_trace, own_scale)
            return log_q - self._collapse(twin, _density(twin, "model"), self.model_trace, own_scale)
        (q, q_mask), (p, p_mask) = unmasked(site["fn"]), unmasked(twin["fn"])
        q_scale, p_scale = (
            self._inner_scale(site, self.guide_trace, own_scale),
            self._inner_scale(twin, self.model_trace, own_scale),
        )
        if not (_same_mask(q_mask, p_mask) and _same(q_scale, p_scale)):
            raise _unequal_layout(site["name"])
        divergence = self.site_kl(site["name"], q, p)  # type: ignore[misc]  # asked for
        if q_mask is not None:
            divergence = jnp.where(q_mask, divergence, 0.0)
        return self._collapse(site, divergence, self.guide_trace, own_scale)

    def _observed(self, site: Site, own_scale: bool) -> SiteTerm:
        return SiteTerm(
            value=jnp.asarray(site["value"]),
            log_p=self._collapse(site, _density(site, "model"), self.model_trace, own_scale),
            log_q=None,
            score=None,
            kl=None,
            relocated=None,
            logits=None,
            plated_p=self._plated(site, _density(site, "model"), self.model_trace, own_scale),
            plated_q=None,
            plated_score=None,
            name=site["name"],
            observed=True,
            local=bool(site["cond_indep_stack"]),
            reparameterized=False,
            function=False,
            point=False,
            family=family(site["fn"]),
            prior_family=family(site["fn"]),
            event_dim=len(site["fn"].event_shape),
            cardinality=0,
            entries=0,
            enumerated=False,
            layout=self._layout,
        )

    def _collapse(self, site: Site, density: Array, trace: Trace, own_scale: bool) -> Array:
        check_density_shape(site, density)
        scale = self._inner_scale(site, trace, own_scale)
        return self._layout.collapse(density if _same(scale, 1.0) else density * scale)

    def _plated(self, site: Site, density: Array, trace: Trace, own_scale: bool) -> Array | None:
        scale = self._inner_scale(site, trace, own_scale)
        return self._arrange(density if _same(scale, 1.0) else density * scale)

    def _arrange(self, density: Array) -> Array | None:
        layout = self._layout
        return layout.arrange(density) if density.ndim <= layout.depth else None

    def _inner_scale(self, site: Site, trace: Trace, own_scale: bool) -> Any:
        names = {frame.name for frame in self.batch}
        inner = math.prod(frame.factor for frame in _frames(site, trace) if frame.name not in names)
        return inner * _user_scale(site, trace) if own_scale else inner


def _logits(site: Site) -> Array | None:
    if site["infer"].get("_sampling") != ANTITHETIC:
        return None
    return bernoulli_logits(site["name"], site["fn"])


def _enumerated(site: Site, layout: Layout) -> dict[str, Any]:
    """What is asked of a site whose states are run as particles."""
    if site["infer"].get("_sampling") != ENUMERATED:
        return {"cardinality": 0, "entries": 0, "enumerated": False}
    own = math.prod(innermost(site["fn"]).event_shape) * math.prod(layout.batch_shape)
    entries = math.prod((*site["fn"].batch_shape, *site["fn"].event_shape)) // own
    return {"cardinality": cardinality(site["fn"]), "entries": entries, "enumerated": True}


def _has_path(site: Site) -> bool:
    mode = site["infer"].get("_sampling")
    return mode == STRAIGHT_THROUGH or (mode not in (DETACHED, ANTITHETIC, ENUMERATED) and bool(site["fn"].has_rsample))


def _frames(site: Site, trace: Trace) -> list[_Frame]:
    return [_frame(frame, trace) for frame in site["cond_indep_stack"]]


def _frame(frame: Any, trace: Trace) -> _Frame:
    """A plate with its N/B; taken from the plate, since ``site["scale"]`` mixes it with the user's scale."""
    plate = trace.get(frame.name)
    full = frame.size if plate is None or plate["type"] != "plate" else plate["args"][0]
    return _Frame(frame.name, frame.dim, frame.size, full / frame.size)


def _density(site: Site, side: str) -> Array:
    try:
        if site["intermediates"]:
            return jnp.asarray(site["fn"].log_prob(site["value"], site["intermediates"]))
        return jnp.asarray(site["fn"].log_prob(site["value"]))
    except NotImplementedError:
        raise
    except (TypeError, ValueError, IndexError) as error:
        if isinstance(error, jax.errors.JAXTypeError):
            raise
        raise bad_density(site, side, error) from error


def _guide_densities(site: Site) -> tuple[Array, Array]:
    """``log q``, and the same without its mask, which a score function needs; ``[*plates]``."""
    density = _density(site, "guide")
    inner, mask = unmasked(site["fn"])
    return density, density if mask is None else _density({**site, "fn": inner}, "guide")


def _batch_plates(sites: list[Site], frames: dict[str, list[_Frame]], batch_plate: str | None) -> list[_Frame]:
    """The plates around every site, or the named one; outermost dimension first."""
    around = [{frame.name for frame in site["cond_indep_stack"]} for site in sites]
    known = {frame.name: frame for group in frames.values() for frame in group}
    common = [name for name in known if all(name in names for names in around)]
    if batch_plate is not None:
        if batch_plate not in known:
            raise ProgramError(f"there is no plate `batch_plate='{batch_plate}'`; {nearest(batch_plate, known)}")
        if batch_plate not in common:
            outside = [site["name"] for site, names in zip(sites, around, strict=True) if batch_plate not in names]
            raise ProgramError(
                f"`batch_plate='{batch_plate}'` does not enclose site '{outside[0]}', so there is no log-weight per "
                "datum; leave `batch_plate` out for joint weights"
            )
        common = [batch_plate]
    for name, group in frames.items():
        for frame in group:
            if frame.name in common and (frame.dim, frame.size) != (known[frame.name].dim, known[frame.name].size):
                raise ProgramError(
                    f"plate '{frame.name}' has another dim or size at site '{name}' than elsewhere; "
                    "use the same `dim=` and size in model and guide"
                )
    return sorted((known[name] for name in common), key=lambda frame: frame.dim)


def _user_scale(site: Site, trace: Trace) -> Any:
    """The user's ``handlers.scale`` alone, freed from the plates' N/B."""
    if site["scale"] is None:
        return 1.0
    factor = math.prod(frame.factor for frame in _frames(site, trace))
    scale = site["scale"] if factor == 1.0 else site["scale"] / factor
    return 1.0 if isinstance(scale, float | int) and math.isclose(scale, 1.0, rel_tol=1e-9) else scale


def _split_scale(
    sites: list[Site], scales: list[Any], guide: dict[str, Site], batch: list[_Frame]
) -> tuple[Any, str | None]:
    """(a user's scale shared by all sites, or None; the name of a latent site with one of its own, or None).

    Shared by all sites, a scale multiplies the bound; on observed sites alone it tempers the likelihood
    inside the weight; on latent sites it is no importance weight any more.
    """
    if all(_same(scales[0], scale) for scale in scales):
        shared = _per_datum(scales[0], batch)
        if shared is not None:
            return shared, None
    own = [s["name"] for s, scale in zip(sites, scales, strict=True) if s["name"] in guide and not _same(scale, 1.0)]
    return None, (own[0] if own else None)


def _same(a: Any, b: Any) -> bool:
    """Whether two scales are known to be equal: inside ``jax.jit`` only what is one and the same array is."""
    if a is b:
        return True
    if isinstance(a, Tracer) or isinstance(b, Tracer):
        return False
    x, y = np.asarray(a), np.asarray(b)
    return x.shape == y.shape and bool(np.allclose(x, y, rtol=1e-6 if x.ndim else 1e-9, atol=0.0))


def _same_mask(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    return _same(a, b)


def _per_datum(scale: Any, batch: Iterable[_Frame]) -> Any:
    """A shared scale as ``[batch]``; None where it varies inside a datum."""
    if jnp.ndim(scale) == 0:
        return scale
    dims = {frame.dim for frame in batch}
    depth = max(jnp.ndim(scale), *(-dim for dim in dims), 1)
    scale = scale.reshape((1,) * (depth - scale.ndim) + scale.shape)
    if any(scale.shape[dim] != 1 for dim in range(-depth, 0) if dim not in dims):
        return None
    return scale.reshape([scale.shape[frame.dim] for frame in batch])


def _unequal_layout(name: str) -> UnsupportedObjective:
    return UnsupportedObjective(
        f"site '{name}' has another mask or scale in the model than in the guide, so its KL has no closed form; use "
        '`kl="monte-carlo"`'
    )
