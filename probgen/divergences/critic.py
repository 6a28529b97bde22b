"""Divergences by a critic that is trained on one half of the samples and evaluated on the other."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from probgen.arguments import choice, positive_int
from probgen.core import divergences as core
from probgen.core.divergences.arrays import like, numeric, sample_pair
from probgen.core.divergences.critics import refuse_without_dual
from probgen.core.divergences.estimate import Estimate
from probgen.core.divergences.kernels import TestResult
from probgen.core.ops import Array
from probgen.divergences.sources import check_shapes, resolved, samples_of
from probgen.divergences.training import (
    FEWEST,
    Critic,
    Loss,
    Settings,
    bound_loss,
    classifier_loss,
    lipschitz_bound,
    mean_difference,
    train,
)
from probgen.errors import ArgumentError, nearest
from probgen.seeding import seeded

__all__ = ["classifier_test", "density_ratio"]

SETTINGS = tuple(field.name for field in fields(Settings))
BOUNDS = ("dual", "donsker-varadhan")
TRAINERS = ("classifier", "bound")


def by_critic(x: Array, y: Array, kind: str, options: dict[str, Any]) -> Estimate:
    """The bound of a trained critic on the halves of the samples that it has not seen."""
    given = dict(options)
    bound = choice("bound", given.pop("bound", "dual"), BOUNDS)
    trainer = choice("objective", given.pop("objective", "classifier"), TRAINERS)
    if kind == "w1":
        return _wasserstein(x, y, options, Settings(**given))
    refuse_without_dual(kind)
    if bound == "donsker-varadhan" and kind != "kl":
        raise ArgumentError(f"`bound`: 'donsker-varadhan' is one of 'kl', and not of {kind!r}; leave it out")
    trained = kind if bound == "dual" else bound
    loss = bound_loss(trained) if trainer == "bound" else classifier_loss
    s_p, s_q = _held_out(x, y, loss, Settings(**given), is_ratio=True)[1:]
    function = core.donsker_varadhan if bound != "dual" else _dual_of(kind)
    return _told(function(s_p, s_q, heavy_tails="allow"), s_p, s_q, x)


def _dual_of(kind: str) -> Callable[..., Estimate]:
    return lambda s_p, s_q, heavy_tails: core.f_dual_from_log_ratio(s_p, s_q, kind, heavy_tails=heavy_tails)


def _wasserstein(x: Array, y: Array, options: dict[str, Any], settings: Settings) -> Estimate:
    for name in ("bound", "objective"):
        if name in options:
            raise ArgumentError(f"`{name}` is no argument for kind 'w1'; it takes {', '.join(SETTINGS)}")
    critic, t_p, t_q = _held_out(x, y, mean_difference, settings, is_ratio=False)
    return _told(core.kantorovich_rubinstein(t_p, t_q, lipschitz_bound(critic)), t_p, t_q, x)


def _told(found: Estimate, out_p: Tensor, out_q: Tensor, origin: Array) -> Estimate:
    """The estimate in the library of the samples; its note says so where the critic errs nowhere."""
    value = found.value if isinstance(origin, Tensor) else like(numeric(found.value), origin)
    apart = "the critic tells all held-out samples apart: the supports may be disjoint"
    notes = [found.note, apart if bool(out_p.min() > out_q.max()) else ""]
    return Estimate(
        value, found.standard_error, found.interval, found.bias, found.n, "; ".join(note for note in notes if note)
    )


def _held_out(x: Array, y: Array, loss: Loss, settings: Settings, *, is_ratio: bool) -> tuple[Critic, Tensor, Tensor]:
    """A critic, and its outputs on samples that it was not trained on: differentiable in them."""
    x, y = _tensors(x, y)
    (x, x_held), (y, y_held) = _halves(x), _halves(y)
    critic = _trained(x.detach(), y.detach(), loss, settings, is_ratio=is_ratio)
    return critic, critic(x_held), critic(y_held)


def _tensors(x: Array, y: Array) -> tuple[Tensor, Tensor]:
    _, x, y = sample_pair(x, y, at_least=FEWEST)
    pair = [a if isinstance(a, Tensor) else torch.as_tensor(numeric(a).copy()) for a in (x, y)]
    first, second = (a if a.dtype == torch.float64 else a.float() for a in pair)
    return first, second


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(x), device=x.device)
    return x[order[: len(x) // 2]], x[order[len(x) // 2 :]]


def _trained(x: Tensor, y: Tensor, loss: Loss, settings: Settings, *, is_ratio: bool) -> Critic:
    critic = Critic(torch.cat([x, y]), settings, is_ratio=is_ratio)
    train(critic, x, y, loss, settings)
    return critic


def density_ratio(
    p: Any, q: Any, *, num_samples: int | None = None, seed: int | None = None, **settings: Any
) -> Callable[[Tensor], Tensor]:
    """A trained critic of ``log p / q``: a classifier between samples of both, which count alike.

    Args:
        p: as in :func:`divergence`.
        q: as in :func:`divergence`.
        num_samples: to draw from what is not an array; by default as many as the other's samples, or 10,000.
        seed: of draws and training; None uses the global generators.
        **settings: of the critic: ``hidden=(64, 64)``, ``num_steps=400``, ``batch_size=256``, ``learning_rate=3e-3``.

    Returns:
        A frozen module from ``[n, d]`` to log-ratios in nats, ``[n]``, within ±20; differentiable.

    Raises:
        ProbgenError: as :func:`divergence` by ``method="critic"``.

    References:
        Sugiyama, Suzuki, Kanamori, "Density Ratio Estimation in Machine Learning", 2012, chapter 4.

    Example:
        >>> import torch
        >>> from torch.distributions import Normal
        >>> p, q = Normal(torch.tensor([0.0]), 1.0), Normal(torch.tensor([1.0]), 1.0)
        >>> log_ratio = density_ratio(p.sample((2000,)), q.sample((2000,)), num_steps=100, seed=0)
        >>> print((log_ratio(torch.tensor([[0.5]])).abs() < 0.2).item())  # p = q there
        True
    """
    made = Settings(**_checked(settings))
    with seeded(seed):
        x, y = _tensors(*_samples(p, q, num_samples))
        return _trained(x.detach(), y.detach(), classifier_loss, made, is_ratio=True)


def classifier_test(
    p: Any,
    q: Any,
    *,
    statistic: str = "auc",
    num_permutations: int = 1000,
    num_samples: int | None = None,
    seed: int | None = None,
    **settings: Any,
) -> TestResult:
    """Test of the hypothesis p = q: a classifier trained on one half of the samples is tested on the other.

    The p-value is valid for every n: given the classifier, held-out scores are exchangeable under the hypothesis.

    Args:
        p: as in :func:`divergence`.
        q: as in :func:`divergence`.
        statistic: as in :func:`probgen.core.divergences.classifier_two_sample_test`.
        num_permutations: random permutations; the p-value is at least ``1 / (1 + num_permutations)``.
        num_samples: to draw from what is not an array.
        seed: of draws, training and permutations; None uses the global generators.
        **settings: of the critic, as in :func:`density_ratio`.

    Raises:
        ProbgenError: as :func:`divergence` by ``method="critic"``.

    References:
        Lopez-Paz, Oquab, "Revisiting Classifier Two-Sample Tests", 2017, arXiv 1610.06545.

    Example:
        >>> import numpy as np
        >>> x, y = np.random.default_rng(0).normal(size=(2, 200, 2))
        >>> classifier_test(x, y + 1.0, num_steps=50, seed=0).p_value < 0.01
        True
    """
    made = Settings(**_checked(settings))
    choice("statistic", statistic, ("auc", "accuracy"))
    with seeded(seed):
        x, y = _samples(p, q, num_samples)
        s_p, s_q = _held_out(x, y, classifier_loss, made, is_ratio=True)[1:]
        permuted = int(torch.randint(2**31, ()))
        return core.classifier_two_sample_test(
            s_p, s_q, statistic=statistic, num_permutations=num_permutations, seed=permuted
        )


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    for name in settings:
        if name not in SETTINGS:
            raise ArgumentError(f"`{name}` is no setting of a critic; {nearest(name, SETTINGS)}")
    return settings


def _samples(p: Any, q: Any, num_samples: int | None) -> tuple[Array, Array]:
    count = None if num_samples is None else positive_int("num_samples", num_samples, at_least=2)
    pair = resolved(p, q, count)
    check_shapes(*pair)
    found = samples_of(*pair, count)
    if isinstance(found, str):
        raise ArgumentError(f"a critic {found}")
    return found
