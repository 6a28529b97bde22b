"""Checks of objectives: their numbers, against evidence in closed form and against each other."""

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from probgen.errors import UnsupportedObjective
from probgen.testing.checks.cases import Trial
from probgen.testing.checks.outcome import NotApplicable, check, require
from probgen.testing.checks.pairs import (
    call_of,
    gradients,
    losses,
    pair_for,
    players,
)
from probgen.testing.checks.running import agree, fault, gap

SIGMA = 6.0  # a false alarm once in 500 million numbers


def subject(trial: Trial) -> tuple[Any, Any, Any]:
    """The user's pair and data, or a small one."""
    if trial.model is not None:
        return trial.model, trial.guide, trial.call
    pair = pair_for(trial.objective)()
    return pair.model, pair.guide, call_of(pair.x)


def bound_of(objective: Any, model: Any, guide: Any, call: Any, seed: int = 5) -> Tensor:
    """The bound per datum at a seed."""
    pyro.set_rng_seed(seed)
    bound: Tensor = objective.bound(model, guide, *call[0], **call[1])
    return bound


@check("objective")
def loss_is_finite_and_differentiable(trial: Trial) -> None:
    """Every player's loss is a finite number with a finite gradient for its parameters: that is what is trained."""
    model, guide, call = subject(trial)
    for name, (player, loss) in losses(trial.objective, model, guide, call).items():
        require(
            loss.total.dim() == 0 and loss.total.requires_grad and bool(torch.isfinite(loss.total)),
            f"the loss of player '{name}' is {loss.total}",
            expected="a finite scalar with a gradient",
            cure="return the sum over the batch, without `.detach()`",
        )
        found = torch.autograd.grad(loss.total, list(player.parameters.values()), allow_unused=True)
        finite = all(bool(torch.isfinite(g).all()) for g in found if g is not None)
        moved = any(bool((g != 0).any()) for g in found if g is not None)
        require(
            finite and moved, f"the gradient of '{name}' is not finite or 0", expected="finite", cure="see its terms"
        )


@check("objective")
def bound_is_per_datum_without_gradient(trial: Trial) -> None:
    """`.bound` gives one number for each datum, without a graph: it is a report, and holds no memory."""
    model, guide, call = subject(trial)
    bound = bound_of(trial.objective, model, guide, call)
    pair = trial.objective(model, guide)
    shape = tuple(pair.terms(*call[0], **call[1]).batch_shape)
    require(
        tuple(bound.shape) == shape and not bound.requires_grad,
        f"the bound has shape {tuple(bound.shape)}, requires_grad={bound.requires_grad}",
        expected=f"shape {shape}, detached",
        cure="combine over particles alone",
    )


@check("objective")
def bound_repeats_with_the_seed(trial: Trial) -> None:
    """The same seed gives the same bound: objectives draw from the generators that the user seeds."""
    model, guide, call = subject(trial)
    first, second = (bound_of(trial.objective, model, guide, call) for _ in range(2))
    require(torch.equal(first, second), f"bounds at one seed: {gap(first, second)}", expected="equal", cure="see seeds")


@check("objective")
def loss_is_minus_the_scaled_bound(trial: Trial) -> None:
    """The loss is minus the sum of what is maximised times its scale, never a surrogate: curves mean something."""
    model, guide, call = subject(trial)
    pair = trial.objective(model, guide)
    pyro.set_rng_seed(5)
    estimate = pair.estimate(*call[0], **call[1])
    total, loss = (estimate.value * estimate.scale).sum().detach(), estimate.loss.detach()
    require(
        agree(loss, -total),
        f"the loss is {float(loss):.8g} and the scaled sum {float(total):.8g}",
        expected="the sum with its sign turned",
        cure="give a surrogate the value of the bound: `value + surrogate - surrogate.detach()`",
    )


@check("objective")
def report_is_detached(trial: Trial) -> None:
    """What a player reports are finite numbers without a graph, `loss` among them: the loop keeps thousands."""
    model, guide, call = subject(trial)
    for name, (_, loss) in losses(trial.objective, model, guide, call).items():
        held = [key for key, value in loss.report.items() if value.requires_grad]
        require(
            not held and "loss" in loss.report,
            f"the report of '{name}' has {sorted(loss.report)}, with a graph: {held}",
            expected="`loss` among detached numbers",
            cure="detach them",
        )


@check("objective")
def evaluation_needs_no_gradient(trial: Trial) -> None:
    """Without gradients the bound is the same, in less memory: held-out data are measured so."""
    model, guide, call = subject(trial)
    with torch.no_grad():
        plain = bound_of(trial.objective, model, guide, call)
    usual = bound_of(trial.objective, model, guide, call)
    pyro.set_rng_seed(5)
    estimated = trial.objective(model, guide).estimate(*call[0], **call[1]).bound.detach()
    for other in (usual, estimated):
        require(agree(plain, other), f"without gradients: {gap(plain, other)}", expected="equal", cure="same noise")


@check("objective")
def bound_is_exact_at_the_posterior(trial: Trial) -> None:
    """With the exact posterior as guide every bound is log p(x): the formula is right."""
    excess = _excess(trial.objective, exact=True)
    require(
        bool((excess.abs() < SIGMA).all()),
        f"with the exact posterior bound and log p(x) are {float(excess.abs().max()):.3g} standard errors apart",
        expected="equal numbers, or equal means where a divergence is in closed form",
        cure="compare the bound with its formula; report the plain one, without beta or free bits",
    )


