"""What a refusal must leave as it was."""

import random
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn


def state(programs: list[Any], data: Any) -> dict[str, Any]:
    """Everything that a call could move: by name, copies of tensors and the rest as it is."""
    found: dict[str, Any] = {f"data{i}": _copy(value) for i, value in enumerate(_tensors(data))}
    found |= {f"data{i}.grad": _copy(value.grad) for i, value in enumerate(_tensors(data)) if value.is_leaf}
    for side, program in enumerate(programs):
        if isinstance(program, nn.Module):
            found |= {f"{side}.{name}": _copy(value) for name, value in program.state_dict().items()}
            for name, value in program.named_parameters():
                found[f"{side}.{name}.is"] = (id(value), value.requires_grad, _copy(value.grad))
            found |= {f"{side}.{name}.training": module.training for name, module in program.named_modules()}
    store = pyro.get_param_store()
    found["store"] = {name: (id(value), _copy(value)) for name, value in store._params.items()}
    found["generators"] = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    found["handlers"] = len(pyro.poutine.runtime._PYRO_STACK)
    found["flags"] = (
        dist.is_validation_enabled(),
        pyro.infer.is_validation_enabled(),
        pyro.poutine.is_validation_enabled(),
        torch.distributions.Distribution._validate_args,
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
    )
    return found


def _tensors(data: Any) -> list[Tensor]:
    return [data] if isinstance(data, Tensor) else []


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def moved(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of what differs."""
    return [name for name in before | after if not same(before.get(name), after.get(name))]


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, NaN to NaN."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype or a.is_meta or b.is_meta:
            return a.shape == b.shape and a.dtype == b.dtype
        return torch.equal(a, b) or (a.is_floating_point() and torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
