"""The state of an optimizer as tensors and JSON values, and back."""

import copy
import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from probgen.checkpoints.strict_json import shown
from probgen.errors import ArgumentError, CheckpointError
from probgen.seeding import preserved_rng

Groups = list[dict[str, Any]]
States = dict[int, dict[str, Any]]

COUNTERS = ("step", "eta", "mu", "mu_product")  # what torch's optimizers count, or make of it: never below 0


def options_of(groups: Groups) -> Groups:
    """The options of each group of parameters, without the parameters; JSON values.

    Raises:
        CheckpointError: an option that JSON has no word for.
    """
    return [{k: _plain(k, v) for k, v in group.items() if k != "params"} for group in groups]


def pack(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of an optimizer: tensors by ``<parameter>/<name>``, and what is JSON.

    Raises:
        CheckpointError: a state that is neither a tensor nor a JSON value.
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{name}"] = value
            else:
                values.setdefault(str(index), {})[name] = _plain(name, value)
    return tensors, {"class": _class_of(optimizer), "options": options_of(optimizer.param_groups), "values": values}


def check(
    name: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], saved: Any, begun: Any, begin: Groups
) -> dict[str, Any]:
    """The state dictionary that :func:`pack` took apart, seen to fit this optimizer.

    Args:
        name: the player's.
        optimizer: of the run that goes on.
        tensors: as packed.
        saved: as packed.
        begun: the options of the groups as the saved optimizer was made with them.
        begin: the groups as this one was.

    Raises:
        ArgumentError: it is an optimizer of another class, or was made with other options.
        CheckpointError: the state is damaged.
    """
    try:
        kind, options, values = (saved[key] for key in ("class", "options", "values"))
        _require_same_class(name, optimizer, kind)
        _require_same_options(name, options_of(begin), begun)
        state = _unpacked(tensors, values)
        _check_state(optimizer, state)
        return {"state": state, "param_groups": _groups(optimizer, options)}
    except ArgumentError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"the state of the optimizer of '{name}': {error!r}") from error


def _require_same_class(name: str, optimizer: torch.optim.Optimizer, kind: Any) -> None:
    if kind != _class_of(optimizer):
        raise ArgumentError(
            f"`optim`: the run to resume was trained by {shown(kind)}, but the optimizer of '{name}' is "
            f"{_class_of(optimizer)}; pass the same one"
        )


def _require_same_options(name: str, now: Groups, before: Any) -> None:
    if len(now) != len(before):
        raise ArgumentError(
            f"`optim`: '{name}' has {len(now)} groups of parameters, but the run was started with {len(before)}"
        )
    for group, old in zip(now, before, strict=True):
        for key in sorted(group.keys() | old.keys()):
            if key not in group or key not in old or group[key] != old[key]:
                raise ArgumentError(
                    f"`optim`: `{key}` is {shown(group.get(key))} for '{name}', but the run was started with "
                    f"{shown(old.get(key))}; pass the same, or begin another run in another `run_dir`"
                )


