"""Certification: its references against truth, its engine against the eager programs, and what it must find."""

import math

import pyro
import pytest
import torch
from pyro import poutine

from probgen.errors import ArgumentError, ProgramError, UnsupportedObjective
from probgen.objectives import ELBO, IWAE
from probgen.testing import certify, references
from probgen.testing.certificate import BLOCKS, NUMBERS, critical_t
from probgen.testing.certification import QUADRATURE
from probgen.testing.grid import Cell, cells, certify_cell, rows
from probgen.testing.problems import (
    PROBLEMS,
    STRUCTURES,
    HiddenMarkov,
    LinearGaussian,
    Logistic,
    Switches,
    continuous,
    mixed,
)
from probgen.testing.reference import Datum, exact_gradient, limit_gradient
from probgen.testing.replicates import TorchReplicator, capture

ids = {"ids": lambda value: getattr(value, "name", str(value))}


def vector(gradients):
    return torch.cat([value.flatten() for value in gradients.values()])


# --- the references -----------------------------------------------------------------------------------------------


def value_of(site, index):
    """One datum's value, [1, ...]: the plate of the data is the last dimension before the event."""
    value = site["value"].movedim(-1 - site["fn"].event_dim, 0)[index]
    return value[None]


@pytest.mark.parametrize("problem", PROBLEMS, **ids)
def test_the_densities_of_a_problem_are_those_of_its_programs(problem):
    problem = problem("plate")
    model, guide = problem.pair()
    x = problem.tensors()
    pyro.set_rng_seed(0)
    q = poutine.trace(guide).get_trace(x)
    p = poutine.trace(poutine.replay(model, trace=q)).get_trace(x)
    for index, datum in enumerate(x):
        ours = Datum(problem, problem.parameters(), datum)
        z = {name: value_of(q.nodes[name], index) for name in problem.sites}
        for trace, log_prob in ((p, ours.log_joint(z)), (q, ours.log_guide(z))):
            trace.compute_log_prob()
            sites = [s for s in trace.nodes.values() if s["type"] == "sample" and s["name"] not in ("data", "parts")]
            theirs = sum(site["log_prob"][..., index].sum() for site in sites)
            torch.testing.assert_close(log_prob[0], theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("problem", PROBLEMS, **ids)
def test_probabilities_of_the_states_sum_to_one(problem):
    problem = problem()
    datum = Datum(problem, problem.parameters(), problem.tensors()[0])
    for states in (datum.states(1), datum.states(problem.particles), problem.generated(datum.p)):
        torch.testing.assert_close(states.log_prob.exp().sum().item(), 1.0, rtol=0, atol=1e-9)


def test_the_evidence_of_the_linear_gaussian_is_the_closed_form():
    problem = LinearGaussian()
    leaves, x = problem.parameters(), problem.tensors()[0]
    datum = Datum(problem, leaves, x)
    p, states = datum.p, datum.states(1)
    ours = torch.logsumexp(states.log_prob + datum.log_weights(states), 0)
    covariance = p.loadings[:, None] * p.loadings + torch.eye(2) * (2 * p.log_noise).exp()
    exact = torch.distributions.MultivariateNormal(p.offset, covariance).log_prob(x)
    torch.testing.assert_close(ours, exact, rtol=1e-6, atol=1e-6)
    gradients = [torch.autograd.grad(value, [p.loadings, p.log_noise], retain_graph=True) for value in (ours, exact)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)


def test_the_elbo_of_the_linear_gaussian_is_the_closed_form():
    problem = LinearGaussian("no plate")
    leaves, x = problem.parameters(), problem.tensors()[0]
    p = Datum(problem, leaves, x).p
    loc, scale, noise = (p.slope * x).sum() + p.loc, p.log_scale.exp(), p.log_noise.exp()
    squares = (x - p.loadings * loc - p.offset) ** 2 + (p.loadings * scale) ** 2
    likelihood = (-0.5 * squares / noise**2 - p.log_noise - 0.5 * math.log(2 * math.pi)).sum()
    elbo = likelihood - 0.5 * (scale**2 + loc**2 - 1) + p.log_scale
    exact = dict(zip(leaves, torch.autograd.grad(-elbo, list(leaves.values())), strict=True))
    ours = exact_gradient(problem, references.build("ELBO"))
    torch.testing.assert_close(ours, exact, rtol=1e-6, atol=1e-6)


def test_one_particle_gives_the_elbo_and_no_self_normalised_gradient():
    problem = HiddenMarkov()
    elbo = exact_gradient(problem, references.build("ELBO"))
    one = exact_gradient(problem, references.build("IWAE", num_particles=1))
    tvo = references.build("TVO", num_particles=1, side="left", temperatures=(0.0, 1.0))
    thermodynamic = exact_gradient(problem, tvo)
    for name, exact in elbo.items():
        torch.testing.assert_close(one[name], exact, rtol=1e-10, atol=1e-12)
        wanted = exact if name.startswith("model.") else torch.zeros_like(exact)
        torch.testing.assert_close(thermodynamic[name], wanted, rtol=1e-10, atol=1e-12)


def test_one_interval_is_the_elbo_in_the_limit():
    problem = HiddenMarkov()
    tvo = references.build("TVO", num_particles=2, side="left", temperatures=(0.0, 1.0))
    elbo = vector(exact_gradient(problem, references.build("ELBO")))
    torch.testing.assert_close(vector(limit_gradient(problem, tvo)), elbo, rtol=1e-10, atol=1e-12)


CONSISTENT = [
    ("CUBO", {"n": 2.0}),
    ("EUBO", {}),
    ("RWS", {"guide_update": "wake-sleep"}),
    ("TVO", {"side": "left", "temperatures": (0.0, 0.3, 1.0)}),
    ("TVO", {"side": "right", "temperatures": (0.0, 0.3, 1.0)}),
]


@pytest.mark.parametrize(("name", "options"), CONSISTENT)
def test_self_normalised_gradients_tend_to_the_gradient_of_their_limit_as_one_over_k(name, options):
    problem = Switches("no plate")
    reference = references.build(name, num_particles=1, **options)
    limit = vector(limit_gradient(problem, reference))
    distances = [(vector(exact_gradient(problem, reference.at(k))) - limit).norm().item() for k in (2, 4, 8)]
    assert distances[2] < distances[1] < distances[0]
    assert 0.35 < distances[2] / distances[1] < 0.65  # one half, and O(1/K^2)


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if not p().discrete and p.particles == 3], **ids)
@pytest.mark.parametrize(
    "options", [("IWAE", {}), ("Renyi", {"alpha": -0.5}), ("CUBO", {"n": 2.0})], ids=lambda o: o[0]
)
def test_a_finer_quadrature_gives_the_same_reference(problem, options, monkeypatch):
    name, arguments = options
    problem = problem("no plate")
    reference = references.build(name, num_particles=3, **arguments)
    coarse = vector(exact_gradient(problem, reference))
    monkeypatch.setattr("probgen.testing.reference._known", {})
    monkeypatch.setitem(continuous.LINE, 3, 71)
    monkeypatch.setitem(mixed.NODES, 3, 47)
    assert (vector(exact_gradient(problem, reference)) - coarse).norm() < QUADRATURE * coarse.norm()


