"""Independent replicates of one objective's gradient on one minibatch."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probgen.comparison.moments import Moments
from probgen.core.weights import effective_sample_size
from probgen.data.batches import Call
from probgen.errors import DivergedError, ProbgenError, UnsupportedObjective
from probgen.objectives import Objective, Player
from probgen.programs import RunOptions, trace_pair
from probgen.programs.modules import modules_of
from probgen.programs.param_scope import Program
from probgen.programs.run import declared_parameters
from probgen.seeding import preserved_rng
from probgen.svi.capture import CapturedSeat
from probgen.svi.parameters import trained_parameters
from probgen.svi.players import Differentiated, seat
from probgen.svi.preflight import preflight

ESS_RUNS = 10  # runs of the pair over which the effective sample size is averaged
WARM_UP = 2  # steps that are not counted
Turn = tuple[list[str], Callable[..., Differentiated]]


@dataclass(frozen=True)
class Measured:
    """What the replicates of one objective leave: moments by player, mean gradients by parameter, and scalars."""

    moments: dict[str, Moments]
    gradients: dict[str, Tensor]
    bound: float
    ess: float
    ms_per_step: float


def measure(
    label: str, model: Program, guide: Program | None, call: Call, objective: Objective, count: int, capture: bool
) -> Measured:
    """Gradients of one objective on one minibatch, ``count`` of them; ``label`` stands in front of errors."""
    try:
        return _replicate(model, guide, call, objective, count, capture)
    except ProbgenError as error:
        raise type(error)(f"objective '{label}': {error}") from error


def _replicate(
    model: Program, guide: Program | None, call: Call, objective: Objective, count: int, capture: bool
) -> Measured:
    args, kwargs = call
    pair = objective(model, guide)
    preflight(pair, args, kwargs)
    parameters = trained_parameters(model, guide, args, kwargs)
    names = sides(model, guide, call, parameters)
    objective.at_step(0)
    turns = _turns(objective.players(pair, parameters), modules_of(model, guide), capture)
    with preserved_rng():
        for _ in range(WARM_UP):  # first calls capture, allocate and check
            _differentiate(turns, call)
    moments = {side: Moments() for side in names}
    bounds, seconds = [], []
    for _ in range(count):
        start = time.perf_counter()
        gradients, bound = _differentiate(turns, call)
        _wait(parameters)
        seconds.append(time.perf_counter() - start)
        bounds.append(float(bound))
        for side, members in names.items():
            moments[side].add(flat([gradients.get(name) for name in members], [parameters[n] for n in members]))
    return Measured(
        moments=moments,
        gradients={name: mean for side in names for name, mean in _split(moments[side], names[side], parameters)},
        bound=statistics.fmean(bounds),
        ess=_ess(model, guide, call, objective.num_particles),
        ms_per_step=1e3 * statistics.median(seconds),
    )


def _turns(players: Sequence[Player], modules: list[nn.Module], capture: bool) -> list[Turn]:
    """For each player the names of its parameters, and what differentiates its loss."""
    seats = seat(players, _still, None, None)
    turns = [CapturedSeat(member, modules) if capture else member for member in seats]
    return [(list(s.player.parameters), turn.differentiate) for s, turn in zip(seats, turns, strict=True)]


def _differentiate(turns: Sequence[Turn], call: Call) -> tuple[dict[str, Tensor | None], Tensor | float]:
    """The gradients of one step by the parameter's name, and the bound that the last player reports."""
    args, kwargs = call
    found: dict[str, Tensor | None] = {}
    for names, differentiate in turns:
        _, report, gradients = differentiate(*args, **kwargs)
        found |= dict(zip(names, gradients, strict=True))
    return found, report.get("bound", math.nan)


def _still(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)


def sides(model: Program, guide: Program | None, call: Call, parameters: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The names of the model's parameters and of the guide's; of neither where there are none.

    Modules say it by their prefix; what programs declare belongs to the guide if the guide declares it.
    """
    guides: set[str] = set() if guide is None else set(declared_parameters(guide, None, *call))
    of_guide = [n for n in parameters if n.startswith("guide.") or (n in guides and not n.startswith("model."))]
    of_model = [name for name in parameters if name not in of_guide]
    return {side: names for side, names in (("model", of_model), ("guide", of_guide)) if names}


def flat(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """All entries in one vector of float64.

    Raises:
        DivergedError: one is not finite.
    """
    parts = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
    flat = torch.cat([part.detach().flatten().double() for part in parts])
    if not bool(torch.isfinite(flat).all()):
        raise DivergedError("a gradient is not finite; `probgen.SVI.run` names the site or number that is to blame")
    return flat


def _split(moments: Moments, names: Sequence[str], parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The mean gradient of each parameter."""
    sizes = [parameters[name].numel() for name in names]
    for name, part in zip(names, moments.mean.split(sizes), strict=True):
        yield name, part.reshape(parameters[name].shape)


def _wait(parameters: Mapping[str, Tensor]) -> None:
    """Until the device has done what it was asked for."""
    if any(value.is_cuda for value in parameters.values()):
        torch.cuda.synchronize()


@torch.no_grad()
def _ess(model: Program, guide: Program | None, call: Call, num_particles: int) -> float:
    """Effective sample size of as many particles, mean over data; NaN where there are no importance weights."""
    options, found = RunOptions(num_particles=num_particles, validate=False), []
    for _ in range(ESS_RUNS):
        terms = trace_pair(model, guide, *call, options)
        try:
            terms.require_importance_weights()
        except UnsupportedObjective:
            return math.nan
        found.append(float(effective_sample_size(terms.plain.log_weights).mean()))
    return statistics.fmean(found)
