"""What is refused about a pair of traces, in words."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from probgen.arguments import first_index
from probgen.errors import DataError, ProgramError, UnsupportedObjective
from probgen.programs.sampling import is_point

Site: TypeAlias = Any  # a node of a trace: Pyro's Message, whose fields depend on its type


def sample_sites(trace: poutine.Trace) -> Iterator[Site]:
    """The sites that have a density: neither plates' indices nor ``pyro.deterministic``."""
    nodes: Iterable[Site] = trace.nodes.values()
    for site in nodes:
        if site["type"] == "sample" and not site_is_subsample(site) and not site["infer"].get("_deterministic"):
            yield site


def check_guide(trace: poutine.Trace) -> None:
    """Refuses a guide that observes.

    Raises:
        ProgramError: naming the observed site.
    """
    for site in sample_sites(trace):
        if site["is_observed"]:
            raise ProgramError(f"the guide observes site '{site['name']}'; only the model may pass `obs=`")


def check_pair(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> None:
    """Refuses a pair whose latent sites differ.

    Raises:
        ProgramError: naming the site.
    """
    model = {site["name"]: site for site in sample_sites(model_trace)}
    guide = {site["name"]: site for site in sample_sites(guide_trace)}
    for name, site in guide.items():
        if not site["infer"].get("is_auxiliary"):
            _check_latent(name, site, model)
    for name, site in model.items():
        if not site["is_observed"] and name not in guide:
            raise ProgramError(
                f"the model samples site '{name}', which the guide lacks (the guide has {_listing(guide)}); sample it "
                "in the guide, observe it, or sum it out"
            )
    if not model:
        raise ProgramError("the model has no sample site, so there is nothing to infer or to fit")


def _check_latent(name: str, site: Site, model: dict[str, Site]) -> None:
    if name not in model:
        raise ProgramError(
            f"the guide samples site '{name}', which the model lacks (the model has {_listing(model)}); rename it, or "
            "mark it `infer={'is_auxiliary': True}`"
        )
    if model[name]["is_observed"]:
        raise ProgramError(f"site '{name}' is observed in the model, so the guide must not sample it")


class Replay(poutine.replay_messenger.ReplayMessenger):
    """Gives a program the samples of a trace, and sees at once where they cannot fit.

    A plate that is passed ``subsample=`` keeps it: were it replaced, the program would go on using its own indices.

    Raises:
        ProgramError: a plate whose size or a site whose event shape differs, before the program can fail on it.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            if msg["value"] is None:
                super()._pyro_sample(msg)
                _check_plate_size(msg)
            return
        super()._pyro_sample(msg)
        if msg["done"] and not msg["is_observed"] and msg["name"] in self.trace.nodes:  # type: ignore[union-attr]
            _check_event_shape(msg["name"], msg["fn"], self.trace.nodes[msg["name"]]["fn"])  # type: ignore[union-attr]


def _check_plate_size(plate: Site) -> None:
    """Refuses indices that would turn a whole plate into a subsampled one."""
    size, indices = plate["fn"].size, plate["value"]
    if indices is not None and plate["fn"].subsample_size is None and len(indices) != size:
        raise ProgramError(
            f"plate '{plate['name']}' has size {size} in the model but {len(indices)} in the guide; use the same size "
            "in both"
        )


def _check_event_shape(name: str, p: Any, q: Any) -> None:
    if p.event_shape != q.event_shape:
        raise ProgramError(
            f"site '{name}' has event shape {tuple(p.event_shape)} in the model but {tuple(q.event_shape)} in the "
            "guide; they must be equal"
        )


def check_minibatches(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> None:
    """Refuses model and guide that were passed different indices of a subsampled plate.

    Raises:
        ProgramError: naming the plate.
    """
    for name, node in guide_trace.nodes.items():
        other = model_trace.nodes.get(name)
        if other is None or node["type"] != "sample" or not site_is_subsample(node):
            continue
        if not _same_indices(node, other):
            raise ProgramError(
                f"model and guide see different minibatches of plate '{name}'; pass the same `subsample=` in both (for "
                "Pyro's autoguides, `create_plates=` with a plate of that subsample)"
            )


def _same_indices(guide: Site, model: Site) -> bool:
    a, b = guide["value"], model["value"]
    if a is b or (a.shape == b.shape and torch.equal(a, b)):
        return True
    # The guide's plate spans its minibatch alone: it has no indices that could be others than the model's.
    return guide["fn"].size == len(a) == len(b) != model["fn"].size


def check_support(site: Site) -> None:
    """Refuses observed values outside the support of their site.

    Raises:
        DataError: naming the site, the first bad index and value, and the support.
    """
    fn, value = site["fn"], site["value"]
    if not isinstance(value, Tensor):
        raise DataError(
            f"site '{site['name']}' observes a {type(value).__name__}; pass a torch.Tensor, by `torch.as_tensor`"
        )
    _check_event(site["name"], fn, value)
    check_values(site["name"], fn, value)


def _check_event(name: str, fn: Any, value: Tensor) -> None:
    """Refuses what would be broadcast to an event, or the event to it: one number taken for all entries of a datum."""
    if isinstance(fn, dist.Unit):  # pyro.factor
        return
    wanted = tuple(fn.event_shape)
    got = tuple(value.shape[value.dim() - len(wanted) :]) if value.dim() >= len(wanted) else tuple(value.shape)
    if got != wanted and all(a == b or 1 in (a, b) for a, b in zip(got[::-1], wanted[::-1], strict=False)):
        raise DataError(
            f"site '{name}' observes a value of shape {tuple(value.shape)}, but one datum has shape {wanted}; reshape "
            "or expand the data"
        )


def check_values(name: str, fn: Any, value: Tensor) -> None:
    """As :func:`check_support`, for a site given by its name and distribution."""
    if isinstance(fn, dist.Unit):  # pyro.factor
        return
    if not bool(torch.isfinite(value).all()):
        index = first_index(~torch.isfinite(value))
        raise DataError(f"site '{name}' observes {value[index].item()} at index {index}; data must be finite")
    try:
        bad = ~_entrywise(fn.support).check(value)
    except NotImplementedError:
        return
    if not bool(bad.any()):
        return
    while bad.dim() > value.dim():  # a support that differs between particles
        bad = bad.any(0)
    index = first_index(bad)
    raise DataError(
        f"site '{name}' observes {_shown(value[index])} at index {index}, outside the support of {_family(fn)}, "
        f"{_constraint(fn.support)}{_cure(fn)}"
    )


def _entrywise(constraint: Any) -> Any:
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def _shown(value: Tensor) -> str:
    return f"{value.item():g}" if value.dim() == 0 else str(value.tolist())


def _base(fn: Any) -> Any:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def _family(fn: Any) -> str:
    return type(_base(fn)).__name__


def _constraint(constraint: Any) -> str:
    inner = getattr(constraint, "base_constraint", constraint)
    return str(inner).removesuffix("()")


def _cure(fn: Any) -> str:
    if isinstance(_base(fn), torch.distributions.Bernoulli):
        return "; binarize the data (`probgen.data.load(..., binarize='dynamic')`) or use another likelihood"
    return ""


def check_density_shape(site: Site, density: Tensor, depth: int) -> None:
    """Refuses a log-density with dimensions that no plate declares.

    Raises:
        ProgramError: naming the site, the dimension and the cure.
    """
    declared = {frame.dim for frame in site["cond_indep_stack"] if frame.vectorized}
    for dim in range(-density.dim(), 0):
        if density.shape[dim] != 1 and dim not in declared:
            raise ProgramError(
                f"site '{site['name']}' has log-densities of shape {tuple(density.shape)}, but no plate declares "
                f"dimension {dim} of size {density.shape[dim]}; put it into `pyro.plate(..., dim={dim})`, or make it "
                "part of the event with `.to_event(1)`"
            )
    if density.dim() > depth:
        raise ProgramError(
            f"site '{site['name']}' has log-densities of shape {tuple(density.shape)}, deeper than its plates ({depth})"
        )


def check_cut(samples: Iterable[Tensor], densities: dict[str, Tensor]) -> None:
    """Refuses a frozen guide whose densities depend on a trained tensor other than through its samples.

    Raises:
        UnsupportedObjective: naming the site; the tensor is one that Pyro was never told of.
    """
    seen = {sample.grad_fn for sample in samples}
    for name, density in densities.items():
        pending = [density.grad_fn]
        while pending:
            node = pending.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if type(node).__name__ == "AccumulateGrad":
                raise UnsupportedObjective(
                    f"the guide's density at site '{name}' uses a tensor with `requires_grad` that is not registered, "
                    "so it cannot be frozen; declare it by `pyro.param` or `pyro.module`, make the guide a module that "
                    'owns it, or use `gradient="pathwise"`'
                )
            pending.extend(child for child, _ in node.next_functions)


def check_points(guide: poutine.Trace) -> None:
    """Refuses a guide whose point-mass sites depend on a parameter other than through its samples.

    ``log q`` has no term for such a parameter, so what a frozen ``log q`` leaves out is not the score.

    Raises:
        UnsupportedObjective: naming the site.
    """
    drawn = {site["value"].grad_fn for site in sample_sites(guide) if not is_point(site["fn"])}
    random = any(site["infer"].get("is_auxiliary") for site in sample_sites(guide))
    for site in sample_sites(guide):
        if not random or not is_point(site["fn"]):  # a guide of points alone is the MAP estimate
            continue
        seen, pending = set(drawn), [site["value"].grad_fn]
        while pending:
            node = pending.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if type(node).__name__ == "AccumulateGrad":
                raise UnsupportedObjective(
                    f"the guide's site '{site['name']}' is a point that depends on a parameter by itself, as in "
                    'AutoStructured; its log q cannot be frozen: use `gradient="pathwise"`'
                )
            pending.extend(child for child, _ in node.next_functions)


def bad_density(site: Site, side: str, error: Exception) -> ProgramError:
    """What to say when a site's ``log_prob`` itself fails."""
    shape = tuple(site["value"].shape) if isinstance(site["value"], Tensor) else type(site["value"]).__name__
    return ProgramError(
        f"the {side}'s log-density at site '{site['name']}' fails for a value of shape {shape} under "
        f"{_family(site['fn'])} with batch shape {tuple(site['fn'].batch_shape)} and event shape "
        f"{tuple(site['fn'].event_shape)}: {error}"
    )


def _listing(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
