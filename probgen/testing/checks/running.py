"""Runs one program of a trial and reads its sites, densities and draws."""

from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from probgen.data.batches import Call
from probgen.programs import RunOptions, trace_pair
from probgen.programs.checks import sample_sites
from probgen.programs.param_scope import Program, leaves, private_store
from probgen.programs.read import PARTICLES, nesting_of, plates
from probgen.testing.checks.outcome import Fault, NotApplicable

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Recorded:
    """One run of a program.

    Attributes:
        sites: the sites with a density, by name.
        parameters: unconstrained tensors that it registered with Pyro, by name.
        depth: how deep its plates nest.
    """

    sites: dict[str, Any]
    parameters: dict[str, Tensor]
    depth: int

    @property
    def drawn(self) -> Values:
        """The values of latent sites, without gradient."""
        return {name: site["value"].detach() for name, site in self.sites.items() if not site["is_observed"]}

    @property
    def observed(self) -> dict[str, Any]:
        """The observed sites."""
        return {name: site for name, site in self.sites.items() if site["is_observed"]}


def record(
    program: Program, call: Call, values: Values | None = None, *, particles: int = 1, depth: int = 0
) -> Recorded:
    """Runs a program in a scope of its own of Pyro's store, on given values of its sites if there are some."""
    if values:
        program = poutine.condition(program, data=values)
    with private_store(), poutine.trace() as handler:
        if particles > 1:
            with pyro.plate(PARTICLES, particles, dim=-1 - depth):
                program(*call[0], **call[1])
        else:
            program(*call[0], **call[1])
        parameters = leaves(handler.trace)
    handler.trace.compute_log_prob()
    sites = {site["name"]: site for site in sample_sites(handler.trace)}
    return Recorded(sites, parameters, nesting_of(handler.trace))


def log_density(
    program: Program, call: Call, values: Values, *, particles: int = 1, depth: int = 0, scaled: bool = False
) -> Tensor:
    """The log-density of all sites at given values.

    Args:
        program: the program.
        call: its data.
        values: of its sites, with a dimension for particles in front if there are several.
        particles: how many.
        depth: how deep its plates nest.
        scaled: as it is trained, with all scales, rather than as the program declares it.

    Returns:
        ``[particles, batch]``; without ``batch`` where it is joint.
    """
    options = RunOptions(num_particles=particles, max_plate_nesting=depth)
    conditioned = poutine.condition(program, data=values) if values else program
    terms = trace_pair(conditioned, None, call[0], call[1], options)
    if scaled:
        return torch.as_tensor(terms.log_likelihood * terms.scale)
    return torch.as_tensor(terms.plain.log_likelihood)


def batch_frame(recorded: Recorded) -> Any:
    """The plate that encloses every site.

    Raises:
        NotApplicable: there is none.
    """
    frames = [set(plates(site)) for site in recorded.sites.values()]
    shared = set.intersection(*frames) if frames else set()
    if not shared:
        raise NotApplicable("no plate encloses every site, so densities are joint over the data")
    return min(shared, key=lambda frame: frame.dim)


def whole_frame(recorded: Recorded) -> Any:
    """As :func:`batch_frame`, of a program that draws no minibatch of its own."""
    frame = batch_frame(recorded)
    if frame.full_size != frame.size:
        raise NotApplicable(f"the program draws its own minibatches of plate '{frame.name}'")
    return frame


def rows_of_values(recorded: Recorded, frame: Any, index: Tensor) -> Values:
    """The latent values of some data."""
    taken = {}
    for name, value in recorded.drawn.items():
        dim = value.dim() - recorded.sites[name]["fn"].event_dim + frame.dim
        taken[name] = value.index_select(dim, index) if dim >= 0 and value.shape[dim] == frame.size else value
    return taken


def rows(call: Call, size: int, index: Tensor) -> Call:
    """The same data, some of them; ``size`` is that of the batch.

    Raises:
        NotApplicable: no argument has an entry for each datum.
    """
    if not any(_per_datum(value, size) for value in (*call[0], *call[1].values())):
        raise NotApplicable("no argument is a tensor with an entry for each datum of the plate")
    args = tuple(value[index] if _per_datum(value, size) else value for value in call[0])
    return args, {k: v[index] if _per_datum(v, size) else v for k, v in call[1].items()}


def _per_datum(value: Any, size: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == size


def local_parameter(recorded: Recorded, size: int) -> str | None:
    """The name of a parameter that has an entry for each datum, as a guide that is not amortized has; or None."""
    return next((name for name, value in recorded.parameters.items() if size in value.shape[:1]), None)


def require_amortized(program: Program, call: Call, whole: Recorded, size: int) -> None:
    """Skips a program that has parameters for the data of one batch alone.

    Raises:
        NotApplicable: it has.
    """
    name = local_parameter(whole, size)
    if name is None or size < 2:
        return
    try:
        part = record(program, rows(call, size, torch.arange(size - 1)))
        follows = batch_frame(part).size == size - 1
    except (RuntimeError, ValueError, IndexError):
        follows = False
    if not follows:
        raise NotApplicable(f"the parameter '{name}' has an entry for each datum of one batch")


def draws(values: Values) -> Tensor:
    """All values in one vector.

    Raises:
        NotApplicable: there is none.
    """
    if not values:
        raise NotApplicable("nothing is drawn: the program has no latent site")
    return torch.cat([value.double().flatten() for value in values.values()])


def tolerance(*tensors: Tensor) -> float:
    """What two ways to one number may differ by, relative to it: some hundred roundings of the coarsest dtype."""
    eps = max((torch.finfo(t.dtype).eps for t in tensors if t.is_floating_point()), default=2.0**-23)
    return 1000 * eps


def agree(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal up to roundings."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance(a, b), atol=tolerance(a, b), equal_nan=True)


def gap(a: Tensor, b: Tensor) -> str:
    """The largest difference of two tensors and where it is, in words."""
    if a.shape != b.shape:
        return f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
    difference = (a - b).detach().abs().double()
    place = int(difference.argmax()) if difference.numel() else 0
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), difference.shape))
    return f"up to {float(difference.max()) if difference.numel() else 0.0:.3g} apart, at index {index}"


def only_tensor(call: Call) -> Tensor:
    """The first argument.

    Raises:
        NotApplicable: it is no tensor.
    """
    first = next(iter((*call[0], *call[1].values())), None)
    if not isinstance(first, Tensor):
        raise NotApplicable("the first argument of the program is no tensor")
    return first


def replaced(call: Call, value: Tensor) -> Call:
    """The same call with another first argument."""
    if call[0]:
        return (value, *call[0][1:]), call[1]
    name = next(iter(call[1]))
    return (), {**call[1], name: value}


def fault(wrong: str, *, expected: str, cure: str) -> Fault:
    """As :func:`probgen.testing.checks.outcome.require`, to be raised."""
    return Fault(f"{wrong}; expected {expected}; {cure}")
