"""Checks of models and guides: train and eval mode, dtypes, devices, and Python without assertions."""

import ast
import inspect
import textwrap
from typing import Any

import torch
from torch import Tensor, nn

from probgen.data.batches import to_device
from probgen.programs.param_scope import owner_of
from probgen.testing.checks.cases import Trial, keywords
from probgen.testing.checks.outcome import NotApplicable, check, require
from probgen.testing.checks.parameters import run_once
from probgen.testing.checks.running import agree, gap, log_density, record

NOISY = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)


@check("model", "guide")
def train_and_eval_mode_agree(trial: Trial) -> None:
    """Without dropout or batch norm both modes give one density: what is trained is what is evaluated."""
    module = run_once(trial)
    if noisy := [type(m).__name__ for m in module.modules() if isinstance(m, NOISY)]:
        raise NotApplicable(f"{noisy[0]} makes the modes differ on purpose")
    values = record(trial.program, trial.call).drawn
    trained, evaluated = (log_density(trial.program, trial.call, values) for _ in map(module.train, (True, False)))
    require(
        agree(trained, evaluated),
        f"train and eval mode differ, {gap(trained, evaluated)}",
        expected="equal densities",
        cure="do not ask for `self.training` outside dropout and batch norm",
    )


@check("model", "guide")
def works_in_double_precision(trial: Trial) -> None:
    """After `.double()` densities and samples are float64 and agree: gradients can be checked in it."""
    module = run_once(trial)
    values = record(trial.program, trial.call).drawn
    single = log_density(trial.program, trial.call, values)
    module.double()
    call = tuple(map(_double, trial.call[0])), {k: _double(v) for k, v in trial.call[1].items()}
    precise = log_density(trial.program, call, {name: _double(value) for name, value in values.items()})
    require(
        precise.dtype == torch.float64 and torch.allclose(precise, single.double(), rtol=1e-3, atol=1e-3),
        f"after `.double()` densities are {precise.dtype}, {gap(precise, single.double())}",
        expected="float64 numbers close to those of float32",
        cure="take dtype from parameters (`p.new_zeros`), not from constants or the default",
    )
    drawn = record(trial.program, call).drawn
    if trial.case.kind == "model" and "num_samples" in keywords(trial.program):
        drawn["the generated data"] = torch.as_tensor(trial.program(num_samples=2))
    for name, value in drawn.items():
        require(
            not value.is_floating_point() or value.dtype == torch.float64,
            f"site '{name}' draws {value.dtype} after `.double()`",
            expected="float64",
            cure="take dtype from parameters, not from the default",
        )


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


@check("model", "guide")
def moves_to_a_device(trial: Trial) -> None:
    """After `.to(device)` everything happens there: a tensor left behind fails on a GPU alone."""
    if not torch.cuda.is_available():
        raise NotApplicable("this machine has no GPU")
    run_once(trial).to("cuda")
    device = torch.device("cuda")
    call = to_device(trial.call[0], device), to_device(trial.call[1], device)
    for name, site in record(trial.program, call).sites.items():
        require(
            site["value"].is_cuda and site["log_prob"].is_cuda,
            f"site '{name}' lies on {site['value'].device}",
            expected="cuda",
            cure="make tensors on the device of a parameter: `p.new_zeros`, buffers",
        )


@check("model", "guide")
def refusals_survive_python_O(trial: Trial) -> None:
    """No `assert` guards the program: `python -O` removes it, and bad data then pass in silence."""
    owner = owner_of(trial.program)
    try:
        source = inspect.getsource(type(owner) if isinstance(owner, nn.Module) else owner)
        tree = ast.parse(textwrap.dedent(source))
    except (OSError, TypeError, SyntaxError) as error:
        raise NotApplicable(f"the source of the program is not at hand ({type(error).__name__})") from None
    lines = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    require(
        not lines,
        f"line {lines[0] if lines else 0} of the program is an `assert`",
        expected="errors that hold under `python -O`",
        cure="raise a ValueError in its place",
    )
