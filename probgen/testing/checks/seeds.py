"""Checks of models and guides: randomness, and what a run must leave as it was."""

import random

import pyro
import torch

from probgen.testing.checks.cases import Trial, keywords
from probgen.testing.checks.outcome import NotApplicable, check, require
from probgen.testing.checks.running import draws, gap, record


def drawn(trial: Trial) -> torch.Tensor:
    """What the program draws: data if it can generate, else its latent values."""
    if trial.case.kind == "model" and "num_samples" in keywords(trial.program):
        return torch.as_tensor(trial.program(num_samples=20)).detach().double().flatten()
    return draws(record(trial.program, trial.call).drawn)


def at_seed(trial: Trial, seed: int) -> torch.Tensor:
    """What the program draws with Pyro's generators at a seed."""
    pyro.set_rng_seed(seed)
    return drawn(trial)


@check("model", "guide")
def seeded_samples_repeat(trial: Trial) -> None:
    """The same seed gives the same samples, bit for bit: results can be repeated."""
    first, second = at_seed(trial, 0), at_seed(trial, 0)
    require(
        torch.equal(first, second),
        f"two runs at one seed draw different samples, {gap(first, second)}",
        expected="equal ones",
        cure="draw by `pyro.sample`, or by the global generators that `pyro.set_rng_seed` seeds",
    )


@check("model", "guide")
def samples_change_with_the_seed(trial: Trial) -> None:
    """Another seed gives other samples: a program that draws the same ever again has no spread."""
    first, second = at_seed(trial, 0), at_seed(trial, 1)
    sites = record(trial.program, trial.call).sites.values()
    if all(site["is_observed"] or type(site["fn"]).__name__ == "Delta" for site in sites) and "num_samples" not in (
        keywords(trial.program)
    ):
        raise NotApplicable("nothing is drawn: point masses alone")
    require(
        not torch.equal(first, second),
        "seeds 0 and 1 give the same samples",
        expected="different ones",
        cure="draw by `pyro.sample`, and seed nothing inside the program",
    )


@check("model", "guide")
def runs_do_not_reseed(trial: Trial) -> None:
    """A run moves the global generators on and never sets them: otherwise every step sees the same noise."""
    states = []
    for seed in (0, 1):
        pyro.set_rng_seed(seed)
        record(trial.program, trial.call)
        states.append((torch.get_rng_state(), random.random()))
    require(
        not torch.equal(states[0][0], states[1][0]) and states[0][1] != states[1][1],
        "after runs at two seeds the generators are in the same state",
        expected="a state that follows from the seed",
        cure="remove `manual_seed`, `set_rng_seed` and their like from the program",
    )


@check("model", "guide")
def data_are_left_as_they_were(trial: Trial) -> None:
    """A run writes nothing into its data: they are the user's, and the next epoch sees them again."""
    tensors = [v for v in (*trial.call[0], *trial.call[1].values()) if isinstance(v, torch.Tensor)]
    before = [value.clone() for value in tensors]
    record(trial.program, trial.call)
    for i, (value, copy) in enumerate(zip(tensors, before, strict=True)):
        require(
            torch.equal(value, copy),
            f"a run has changed data argument {i}",
            expected="data as they were",
            cure="copy before working in place: `x = x.clone()`",
        )


@check("model", "guide")
def training_mode_is_left_as_it_was(trial: Trial) -> None:
    """A run switches no module between train and eval mode: the loop does, and would be undone."""
    module = trial.module()
    for mode in (True, False):
        module.train(mode)
        record(trial.program, trial.call)
        wrong = [name or type(m).__name__ for name, m in module.named_modules() if m.training is not mode]
        require(
            not wrong,
            f"a run has switched the mode of {wrong[:3]}",
            expected=f"`training={mode}` after the run as before it",
            cure="remove `.train()` and `.eval()` from the program",
        )


@check("model", "guide")
def parameters_are_left_as_they_were(trial: Trial) -> None:
    """A run moves no parameter and leaves no `.grad` behind: only the optimizer may."""
    module = trial.module()
    record(trial.program, trial.call)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    record(trial.program, trial.call)
    for name, parameter in module.named_parameters():
        require(
            name in before and torch.equal(before[name], parameter) and parameter.grad is None,
            f"a run has changed the parameter '{name}' or its `.grad`",
            expected="parameters as they were",
            cure="let the optimizer alone move parameters; keep running state in buffers",
        )
