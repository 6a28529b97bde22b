"""How each method of the table gets its estimate, or why it does not apply."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.distributions import kl_divergence

from probgen.core import divergences as core
from probgen.core.divergences.arrays import sample_pair
from probgen.core.divergences.estimate import Estimate, exact_estimate, normal_interval
from probgen.core.ops import Array
from probgen.divergences.critic import by_critic
from probgen.divergences.distributions import as_gaussian, probabilities, score
from probgen.divergences.quadrature import by_quadrature
from probgen.divergences.sources import DEFAULT_COUNT, Density, density_at, drawn_from, has_density, samples_of
from probgen.errors import ArgumentError

_ENUMERATED = core.DISCRETE_KINDS
_GROUPS = 16  # of the jackknife


@dataclass(frozen=True)
class Request:
    """What was asked for; options are those of the method."""

    p: Any
    q: Any
    kind: str
    num_samples: int | None
    seed: int | None
    options: dict[str, Any]


def closed_form(request: Request) -> Estimate | str:
    """By formula, unreduced over a batch of distributions."""
    p, q, kind, alpha = request.p, request.q, request.kind, request.options.get("alpha")
    gaussians = as_gaussian(p), as_gaussian(q)
    if gaussians[0] and gaussians[1] and kind in core.GAUSSIAN_KINDS:
        return _closed(core.gaussian_divergence(*gaussians[0], *gaussians[1], kind, alpha=alpha))
    masses = probabilities(p, q) if kind in _ENUMERATED else None
    if masses:
        return _closed(core.discrete_divergence(masses[0], masses[1], kind, alpha=alpha))
    pairs = {"kl": ((p, q),), "reverse-kl": ((q, p),), "jeffreys": ((p, q), (q, p))}
    if kind not in pairs:
        return f"has no formula for {kind!r} of {type(p).__name__} and {type(q).__name__}"
    try:
        return _closed(sum((kl_divergence(*pair) for pair in pairs[kind]), torch.tensor(0.0)))
    except NotImplementedError:
        return f"torch knows no formula for {type(p).__name__} and {type(q).__name__}"


def _closed(value: Array) -> Estimate:
    infinite = bool((value == math.inf).any())
    return exact_estimate(value, note="infinite: one has mass where the other has none" if infinite else "")


def quadrature(request: Request) -> Estimate | str:
    """By integration, in one dimension."""
    return by_quadrature(request.p, request.q, request.kind, request.options.get("alpha"))


def monte_carlo(request: Request, method: str = "k1") -> Estimate | str:
    """From samples and both log-densities."""
    if not (has_density(request.p) and has_density(request.q)):
        return "needs the densities of both: a distribution or a pair (log_prob, sample)"
    if getattr(request.p, "batch_shape", ()) or getattr(request.q, "batch_shape", ()):
        return "needs distributions without batch; wrap them in `Independent`"
    tails = {"heavy_tails": request.options.get("heavy_tails", "refuse")}
    if request.kind in ("kl", "reverse-kl"):
        found = _densities(request, "q" if request.kind == "reverse-kl" else "p")
        if isinstance(found, str):
            return found
        return core.kl_from_densities(*found[:: -1 if request.kind == "reverse-kl" else 1], method=method, **tails)
    if request.kind == "renyi":
        found = _densities(request, "p")
        return found if isinstance(found, str) else core.renyi_from_densities(*found, request.options["alpha"], **tails)
    at_q = _densities(request, "q")
    if isinstance(at_q, str):
        return at_q
    if method == "control-variate":
        return core.f_from_densities(*at_q, request.kind, method=method, **tails)
    at_p = _densities(request, "p")
    return at_p if isinstance(at_p, str) else core.f_from_both(*at_p, *at_q, request.kind, **tails)


def _densities(request: Request, side: str) -> tuple[Array, Array] | str:
    """``(log p, log q)`` at samples of one of them, or why not."""
    x = drawn_from(getattr(request, side), request.num_samples or DEFAULT_COUNT)
    if x is None:
        return f"needs samples of `{side}`: give (log_prob, sample) with a function or an array for `sample`"
    return density_at(request.p, x), density_at(request.q, x)


def _kl_by(method: str) -> Callable[[Request], Estimate | str]:
    return lambda request: monte_carlo(request, method)


def neighbors(request: Request) -> Estimate | str:
    """From the distances to near samples."""
    if request.kind == "renyi":
        return core.renyi_from_neighbors(request.p, request.q, **request.options)
    return core.kl_from_neighbors(request.p, request.q, **request.options)


def quantiles(request: Request) -> Estimate | str:
    """By sorting."""
    if request.p.ndim > 1 and request.p.shape[1] != 1:
        return "sorts samples of one dimension; in more take 'exact', or the kinds 'sliced-w1', 'sliced-w2', 'sinkhorn'"
    return core.wasserstein_1d(request.p, request.q, p=int(request.kind[-1]))


def exact(request: Request) -> Estimate | str:
    """By POT."""
    return core.wasserstein_exact(request.p, request.q, p=int(request.kind[-1]))


def projections(request: Request) -> Estimate | str:
    """Along directions, at random or the largest."""
    is_max = request.kind.startswith("max")
    _refuse_options(request, ("num_starts", "num_steps") if is_max else ("num_projections",))
    function = core.max_sliced_wasserstein if is_max else core.sliced_wasserstein
    seed = int(torch.randint(2**31, ())) if request.seed is None else request.seed  # of the global generator
    return function(request.p, request.q, p=int(request.kind[-1]), seed=seed, **request.options)


def sinkhorn(request: Request) -> Estimate | str:
    """Entropic transport."""
    if "epsilon" not in request.options:
        raise ArgumentError("the kind 'sinkhorn' needs `epsilon`, the entropy's weight in the squared unit of the data")
    return core.sinkhorn_divergence(request.p, request.q, **request.options)


def moments(request: Request) -> Estimate | str:
    """The Fréchet distance of the samples' means and covariances."""
    _, x, y = sample_pair(request.p, request.q, at_least=4)
    groups = min(_GROUPS, x.shape[0] // 2, y.shape[0] // 2)
    shuffles = [np.random.default_rng(0).permutation(a.shape[0]) for a in (x, y)]
    value = _moment_distance(x, y)
    parts = [  # a jackknife: each group of both left out in turn
        float(
            _moment_distance(
                *(a[np.delete(order, slice(i, None, groups))] for a, order in zip((x, y), shuffles, strict=True))
            )
        )
        for i in range(groups)
    ]
    error = math.sqrt(groups - 1) * float(np.std(parts))
    return Estimate(value, error, normal_interval(float(value), error, groups - 1), "O(1/n)", x.shape[0])


def _moment_distance(x: Array, y: Array) -> Array:
    (mean_x, cov_x), (mean_y, cov_y) = ((a.mean(0), _covariance(a)) for a in (x, y))
    return core.frechet_distance(mean_x, cov_x, mean_y, cov_y)


def _covariance(x: Array) -> Array:
    centred = x - x.mean(0)
    return centred.T @ centred / (x.shape[0] - 1)


def _kernel(statistic: str) -> Callable[[Request], Estimate | str]:
    def estimate(request: Request) -> Estimate | str:
        taken = {"mmd2": ("bandwidth",), "energy": (), "ksd2": ("scale", "power")}[request.kind]
        _refuse_options(request, taken)
        options = {**request.options, "statistic": statistic}
        if request.kind == "ksd2":
            return _stein(request, options)
        function: Any = core.mmd2 if request.kind == "mmd2" else core.energy_distance
        found: Estimate = function(request.p, request.q, **options)
        return found

    return estimate


def _stein(request: Request, options: dict[str, Any]) -> Estimate | str:
    if not has_density(request.q):
        return "needs the density of `q`: pass a distribution; with scores at hand call `stein_discrepancy`"
    if not isinstance(request.p, torch.Tensor):
        return "needs samples as a torch.Tensor, to differentiate the density"
    is_event = isinstance(request.q, Density) or request.q.event_shape or request.p.ndim == 1
    points = request.p if is_event else request.p[:, 0]
    scores = score(partial(density_at, request.q), points).reshape(request.p.shape)
    return core.stein_discrepancy(request.p, scores, **options)


def _refuse_options(request: Request, taken: tuple[str, ...]) -> None:
    extra = sorted(set(request.options) - set(taken))
    if extra:
        raise ArgumentError(
            f"`{extra[0]}` is no argument for kind {request.kind!r}; it takes {', '.join(taken) or 'none'}"
        )


def critic(request: Request) -> Estimate | str:
    """By a critic that is trained on one half of the samples and evaluated on the other."""
    return by_critic(request.p, request.q, request.kind, request.options)


def without_densities(request: Request) -> Request | str:
    """The request with distributions replaced by samples of them, as many as the other has where it has some."""
    if request.kind == "ksd2" and has_density(request.q):
        x = drawn_from(request.p, request.num_samples or DEFAULT_COUNT)
        return "needs samples of `p`" if x is None else replace(request, p=x)
    found = samples_of(request.p, request.q, request.num_samples)
    return found if isinstance(found, str) else replace(request, p=found[0], q=found[1])


ESTIMATORS: dict[str, Callable[[Request], Estimate | str]] = {
    "closed-form": closed_form,
    "quadrature": quadrature,
    "monte-carlo": monte_carlo,
    "k2": _kl_by("k2"),
    "k3": _kl_by("k3"),
    "control-variate": _kl_by("control-variate"),
    "neighbors": neighbors,
    "quantiles": quantiles,
    "exact": exact,
    "projections": projections,
    "log-domain": sinkhorn,
    "moments": moments,
    "u-statistic": _kernel("u-statistic"),
    "v-statistic": _kernel("v-statistic"),
    "linear-time": _kernel("linear-time"),
    "critic": critic,
}
