"""The one entry point: a divergence by name, from whatever one has of the two distributions."""

from typing import Any

from torch.distributions import Distribution

from probgen.arguments import choice, positive_int
from probgen.core.divergences.densities import check_alpha
from probgen.core.divergences.estimate import Estimate
from probgen.core.ops import namespace
from probgen.divergences.estimators import ESTIMATORS, Request, without_densities
from probgen.divergences.methods import KINDS, METHODS, Method
from probgen.errors import ArgumentError, ArgumentTypeError, nearest
from probgen.seeding import seeded


def divergence(
    p: Any,
    q: Any,
    *,
    kind: str = "kl",
    method: str = "auto",
    num_samples: int | None = None,
    seed: int | None = None,
    **options: Any,
) -> Estimate:
    """A divergence of p from q, with its error, from distributions or samples.

    Of two distributions (torch's or Pyro's) it is by formula where there is one, by quadrature in one dimension, else
    by Monte Carlo. With samples of one, samples of the other are drawn. :data:`KINDS` says what each kind means and
    which factors it has, :func:`methods_table` which method suits what.

    Args:
        p: a distribution, or samples of shape [n, d] or [n] (torch, JAX or NumPy).
        q: a distribution, or samples of shape [m, d] or [m]. The kind ``"ksd2"`` needs a distribution here.
        kind: one of :data:`KINDS`.
        method: one of :data:`METHODS` that gives this kind, or ``"auto"``: the first that the arguments allow.
        num_samples: to draw from a distribution; by default as many as the other's samples, or 10,000.
        seed: of the draws and of random directions; None uses the global generators.
        **options: of the method, such as ``alpha=`` (Rényi), ``k=`` (neighbours), ``bandwidth=`` (MMD), ``epsilon=``
            (Sinkhorn), ``heavy_tails="allow"``.

    Returns:
        The estimate: value, standard error, 95 % interval, bias and n. Values of closed forms keep the batch shape of
        the distributions.

    Raises:
        ArgumentError: an unknown name, different dimensions, too few samples, or a method that does not apply.
        ArgumentTypeError: neither distribution nor array, or arrays of two libraries.
        DataError: an entry that is not finite, terms of too heavy a tail, or an integral that does not converge.
        MissingExtra: exact transport without POT.

    Example:
        >>> import torch
        >>> from torch.distributions import Laplace, Normal
        >>> p, q = Normal(torch.tensor(0.0), torch.tensor(1.0)), Normal(torch.tensor(3.0), torch.tensor(1.0))
        >>> print(divergence(p, q).value)
        tensor(4.5000)
        >>> print(divergence(p, q, kind="js").value < torch.log(torch.tensor(2.0)))  # by quadrature
        tensor(True)
        >>> estimate = divergence(p.sample((2000,)), q, kind="mmd2", seed=0)
        >>> estimate.bias, estimate.n
        ('none', 2000)
    """
    choice("kind", kind, KINDS)
    usable = [entry for entry in METHODS if kind in entry.kinds]
    choice("method", method, ("auto", *(entry.name for entry in usable)))
    _check_pair(p, q)
    _check_options(kind, usable, method, options)
    count = None if num_samples is None else positive_int("num_samples", num_samples, at_least=2)
    request = Request(p, q, kind, count, seed, options)
    candidates = [entry for entry in usable if method in ("auto", entry.name) and set(options) <= set(entry.options)]
    with seeded(seed):
        return _first_that_applies(candidates, request)


def _first_that_applies(candidates: list[Method], request: Request) -> Estimate:
    reasons = []
    for entry in candidates:
        found = _estimate(entry, request)
        if isinstance(found, Estimate):
            return found
        reasons.append(f"'{entry.name}' {found}")
    raise ArgumentError(f"no method gives {request.kind!r} of these arguments: {'; '.join(reasons)}")


def _estimate(entry: Method, request: Request) -> Estimate | str:
    both = isinstance(request.p, Distribution) and isinstance(request.q, Distribution)
    if entry.needs == "distributions":
        if not both:
            return "needs two distributions"
        return ESTIMATORS[entry.name](request)
    return ESTIMATORS[entry.name](without_densities(request))


def _check_pair(p: Any, q: Any) -> None:
    shapes = []
    for name, value in (("p", p), ("q", q)):
        if isinstance(value, Distribution):
            shapes.append(tuple(value.event_shape))
            continue
        if callable(value) or isinstance(value, (list, tuple)):
            raise ArgumentTypeError(
                f"`{name}` must be a distribution or an array of samples, got {type(value).__name__}: draw samples, or "
                "call a function of probgen.core.divergences with log-densities"
            )
        namespace(**{name: value})
        shapes.append(tuple(value.shape[1:]))
    if shapes[0] != shapes[1] and {*map(_size, shapes)} != {1}:
        raise ArgumentError(f"`p` and `q` must have one dimension, got data of shape {shapes[0]} and {shapes[1]}")


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _check_options(kind: str, usable: list[Method], method: str, options: dict[str, Any]) -> None:
    known = {name for entry in usable if method in ("auto", entry.name) for name in entry.options}
    known = known if kind == "renyi" else known - {"alpha"}
    for name in options:
        if name not in known:
            raise ArgumentError(f"`{name}` is no argument of {kind!r} by {method!r}; {nearest(name, known)}")
    if kind == "renyi":
        if "alpha" not in options:
            raise ArgumentError("the kind 'renyi' needs `alpha`, its order")
        check_alpha(options["alpha"])
