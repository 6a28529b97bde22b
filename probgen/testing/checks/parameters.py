"""Checks of models and guides: parameters, their files, dtypes and devices."""

from collections.abc import Iterator
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from probgen.programs.param_scope import owner_of
from probgen.testing.checks.cases import Trial, duplicate
from probgen.testing.checks.outcome import NotApplicable, check, require
from probgen.testing.checks.running import Recorded, agree, fault, gap, log_density, record

REPEATS = 10  # runs until each parameter has had its turn, such as those of units that were off


@check("model", "guide")
def parameters_are_registered(trial: Trial) -> None:
    """Every tensor that takes a gradient is a parameter of the module or of Pyro: others are never trained."""
    recorded = record(trial.program, trial.call)
    owner = owner_of(trial.program)
    known = [*recorded.parameters.values(), *(owner.parameters() if isinstance(owner, nn.Module) else ())]
    for name, site in recorded.sites.items():
        for leaf in _leaves(site["log_prob"]):
            require(
                any(leaf is parameter for parameter in known),
                f"the density of site '{name}' depends on a tensor of shape {tuple(leaf.shape)} with `requires_grad` "
                "that is no parameter",
                expected="`nn.Parameter`s of the program's module, `pyro.param` or `pyro.module`",
                cure="register it, or call `.requires_grad_(False)`",
            )


def _leaves(value: Tensor) -> Iterator[Tensor]:
    pending, seen = [value.grad_fn], set()
    while pending:
        node: Any = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node).__name__ == "AccumulateGrad":
            yield node.variable
        pending.extend(child for child, _ in node.next_functions)


@check("model", "guide")
def gradients_reach_every_parameter(trial: Trial) -> None:
    """Every parameter gets a finite gradient that is not zero: a dead one is never trained."""
    reached: dict[str, bool] = {}
    for _ in range(REPEATS):
        recorded = record(trial.program, trial.call)
        parameters = _trained(trial, recorded)
        found = torch.autograd.grad(
            _sum_of_everything(recorded), list(parameters.values()), allow_unused=True, materialize_grads=True
        )
        for name, gradient in zip(parameters, found, strict=True):
            if not bool(torch.isfinite(gradient).all()):
                raise fault(
                    f"the gradient of parameter '{name}' is not finite",
                    expected="finite numbers",
                    cure="keep logarithms, roots and quotients away from 0",
                )
            reached[name] = reached.get(name, False) or bool((gradient != 0).any())
        if all(reached.values()):
            return
    dead = [name for name, alive in reached.items() if not alive]
    raise fault(
        f"no gradient reaches the parameter '{dead[0]}' in {REPEATS} runs",
        expected="every parameter to change some density or sample",
        cure="use it, remove it, or freeze it by `requires_grad_(False)`",
    )


def _trained(trial: Trial, recorded: Recorded) -> dict[str, Tensor]:
    owner = owner_of(trial.program)
    own = dict(owner.named_parameters()) if isinstance(owner, nn.Module) else recorded.parameters
    trained = {name: p for name, p in own.items() if p.requires_grad}
    if not trained:
        raise NotApplicable("the program has no parameter that is trained")
    return trained


def _sum_of_everything(recorded: Recorded) -> Tensor:
    """A number that depends on every density and, for samples with a path, on every sample."""
    total: Tensor | float = 0.0
    for site in recorded.sites.values():
        total = total + site["log_prob"].sum()
        if site["value"].requires_grad and not site["is_observed"]:
            total = total + ((site["value"] - 0.3) ** 4).sum() + site["value"].prod(-1).sum()
    if not isinstance(total, Tensor) or not total.requires_grad:
        raise fault(
            "no density or sample depends on any parameter",
            expected="the program to use its parameters",
            cure="use them without `.detach()` or `torch.no_grad()`",
        )
    return total