def _unpacked(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> States:
    state: States = {}
    for index, members in values.items():
        state.setdefault(int(index), {}).update(members)
    for key, tensor in tensors.items():
        index, _, member = key.partition("/")
        if state.setdefault(int(index), {}).setdefault(member, tensor) is not tensor:
            raise ValueError(f"{member} of parameter {index} is there twice")
    return state


def _check_state(optimizer: torch.optim.Optimizer, state: States) -> None:
    """Compares with the state that one step of a copy leaves, where a copy can take one."""
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    expected = _after_a_step(optimizer)
    for index, members in state.items():
        if not 0 <= index < count:
            raise IndexError(f"there is no parameter {index}")
        wanted = expected.get(index, {})
        if _is_of_torch(optimizer) and wanted and members.keys() != wanted.keys():
            raise KeyError(f"parameter {index} has {sorted(members)}, not {sorted(wanted)}")
        for member, value in members.items():
            label = f"{member} of parameter {index}"
            _check_member(label, value, wanted.get(member, value), strict=_is_of_torch(optimizer))


def _check_member(label: str, value: Any, wanted: Any, *, strict: bool) -> None:
    if isinstance(value, Tensor) != isinstance(wanted, Tensor):
        raise TypeError(f"{label} is a {type(value).__name__}")
    if isinstance(value, Tensor):
        if value.shape != wanted.shape or value.dtype != wanted.dtype:
            raise ValueError(f"{label} is {tuple(value.shape)} {value.dtype}, not {tuple(wanted.shape)} {wanted.dtype}")
        if bool(torch.isnan(value).any()):
            raise ValueError(f"{label} holds nan")
        if strict and label.split()[0] in COUNTERS and not 0 <= value.item() < math.inf:
            raise ValueError(f"{label} is {value.item()}")
    elif wanted is not None and type(value) is not type(wanted):
        raise TypeError(f"{label} is {shown(value)}")


def _after_a_step(optimizer: torch.optim.Optimizer) -> States:
    try:
        other = copy.deepcopy(optimizer)
        for group in other.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        with preserved_rng(), torch.no_grad():
            other.step()
        return other.state_dict()["state"]
    except Exception:  # of an optimizer of the user's own, which may want anything
        return {}


def _groups(optimizer: torch.optim.Optimizer, saved: Any) -> Groups:
    """The saved options in the kinds of the present ones."""
    present = optimizer.state_dict()["param_groups"]
    if len(present) != len(saved):
        raise ValueError(f"there are {len(saved)} groups")
    flexible = not _is_of_torch(optimizer)
    groups = []
    for now, before, now_group in zip(present, saved, optimizer.param_groups, strict=True):
        if before.keys() != now.keys() - {"params"}:
            raise KeyError(f"the options are {sorted(before)}")
        options = {key: _like(key, now[key], value, flexible=flexible) for key, value in before.items()}
        if not flexible:
            _require_in_range(type(optimizer), now_group["params"], options)
        groups.append(options | {"params": now["params"]})
    return groups


def _require_in_range(kind: type[torch.optim.Optimizer], parameters: list[Tensor], options: Mapping[str, Any]) -> None:
    """Raises the ValueError that torch raises for options out of range."""
    known = inspect.signature(kind).parameters
    kind(parameters, **{key: value for key, value in options.items() if key in known})


def load(optimizer: torch.optim.Optimizer, packed: dict[str, Any]) -> None:
    """Puts an optimizer where :func:`check` says; torch alone would cast counters to the dtype of their parameter."""
    optimizer.load_state_dict(packed)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, members in packed["state"].items():
        state = optimizer.state[parameters[index]]
        for name, value in members.items():
            if isinstance(value, Tensor) and state[name].dtype != value.dtype:
                state[name] = value.to(state[name].device)


def _class_of(optimizer: torch.optim.Optimizer) -> str:
    return f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"


def _is_of_torch(optimizer: torch.optim.Optimizer) -> bool:
    return _class_of(optimizer).startswith("torch.optim.")


def _plain(name: str, value: Any) -> Any:
    """A JSON value, with tuples as lists and tensors of one number as that number."""
    if isinstance(value, Tensor) and value.dim() == 0:
        return value.item()
    if isinstance(value, tuple | list):
        return [_plain(name, member) for member in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CheckpointError(f"the optimizer's `{name}` is a {type(value).__name__}, which a checkpoint cannot hold")


def _like(key: str, now: Any, saved: Any, *, flexible: bool) -> Any:
    """The saved value in the kind of the present one; only numbers change while torch's optimizers train."""
    if isinstance(now, tuple | list):
        if not isinstance(saved, list) or len(saved) != len(now):
            raise ValueError(f"`{key}` is {shown(saved)}")
        return type(now)(_like(key, a, b, flexible=flexible) for a, b in zip(now, saved, strict=True))
    if isinstance(now, Tensor) or _is_number(now):
        if not _is_number(saved):
            raise ValueError(f"`{key}` is {shown(saved)}")
        return torch.full_like(now, saved) if isinstance(now, Tensor) else saved
    if saved != now and not (flexible and isinstance(saved, bool | str | None)):
        raise ValueError(f"`{key}` is {shown(saved)}")
    return saved


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
