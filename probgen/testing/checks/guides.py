"""Checks of guides: they sample what the model samples, and what they sample is what they score."""

import math

import torch
from pyro.infer.autoguide import AutoGuide
from torch import nn

from probgen.core.bounds import iwae
from probgen.core.weights import pareto_khat
from probgen.errors import UnsupportedObjective
from probgen.programs import RunOptions, log_weights, trace_pair
from probgen.programs.param_scope import owner_of
from probgen.programs.read import plates
from probgen.programs.sampling import is_point
from probgen.testing.checks.cases import Trial
from probgen.testing.checks.outcome import NotApplicable, check, require
from probgen.testing.checks.quadrature import log_evidence, log_mass
from probgen.testing.checks.running import (
    batch_frame,
    draws,
    fault,
    gap,
    log_density,
    only_tensor,
    record,
    replaced,
    require_amortized,
)

MASS = 5e-3  # what quadrature over 8 standard deviations of the samples may miss of a density with tails


@check("guide")
def samples_the_models_latent_sites(trial: Trial) -> None:
    """The guide samples the model's latent sites and no others: one left out is drawn from the prior in silence."""
    wanted = set(record(trial.model, trial.call).drawn)
    sites = record(trial.guide, trial.call).sites
    found = {name for name, site in sites.items() if not site["infer"].get("is_auxiliary")}
    require(
        found == wanted,
        f"the guide samples {sorted(found)}",
        expected=f"{sorted(wanted)}, the model's latent sites",
        cure="rename or add sites; mark what the model lacks `infer={'is_auxiliary': True}`",
    )


@check("guide")
def observes_nothing(trial: Trial) -> None:
    """The guide observes nothing: an observed site there has no meaning, and its density would be lost."""
    observed = record(trial.guide, trial.call).observed
    require(not observed, f"site '{next(iter(observed), '')}' is observed", expected="none", cure="drop `obs=`")


@check("guide")
def event_shapes_are_the_models(trial: Trial) -> None:
    """A site has the model's event shape: otherwise entries of a datum are taken for data, and bounds mix them."""
    model, guide = record(trial.model, trial.call).sites, record(trial.guide, trial.call).sites
    for name in model.keys() & guide.keys():
        p, q = model[name]["fn"].event_shape, guide[name]["fn"].event_shape
        require(
            tuple(p) == tuple(q),
            f"site '{name}' has event shape {tuple(q)} in the guide and {tuple(p)} in the model",
            expected="equal ones",
            cure="use `.to_event` alike in both",
        )


@check("guide")
def plates_are_the_models(trial: Trial) -> None:
    """Latent sites lie in plates of the same name and size in both programs: minibatches are then the same."""
    model, guide = record(trial.model, trial.call).sites, record(trial.guide, trial.call).sites
    for name in model.keys() & guide.keys():
        if is_point(guide[name]["fn"]):
            continue  # autoguides put a function of other sites there
        p, q = ({(f.name, f.size) for f in plates(site[name])} for site in (model, guide))
        require(
            p == q,
            f"site '{name}' lies in plates {sorted(q)} in the guide and {sorted(p)} in the model",
            expected="the same plates",
            cure="write the model's `pyro.plate` statements in the guide",
        )


@check("guide")
def pair_gives_log_weights(trial: Trial) -> None:
    """The pair gives finite log-weights [K, batch]: bounds, evidence and diagnostics are functions of those."""
    args, kwargs = trial.call
    try:
        weights = log_weights(trial.model, trial.guide, *args, num_particles=4, **kwargs)
    except UnsupportedObjective as error:
        raise NotApplicable(f"the pair has no importance weights: {error}") from None
    require(
        weights.shape[0] == 4 and bool(torch.isfinite(weights).all()),
        f"log-weights have shape {tuple(weights.shape)}, {int((~torch.isfinite(weights)).sum())} of them not finite",
        expected="finite numbers, [4, batch]",
        cure="give the guide a support that the prior covers, and bound its scales",
    )


