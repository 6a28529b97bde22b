"""Checks of objectives: particles, each datum's own, at once or one by one, and only one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from probgen.objectives import ELBO
from probgen.testing.checks.arguments import estimators, rebuilt, taken, variants, with_particles
from probgen.testing.checks.cases import Trial
from probgen.testing.checks.outcome import NotApplicable, check, require
from probgen.testing.checks.pairs import GaussianGuide, LinearGaussian, call_of, continuous, gradients
from probgen.testing.checks.running import agree, gap
from probgen.testing.checks.values import bound_of, or_skip


@check("objective")
def bound_of_a_datum_ignores_the_others(trial: Trial) -> None:
    """Bound and gradient of a datum are the same in every minibatch: weights are normalised for each datum."""
    noise = torch.randn(_particles(trial.objective), 6, dtype=torch.float64)
    whole, alone = (_of_rows(trial.objective, noise, rows) for rows in (slice(None), slice(2, 5)))
    for what, value in whole.items():
        require(
            agree(value[2:5], alone[what]),
            f"the {what} of a datum changes with its minibatch, {gap(value[2:5], alone[what])}",
            expected="the same in every minibatch",
            cure="reduce over particles (axis 0) alone until the sum over the batch",
        )


def _of_rows(objective: Any, noise: Tensor, rows: slice) -> dict[str, Tensor]:
    """The bound of some data, and the gradient of a guide's parameter for each of them, on given draws."""
    call = call_of(_grid(noise)[rows])

    def pair() -> tuple[Any, Any]:
        guide = GaussianGuide(noise=noise[:, rows].clone())
        guide.shift = nn.Parameter(torch.full((len(call[0][0]),), 0.3, dtype=torch.float64))
        return LinearGaussian(), guide

    return _on_noise(objective, pair, call, "guide.shift")


def _on_noise(objective: Any, pair: Callable[[], tuple[Any, Any]], call: Any, *names: str) -> dict[str, Tensor]:
    """The bound and gradients, where a guide's given draws leave nothing to chance."""
    bound = or_skip(lambda: bound_of(objective, *pair(), call))
    found = [or_skip(lambda s=seed: gradients(objective, *pair(), call, s)) for seed in (5, 6)]
    if not all(agree(value, found[1][name]) for name, value in found[0].items()):
        raise NotApplicable("it draws more than the guide's samples")
    return {"bound": bound, **{f"gradient of {n}": v for n, v in found[0].items() if not names or n in names}}


def _grid(noise: Tensor) -> Tensor:
    """Data, one for each column of the draws."""
    return torch.linspace(-2.0, 2.0, 3 * noise.shape[1], dtype=noise.dtype).reshape(-1, 3)


def _particles(objective: Any) -> int:
    return int(getattr(objective, "num_particles", 1))


@check("objective")
def particles_one_by_one_are_particles_at_once(trial: Trial) -> None:
    """`vectorize_particles` changes speed and nothing else: on the same noise bound and gradient are equal."""
    if "vectorize_particles" not in taken(trial.objective) or _particles(trial.objective) == 1:
        raise NotApplicable("it has one particle")
    noise = torch.randn(_particles(trial.objective), 6, dtype=torch.float64)
    call = call_of(_grid(noise))
    together, apart = (
        _on_noise(
            rebuilt(trial.objective, vectorize_particles=vectorized),
            lambda: (LinearGaussian(), GaussianGuide(noise=noise)),
            call,
        )
        for vectorized in (True, False)
    )
    for name, value in together.items():
        require(
            agree(value, apart[name]),
            f"particles at once and one by one, {name}: {gap(value, apart[name])}",
            expected="equal numbers",
            cure="read particles from axis 0 of the terms, and nothing else of how they were run",
        )


@check("objective")
def one_particle_gives_the_elbos_gradient(trial: Trial) -> None:
    """With one particle every bound is the ELBO, its gradient too: no sign or factor is lost."""
    matching = {"auto": "auto", "pathwise": "pathwise", "dreg": "stl", "stl": "stl"}
    estimators(trial.objective)
    single = with_particles(rebuilt(trial.objective, gradient="auto"), 1)
    regularised = isinstance(single, ELBO) and (single.beta != 1.0 or single.free_bits > 0.0)
    if "pathwise" not in type(single).gradients or regularised:
        raise NotApplicable("its gradient is of another kind than the ELBO's, or it is regularised")
    checked = False
    for name, objective in variants(single, matching):
        if getattr(objective, "kl", "monte-carlo") != "monte-carlo":
            continue
        checked = True
        pair = continuous()
        call = call_of(pair.x)
        ours = or_skip(lambda o=objective, p=pair, c=call: gradients(o, p.model, p.guide, c))
        exact = gradients(ELBO(gradient=matching[name]), pair.model, pair.guide, call)
        for parameter, value in exact.items():
            require(
                agree(ours[parameter], value),
                f"`gradient={name!r}` of one particle and the ELBO's, '{parameter}': {gap(ours[parameter], value)}",
                expected="equal gradients",
                cure="check the weights of one particle, which are 1",
            )
    if not checked:
        raise NotApplicable("no gradient of it is one of the ELBO's")
