"""Checks of models and guides: sites, plates and densities."""

import torch

from probgen.programs.read import plates
from probgen.testing.checks.cases import Trial
from probgen.testing.checks.outcome import NotApplicable, check, require
from probgen.testing.checks.running import (
    Recorded,
    agree,
    batch_frame,
    gap,
    log_density,
    record,
    require_amortized,
    rows,
    rows_of_values,
    whole_frame,
)

PARTICLES = 3


@check("model", "guide")
def runs_on_the_data(trial: Trial) -> None:
    """Runs on the data and has a sample site: without one there is nothing to infer or to fit."""
    sites = record(trial.program, trial.call).sites
    require(bool(sites), "a run has no sample site", expected="at least one", cure="add a `pyro.sample` statement")


@check("model", "guide")
def declares_a_plate_over_the_data(trial: Trial) -> None:
    """Every dimension of a log-density lies in a plate: otherwise bounds per datum and subsampling are wrong."""
    recorded = record(trial.program, trial.call)
    for name, site in recorded.sites.items():
        declared = {frame.dim for frame in plates(site)}
        shape = site["log_prob"].shape
        loose = [dim for dim in range(-len(shape), 0) if shape[dim] > 1 and dim not in declared]
        require(
            not loose,
            f"site '{name}' has log-densities of shape {tuple(shape)}, and no plate declares {loose}",
            expected="a `pyro.plate` for every dimension that is no event's",
            cure=f"sample it inside `pyro.plate('data', {shape[loose[-1]] if loose else ''})`, or use `.to_event`",
        )


@check("model", "guide")
def densities_are_finite_floats(trial: Trial) -> None:
    """Log-densities are finite floating-point numbers: one that is not ends training at the first step."""
    for name, site in record(trial.program, trial.call).sites.items():
        density = site["log_prob"]
        require(
            density.is_floating_point() and bool(torch.isfinite(density).all()),
            f"site '{name}' has log-densities {density.flatten()[:3].tolist()}, dtype {density.dtype}",
            expected="finite floating-point numbers",
            cure="bound scales from below and logits on both sides",
        )


@check("model", "guide")
def values_have_the_shape_of_their_site(trial: Trial) -> None:
    """A site's value has the shape of its distribution: a smaller one is broadcast, and all data share one number."""
    for name, site in record(trial.program, trial.call).sites.items():
        wanted = tuple(site["fn"].batch_shape) + tuple(site["fn"].event_shape)
        require(
            tuple(site["value"].shape) == wanted,
            f"site '{name}' has a value of shape {tuple(site['value'].shape)}",
            expected=f"{wanted}, the shape of its distribution",
            cure="make the value, the plates and `.to_event` agree",
        )


@check("model", "guide")
def density_repeats(trial: Trial) -> None:
    """In eval mode the density at given values has no noise: weights of two runs would not be comparable."""
    for module in _modules(trial):
        module.eval()
    values = record(trial.program, trial.call).drawn
    first, second = (log_density(trial.program, trial.call, values) for _ in range(2))
    require(
        agree(first, second),
        f"the density at given values differs between two runs, {gap(first, second)}",
        expected="equal ones in eval mode",
        cure="draw by `pyro.sample` alone, and keep noise such as dropout to train mode",
    )


def _modules(trial: Trial) -> list[torch.nn.Module]:
    try:
        return [trial.module()]
    except NotApplicable:
        return []


@check("model", "guide")
def each_particle_is_a_run_of_its_own(trial: Trial) -> None:
    """In a plate of particles each gives the density of a run alone: particles are vectorized that way."""
    alone = record(trial.program, trial.call)
    together = record(trial.program, trial.call, particles=PARTICLES, depth=alone.depth)
    values = together.drawn
    joint = log_density(trial.program, trial.call, values, particles=PARTICLES, depth=alone.depth)
    for k in range(PARTICLES):
        single = log_density(
            trial.program, trial.call, {name: _particle(v, k, alone, name) for name, v in values.items()}
        )
        require(
            agree(single[0], joint[k]),
            f"particle {k} of {PARTICLES} and a run alone differ in density, {gap(single[0], joint[k])}",
            expected="equal ones: every operation must broadcast over a dimension left of all plates",
            cure="index dimensions from the right (`[..., 0]`, `dim=-1`), or set `vectorize_particles=False`",
        )


def _particle(value: torch.Tensor, k: int, alone: Recorded, name: str) -> torch.Tensor:
    rank = alone.sites[name]["value"].dim() if name in alone.sites else value.dim()
    return value if value.dim() <= rank else value[k].reshape(alone.sites[name]["value"].shape)