@check("model", "guide")
def parameters_fit_the_state_dict(trial: Trial) -> None:
    """Weights survive a safetensors file: what is loaded gives equal densities, so that nothing is missing."""
    module = run_once(trial)
    other = trial.again()
    loaded = run_once(other)
    with torch.no_grad():
        for value in (*loaded.parameters(), *loaded.buffers()):
            value.add_(1) if value.is_floating_point() else None
    values = record(trial.program, trial.call).drawn
    try:
        written = safetensors.torch.save({name: v.contiguous() for name, v in module.state_dict().items()})
    except RuntimeError as error:
        raise fault(
            f"the state_dict cannot be written as safetensors: {error}",
            expected="tensors that share no memory",
            cure="give each name a tensor of its own",
        ) from error
    loaded.load_state_dict(safetensors.torch.load(written))
    first, second = (log_density(each.program, trial.call, values) for each in (trial, other))
    require(
        torch.equal(first, second),
        f"after the weights went through a file densities are {gap(first, second)}",
        expected="equal ones, bit for bit",
        cure="keep all state in parameters and buffers",
    )


def run_once(trial: Trial) -> nn.Module:
    """The module, after a run: some are built on first use."""
    module = trial.module()
    record(trial.program, trial.call)
    return module


@check("model", "guide")
def copies_have_equal_densities(trial: Trial) -> None:
    """A deep copy has the densities of the original: averages of weights and restarts are such copies."""
    run_once(trial)
    values = record(trial.program, trial.call).drawn
    program = duplicate(trial.program)
    a, b = (log_density(p, trial.call, values) for p in (trial.program, program))
    require(agree(a, b), f"a deep copy differs, {gap(a, b)}", expected="equal densities", cure="keep state in tensors")


@check("model", "guide")
def instances_share_no_tensor(trial: Trial) -> None:
    """Two instances have tensors of their own: training one must not move the other."""
    other = trial.again()
    module, twin = run_once(trial), run_once(other)
    memory = {_memory(value): name for name, value in _tensors(module)}
    for name, value in _tensors(twin):
        require(
            value.numel() == 0 or _memory(value) not in memory,
            f"'{memory.get(_memory(value))}' of one instance and '{name}' of another are one tensor",
            expected="tensors of their own",
            cure="make them in `__init__`, not in the class or the file, and give no mutable default",
        )


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _memory(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


@check("model", "guide")
def instances_do_not_disturb_each_other(trial: Trial) -> None:
    """Moving the weights of a second instance leaves the densities of the first: Pyro's store would join them."""
    other = trial.again()
    module, twin = run_once(trial), run_once(other)
    values = record(trial.program, trial.call).drawn
    before = log_density(trial.program, trial.call, values)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.5)
    log_density(other.program, trial.call, values)
    after = log_density(trial.program, trial.call, values)
    require(
        agree(before, after) and module is not twin,
        f"moving another instance's weights changes densities, {gap(before, after)}",
        expected="instances apart",
        cure="keep no tensor in the class, the file or a closure",
    )


@check("model", "guide")
def seeded_weights_repeat(trial: Trial) -> None:
    """Built twice at one seed the weights are equal: runs can be repeated and compared from the same start."""
    if not trial.case.afresh:
        raise NotApplicable("one object was given, and no way to build it afresh")
    modules = []
    for _ in range(2):
        torch.manual_seed(3)
        modules.append(trial.again().module().state_dict())
    for name, value in modules[0].items():
        require(
            torch.equal(value, modules[1][name]),
            f"'{name}' starts elsewhere at the same seed",
            expected="equal weights",
            cure="start weights from torch's global generator",
        )


@check("model", "guide")
def tensors_are_parameters_or_buffers(trial: Trial) -> None:
    """Tensors of a module are parameters or buffers: plain attributes stay behind on `.to(device)` and in files."""
    module = run_once(trial)
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            require(
                not isinstance(value, Tensor),
                f"the attribute '{f'{path}.' if path else ''}{name}' is a plain tensor",
                expected="a parameter or a buffer",
                cure=f"write `self.register_buffer('{name}', ...)`",
            )