@check("guide")
def samples_have_a_path_where_claimed(trial: Trial) -> None:
    """A site with `rsample` has a gradient from its sample to the guide's parameters: else pathwise gradients are 0."""
    recorded = record(trial.guide, trial.call)
    owner = owner_of(trial.guide)
    own = owner.parameters() if isinstance(owner, nn.Module) else recorded.parameters.values()
    if not any(p.requires_grad for p in own):
        raise NotApplicable("the guide has no parameters")
    for name, site in recorded.sites.items():
        if site["fn"].has_rsample and site["log_prob"].requires_grad and not is_point(site["fn"]):
            require(
                site["value"].requires_grad,
                f"site '{name}' ({type(site['fn']).__name__}) claims `rsample`, and its sample has no gradient",
                expected="a sample that depends on the parameters",
                cure="do not detach it; set `has_rsample = False` where there is no path",
            )
        if not site["fn"].has_rsample:
            require(
                not site["value"].requires_grad,
                f"site '{name}' claims no `rsample`, and its sample has a gradient",
                expected="a sample without gradient, since the score function is used there",
                cure="set `has_rsample = True`, or detach the sample",
            )


@check("guide")
def density_of_a_sample_is_that_of_its_value(trial: Trial) -> None:
    """A sample scores what an equal value scores: a sampler that caches its density must not cache another one."""
    recorded = record(trial.guide, trial.call)
    values = {name: value.clone() for name, value in recorded.drawn.items()}
    again = record(trial.guide, trial.call, values)
    for name, site in recorded.sites.items():
        a, b = site["log_prob"], again.sites[name]["log_prob"]
        require(
            bool(torch.allclose(a, b, rtol=1e-3, atol=1e-3)),  # inverses of flows lose digits
            f"the density of a sample of site '{name}' and of an equal value are {gap(a, b)}",
            expected="equal numbers",
            cure="compare `log_prob` with `rsample`, and a cache with what it was made for",
        )


@check("guide")
def frozen_guide_has_equal_densities(trial: Trial) -> None:
    """Run again with frozen parameters the guide gives the same log q: sticking-the-landing and DReG need it."""
    options = RunOptions(num_particles=2, freeze_guide=True, check_frozen=True)
    try:
        frozen = trace_pair(trial.model, trial.guide, *trial.call, options)
    except UnsupportedObjective as error:
        if "no inverse" in str(error):
            raise NotApplicable(str(error)) from None
        raise fault(str(error), expected="equal densities", cure="keep noise out of train mode, or mend it") from None
    if not frozen.latents:
        raise NotApplicable("nothing is latent")
    values = {site.name: site.value.detach() for site in frozen.latents}
    depth = max(record(program, trial.call).depth for program in (trial.model, trial.guide))
    own = log_density(trial.guide, trial.call, values, particles=2, depth=depth)
    log_q = torch.as_tensor(frozen.log_guide)
    if own.shape != log_q.shape:
        raise NotApplicable("the guide's plates are not those of the pair")
    require(
        bool(torch.allclose(log_q, own, rtol=1e-3, atol=1e-3)),
        f"the frozen guide and the guide on the same samples are {gap(log_q, own)}",
        expected="equal densities",
        cure="keep no state in Python between runs",
    )


@check("guide")
def density_is_normalised(trial: Trial) -> None:
    """The density of each site integrates to 1 given those before it: else no bound is one, and evidence is off."""
    recorded = record(trial.guide, trial.call)
    names, checked = list(recorded.drawn), 0
    reasons = []
    for i, name in enumerate(names):
        given = {earlier: recorded.drawn[earlier] for earlier in names[:i]}
        try:
            mass = log_mass(trial.guide, trial.call, name, given, [other for other in names if other != name]).exp()
        except NotApplicable as error:
            reasons.append(str(error))
            continue
        checked += 1
        worst = float(mass.flatten()[(mass - 1).abs().argmax()])
        require(
            abs(worst - 1) < MASS,
            f"the density of site '{name}' integrates to {worst:.4f}",
            expected=f"1 within {MASS:g}",
            cure="compare `log_prob` with the formula; a transform needs its Jacobian",
        )
    if not checked:
        raise NotApplicable(reasons[0] if reasons else "nothing is drawn")


