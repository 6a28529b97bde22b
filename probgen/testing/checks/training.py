"""Checks of objectives: in Pyro's loop, in ours, captured, and what they leave behind."""

import functools
import gc
import weakref
from typing import Any

import pyro
import torch
from pyro.infer import SVI as PyroSVI
from pyro.optim import PyroOptim
from torch import nn

import probgen.svi
from probgen.errors import ProbgenError, UnsupportedObjective
from probgen.programs.modules import modules_of
from probgen.programs.run import no_guide
from probgen.svi.parameters import trained_parameters
from probgen.testing.checks.cases import Trial
from probgen.testing.checks.outcome import NotApplicable, check, require
from probgen.testing.checks.pairs import call_of, gradients, losses, pair_for, players
from probgen.testing.checks.running import agree, fault, gap
from probgen.testing.checks.values import subject

SGD = functools.partial(torch.optim.SGD, lr=1e-3)


@check("objective")
def players_share_out_the_parameters(trial: Trial) -> None:
    """Every parameter has a player who trains it, and every player parameters: none is forgotten or pulled twice."""
    model, guide, call = subject(trial)
    found = list(players(trial.objective, model, guide, call))
    names = [name for player in found for name in player.parameters]
    wanted = set(trained_parameters(model, guide, *call))
    require(
        set(names) == wanted and len(names) == len(set(names)) and all(player.parameters for player in found),
        f"players {[player.name for player in found]} train {sorted(names)}",
        expected=f"each of {sorted(wanted)} once",
        cure="split the parameters by `model.` and `guide.`",
    )


@check("objective")
def steps_in_pyros_svi(trial: Trial) -> None:
    """It drops into `pyro.infer.SVI`: a step gives a finite number and moves parameters."""
    model, guide, call = subject(trial)
    svi = PyroSVI(model, guide or no_guide, PyroOptim(torch.optim.SGD, {"lr": 1e-3}), trial.objective)
    before = [p.detach().clone() for m in modules_of(model, guide) for p in m.parameters()]
    loss = _pyro_step(svi, call)
    after = [p for m in modules_of(model, guide) for p in m.parameters()]
    moved = not before or any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    finite = bool(torch.isfinite(torch.tensor(loss)))
    require(
        finite and moved, f"a step gives {loss}, moved: {moved}", expected="a number and a move", cure=LOSS_AND_GRADS
    )
    value = svi.evaluate_loss(*call[0], **call[1])
    require(isinstance(value, float), f"evaluate_loss gives {value!r}", expected="a float", cure=LOSS_AND_GRADS)


LOSS_AND_GRADS = "see `loss_and_grads` and `loss` of `probgen.objectives.Objective`"


def _pyro_step(svi: Any, call: Any) -> float:
    try:
        return float(svi.step(*call[0], **call[1]))
    except UnsupportedObjective as error:
        raise NotApplicable(f"Pyro's loop has one optimizer and one loss: {error}") from None


@check("objective")
def both_loops_take_the_same_step(trial: Trial) -> None:
    """`pyro.infer.SVI` and `probgen.SVI` give one loss and one step at one seed: a loop can be changed for another."""
    model, guide, call = subject(trial)
    modules = modules_of(model, guide)
    owned = {id(p) for module in modules for p in module.parameters()}
    if not owned or any(id(p) not in owned for p in trained_parameters(model, guide, *call).values()):
        raise NotApplicable("a program is a function with parameters, which cannot be put back between the loops")
    if len(players(trial.objective, model, guide, call)) > 1:
        raise NotApplicable("its players take turns in `probgen.SVI`, and step at once in Pyro's loop")
    pyro.clear_param_store()
    begun = [{name: value.clone() for name, value in module.state_dict().items()} for module in modules]
    pyro.set_rng_seed(7)
    first = _pyro_step(
        PyroSVI(model, guide or no_guide, PyroOptim(torch.optim.SGD, {"lr": 1e-3}), trial.objective), call
    )
    ended = [p.detach().clone() for module in modules for p in module.parameters()]
    for module, state in zip(modules, begun, strict=True):
        module.load_state_dict(state)
    pyro.clear_param_store()
    svi = probgen.svi.SVI(model, guide, SGD, trial.objective, accelerator="cpu")
    pyro.set_rng_seed(7)
    second = svi.step(*call[0], **call[1])
    require(
        abs(first - second) <= 1e-5 * (1 + abs(first)),
        f"a step gives {first!r} in Pyro's loop and {second!r} in ours",
        expected="one number",
        cure="draw the same noise in both: trial runs must restore the generators",
    )
    for a, b in zip(ended, (p for module in modules for p in module.parameters()), strict=True):
        require(agree(a, b.detach()), f"parameters are {gap(a, b.detach())}", expected="one step", cure=LOSS_AND_GRADS)


@check("objective")
def training_raises_the_evidence(trial: Trial) -> None:
    """Forty steps raise the exact log p(x) of the data: the sign of every player's loss is right."""
    pair = pair_for(trial.objective)(size=20)
    adam = functools.partial(torch.optim.Adam, lr=0.05)
    svi = probgen.svi.SVI(pair.model, pair.guide, adam, trial.objective, accelerator="cpu")
    before = _mean_evidence(pair)
    for _ in range(40):
        svi.step(pair.x)
    after = _mean_evidence(pair)
    require(
        after > before,
        f"after 40 steps the mean log p(x) is {after:.4f}, and it was {before:.4f}",
        expected="a rise",
        cure="check the sign of each player's loss",
    )


