"""The one entry point: a divergence by name, from whatever one has of the two distributions."""

from typing import Any

from torch.distributions import Distribution

from probgen.arguments import choice, positive_int
from probgen.core.divergences.critics import refuse_without_dual
from probgen.core.divergences.densities import check_alpha
from probgen.core.divergences.estimate import Estimate
from probgen.core.divergences.generators import GENERATORS
from probgen.divergences.estimators import ESTIMATORS, Request, without_densities
from probgen.divergences.methods import KINDS, METHODS, Method
from probgen.divergences.sources import check_shapes, resolved
from probgen.errors import ArgumentError, nearest
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
    """A divergence of p from q, with its error, from distributions, densities, samples or programs.

    Of two distributions (torch's or Pyro's) it is by formula where there is one, by quadrature in one dimension, else
    by Monte Carlo; of two log-densities with samples by Monte Carlo. Otherwise it is from samples of both, which are
    drawn from what is no array; where no formula of samples is known (an f other than the KL's), a critic is trained,
    which takes seconds. :data:`KINDS` says what each kind means and which factors it has, :func:`methods_table` which
    method suits what.

    Args:
        p: one of
            a distribution;
            samples of shape [n, d] or [n] (torch, JAX or NumPy);
            a pair ``(log_prob, sample)`` of a function from samples [n, ...] to normalised log-densities [n] and a
            function from a number to so many samples, or samples, or None;
            a program, called without arguments, whose samples are what it returns, or a pair ``(program, "site")``. It
            is called once if it takes ``num_samples=``, otherwise once a sample.
        q: the same. The kind ``"ksd2"`` needs a density here, which need not be normalised.
        kind: one of :data:`KINDS`.
        method: one of :data:`METHODS` that gives this kind, or ``"auto"``: the first that the arguments allow.
        num_samples: to draw from what is not an array; by default as many as the other's samples, or 10,000.
        seed: of draws, random directions and critics; None uses the global generators.
        **options: of the method, such as ``alpha=`` (Rényi), ``k=`` (neighbours), ``bandwidth=`` (MMD), ``epsilon=``
            (Sinkhorn), ``heavy_tails="allow"``; of a critic ``hidden=(64, 64)``, ``num_steps=400``,
            ``batch_size=256``, ``learning_rate=3e-3``, ``objective="classifier"`` (the best log-ratio) or ``"bound"``
            (trained by the bound itself, as f-GAN and MINE are), ``bound="donsker-varadhan"`` (of the KL).

    Returns:
        The estimate: value, standard error, 95 % interval, bias and n. Values of closed forms keep the batch shape of
        the distributions; n of a critic counts the held-out half, in which its value is differentiable.

    Raises:
        ArgumentError: an unknown name, different dimensions, too few samples, or a method that does not apply.
        ArgumentTypeError: none of these forms, or arrays of two libraries.
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
        >>> import pyro
        >>> def program():
        ...     return pyro.sample("x", pyro.distributions.Normal(1.0, 1.0))
        >>> print(abs(divergence((program, "x"), p, kind="w1", num_samples=500, seed=0).value - 1.0) < 0.3)
        tensor(True)
    """
    choice("kind", kind, KINDS)
    if method == "critic" and kind in GENERATORS:
        refuse_without_dual(kind)
    usable = [entry for entry in METHODS if kind in entry.kinds]
    choice("method", method, ("auto", *(entry.name for entry in usable)))
    _check_options(kind, usable, method, options)
    count = None if num_samples is None else positive_int("num_samples", num_samples, at_least=2)
    candidates = [entry for entry in usable if method in ("auto", entry.name) and set(options) <= set(entry.options)]
    with seeded(seed):
        pair = resolved(p, q, count)
        check_shapes(*pair)
        return _first_that_applies(candidates, Request(*pair, kind, count, seed, options))


def _first_that_applies(candidates: list[Method], request: Request) -> Estimate:
    reasons = []
    for entry in candidates:
        found = _estimate(entry, request)
        if isinstance(found, Estimate):
            return found
        reasons.append(f"'{entry.name}' {found}")
    raise ArgumentError(f"no method gives {request.kind!r} of these arguments: {'; '.join(reasons)}")


def _estimate(entry: Method, request: Request) -> Estimate | str:
    if entry.needs == "distributions" and not (
        isinstance(request.p, Distribution) and isinstance(request.q, Distribution)
    ):
        return "needs two distributions"
    if entry.needs in ("distributions", "densities"):
        return ESTIMATORS[entry.name](request)
    drawn = without_densities(request)
    return drawn if isinstance(drawn, str) else ESTIMATORS[entry.name](drawn)


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