@check("guide")
def weights_average_to_the_evidence(trial: Trial) -> None:
    """The mean weight is p(x) of the model: what is sampled, what is scored and the evidence fit together."""
    exact = log_evidence(trial.model, trial.call)
    args, kwargs = trial.call
    weights = log_weights(trial.model, trial.guide, *args, num_particles=4000, **kwargs).detach().double()
    if weights.dim() < 2:
        raise NotApplicable("weights are joint over the data")
    light = torch.as_tensor(pareto_khat(weights)) < 0.5
    if not bool(light.any()):
        raise NotApplicable("the weights have tails too heavy for a test of their mean (k-hat above 0.5)")
    ratio = (weights - exact.double()).exp()[:, light]
    z = (ratio.mean(0) - 1) / (ratio.std(0) / math.sqrt(len(ratio))).clamp(min=1e-4)
    require(
        float(z.abs().max()) < 6,
        f"the mean weight over p(x) is {float(ratio.mean(0)[z.abs().argmax()]):.4f}, "
        f"{float(z.abs().max()):.1f} standard errors from 1",
        expected="1 within 6 standard errors",
        cure="compare how the guide samples with how it scores",
    )


@check("guide")
def bound_rises_with_particles(trial: Trial) -> None:
    """The IWAE bound of 8 particles lies above that of one, in expectation: else particles are not independent."""
    args, kwargs = trial.call
    try:
        single = torch.stack([log_weights(trial.model, trial.guide, *args, **kwargs)[0] for _ in range(30)])
        many = log_weights(trial.model, trial.guide, *args, num_particles=(8, 30), **kwargs)
    except UnsupportedObjective as error:
        raise NotApplicable(f"the pair has no importance weights: {error}") from None
    low, high = single.detach().double(), torch.as_tensor(iwae(many)).detach().double()
    rise = (high.mean(0) - low.mean(0)).sum()
    deviation = (high.var(0) / len(high) + low.var(0) / len(low)).sum().sqrt()
    require(
        bool(rise >= -5 * deviation - 1e-4 * low.mean(0).abs().sum()),
        f"from 1 to 8 particles the bound falls by {-float(rise):.4g} +- {float(deviation):.2g} nats",
        expected="a rise, or none for an exact posterior",
        cure="see `each_particle_is_a_run_of_its_own` and `particles_differ`",
    )


@check("guide")
def depends_on_the_data(trial: Trial) -> None:
    """An amortized guide gives other densities for other data: else it has cut itself off from them."""
    owner, recorded = owner_of(trial.guide), record(trial.guide, trial.call)
    if isinstance(owner, AutoGuide) or not isinstance(owner, nn.Module):
        raise NotApplicable("only a module can be told to be amortized; autoguides and functions need not be")
    size = batch_frame(recorded).size
    x = only_tensor(trial.call)
    if size < 2:
        raise NotApplicable("there is one datum")
    require_amortized(trial.guide, trial.call, recorded, size)
    draws(recorded.drawn)
    other = torch.roll(x, 1, 0) if not torch.equal(torch.roll(x, 1, 0), x) else 1 - x
    a, b = (log_density(trial.guide, call, recorded.drawn) for call in (trial.call, replaced(trial.call, other)))
    require(
        not bool(torch.isclose(a, b).all()),
        "other data leave the guide's densities as they are",
        expected="other densities",
        cure="pass the data through the encoder, and do not detach or normalise them away",
    )


@check("guide")
def parameter_names_are_not_the_models(trial: Trial) -> None:
    """Parameters have other names than the model's: under Pyro's own SVI equal names are one tensor."""
    names = [set(record(program, trial.call).parameters) for program in (trial.model, trial.guide)]
    for program, own in zip((trial.model, trial.guide), names, strict=True):
        owner = owner_of(program)
        own |= {name for name, _ in owner.named_parameters()} if isinstance(owner, nn.Module) else set()
    if owner_of(trial.model) is owner_of(trial.guide):
        raise NotApplicable("both programs are methods of one object")
    shared = names[0] & names[1]
    require(
        not shared,
        f"'{next(iter(sorted(shared)), '')}' is a parameter of model and guide",
        expected="different names",
        cure="rename the attribute in one of them",
    )
