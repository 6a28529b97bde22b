"""Other ways to sample a guide's site than its distribution's own: what some gradient estimators need."""

import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.lax import stop_gradient
from numpyro.distributions.distribution import ExpandedDistribution, Independent, MaskedDistribution
from numpyro.primitives import Messenger

from probgen.errors import ProgramError, UnsupportedObjective, nearest
from probgen.numpyro.distributions import family, innermost, is_delta, unmasked
from probgen.numpyro.messengers import Site

DETACHED = "detached"
RELAXED = "relaxed"
STRAIGHT_THROUGH = "straight-through"
ANTITHETIC = "antithetic"
ENUMERATED = "enumerated"

MOST_STATES = 4096  # of all enumerated sites together; each is run like a particle


@dataclass(frozen=True)
class States:
    """The states of one enumerated site; every datum of a particle is in the same one.

    Attributes:
        cardinality: values of one entry.
        entries: how many entries one datum has, over inner plates and event dimensions.
        stride: how many joint states of the sites after it there are for each of its own.
        batch_dims: negative dims of the batch plates.
    """

    cardinality: int
    entries: int
    stride: int
    batch_dims: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many states it has."""
        return self.cardinality**self.entries


@dataclass(frozen=True)
class Sampling:
    """How sites are sampled that are not sampled as their distribution says.

    Attributes:
        default: the mode of sites that ``sites`` does not name; None is the distribution's own.
        sites: modes by site name.
        temperature: of relaxed sites, above 0.
        states: of enumerated sites, by name; one that has none yet is drawn, on trial.
        num_states: how many joint states these have; the particles are so many blocks.
    """

    default: str | None = None
    sites: Mapping[str, str | None] = field(default_factory=dict)
    temperature: float = 1.0
    states: Mapping[str, States] = field(default_factory=dict)
    num_states: int = 1

    def mode(self, name: str) -> str | None:
        """How a site is sampled; None is as its distribution says."""
        return self.sites.get(name, self.default)

    def check_names(self, known: Iterable[str]) -> None:
        """Refuses names that are no latent site.

        Raises:
            ProgramError: naming the nearest one.
        """
        known = list(known)
        for name in self.sites:
            if name not in known:
                raise ProgramError(f"`gradient` names a site '{name}' that the guide lacks; {nearest(name, known)}")


PLAIN = Sampling()
ALL_DETACHED = Sampling(default=DETACHED)


class Sampler(Messenger):
    """Samples the sites of a guide as a :class:`Sampling` says, and cuts those without a path from their parameters.

    In the model, where values come from the guide, it only relaxes distributions.
    """

    def __init__(self, sampling: Sampling, pair: "Twin | None" = None, latents: Iterable[str] | None = None) -> None:
        super().__init__()
        self.sampling, self.pair = sampling, pair
        self.latents = None if latents is None else set(latents)

    def process_message(self, msg: Site) -> None:
        """Relaxes a distribution, or draws an antithetic sample."""
        mode = self._mode(msg)
        if mode == RELAXED:
            msg["fn"] = relaxed(msg["name"], msg["fn"], self.sampling.temperature)
        if mode is not None and self.latents is None:
            msg["infer"] = {**msg["infer"], "_sampling": mode}
            if mode == ANTITHETIC and msg["value"] is None and self.pair is not None:
                msg["value"] = self.pair.draw(msg["name"], msg["fn"])
            if msg["name"] in self.sampling.states and msg["value"] is None and self.pair is not None:
                msg["value"] = state_value(msg["fn"], self.sampling.states[msg["name"]], self.pair.state)

    def postprocess_message(self, msg: Site) -> None:
        """Stops the gradient of a sample; what was cached on the way to it has one too."""
        if self.latents is not None or msg["type"] != "sample" or msg["is_observed"]:
            return
        mode = self._mode(msg)
        if mode == STRAIGHT_THROUGH:
            msg["value"] = _straight_through(msg["name"], msg["fn"], msg["value"])
        elif mode in (DETACHED, ANTITHETIC, ENUMERATED) or not msg["fn"].has_rsample:
            msg["value"] = stop_gradient(msg["value"])
            msg["intermediates"] = []

    def _mode(self, msg: Site) -> str | None:
        if msg["type"] != "sample" or msg["is_observed"] or is_delta(msg["fn"]):
            return None
        if self.latents is not None and msg["name"] not in self.latents:
            return None
        return self.sampling.mode(msg["name"])


@dataclass(frozen=True)
class Twin:
    """One of a pair of particles with antithetic noise, or one of those of a joint state.

    Attributes:
        rng_key: of the pair.
        flipped: whether this is the particle that takes one minus the noise.
        state: index of the joint state of the enumerated sites.
    """

    rng_key: Array
    flipped: Array
    state: Array

    def draw(self, name: str, fn: Any) -> Array:
        """A Bernoulli sample from ``u``, or from ``1 - u``."""
        probs = jax.nn.sigmoid(stop_gradient(bernoulli_logits(name, fn)))
        key = jax.random.fold_in(self.rng_key, zlib.crc32(name.encode()) & 0x7FFFFFFF)
        noise = jax.random.uniform(key, probs.shape, probs.dtype)
        return (jnp.where(self.flipped, 1.0 - noise, noise) < probs).astype(probs.dtype)


def cardinality(fn: Any) -> int:
    """How many values one entry of a site can take; 0 where they are not finitely many, or not known."""
    base = innermost(fn)
    if not getattr(base, "has_enumerate_support", False):
        return 0
    try:
        return len(base.enumerate_support(expand=False))
    except (NotImplementedError, ValueError, TypeError, jax.errors.JAXTypeError):  # such as a count that is traced
        return 0


def state_value(fn: Any, states: States, state: Array) -> Array:
    """The value of a site in a joint state, ``[*batch, *event]``."""
    base = innermost(fn)
    own = tuple(base.event_shape)
    support = base.enumerate_support(expand=False).reshape(states.cardinality, *own)
    batch, event = tuple(fn.batch_shape), tuple(fn.event_shape)
    inner = [1 if dim - len(batch) in states.batch_dims else size for dim, size in enumerate(batch)]
    index = state // states.stride % states.count
    digits = index // states.cardinality ** np.arange(states.entries) % states.cardinality
    outer = event[: len(event) - len(own)]
    return jnp.broadcast_to(support[digits].reshape(*inner, *outer, *own), batch + event)


def enumeration(sampling: Sampling, sites: Iterable[Any]) -> Sampling:
    """``sampling`` with the states of its enumerated sites, read off the latent terms of a trial run.

    Raises:
        UnsupportedObjective: a site that cannot be enumerated, or too many states.
    """
    counted = {site.name: site for site in sites if sampling.mode(site.name) == ENUMERATED and not site.function}
    for name, site in counted.items():
        if not site.cardinality:
            raise UnsupportedObjective(
                f"`gradient=\"enumerate\"` needs a site with finitely many values, but '{name}' is {site.family}; use "
                '"pathwise" or "rloo" there'
            )
    total = math.prod(site.cardinality**site.entries for site in counted.values())
    if total > MOST_STATES:
        raise UnsupportedObjective(
            f'`gradient="enumerate"` would run {total:.3g} joint states of {", ".join(map(repr, counted))}, more than '
            f'{MOST_STATES}; use "disarm" or "rloo", or sum the sites out in the model'
        )
    states, stride = {}, total
    for name, site in counted.items():
        stride //= site.cardinality**site.entries
        states[name] = States(site.cardinality, site.entries, stride, site.layout.batch_dims)
    return replace(sampling, states=states, num_states=total)


def bernoulli_logits(name: str, fn: Any) -> Array:
    """The logits of a Bernoulli site, ``[*batch, *event]``.

    Raises:
        UnsupportedObjective: another distribution.
    """
    base = innermost(fn)
    if not isinstance(base, dist.BernoulliLogits | dist.BernoulliProbs):
        raise UnsupportedObjective(
            f'`gradient="disarm"` is for Bernoulli sites, but \'{name}\' is {family(fn)}; use "rloo" there'
        )
    logits = base.logits
    return jnp.broadcast_to(logits, tuple(fn.batch_shape) + tuple(fn.event_shape))


def relaxed(name: str, fn: Any, temperature: float) -> Any:
    """The Concrete distribution with the logits of a discrete one.

    Raises:
        UnsupportedObjective: not a Bernoulli distribution.

    Source:
        Maddison, Mnih, Teh (2017), The Concrete distribution, arXiv 1611.00712; Jang, Gu, Poole (2017), arXiv
        1611.01144.
    """
    if isinstance(fn, MaskedDistribution):
        inner, mask = unmasked(fn)
        return relaxed(name, inner, temperature).mask(mask)
    if isinstance(fn, Independent):
        return relaxed(name, fn.base_dist, temperature).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, ExpandedDistribution):
        return relaxed(name, fn.base_dist, temperature).expand(fn.batch_shape)
    if isinstance(fn, dist.BernoulliLogits | dist.BernoulliProbs):
        return dist.RelaxedBernoulliLogits(jnp.full_like(fn.logits, temperature), logits=fn.logits)
    raise UnsupportedObjective(
        f"`gradient=\"relaxed\"` knows Bernoulli sites, in model and guide, but '{name}' is {family(fn)}, of which "
        'NumPyro has no relaxed form; use "rloo", or "pathwise" where there is `rsample`'
    )


def _straight_through(name: str, fn: Any, value: Array) -> Array:
    """The sample, with the gradient of its mean (Bengio, Léonard, Courville 2013, arXiv 1308.3432)."""
    base = innermost(fn)
    if not isinstance(base, dist.BernoulliLogits | dist.BernoulliProbs):
        raise UnsupportedObjective(
            f'`gradient="straight-through"` knows Bernoulli sites, but \'{name}\' is {family(fn)}; use "rloo", or '
            '"pathwise" where there is `rsample`'
        )
    fixed = stop_gradient(jnp.asarray(value, base.probs.dtype))
    return fixed + (base.probs - stop_gradient(base.probs))
