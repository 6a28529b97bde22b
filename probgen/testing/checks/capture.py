"""The check that a step can be captured as a graph."""

from typing import Any

import pyro
import torch

import probgen.svi
from probgen.objectives import ELBO
from probgen.testing.checks.cases import Trial
from probgen.testing.checks.outcome import check, require
from probgen.testing.checks.running import agree, gap, record
from probgen.testing.checks.values import subject


@check("model", "guide", "objective")
def captured_step_equals_the_ordinary_one(trial: Trial) -> None:
    """`probgen.SVI(capture=True)` takes the ordinary step, as a graph: nothing is frozen into it or read on the way."""
    model, guide, call = _trained(trial)
    found = []
    for capture in (False, True):
        recorder = _Recorder()
        svi = probgen.svi.SVI(model, guide, recorder.make, _objective(trial), accelerator="cpu", capture=capture)
        pyro.set_rng_seed(3)
        found.append((svi.step(*call[0], **call[1]), recorder.gradients))
    (loss, ordinary), (captured_loss, captured) = found
    require(
        abs(loss - captured_loss) <= 1e-4 * (1 + abs(loss)),
        f"the ordinary loss is {loss!r} and the captured one {captured_loss!r}",
        expected="one number",
        cure="keep no state in Python, and read no tensor's value",
    )
    for a, b in zip(ordinary, captured, strict=True):
        require(agree(a, b), f"gradients are {gap(a, b)}", expected="equal ones", cure="draw from torch's generators")


def _trained(trial: Trial) -> tuple[Any, Any, Any]:
    if trial.case.kind == "objective":
        return subject(trial)
    return trial.model, _latent_guide(trial), trial.call


def _latent_guide(trial: Trial) -> Any:
    return trial.pair_guide if record(trial.model, trial.call).drawn else None


def _objective(trial: Trial) -> Any:
    return ELBO(num_particles=2) if trial.objective is None else trial.objective


class _Recorder:
    """Makes optimizers that keep gradients and move nothing."""

    def __init__(self) -> None:
        self.gradients: list[torch.Tensor] = []

    def make(self, parameters: Any) -> torch.optim.Optimizer:
        recorder = self

        class Recording(torch.optim.SGD):
            def step(self, closure: Any = None) -> None:  # type: ignore[override]
                for group in self.param_groups:
                    recorder.gradients += [p.grad.clone() for p in group["params"] if p.grad is not None]

        return Recording(parameters, lr=0.0)