@check("model", "guide")
def particles_differ(trial: Trial) -> None:
    """Particles are drawn apart: copies of one sample make K particles worth no more than one."""
    alone = record(trial.program, trial.call)
    together = record(trial.program, trial.call, particles=PARTICLES, depth=alone.depth)
    random = [n for n, s in together.sites.items() if not s["is_observed"] and not _constant(s)]
    if not random:
        raise NotApplicable("nothing is drawn: no latent site, or point masses alone")
    for name in random:
        value = together.sites[name]["value"]
        require(
            value.shape[0] == PARTICLES and (not value.is_floating_point() or not torch.equal(value[0], value[1])),
            f"site '{name}' has the same value in all particles",
            expected="independent draws",
            cure="sample it by `pyro.sample`, which draws for every plate",
        )


def _constant(site: object) -> bool:
    return "Delta" in type(site["fn"]).__name__  # type: ignore[index]


@check("model", "guide")
def density_of_a_datum_ignores_the_others(trial: Trial) -> None:
    """The log-density of a datum is the same in every minibatch: otherwise minibatches train another model."""
    _same_rows(trial, lambda size: torch.arange(1, max(2, size // 2)), "in a smaller batch")


@check("model", "guide")
def permuting_the_data_permutes_the_densities(trial: Trial) -> None:
    """The order of the data means nothing: otherwise shuffling changes the model."""
    _same_rows(trial, lambda size: torch.arange(size - 1, -1, -1), "in another order")


def _same_rows(trial: Trial, choose: object, where: str) -> None:
    whole = record(trial.program, trial.call)
    size = (frame := whole_frame(whole)).size
    if size < 2:
        raise NotApplicable("the batch holds a single datum")
    index = choose(size)  # type: ignore[operator]
    part = rows(trial.call, size, index)
    require_amortized(trial.program, trial.call, whole, size)
    density = log_density(trial.program, trial.call, whole.drawn, scaled=True)
    other = log_density(trial.program, part, rows_of_values(whole, frame, index), scaled=True)
    if density.shape[1:] != (size,) or other.shape[1:] != (len(index),):
        raise NotApplicable("densities are joint over the data")
    require(
        agree(other, density[:, index]),
        f"a datum has another log-density {where}, {gap(other, density[:, index])}",
        expected="that of the datum alone",
        cure="use no statistics of the batch: no mean over data, no batch norm in train mode, no scale by its size",
    )


@check("model", "guide")
def minibatches_scale_to_the_whole(trial: Trial) -> None:
    """N/B times the log-density of a random minibatch has the mean of the whole: training by minibatch is unbiased."""
    whole = record(trial.program, trial.call)
    size = (frame := whole_frame(whole)).size
    if size < 3:
        raise NotApplicable("there are fewer than three data")
    require_amortized(trial.program, trial.call, whole, size)
    total = log_density(trial.program, trial.call, whole.drawn, scaled=True).double().sum().detach()
    part, estimates = max(1, size // 2), []
    for _ in range(40):
        index = torch.randperm(size)[:part]
        values = rows_of_values(whole, frame, index)
        density = log_density(trial.program, rows(trial.call, size, index), values, scaled=True)
        estimates.append(density.double().sum().detach() * size / part)
    mean, error = (replicates := torch.stack(estimates)).mean(), replicates.std() / len(replicates) ** 0.5
    off = float((mean - total).abs() - 1e-4 * (1 + total.abs()))
    require(
        off <= 6 * float(error),  # t of 39 degrees of freedom exceeds 6 once in 2 million
        f"minibatches of {part} estimate {mean:.5g} +- {error:.2g}, and the whole is {total:.5g}",
        expected="the same mean, within 6 standard errors",
        cure="leave scaling by the number of data to plates and objectives",
    )


@check("model", "guide")
def subsampled_plate_scales_the_bound(trial: Trial) -> None:
    """A plate that subsamples spans all data and scales by N/B: otherwise the prior counts too much or too little."""
    frame = batch_frame(recorded := record(trial.program, trial.call))
    if frame.full_size == frame.size:
        raise NotApplicable("the plate over the data is not subsampled by the program itself")
    lengths = [len(v) for v in (*trial.call[0], *trial.call[1].values()) if isinstance(v, torch.Tensor) and v.dim()]
    if lengths:
        require(
            frame.full_size in lengths,
            f"plate '{frame.name}' has size {frame.full_size}, and the arguments have lengths {lengths}",
            expected="the size of the plate to be the number of all data",
            cure="pass the whole data and give their number to `pyro.plate`",
        )
    for name, site in recorded.sites.items():
        other = float(torch.as_tensor(site["scale"]).double().mean()) / (frame.full_size / frame.size)
        require(
            abs(other - 1.0) < 1e-6,
            f"site '{name}' is scaled by {other:.3g} beside the plate's N/B",
            expected="the plate to do all scaling",
            cure="remove `poutine.scale`: a subsampled plate multiplies by N/B itself",
        )