def test_an_objective_without_reference_is_refused():
    with pytest.raises(ArgumentError, match=r"no exact expectation is known for NoSuch.*pass `reference=`"):
        references.build("NoSuch")


# --- the engine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", ["no plate", "subsampled"])
@pytest.mark.parametrize("objective", [IWAE(num_particles=2, gradient="dreg"), ELBO(num_particles=2, gradient="score")])
def test_replicates_are_the_eager_gradients_and_independent(objective, structure):
    source = TorchReplicator(objective, Logistic(structure))
    drawn = source.draw(4000, seed=3)
    assert len(drawn.unique(dim=0)) == 4000
    torch.testing.assert_close(drawn, source.draw(4000, seed=3), rtol=0, atol=0)
    first, second = drawn[:2000], drawn[2000:]
    correlation = ((first - first.mean(0)) * (second - second.mean(0))).mean(0) / (first.std(0) * second.std(0))
    assert correlation.abs().max() < 6 / math.sqrt(2000)
    with pyro.validation_enabled(False):
        eager = torch.stack([source.gradient() for _ in range(300)])
    error = (eager.var(0) / 300 + drawn.var(0) / 4000).sqrt()
    assert ((eager.mean(0) - drawn.mean(0)).abs() <= 6 * error).all()


def test_a_function_that_keeps_state_in_python_is_refused():
    calls = []

    def gradient():
        calls.append(0)
        return torch.randn(3) * len(calls)

    with pytest.raises(ProgramError, match="different gradients on the same noise"):
        capture(gradient)


# --- what must be found ---------------------------------------------------------------------------------------------


class Shrunk(ELBO):
    """An ELBO with 97 % of its gradient."""

    def estimate(self, terms):
        estimate = super().estimate(terms)
        return type(estimate)(estimate.bound, estimate.value, 0.97 * estimate.surrogate, estimate.scale, estimate.terms)


def test_a_bias_of_three_percent_is_found():
    certificate = certify(Shrunk(), Logistic(), reference=references.build("ELBO"))
    assert certificate.verdict == "biased"
    assert "standard errors" in certificate.worst()