@torch.no_grad()
def _mean_evidence(pair: Any) -> float:
    return float(pair.model.evidence(pair.x).mean())


@check("objective")
def loss_leaves_parameters_as_they_were(trial: Trial) -> None:
    """Computing a loss moves no parameter, leaves no `.grad`, and switches no `requires_grad` off."""
    model, guide, call = subject(trial)
    named = [(n, p) for m in modules_of(model, guide) for n, p in m.named_parameters()]
    losses(trial.objective, model, guide, call)
    before = [(p.detach().clone(), p.requires_grad) for _, p in named]
    gradients(trial.objective, model, guide, call)
    for (name, parameter), (value, required) in zip(named, before, strict=True):
        require(
            torch.equal(parameter, value) and parameter.grad is None and parameter.requires_grad is required,
            f"'{name}' is not as it was before its loss was computed",
            expected="value, `.grad` and `requires_grad` as they were",
            cure="freeze by `probgen.programs.param_scope.frozen`, which puts all back",
        )


@check("objective")
def pairs_do_not_share_parameters(trial: Trial) -> None:
    """One objective serves several pairs whose names agree: training one leaves the loss of the other."""
    make = pair_for(trial.objective)
    first, second = make(), make()
    call = call_of(first.x)
    before = losses(trial.objective, first.model, first.guide, call)
    svi = probgen.svi.SVI(second.model, second.guide, SGD, trial.objective, accelerator="cpu")
    for _ in range(2):
        svi.step(second.x)
    after = losses(trial.objective, first.model, first.guide, call)
    for name in before:
        a, b = before[name][1].total.detach(), after[name][1].total.detach()
        require(
            agree(a, b),
            f"after another pair's step the loss of '{name}' is {float(b):.8g}, and it was {float(a):.8g}",
            expected="the same",
            cure="run pairs in scopes of their own; keep nothing of a pair in the objective",
        )


@check("objective")
def keeps_no_graph_after_the_step(trial: Trial) -> None:
    """After a step nothing holds the samples' graph: memory stays flat however long training goes on."""
    pair = pair_for(trial.objective)()
    if pair.guide is None:
        raise NotApplicable("nothing is latent")
    seen: list[Any] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = pair.guide

        def forward(self, x: torch.Tensor) -> None:
            with pyro.poutine.trace() as handler:
                self.inner(x)
            seen.extend(weakref.ref(s["fn"]) for s in handler.trace.nodes.values() if s["name"] == "z")

    svi = probgen.svi.SVI(pair.model, Watched(), SGD, trial.objective, accelerator="cpu")
    for _ in range(2):
        svi.step(pair.x)
    if any(ref() is not None for ref in seen):
        gc.collect()
    require(
        all(ref() is None for ref in seen),
        f"{sum(ref() is not None for ref in seen)} of {len(seen)} distributions are still held after the steps",
        expected="none",
        cure="keep detached numbers, not terms or losses",
    )


@check("objective")
def bad_data_are_refused_before_the_step(trial: Trial) -> None:
    """NaN in the data is an error that names it, and no parameter moves: a run is not lost to one bad batch."""
    pair = pair_for(trial.objective)()
    named = [p for m in modules_of(pair.model, pair.guide) for p in m.parameters()]
    before = [p.detach().clone() for p in named]
    x = pair.x.clone()
    x.view(-1)[2] = torch.nan
    runs = {
        "bound": lambda: trial.objective.bound(pair.model, pair.guide, x),
        "SVI.step": lambda: probgen.svi.SVI(pair.model, pair.guide, SGD, trial.objective, accelerator="cpu").step(x),
    }
    for name, run in runs.items():
        try:
            run()
        except ProbgenError as error:
            require("nan" in str(error), f"{name} says {error}", expected="nan and its index", cure="check supports")
        else:
            raise fault(f"{name} takes data with NaN", expected="a DataError", cure="run pairs by `probgen.programs`")
    require(
        all(torch.equal(a, b) for a, b in zip(before, named, strict=True)),
        "a refused step has moved parameters",
        expected="none moved",
        cure="check before the optimizer steps",
    )


@check("objective")
def guide_of_other_sites_is_refused(trial: Trial) -> None:
    """A guide whose sites are not the model's is refused by name, never completed from the prior."""
    pair = pair_for(trial.objective)()
    if pair.guide is None:
        raise NotApplicable("it takes no latent site")
    for guide in (None, lambda x: pyro.sample("other", pyro.distributions.Normal(0.0, 1.0))):
        try:
            trial.objective.bound(pair.model, guide, pair.x)
        except ProbgenError as error:
            require("'z'" in str(error) or "'other'" in str(error), f"{error}", expected="the site", cure="name it")
        else:
            raise fault(
                "a guide without site 'z' is taken", expected="a ProgramError", cure="run by `probgen.programs`"
            )


@check("objective")
def runs_on_a_gpu(trial: Trial) -> None:
    """Loss and gradient live where the data live: nothing is made on the CPU on the way."""
    if not torch.cuda.is_available():
        raise NotApplicable("this machine has no GPU")
    pair = pair_for(trial.objective)()
    for module in modules_of(pair.model, pair.guide):
        module.to("cuda")
    found = gradients(trial.objective, pair.model, pair.guide, call_of(pair.x.to("cuda")))
    require(all(g.is_cuda for g in found.values()), "a gradient is on the CPU", expected="cuda", cure="`new_zeros`")
