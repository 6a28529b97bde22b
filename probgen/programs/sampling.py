"""Other ways to sample a guide's site than its distribution's own: what some gradient estimators need."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent

from probgen.errors import ProgramError, UnsupportedObjective, nearest

DETACHED = "detached"
RELAXED = "relaxed"
STRAIGHT_THROUGH = "straight-through"
ANTITHETIC = "antithetic"
ENUMERATED = "enumerated"
PROBED = "probed"  # fair coins, to see what depends on a site

MOST_STATES = 4096  # of all enumerated sites together; each is run like a particle


@dataclass(frozen=True)
class States:
    """The states of one enumerated site, spread over the first ``num_states`` blocks of particles.

    Attributes:
        cardinality: values of one entry.
        entries: how many entries one datum has, over inner plates and event dimensions.
        stride: how many states of the sites after it there are for each of its own.
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
        states: of enumerated sites, by name.
        num_states: how many joint states these have; the particles are ``num_states`` blocks.
    """

    default: str | None = None
    sites: Mapping[str, str | None] = field(default_factory=dict)
    temperature: float = 1.0
    states: Mapping[str, States] = field(default_factory=dict)
    num_states: int = 1

    def mode(self, name: str) -> str | None:
        """How a site is sampled; None is as its distribution says."""
        return self.sites.get(name, self.default)

    @property
    def plain(self) -> bool:
        """Whether every site is sampled as its distribution says."""
        return self.default is None and not any(self.sites.values())

    def with_mode(self, old: str, new: str) -> "Sampling":
        """The same with one mode in place of another."""
        sites = {name: new if mode == old else mode for name, mode in self.sites.items()}
        default = new if self.default == old else self.default
        return replace(self, default=default, sites=sites)

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


def enumeration(sampling: Sampling, sites: Iterable[Any]) -> Sampling:
    """``sampling`` with the states of its enumerated sites, read off the latent terms of a trial run.

    Raises:
        UnsupportedObjective: a site that cannot be enumerated, or too many states.
    """
    counted = [(s.name, *_support_of(s)) for s in sites if sampling.mode(s.name) == ENUMERATED]
    total = math.prod(cardinality**entries for _, cardinality, entries, _ in counted)
    if total > MOST_STATES:
        raise UnsupportedObjective(
            f'`gradient="enumerate"` would run {total:.3g} joint states of {", ".join(repr(c[0]) for c in counted)}, '
            f'more than {MOST_STATES}; use "disarm" or "rloo", or sum the sites out in the model'
        )
    states, stride = {}, total
    for name, cardinality, entries, batch_dims in counted:
        stride //= cardinality**entries
        states[name] = States(cardinality, entries, stride, batch_dims)
    return Sampling(sampling.default, sampling.sites, sampling.temperature, states, total)


def _support_of(site: Any) -> tuple[int, int, tuple[int, ...]]:
    base = _base(site.q)
    if not getattr(base, "has_enumerate_support", False):
        raise UnsupportedObjective(
            f"`gradient=\"enumerate\"` needs a site with finitely many values, but '{site.name}' is "
            f'{type(base).__name__}; use "pathwise" or "rloo" there'
        )
    own = math.prod(base.event_shape)
    entries = site.value.numel() // own // math.prod(site.layout.batch_shape)
    return len(base.enumerate_support(expand=False)), entries, site.layout.batch_dims


class SamplingMessenger(Messenger):
    """Samples the sites of a program as a :class:`Sampling` says; stands outside the plates of the particles.

    In the model, and when the guide is run again, values come from a trace: there it only relaxes distributions.
    """

    def __init__(self, sampling: Sampling, latents: set[str] | None = None) -> None:
        super().__init__()
        self._sampling = sampling
        self._latents = latents

    def _pyro_sample(self, msg: Any) -> None:
        mode = self._mode(msg)
        if mode is None:
            return
        if mode == RELAXED:
            msg["fn"] = relaxed(msg["name"], msg["fn"], self._sampling.temperature)
        if mode == DETACHED and is_point(msg["fn"]):
            return  # a function of other samples and of parameters, whose path is the only way to these
        if self._latents is None and not msg["done"]:
            msg["infer"] = {**msg["infer"], "_sampling": mode}
            msg["value"], msg["done"] = self._draw(mode, msg["name"], msg["fn"]), True

    def _draw(self, mode: str, name: str, fn: Any) -> Tensor:
        if mode == ANTITHETIC:
            return _antithetic(name, fn)
        if mode == PROBED:
            return torch.bernoulli(torch.full_like(bernoulli_logits(name, fn).detach(), 0.5)).requires_grad_()
        if mode == ENUMERATED:
            return _state_values(fn, self._sampling.states[name], self._sampling.num_states)
        value = fn()
        if mode == DETACHED:
            return value.detach()
        return _straight_through(name, fn, value) if mode == STRAIGHT_THROUGH else value

    def _mode(self, msg: Any) -> str | None:
        if msg["is_observed"] or site_is_subsample(msg) or msg["infer"].get("_deterministic"):
            return None
        if self._latents is not None and msg["name"] not in self._latents:
            return None
        return self._sampling.mode(msg["name"])


def relaxed(name: str, fn: Any, temperature: float) -> Any:
    """The Concrete distribution with the logits of a discrete one.

    Raises:
        UnsupportedObjective: neither Bernoulli nor OneHotCategorical.

    Source:
        Maddison, Mnih, Teh (2017), The Concrete distribution, arXiv 1611.00712; Jang, Gu, Poole (2017), arXiv
        1611.01144.
    """
    if isinstance(fn, Independent):
        return relaxed(name, fn.base_dist, temperature).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, torch.distributions.Bernoulli):
        return dist.RelaxedBernoulli(torch.full_like(fn.logits, temperature), logits=fn.logits)
    if isinstance(fn, torch.distributions.OneHotCategorical):
        return dist.RelaxedOneHotCategorical(torch.as_tensor(temperature).to(fn.logits), logits=fn.logits)
    raise UnsupportedObjective(
        f"`gradient=\"relaxed\"` knows Bernoulli and OneHotCategorical sites, in model and guide, but '{name}' is "
        f'{type(fn).__name__}; use "rloo", or "pathwise" where there is `rsample`'
    )


def _straight_through(name: str, fn: Any, value: Tensor) -> Tensor:
    """The sample, with the gradient of its mean (Bengio, Léonard, Courville 2013, arXiv 1308.3432)."""
    base = _base(fn)
    if not isinstance(base, torch.distributions.Bernoulli | torch.distributions.OneHotCategorical):
        raise UnsupportedObjective(
            f"`gradient=\"straight-through\"` knows Bernoulli and OneHotCategorical sites, but '{name}' is "
            f'{type(base).__name__}; use "rloo", or "pathwise" where there is `rsample`'
        )
    return value.detach() + (base.probs - base.probs.detach())


def bernoulli_logits(name: str, fn: Any) -> Tensor:
    """The logits of a Bernoulli site, ``[*batch, *event]``.

    Raises:
        UnsupportedObjective: another distribution.
    """
    base = _base(fn)
    if not isinstance(base, torch.distributions.Bernoulli):
        raise UnsupportedObjective(
            f'`gradient="disarm"` is for Bernoulli sites, but \'{name}\' is {type(base).__name__}; use "rloo" there'
        )
    return base.logits.expand(fn.batch_shape + fn.event_shape)


def _antithetic(name: str, fn: Any) -> Tensor:
    """Samples in pairs ``(k, k + K/2)`` from ``u`` and ``1 - u``; particles on the first dim."""
    probs = bernoulli_logits(name, fn).detach().sigmoid()
    half = probs.shape[0] // 2
    noise = torch.rand_like(probs[:half])
    return torch.cat([1.0 - noise < probs[:half], noise < probs[half:]]).to(probs.dtype)


def _state_values(fn: Any, states: States, num_states: int) -> Tensor:
    """The value of a site in each particle's joint state, which is the slow part of the particle's index."""
    base = _base(fn)
    own = tuple(base.event_shape)
    support = base.enumerate_support(expand=False).reshape(states.cardinality, *own)
    batch, event = tuple(fn.batch_shape), tuple(fn.event_shape)
    inner = [1 if dim - len(batch) in states.batch_dims else batch[dim] for dim in range(1, len(batch))]
    index = torch.arange(batch[0], device=support.device) // (batch[0] // num_states)  # the joint state
    index = index // states.stride % states.count  # of this site
    powers = states.cardinality ** torch.arange(states.entries, device=support.device)
    digits = index[:, None] // powers % states.cardinality  # [P, entries]
    outer = event[: len(event) - len(own)]
    return support[digits].reshape(batch[0], *inner, *outer, *own).expand(batch + event)


def is_point(fn: Any) -> bool:
    """Whether a distribution is a point, perhaps under transforms or independent dimensions."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)


def _base(fn: Any) -> Any:
    while isinstance(fn, Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return fn
