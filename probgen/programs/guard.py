"""What every way into the library owes its caller: an error of ours, and everything left as it was before it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.poutine.runtime import NonlocalExit
from torch import Tensor, nn

from probgen.errors import DataError, DivergedError, ProbgenError, ProgramError
from probgen.programs.nonfinite import bad_parameter, first_nonfinite, parameters_of
from probgen.programs.param_scope import Program, owner_of
from probgen.seeding import rng_restored_on_error


@contextmanager
def untouched_on_error(*programs: Program | None) -> Iterator[None]:
    """Leaves generators, Pyro's store and the modules' buffers as they were if its body raises."""
    store = pyro.get_param_store()
    # Not `get_state`: it strips the back references that pyro.infer.SVI reads.
    before = store._params.copy(), store._constraints.copy(), store._param_to_name.copy()
    buffers = [b for m in map(owner_of, programs) if isinstance(m, nn.Module) for b in m.buffers()]
    copies = [buffer.clone() for buffer in buffers]
    with rng_restored_on_error():
        try:
            yield
        except BaseException:
            store._params, store._constraints, store._param_to_name = before
            for buffer, copy in zip(buffers, copies, strict=True):
                buffer.copy_(copy)
            raise


@contextmanager
def guarded(model: Program, guide: Program | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
    """Runs its body, which runs a pair: whatever goes wrong is an error of ours, and leaves nothing behind."""
    with untouched_on_error(model, guide), typed(model, guide, args, kwargs):
        yield


@contextmanager
def typed(model: Program, guide: Program | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
    """Runs its body, which runs a pair: whatever goes wrong in the programs is an error of ours."""
    try:
        yield
    except (ProbgenError, NonlocalExit, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise failure(model, guide, args, kwargs, error) from error


def failure(
    model: Program, guide: Program | None, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
) -> ProbgenError:
    """What to say of a pair that fails on a batch."""
    if (parameter := bad_parameter(parameters_of(model, guide))) is not None:
        return DivergedError(f"model and guide fail: {parameter}; start from finite values ({type(error).__name__})")
    for name, value in (*enumerate(args), *kwargs.items()):
        if isinstance(value, Tensor) and value.numel() == 0:
            return DataError(f"argument {name!r} of a batch is empty, of shape {tuple(value.shape)}; pass data")
        if isinstance(value, Tensor) and not value.is_meta and (index := first_nonfinite(value)) is not None:
            return DataError(
                f"model and guide fail on a batch whose argument {name!r} holds {value[index].item()} at index "
                f"{index}; data must be finite ({type(error).__name__})"
            )
    if repeated := re.search("Multiple sample sites named '(.*)'", str(error)):
        return ProgramError(f"a program has two sites or plates '{repeated[1]}'; give each a name of its own")
    inputs = [*map(_shown, args), *(f"{name}={_shown(value)}" for name, value in kwargs.items())]
    text = f"model and guide fail on a batch ({', '.join(inputs)}): {type(error).__name__}: {error}"
    return ProgramError(text + _cure(model, guide, [*args, *kwargs.values()]))


def _cure(model: Program, guide: Program | None, values: list[Any]) -> str:
    """What most likely mends a failure that is not of our making; the parameters may not be there yet."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    parameters = [*parameters_of(model, guide).values(), torch.empty(0)][:1]
    if values and not tensors:
        return "; programs take tensors: use `torch.as_tensor`"
    for value in tensors:
        if value.device != parameters[0].device:
            return f"; the data are on {value.device}, the parameters on {parameters[0].device}: move one of them"
        if value.dtype != parameters[0].dtype:
            return f"; if its dtype is why, cast the argument: `.to({parameters[0].dtype})`"
    return ""


def _shown(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
