"""Who owns which parameter, while a Pyro program runs.

Pyro keeps parameters by *name* in one global store, so a second module with the same attribute names
starts from the first one's weights and its own never move. Here a module's parameters belong to the
module: every program runs in a scope of the store that no other module has written to. What a program
declares by ``pyro.param`` stays in the user's store, as in Pyro, but two programs may not use one name.
"""

import functools
import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from pyro.poutine.messenger import unwrap as unwrap_poutine
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from probgen.errors import ProgramError

Program = Callable[..., Any]
StoreState = dict[str, dict[str, Any]]

# Which program declared a tensor by `pyro.param`. Not an attribute of the tensor: Pyro's store pickles those.
_owners = WeakTensorKeyDictionary()


def empty_state() -> StoreState:
    """The state of a parameter store that holds nothing."""
    return {"params": {}, "constraints": {}}


def _select(state: StoreState, names: Iterable[str]) -> StoreState:
    names = list(names)
    return {key: {name: state[key][name] for name in names} for key in ("params", "constraints")}


@contextmanager
def private_store(state: StoreState | None = None) -> Iterator[StoreState]:
    """Runs its body where the store holds only ``pyro.param`` statements, none of any module's parameters.

    Args:
        state: the parameters of an earlier run of the same program, to be found again.

    Yields:
        The scope's state, complete after the body. New ``pyro.param`` statements are kept in the user's
        store if the body succeeds; if it raises, the store is as it was.
    """
    store = pyro.get_param_store()
    referenced = [value for value in store._params.values() if "unconstrained" in vars(value)]
    outside: Any = store.get_state()  # a StoreState, which Pyro types more narrowly
    declared = _statements(outside)
    visible = _select(outside, declared)
    if state is not None:
        visible = {key: visible[key] | state[key] for key in visible}
    try:
        with store.scope(visible) as inside:  # type: ignore[arg-type]
            yield inside  # type: ignore[misc]
    finally:
        for value in referenced:  # `get_state` strips the back references that pyro.infer.SVI reads
            value.unconstrained = weakref.ref(value)  # type: ignore[attr-defined]
    fresh = [name for name in _statements(inside) if name not in declared]  # type: ignore[arg-type]
    if taken := [name for name in fresh if name in outside["params"]]:
        raise ProgramError(
            f"the parameter '{taken[0]}' of a `pyro.param` statement has the name of a module's parameter in Pyro's "
            "store; rename it, or call `pyro.clear_param_store()` first"
        )
    store.set_state(_select(inside, fresh))  # type: ignore[arg-type]


def _statements(state: StoreState) -> list[str]:
    """Names of the ``pyro.param`` statements; what a module registers is an ``nn.Parameter``."""
    return [name for name, value in state["params"].items() if not isinstance(value, nn.Parameter)]


@contextmanager
def users_store(program: Program) -> Iterator[StoreState]:
    """Runs its body in the user's own store, as ``pyro.infer.SVI`` needs, after checking that no name clashes.

    (``get_state`` must not be called here: it strips the back references that ``pyro.infer.SVI`` reads.)

    Raises:
        ProgramError: the store's tensor under a PyroParam's name is not the module's.
    """
    store = pyro.get_param_store()
    root = owner_of(program)
    for name, value in _pyro_params(root):
        if name in store and store._params[name] is not value:
            raise ProgramError(_clash(name))
    yield empty_state()  # nothing to remember: a second run finds the same store


def _pyro_params(root: object) -> Iterator[tuple[str, torch.Tensor]]:
    """The PyroParams below a module under the names that Pyro's store gives them."""
    if not isinstance(root, PyroModule):
        return
    for module in root.modules():
        if isinstance(module, PyroModule):
            for name in module._pyro_params:
                full = f"{module._pyro_name}.{name}" if module._pyro_name else name
                yield full, module._parameters[name + "_unconstrained"]  # type: ignore[misc]


def _clash(name: str) -> str:
    return (
        f"the parameter '{name}' in Pyro's store is another module's tensor: two modules use one name, so Pyro would "
        "train only the first. Call `pyro.clear_param_store()` before building the second pair, give the modules "
        "different attribute names, or train with `probgen.SVI`, which keeps pairs apart"
    )


def owner_of(program: Any) -> Any:
    """The object that a program belongs to: through poutines, partials and bound methods."""
    while True:
        inner: Any = inspect.unwrap(unwrap_poutine(program)) if callable(program) else program
        if isinstance(inner, functools.partial):
            inner = inner.func
        elif inspect.ismethod(inner):
            inner = inner.__self__
        if inner is program:
            return inner
        program = inner


def leaves(trace: pyro.poutine.Trace) -> dict[str, torch.Tensor]:
    """The unconstrained tensors behind a trace's ``param`` sites, by name; call it inside the trace's scope."""
    return {name: _unconstrained(node) for name, node in trace.nodes.items() if node["type"] == "param"}


def _unconstrained(node: Any) -> torch.Tensor:
    value = node["value"]
    if hasattr(value, "_pyro_unconstrained_param"):  # inside a subsampled plate
        return value._pyro_unconstrained_param
    return value.unconstrained()


def check_ownership(trace: pyro.poutine.Trace, program: Program, pair: tuple[Program, ...]) -> None:
    """Refuses to run a program on parameters that belong to another one.

    Raises:
        ProgramError: a module's parameter was replaced by the store's, or a ``pyro.param`` statement found
            the tensor of a program outside this pair.
    """
    for name, node in trace.nodes.items():
        if node["type"] != "param":
            continue
        value = _unconstrained(node)
        init = node["args"][1] if len(node["args"]) > 1 else None
        if isinstance(init, nn.Parameter) and value is not init:
            raise ProgramError(_clash(name))
        if not isinstance(value, nn.Parameter):
            _claim(name, value, program, pair)


def declared_by(value: torch.Tensor) -> object:
    """The program that declared a tensor by ``pyro.param``, or None where nobody knows."""
    reference = _owners.get(value)
    return None if reference is None else reference()


def _claim(name: str, value: torch.Tensor, program: Program, pair: tuple[Program, ...]) -> None:
    owner = declared_by(value)
    if owner is None:
        _owners[value] = weakref.ref(owner_of(program))
    elif not any(owner is owner_of(member) for member in pair):
        raise ProgramError(
            f"the parameter '{name}' in Pyro's store belongs to another program, `{getattr(owner, '__name__', owner)}`"
            ": two pairs would share it. Rename one, call `pyro.clear_param_store()`, or run each pair inside "
            "`pyro.get_param_store().scope()`"
        )


@contextmanager
def frozen(parameters: Iterable[torch.Tensor]) -> Iterator[None]:
    """Cuts the parameters out of the graph while the body runs; what depends on samples keeps its gradient."""
    trained = [p for p in parameters if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def preserved_buffers(*programs: object) -> Iterator[None]:
    """Runs its body on copies of the module buffers, so that a trial or second run moves no running statistics.

    (Writing old values back would spoil the graph of a first run that has read a buffer, such as a mask.)
    """
    modules = [module for program in programs if isinstance(program, nn.Module) for module in program.modules()]
    buffers = [(m._buffers, name, b) for m in modules for name, b in m._buffers.items() if b is not None]
    copies = {buffer: buffer.clone() for _, _, buffer in buffers}
    for owner, name, buffer in buffers:
        owner[name] = copies[buffer]
    try:
        yield
    finally:
        for owner, name, buffer in buffers:
            owner[name] = buffer
