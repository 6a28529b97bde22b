"""What a divergence may be given: a distribution, samples, a density with a sampler, or a program."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyro import poutine
from torch import nn
from torch.distributions import Distribution

from probgen.core.ops import Array, namespace
from probgen.divergences.distributions import draw, log_density
from probgen.errors import ArgumentError, ArgumentTypeError, nearest
from probgen.programs.param_scope import private_store

DEFAULT_COUNT = 10_000
_FORMS = "a distribution, an array of samples, a pair (log_prob, sample), a program or a pair (program, 'site')"


@dataclass(frozen=True)
class Density:
    """A log-density, and samples that were drawn from it.

    Attributes:
        log_prob: from samples ``[n, ...]`` to log-densities in nats, ``[n]``.
        samples: None where nothing can be drawn.
    """

    log_prob: Callable[[Array], Array]
    samples: Array | None


Source = Any  # a Distribution, a Density or an array


def resolved(p: Any, q: Any, count: int | None) -> tuple[Source, Source]:
    """Both arguments in one of three forms: programs and samplers are run, as often as the other has samples.

    Raises:
        ArgumentTypeError: something else.
        ArgumentError: a program or sampler that does not give samples.
    """
    lengths = [len(a[1] if _has_samples(a) else a) for a in (p, q) if _is_array(a) or _has_samples(a)]
    wanted = count or (lengths[0] if lengths else DEFAULT_COUNT)
    return _resolved("p", p, wanted), _resolved("q", q, wanted)


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape") and len(value.shape) > 0


def _has_samples(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and _is_array(value[1])


def _resolved(name: str, value: Any, count: int) -> Source:
    if isinstance(value, Distribution):
        return value
    if isinstance(value, tuple) and len(value) == 2 and callable(value[0]):
        first, second = value
        if isinstance(second, str):
            return _drawn(name, first, second, count)
        return Density(first, _sampled(name, second, count))
    if callable(value):
        return _drawn(name, value, None, count)
    if not _is_array(value):
        raise ArgumentTypeError(f"`{name}` must be {_FORMS}, got {type(value).__name__}")
    namespace(**{name: value})
    return value


def _sampled(name: str, sample: Any, count: int) -> Array | None:
    """What a sampler gives, or the samples themselves."""
    if sample is None or _is_array(sample):
        return sample
    if not callable(sample):
        raise ArgumentTypeError(
            f"the second of the pair `{name}` must be a function of the number of samples, an array of samples or "
            f"None, got {type(sample).__name__}"
        )
    return _counted(name, "sample", sample(count), count)


def _counted(name: str, what: str, samples: Any, count: int) -> Array:
    namespace(**{f"{name}'s samples": samples})
    if samples.ndim < 1 or samples.shape[0] != count:
        raise ArgumentError(
            f"`{name}`: {what}({count}) must give {count} samples along axis 0, got the shape {list(samples.shape)}"
        )
    return samples


def _drawn(name: str, program: Callable[..., Any], site: str | None, count: int) -> Array:
    """Samples of a program, in one call where it takes ``num_samples``, else one by one."""
    signature = _signature(name, program)
    if signature is not None and "num_samples" in signature.parameters:
        with private_store():
            return _counted(name, "a program of num_samples=", _outcome(name, program, site, num_samples=count), count)
    with private_store():
        values = [_outcome(name, program, site) for _ in range(count)]
    return namespace(values[0]).stack(values)


def _signature(name: str, program: Callable[..., Any]) -> inspect.Signature | None:
    try:
        signature = inspect.signature(program.forward if isinstance(program, nn.Module) else program)
    except (TypeError, ValueError):  # some built-in functions have none
        return None
    try:
        signature.bind()
    except TypeError as error:
        raise ArgumentTypeError(
            f"`{name}` is a program, which is called without arguments: {error}; bind them by functools.partial"
        ) from None
    return signature


def _outcome(name: str, program: Callable[..., Any], site: str | None, **arguments: Any) -> Array:
    """What one run returns, or the value at a site."""
    if site is None:
        value = program(**arguments)
        if not hasattr(value, "dtype"):
            raise ArgumentTypeError(
                f"`{name}` is a program that returns {type(value).__name__}: return an array, or name a site, as in "
                f"{name}=(program, 'x')"
            )
        return value
    nodes = poutine.trace(program).get_trace(**arguments).nodes
    sites = [key for key, node in nodes.items() if node["type"] == "sample" and not _is_plate(node)]
    if site not in sites:
        raise ArgumentError(f"`{name}`: the program has no site {site!r}; {nearest(site, sites)}")
    return nodes[site]["value"]


def _is_plate(node: Any) -> bool:
    return bool(poutine.util.site_is_subsample(node))


def has_density(source: Source) -> bool:
    """Whether log-densities are known."""
    return isinstance(source, (Distribution, Density))


def density_at(source: Source, x: Array) -> Array:
    """Its log-densities at samples."""
    if isinstance(source, Density):
        return source.log_prob(x)
    if not hasattr(x, "detach"):
        raise ArgumentTypeError(
            f"a torch distribution needs samples as a torch.Tensor, got {type(x).__name__}: give (log_prob, sample) of "
            "the other's library"
        )
    return log_density(source, x)


def drawn_from(source: Source, count: int) -> Array | None:
    """Samples, new ones of a distribution; None where there are none."""
    if isinstance(source, Distribution):
        return draw(source, count)
    return source.samples if isinstance(source, Density) else source


def samples_of(p: Source, q: Source, count: int | None) -> tuple[Array, Array] | str:
    """Samples of both, as many as the other has where it has some; or why not."""
    lengths = [len(found) for a in (p, q) if (found := _at_hand(a)) is not None]
    wanted = count or (lengths[0] if lengths else DEFAULT_COUNT)
    pair = [drawn_from(a, wanted) for a in (p, q)]
    for name, found in zip("pq", pair, strict=True):
        if found is None:
            return f"needs samples of `{name}`: give (log_prob, sample) with a function or an array for `sample`"
    return pair[0], pair[1]


def _at_hand(source: Source) -> Array | None:
    return None if isinstance(source, Distribution) else drawn_from(source, 0)


def check_shapes(p: Source, q: Source) -> None:
    """Raises an ArgumentError for data of different dimensions."""
    here, there = _event_shape(p), _event_shape(q)
    if here is None or there is None or here == there or math.prod(here) == math.prod(there) == 1:
        return
    raise ArgumentError(f"`p` and `q` must have one dimension, got data of shape {here} and {there}")


def _event_shape(source: Source) -> tuple[int, ...] | None:
    if isinstance(source, Distribution):
        return tuple(source.event_shape)
    samples = _at_hand(source)
    return None if samples is None else tuple(samples.shape[1:])
