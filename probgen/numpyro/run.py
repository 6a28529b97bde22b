"""Runs a pair: guide first, then the model on the guide's samples; particles by ``jax.vmap`` over keys."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from numpyro import handlers

from probgen.arguments import positive_int
from probgen.errors import ArgumentError, ProbgenError, ProgramError, nearest
from probgen.numpyro.checks import Trace, check_guide, check_pair, check_support, is_supported, sample_sites
from probgen.numpyro.distributions import is_delta
from probgen.numpyro.messengers import Replay, SharedMinibatch, Values
from probgen.numpyro.nonfinite import require_defined
from probgen.numpyro.read import SiteKL, read_terms
from probgen.numpyro.sampling import PLAIN, Sampler, Sampling, Twin
from probgen.numpyro.terms import PairTerms

Program = Callable[..., Any]
Params = Mapping[str, Any]
Vectorize = Callable[[Callable[..., Any], Any], Any]  # (function of one particle, arrays of many) -> arrays of many


def no_guide(*args: Any, **kwargs: Any) -> None:
    """The empty guide, for models without latent sites."""


@dataclass(frozen=True)
class Pair:
    """A pair, and what it is run on.

    Attributes:
        model: a NumPyro program.
        guide: a NumPyro program that takes the same arguments.
        args: passed to both.
        kwargs: likewise.
        batch_plate: the plate over data; by default those around every latent and observed site.
        site_kl: where it is given, the divergence of each site in closed form.
        sampling: how the guide's sites are sampled.
        relocate: whether terms have values as functions of the parameters of the model's distributions.
    """

    model: Program
    guide: Program
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    batch_plate: str | None = None
    site_kl: SiteKL | None = None
    sampling: Sampling = PLAIN
    relocate: bool = False


@dataclass(frozen=True)
class Draws:
    """Keys of a run: one for the minibatch that all particles see, and one for each particle."""

    minibatch: Array
    particles: Array

    @classmethod
    def of(cls, rng_key: Array, num_particles: int) -> "Draws":
        """The keys of so many particles."""
        minibatch, particles = jax.random.split(rng_key)
        return cls(minibatch, jax.random.split(particles, num_particles))

    def repeated(self, count: int) -> "Draws":
        """So many blocks of the particles, each with noise of its own."""
        if count == 1:
            return self
        keys = jax.vmap(lambda key: jax.random.split(key, count))(self.particles)  # [K, count]
        return Draws(self.minibatch, keys.swapaxes(0, 1).reshape(-1, *keys.shape[2:]))

    def each(self) -> tuple[Array, Array]:
        """Key and index of each particle."""
        return self.particles, jnp.arange(len(self.particles))


def log_weights(
    model: Program,
    guide: Program | None,
    *args: Any,
    num_particles: int | tuple[int, int] = 1,
    rng_key: Array | int = 0,
    params: Params | None = None,
    batch_plate: str | None = None,
    **kwargs: Any,
) -> Array:
    r"""Importance log-weights of a pair of NumPyro programs, per datum.

    .. math:: l_k = \log p(x, z_k) - \log q(z_k \mid x), \quad z_k \sim q(\cdot \mid x)

    Batch plates are those that enclose every latent site of the guide and every observed site; plates inside are
    summed. With a latent site outside every plate the weights are joint, one per particle. The subsampling factor
    N/B of a batch plate is not part of a weight: it multiplies a bound. All particles see one minibatch.

    Args:
        model: a NumPyro program.
        guide: a NumPyro program that takes the same arguments, or None for a model without latent sites.
        *args: passed to both.
        num_particles: K samples of the guide per datum, or (M, K) for M groups of K.
        rng_key: a key of ``jax.random``, or an integer seed.
        params: values of ``numpyro.param`` statements by name, as ``svi.get_params(state)`` gives them; what is not
            there starts at its initial value.
        batch_plate: name of the plate over data, where the rule above is not what you mean.
        **kwargs: passed to both.

    Returns:
        ``[K, batch]``, ``[M, K, batch]``, or without ``batch`` where the weights are joint; differentiable, in nats.

    Raises:
        ArgumentError: a number of particles below 1.
        DataError: observed values that are not finite or outside the support of their site. Values are looked at
            where they are known: not those that ``jax.jit`` traces.
        DivergedError: a weight is NaN or +inf; names the first bad parameter or site.
        ProgramError: model and guide do not fit each other, or fail.
        UnsupportedObjective: the guide has point masses, or N/B would sit inside the weights.

    Source:
        Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders, arXiv 1509.00519.

    Example:
        >>> import numpyro
        >>> import numpyro.distributions as dist
        >>> def model(x):
        ...     with numpyro.plate("data", len(x)):
        ...         z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        ...         numpyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with numpyro.plate("data", len(x)):
        ...         numpyro.sample("z", dist.Normal(x / 2, 0.8))
        >>> log_weights(model, guide, jnp.zeros(3), num_particles=5).shape
        (5, 3)
    """
    groups = num_particles if isinstance(num_particles, tuple) else (num_particles,)
    total = math.prod([positive_int("num_particles", count) for count in groups])
    pair = Pair(model, guide or no_guide, args, kwargs, batch_plate)
    rng_key = as_key(rng_key)
    params = completed(pair, params or {}, rng_key)
    terms = run_particles(pair, params, Draws.of(rng_key, total))
    terms.require_importance_weights(total)
    weights = terms.log_weights  # [M * K, batch]
    require_defined(weights, params, terms)
    return weights.reshape(*groups, *weights.shape[1:])


def as_key(rng_key: Any) -> Array:
    """A key of ``jax.random``, also from an integer seed.

    Raises:
        ArgumentError: neither of the two.
    """
    if isinstance(rng_key, int) and not isinstance(rng_key, bool):
        return jax.random.key(rng_key)
    if isinstance(rng_key, jax.Array):
        return rng_key
    raise ArgumentError(f"`rng_key` must be a key of `jax.random` or an integer seed, got {type(rng_key).__name__}")


def completed(pair: Pair, params: Params, rng_key: Array) -> dict[str, Any]:
    """Values for every ``param`` and ``mutable`` statement of a pair: those given, and initial ones for the rest.

    Raises:
        ProgramError, DataError: as :func:`log_weights`; the pair is run once.
    """
    found: dict[str, Any] = {}
    execute(pair, params, params, rng_key, rng_key, found=found)
    if unknown := [name for name in params if name not in found]:
        raise ArgumentError(f"`params` has '{unknown[0]}', which no program declares; {nearest(unknown[0], found)}")
    return {**found, **params}


def run_particles(
    pair: Pair,
    params: Params,
    draws: Draws,
    vectorize: Vectorize | None = None,
    *,
    model_params: Params | None = None,
) -> PairTerms:
    """Runs a pair with one draw of the guide for each key; arrays become ``[K, batch]``.

    ``params`` are those of both sides, unless the model has ``model_params`` of its own.
    """
    theirs = params if model_params is None else model_params

    def particle(inputs: "_Particle") -> PairTerms:
        return execute(pair, theirs, params, inputs[0], draws.minibatch, twin=_twin(pair, draws, inputs))

    return _many(particle, draws.each(), vectorize)


def draw_particles(pair: Pair, params: Params, draws: Draws, vectorize: Vectorize | None = None) -> dict[str, Array]:
    """What the guide draws on the keys of :func:`run_particles`, ``[K, *plates, *event]``; the model is not run."""

    def particle(inputs: "_Particle") -> dict[str, Array]:
        guide_key, _ = jax.random.split(inputs[0])
        sampler = Sampler(pair.sampling, _twin(pair, draws, inputs))
        trace = _run(pair, pair.guide, Values(params), guide_key, draws.minibatch, _GuideReplay({}), sampler)
        return {site["name"]: site["value"] for site in sample_sites(trace) if not is_delta(site["fn"])}

    drawn: dict[str, Array] = _map(particle, draws.each(), vectorize)
    return drawn


def replay_particles(
    pair: Pair,
    model_params: Params,
    guide_params: Params,
    latents: Mapping[str, Array],
    draws: Draws,
    vectorize: Vectorize | None = None,
) -> PairTerms:
    """Densities at given values ``[K, *plates, *event]`` of what the guide draws; each side with its own parameters.

    Everything that conditions on a latent site sees the value given: with ``guide_params`` that are constant,
    q(z2 | z1) keeps its dependence on z1, and transforms, which read parameters in ``log_prob``, are frozen too.
    """

    def particle(inputs: tuple["_Particle", dict[str, Array]]) -> PairTerms:
        (rng_key, _), values = inputs
        return execute(pair, model_params, guide_params, rng_key, draws.minibatch, latents=values)

    return _many(particle, (draws.each(), dict(latents)), vectorize)


_Particle = tuple[Array, Array]  # key, index


def _twin(pair: Pair, draws: Draws, inputs: _Particle) -> Twin:
    half = max(len(draws.particles) // 2, 1)
    block = max(len(draws.particles) // pair.sampling.num_states, 1)
    index = inputs[1]
    return Twin(jax.random.fold_in(draws.minibatch, index % half), index >= half, index // block)


def _many(particle: Callable[[Any], PairTerms], inputs: Any, vectorize: Vectorize | None) -> PairTerms:
    return _shared(_map(particle, inputs, vectorize))


def _map(particle: Callable[[Any], Any], inputs: Any, vectorize: Vectorize | None) -> Any:
    """A function of one particle for many; for a single one without a dimension to be carried through."""
    if jax.tree.leaves(inputs)[0].shape[0] > 1:
        return (vectorize or _vmap)(particle, inputs)
    return jax.tree.map(lambda leaf: leaf[None], particle(jax.tree.map(lambda leaf: leaf[0], inputs)))


def _vmap(function: Callable[..., Any], inputs: Any) -> Any:
    return jax.vmap(function)(inputs)


def _shared(terms: PairTerms) -> PairTerms:
    """The terms of many particles with one scale for all, and one mutable state: the mean over particles."""
    return dataclasses.replace(
        terms,
        scale=terms.scale[0],
        mutable=jax.tree.map(_one, terms.mutable),
        unscaled=None if terms.unscaled is None else _shared(terms.unscaled),
    )


def _one(leaf: Array) -> Array:
    return leaf.mean(0) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf[0]


def execute(
    pair: Pair,
    model_params: Params,
    guide_params: Params,
    rng_key: Array,
    minibatch_key: Array,
    *,
    latents: Params | None = None,
    twin: Twin | None = None,
    found: dict[str, Any] | None = None,
    supported: list[Array] | None = None,
) -> PairTerms:
    """One particle: guide, then model.

    Args:
        pair: what to run.
        model_params: values of the model's ``param`` and ``mutable`` statements.
        guide_params: the guide's.
        rng_key: draws the guide's samples.
        minibatch_key: draws the plates' subsamples.
        latents: values of what the guide draws, instead of drawing them; sites that are functions of others, as in
            autoguides, are computed again.
        twin: noise that is shared with another particle, for antithetic sites.
        found: is filled with the values that the statements had.
        supported: is filled with whether each site's data are inside its support, instead of refusing them.

    Raises:
        ProgramError, DataError, UnsupportedObjective: the pair does not fit together, or fails.
    """
    guide_key, model_key = jax.random.split(rng_key)
    guide_values, model_values = Values(guide_params), Values(model_params)
    sampler = Sampler(pair.sampling, twin)
    replay: Replay = _GuideReplay(latents or {})
    guide_trace = _run(pair, pair.guide, guide_values, guide_key, minibatch_key, replay, sampler)
    check_guide(guide_trace)
    _keep_statements(guide_trace, found)
    model_values.values = {**model_params, **(found or {}), **_mutable(guide_trace)}
    drawn = {site["name"]: site["value"] for site in sample_sites(guide_trace)}
    pair.sampling.check_names(drawn)
    shapes = {site["name"]: tuple(site["fn"].event_shape) for site in sample_sites(guide_trace)}
    replay, sampler = Replay(drawn, shapes), Sampler(pair.sampling, latents=drawn)
    model_trace = _run(pair, pair.model, model_values, model_key, minibatch_key, replay, sampler)
    check_pair(model_trace, guide_trace)
    _keep_statements(model_trace, found)
    for site in sample_sites(model_trace):
        if site["is_observed"]:
            check_support(site) if supported is None else supported.append(is_supported(site))
    unset = tuple(dict.fromkeys([*guide_values.unset, *model_values.unset]))
    return read_terms(
        model_trace,
        guide_trace,
        batch_plate=pair.batch_plate,
        site_kl=pair.site_kl,
        unset=unset,
        relocate=pair.relocate,
    )


def _run(
    pair: Pair,
    program: Program,
    params: Values,
    rng_key: Array,
    minibatch_key: Array,
    replay: Replay,
    sampler: Sampler,
) -> Trace:
    try:
        with (
            handlers.block(),
            handlers.seed(rng_seed=rng_key),
            sampler,  # outside the trace, which records what the sampler made of a sample
            handlers.trace() as trace,
            params,
            SharedMinibatch(minibatch_key),
            replay,
        ):
            program(*pair.args, **pair.kwargs)
    except (ProbgenError, MemoryError, jax.errors.JAXTypeError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        raise _failure("guide" if program is pair.guide else "model", pair, error) from error
    return trace


class _GuideReplay(Replay):
    """Gives the guide's sites their values, but for those that are functions of others."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and not is_delta(msg["fn"]):
            super().process_message(msg)


def _mutable(trace: Trace) -> dict[str, Any]:
    return {name: site["value"] for name, site in trace.items() if site["type"] == "mutable"}


def _keep_statements(trace: Trace, found: dict[str, Any] | None) -> None:
    if found is not None:
        kinds = ("param", "mutable")
        found.update({name: site["value"] for name, site in trace.items() if site["type"] in kinds})


def _failure(side: str, pair: Pair, error: Exception) -> ProgramError:
    inputs = [*map(_shown, pair.args), *(f"{name}={_shown(value)}" for name, value in pair.kwargs.items())]
    text = f"the {side} fails on a batch ({', '.join(inputs)}): {type(error).__name__}: {error}"
    return ProgramError(text)


def _shown(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, jax.Array) else type(value).__name__