def _excess(objective: Any, *, exact: bool) -> Tensor:
    """The mean bound over log p(x) in standard errors, for three data."""
    pair = pair_for(objective)(size=3, exact=exact)
    x = pair.x.repeat_interleave(400, 0)
    bound = bound_of(objective, pair.model, pair.guide, call_of(x)).reshape(3, 400)
    return (bound.mean(1) - pair.model.evidence(pair.x).detach()) / (bound.std(1) / 20).clamp(min=1e-9)


@check("objective")
def bound_is_below_the_evidence(trial: Trial) -> None:
    """A lower bound lies below log p(x) in expectation: the kind that evidence is reported as."""
    if reason := not_lower(trial.objective):
        raise NotApplicable(reason)
    excess = _excess(trial.objective, exact=False)
    require(
        bool((excess < SIGMA).all()),
        f"the bound lies {float(excess.max()):.1f} standard errors above log p(x)",
        expected="below it",
        cure="compare the bound with its formula, or do not call it a lower one",
    )


def not_lower(objective: Any) -> str | None:
    """Why an objective's K-sample bound need not lie below log p(x), or None."""
    if getattr(objective, "alpha", 0.0) < 0:
        return "for alpha below 0 the mean of K samples is neither a lower nor an upper bound"
    return None


def or_skip(run: Any) -> Any:
    """What a function returns.

    Raises:
        NotApplicable: the objective refuses the pair.
    """
    try:
        return run()
    except UnsupportedObjective as error:
        raise NotApplicable(f"it does not take such a pair: {error}") from None


@check("objective")
def subsampling_is_unbiased(trial: Trial) -> None:
    """On a subsampled plate the loss has the mean of that of all data: N/B multiplies bounds, not weights."""
    make = pair_for(trial.objective)
    x = make().x
    totals = [or_skip(lambda p=part: _totals(trial.objective, make(subsample=p), x)) for part in (None, 2)]
    whole, part = (found.mean(0) for found in totals)
    error = (totals[0].var(0) / SEEDS + totals[1].var(0) / SEEDS).sqrt().clamp(min=1e-9)
    z = (whole - part).abs() / error
    require(
        float(z.max()) < SIGMA,
        f"losses on minibatches of 2 of 6 average {part.tolist()}, on all data {whole.tolist()}, "
        f"{float(z.max()):.1f} standard errors apart",
        expected="equal means",
        cure="multiply the bound of each datum by `terms.scale`, after the logsumexp",
    )


SEEDS = 40


def _totals(objective: Any, pair: Any, x: Tensor) -> Tensor:
    """Every player's loss at many seeds, ``[seeds, players]``."""
    found = players(objective, pair.model, pair.guide, call_of(x))
    return torch.tensor([[float(player.loss(x).total.detach()) for player in found] for _ in range(SEEDS)])


@check("objective")
def scale_of_all_sites_multiplies_the_loss(trial: Trial) -> None:
    """`poutine.scale` around both programs multiplies the loss, whatever the bound: data then count that often."""
    pair = pair_for(trial.objective)()
    call = call_of(pair.x)
    plain = losses(trial.objective, pair.model, pair.guide, call)
    guide = None if pair.guide is None else poutine.scale(pair.guide, 3.0)
    scaled = losses(trial.objective, poutine.scale(pair.model, 3.0), guide, call)
    for name in plain:
        a, b = (3.0 * plain[name][1].total).detach(), scaled[name][1].total.detach()
        require(
            agree(a, b),
            f"under a scale of 3 the loss of '{name}' is {float(b):.8g}, three times the loss {float(a):.8g}",
            expected="equal numbers",
            cure="multiply by `terms.scale` outside of the logsumexp",
        )


@check("objective")
def finite_differences_of_the_model_agree(trial: Trial) -> None:
    """On fixed noise the gradient of the model's parameters is the slope of the value: no term is forgotten."""
    pair = pair_for(trial.objective)()
    call = call_of(pair.x)
    name, parameter = next(iter(pair.model.named_parameters()))
    found = gradients(trial.objective, pair.model, pair.guide, call)[f"model.{name}"].flatten()[0]
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            parameter.view(-1)[0] += step
        pyro.set_rng_seed(5)
        values.append(_value_of_model(trial, pair, call))
    slope = (values[0] - values[1]) / 2e-5
    require(
        bool((found - slope).abs() <= 1e-4 * (1 + slope.abs())),
        f"the gradient of 'model.{name}' is {float(found):.7g}, the slope of the loss {float(slope):.7g}",
        expected="equal numbers",
        cure="differentiate what is reported as the loss, in the model's parameters",
    )


def _value_of_model(trial: Trial, pair: Any, call: Any) -> Tensor:
    found = losses(trial.objective, pair.model, pair.guide, call)
    owners = [loss for player, loss in found.values() if any(n.startswith("model.") for n in player.parameters)]
    if len(found) > 1:
        raise NotApplicable("several players, whose losses may be surrogates")
    if not owners:
        raise fault("no player trains the model", expected="one", cure="share all parameters out")
    total: Tensor = owners[0].total.detach()
    return total
