"""What is refused about a pair of traces, in words."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro.distributions import constraints

from probgen.errors import DataError, ProgramError
from probgen.numpyro.distributions import family, is_delta, is_factor, unmasked
from probgen.numpyro.messengers import Site

Trace = Mapping[str, Site]


def sample_sites(trace: Trace) -> Iterator[Site]:
    """The sites that have a density."""
    return (site for site in trace.values() if site["type"] == "sample")


def check_guide(trace: Trace) -> None:
    """Refuses a guide that observes.

    Raises:
        ProgramError: naming the observed site.
    """
    for site in sample_sites(trace):
        if site["is_observed"]:
            raise ProgramError(f"the guide observes site '{site['name']}'; only the model may pass `obs=`")


def check_pair(model_trace: Trace, guide_trace: Trace) -> None:
    """Refuses a pair whose latent sites differ.

    Raises:
        ProgramError: naming the site.
    """
    model = {site["name"]: site for site in sample_sites(model_trace)}
    guide = {site["name"]: site for site in sample_sites(guide_trace)}
    for name, site in guide.items():
        if not site["infer"].get("is_auxiliary"):
            _check_latent(name, model)
    for name, site in model.items():
        if not site["is_observed"] and name not in guide:
            raise ProgramError(
                f"the model samples site '{name}', which the guide lacks (the guide has {listing(guide)}); sample it "
                "in the guide, observe it, or sum it out"
            )
    if not model:
        raise ProgramError("the model has no sample site, so there is nothing to infer or to fit")


def _check_latent(name: str, model: Mapping[str, Site]) -> None:
    if name not in model:
        raise ProgramError(
            f"the guide samples site '{name}', which the model lacks (the model has {listing(model)}); rename it, or "
            "mark it `infer={'is_auxiliary': True}`"
        )
    if model[name]["is_observed"]:
        raise ProgramError(f"site '{name}' is observed in the model, so the guide must not sample it")


def is_supported(site: Site) -> Any:
    """Whether all observed values of a site are finite and inside its support; an array that may be traced."""
    fn, value = site["fn"], jnp.asarray(site["value"])
    if is_factor(fn):
        return jnp.array(True)
    inner, mask = unmasked(fn)
    seen = _seen(mask, fn.event_dim)
    fine = jnp.isfinite(value) | ~seen
    try:
        return jnp.all(fine) & jnp.all(_entrywise(inner.support)(value) | ~seen)
    except NotImplementedError:
        return jnp.all(fine)


def check_support(site: Site) -> None:
    """Refuses observed values outside the support of their site; inside ``jax.jit``, where they are known.

    Raises:
        DataError: naming the site, the first bad index and value, and the support.
    """
    fn, value = site["fn"], site["value"]
    if is_factor(fn):
        return
    if not isinstance(value, jax.Array | np.ndarray | np.generic | float | int):
        raise DataError(
            f"site '{site['name']}' observes a {type(value).__name__}; pass an array, by `jax.numpy.asarray`"
        )
    _check_event(site["name"], fn, jnp.shape(value))
    if not isinstance(value, Tracer):
        with jax.ensure_compile_time_eval():
            _check_values(site["name"], fn, jnp.asarray(value))


def first_index(mask: np.ndarray) -> tuple[int, ...]:
    """The index of the first true entry of an array of bools that has one."""
    return tuple(int(i) for i in np.argwhere(mask)[0])


def _check_event(name: str, fn: Any, shape: tuple[int, ...]) -> None:
    """Refuses what would be broadcast to an event: one number taken for all entries of a datum."""
    wanted = tuple(fn.event_shape)
    got = shape[len(shape) - len(wanted) :] if len(shape) >= len(wanted) else shape
    if got != wanted and all(size in (1, full) for size, full in zip(got[::-1], wanted[::-1], strict=False)):
        raise DataError(
            f"site '{name}' observes a value of shape {shape}, but one datum has shape {wanted}; reshape or expand the "
            "data"
        )


def _check_values(name: str, fn: Any, value: jax.Array) -> None:
    inner, mask = unmasked(fn)
    seen = _seen(mask, fn.event_dim)
    finite = jnp.isfinite(value) | ~seen
    if _is_false(finite):
        index = first_index(np.asarray(~jnp.isfinite(value) & seen))
        raise DataError(f"site '{name}' observes {np.asarray(value)[index]} at index {index}; data must be finite")
    try:
        valid = _entrywise(inner.support)(value) | ~seen
    except NotImplementedError:
        return
    if not _is_false(valid):
        return
    bad = ~np.asarray(valid)
    while bad.ndim > value.ndim:
        bad = np.asarray(bad.any(0))
    index = first_index(bad)
    raise DataError(
        f"site '{name}' observes {_shown(np.asarray(value)[index])} at index {index}, outside the support of "
        f"{family(fn)}, {_constraint(fn.support)}{_cure(fn)}"
    )


def _seen(mask: Any, event_dim: int) -> Any:
    """Which entries count, ``[*plates, 1...]``."""
    if mask is None:
        return jnp.ones((), bool)
    return jnp.asarray(mask).reshape(jnp.shape(mask) + (1,) * event_dim)


def _is_false(valid: Any) -> bool:
    """Whether some entry is known to be false."""
    return not isinstance(valid, Tracer) and not bool(jnp.all(valid))


def _entrywise(constraint: Any) -> Any:
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def _shown(value: Any) -> str:
    return f"{value.item():g}" if np.ndim(value) == 0 else str(value.tolist())


def _constraint(constraint: Any) -> str:
    return repr(getattr(constraint, "base_constraint", constraint)).removesuffix("()")


def _cure(fn: Any) -> str:
    if family(fn) == "Bernoulli":
        return "; binarize the data (`probgen.data.load(..., binarize='dynamic')`) or use another likelihood"
    return ""


def check_density_shape(site: Site, density: jax.Array) -> None:
    """Refuses a log-density with dimensions that no plate declares, which would be broadcast in silence.

    A guide's auxiliary site outside all plates, and what is a function of it, have nothing to be broadcast with:
    NumPyro's autoguides have such sites.

    Raises:
        ProgramError: naming the site, the dimension and the cure.
    """
    declared = {frame.dim: frame for frame in site["cond_indep_stack"]}
    if not declared and (site["infer"].get("is_auxiliary") or is_delta(site["fn"])):
        return
    for dim in range(-density.ndim, 0):
        size = density.shape[dim]
        if size != 1 and dim not in declared:
            raise ProgramError(
                f"site '{site['name']}' has log-densities of shape {tuple(density.shape)}, but no plate declares "
                f"dimension {dim} of size {size}; put it into `numpyro.plate(..., dim={dim})`, or make it part of the "
                "event with `.to_event(1)`"
            )
        if size != 1 and size != declared[dim].size:
            raise ProgramError(
                f"site '{site['name']}' has log-densities of shape {tuple(density.shape)} in plate "
                f"'{declared[dim].name}' of size {declared[dim].size}; give both the same size"
            )


def bad_density(site: Site, side: str, error: Exception) -> ProgramError:
    """What to say when a site's ``log_prob`` itself fails."""
    return ProgramError(
        f"the {side}'s log-density at site '{site['name']}' fails for a value of shape {jnp.shape(site['value'])} "
        f"under {family(site['fn'])} with batch shape {tuple(site['fn'].batch_shape)} and event shape "
        f"{tuple(site['fn'].event_shape)}: {error}"
    )


def listing(names: Iterable[str]) -> str:
    """Names in quotes, or "none"."""
    return ", ".join(f"'{name}'" for name in names) or "none"