def test_no_variance_excuses_nothing():
    certificate = certify(Shrunk(gradient="enumerate"), Switches(), reference=references.build("ELBO"))
    assert certificate.verdict == "biased"
    assert certificate.replicates == 1
    assert max(player.largest_t for player in certificate.players) == math.inf


def test_sticking_the_landing_is_biased_for_weighted_bounds():
    class Stuck(IWAE):
        def coefficients(self, integrand):
            found = super().coefficients(integrand)
            return found._replace(path=found.model)

    stuck = Stuck(num_particles=3, gradient="dreg")
    certificate = certify(stuck, Logistic(), reference=references.build("IWAE", num_particles=3))
    assert [player.largest_t > certificate.critical for player in certificate.players] == [False, True]


def test_too_few_replicates_are_inconclusive():
    assert certify(ELBO(), LinearGaussian(), max_replicates=20_000).verdict == "inconclusive"


def test_a_certificate_says_what_was_found():
    certificate = certify(ELBO(), Logistic(), seed=5)
    assert certificate.passed
    assert "certified" in str(certificate)
    assert [player.player for player in certificate.players] == ["theta", "phi"]
    assert certificate.players[1].names == ("guide.loc[0]", "guide.shift[0]", "guide.log_scale[0]")
    assert certificate.blocks >= BLOCKS
    assert certificate.critical == critical_t(certificate.blocks - 1)
    assert all(player.relative_bias <= 0.02 for player in certificate.players)


# --- the grid -------------------------------------------------------------------------------------------------------


def test_names_are_unique_and_the_numbers_are_counted():
    assert len({row.name for row in rows()}) == len(rows())
    assert sum(cell.numbers for cell in cells()) <= NUMBERS


def test_every_supported_cell_has_a_reference():
    for cell in cells():
        if cell.supported:
            assert cell.row.reference(cell.instance()).kind in ("unbiased", "consistent", "surrogate")


@pytest.mark.parametrize("row", rows(), **ids)
def test_what_is_not_supported_is_refused(row):
    for i, problem in enumerate(PROBLEMS):
        cell = Cell(row, problem, list(STRUCTURES)[(i + len(row.name)) % len(STRUCTURES)], "torch")
        if not cell.supported:
            outcome = certify_cell(cell)
            assert outcome.status == "refused", outcome
            assert outcome.message


SAMPLE = [
    ("ELBO auto", "learned prior", "masked"),
    ("ELBO rloo", "hidden Markov", "plate"),
    ("ELBO disarm", "switches", "scaled"),
    ("ELBO enumerate", "hidden Markov", "masked"),
    ("ELBO relaxed", "switches", "no plate"),
    ("ELBO by site, enumerate", "discrete, then continuous", "plate"),
    ("IWAE dreg", "two-layer Gaussian", "plate"),
    ("IWAE gdreg", "learned prior", "plate"),
    ("IWAE vimco", "switches", "plate"),
    ("IWAE resampled-dreg", "logistic", "subsampled"),
    ("CUBO 2 dreg", "logistic", "plate"),
    ("RWS wake-sleep auto", "switches", "plate"),
    ("ELBO auto, beta", "parts", "plate"),
    ("TVO left reparameterized", "logistic", "plate"),
]


def cell_of(row, problem, structure, backend="torch"):
    by_name = {each.name: each for each in rows()}, {each.name: each for each in PROBLEMS}
    return Cell(by_name[0][row], by_name[1][problem], structure, backend)


@pytest.mark.parametrize("place", SAMPLE, ids=" / ".join)
def test_a_sample_of_the_grid_is_certified(place):
    outcome = certify_cell(cell_of(*place), seed=1)
    assert outcome.status == "certified", outcome.message


@pytest.mark.parametrize("place", [SAMPLE[0], SAMPLE[6]], ids=" / ".join)
def test_a_sample_is_certified_with_numpyro(place):
    outcome = certify_cell(cell_of(*place, "numpyro"), seed=1)
    assert outcome.status == "certified", outcome.message


def test_an_unsupported_cell_that_runs_is_no_success():
    row = next(row for row in rows() if row.name == "IWAE dreg")
    accepted = Cell(type(row)(row.name, row.objective, row.options, lambda problem: False), Logistic, "plate", "torch")
    assert certify_cell(accepted).status == "accepted"
    refused = Cell(type(row)(row.name, row.objective, row.options, lambda problem: True), Switches, "plate", "torch")
    assert certify_cell(refused).status == "unsupported"
    with pytest.raises(UnsupportedObjective):
        certify(IWAE(gradient="dreg"), Switches())
