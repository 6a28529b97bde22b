"""Programs and log-densities as arguments of the entry point."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch.distributions import Independent, Normal

from probgen import divergence
from probgen.core import divergences as core
from probgen.divergences import KINDS
from probgen.errors import ArgumentError, ArgumentTypeError, DataError
from probgen.models import PPCA

WIDE = torch.float64
P, Q = (Independent(Normal(torch.full((2,), s, dtype=WIDE), 1.0), 1) for s in (0.0, 0.5))


def density(distribution):
    return distribution.log_prob, lambda n: distribution.sample((n,))


def program():
    z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with pyro.plate("plate", 1):
        pyro.sample("other", dist.Normal(0.0, 1.0))
    return pyro.sample("x", dist.Normal(z, 1.0).to_event(1))


# ---- densities


@pytest.mark.parametrize("kind", [*core.GENERATORS, "renyi"])
def test_a_density_is_as_good_as_its_distribution(kind):
    options = {"alpha": 0.5} if kind == "renyi" else {}
    expected = divergence(P, Q, kind=kind, method="monte-carlo", num_samples=500, seed=0, **options)
    found = divergence(density(P), density(Q), kind=kind, num_samples=500, seed=0, **options)
    exact = divergence(P, Q, kind=kind, num_samples=50_000, seed=1, **options)
    assert found.bias == expected.bias
    assert abs(found.value - exact.value) < 4 * math.hypot(found.standard_error, exact.standard_error) + 0.01
    assert found.standard_error == pytest.approx(expected.standard_error, rel=0.3)


def test_samples_in_place_of_a_sampler():
    x = P.sample((4000,))
    found = divergence((P.log_prob, x), (Q.log_prob, None))
    assert found.value == core.kl_from_densities(P.log_prob(x), Q.log_prob(x)).value
    assert found.n == 4000
    assert divergence((P.log_prob, None), (Q.log_prob, x + 0.5), kind="reverse-kl").n == 4000
    assert divergence((P.log_prob, x), Q).value == found.value
    for kind in ("reverse-kl", "js"):
        with pytest.raises(ArgumentError, match="'monte-carlo' needs samples of `q`"):
            divergence((P.log_prob, x), (Q.log_prob, None), kind=kind, method="monte-carlo")


def test_densities_of_jax():
    def sampler(shift):
        return lambda n: jax.random.normal(jax.random.key(int(10 * shift)), (n, 2)) + shift

    def log_prob(shift):
        return lambda x: jax.scipy.stats.norm.logpdf(x, shift).sum(-1)

    found = divergence(
        (log_prob(0.0), sampler(0.0)), (log_prob(0.5), sampler(0.5)), num_samples=90
    )  # k-hat compiles for seconds
    assert isinstance(found.value, jax.Array)
    assert abs(float(found.value) - 0.25) < 4 * found.standard_error
    assert abs(float(divergence((log_prob(0.0), sampler(0.0)), sampler(0.5)(1000)).value) - 0.25) < 0.3  # neighbours
    with pytest.raises(ArgumentTypeError, match="a torch distribution needs samples as a torch"):
        divergence((log_prob(0.0), sampler(0.0)), Q, num_samples=10)


@pytest.mark.parametrize("kind", ["mmd2", "energy", "sliced-w2", "frechet"])
def test_densities_where_samples_are_enough(kind):
    found = divergence(density(P), Q.sample((300,)), kind=kind, seed=0)
    assert found.n == 300
    assert found.value > 0


def test_stein_discrepancy_of_an_unnormalised_density():
    torch.manual_seed(0)
    x = P.sample((300,))
    found = divergence(x, (lambda z: P.log_prob(z) + 7.0, None), kind="ksd2")
    assert found.value == pytest.approx(float(divergence(x, P, kind="ksd2").value))
    assert divergence(density(Q), (P.log_prob, None), kind="ksd2", num_samples=300, seed=0).value > 0.02


def test_disjoint_supports_of_densities():
    def uniform(low):
        log_prob = lambda x: torch.where((x > low) & (x < low + 1), 0.0, -math.inf)  # noqa: E731
        return log_prob, lambda n: torch.rand(n) + low

    found = divergence(uniform(0.0), uniform(0.5), seed=0)
    assert found.value == math.inf
    assert "outside the support" in found.note
    assert divergence(uniform(0.0), uniform(2.0), kind="js", seed=0).value == pytest.approx(math.log(2))


# ---- programs


def test_a_program_against_its_marginal():
    marginal = Independent(Normal(torch.zeros(2), math.sqrt(2.0)), 1)
    found = divergence(program, marginal, kind="mmd2", num_samples=300, seed=0)
    assert abs(found.value) < 5 * max(found.standard_error, 1e-3)
    other = divergence(program, Independent(Normal(torch.ones(2) * 2, 1.0), 1), kind="mmd2", num_samples=300, seed=0)
    assert other.interval[0] > 0.1


def test_a_named_site():
    found = divergence((program, "z"), (program, "x"), kind="frechet", num_samples=400, seed=0)
    truth = 2 * (math.sqrt(2) - 1) ** 2
    assert abs(found.value - truth) < 4 * found.standard_error + 0.05
    first, second = (divergence((program, "z"), P.sample((50,)).float(), kind="energy", seed=s).n for s in (0, 1))
    assert first == second == 50  # as many as the other has


def test_a_program_that_draws_many_at_once():
    model = PPCA(data_dim=3, latent_dim=1)
    calls = []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    x = model(num_samples=500).detach()
    found = divergence(model, x, kind="energy", seed=0)
    hook.remove()
    assert len(calls) == 2
    assert abs(found.value) < 5 * max(found.standard_error, 0.02)
    assert divergence((model, "z"), (model, "z"), kind="energy", num_samples=200, seed=0).n == 200


def test_parameters_of_programs_stay_apart():
    class Shift(PyroModule):
        def __init__(self, loc):
            super().__init__()
            self.loc = PyroParam(torch.tensor(loc))

        def forward(self):
            return pyro.sample("x", dist.Normal(self.loc, 0.1))

    found = divergence(Shift(0.0), Shift(3.0), kind="w1", num_samples=50, seed=0)  # one name in Pyro's store
    assert found.value.item() == pytest.approx(3.0, abs=0.1)
    assert list(pyro.get_param_store().keys()) == []


def test_seeds_of_programs():
    first, second = (divergence(program, program, kind="energy", num_samples=50, seed=4).value for _ in range(2))
    assert first == second
    before = torch.get_rng_state()
    divergence(program, program, kind="energy", num_samples=50, seed=4)
    assert torch.equal(before, torch.get_rng_state())


def test_gradient_through_a_program():
    shift = torch.tensor(1.0, requires_grad=True)
    move = functools.partial(lambda s, num_samples=1: s + torch.randn(num_samples, 1), shift)
    divergence(move, torch.randn(200, 1), kind="energy", seed=0).value.backward()
    assert shift.grad > 0


def test_partial_binds_arguments():
    def shifted(shift, scale=1.0):
        return pyro.sample("x", dist.Normal(shift, scale))

    bound = functools.partial(shifted, 2.0, scale=0.1)
    assert divergence(bound, lambda: torch.tensor(0.0), kind="w1", num_samples=20).value == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((lambda x: x, P), ArgumentTypeError, "`p` is a program, .* missing a required argument: 'x'; bind them"),
        ((lambda: None, P), ArgumentTypeError, r"`p` is a program that returns NoneType: .* p=\(program, 'x'\)"),
        ((P, (program, "y")), ArgumentError, "`q`: the program has no site 'y'; there are: other, x, z"),
        ((P, lambda num_samples: torch.zeros(3, 2)), ArgumentTypeError, "missing a required argument: 'num_samples'"),
        ((P, lambda num_samples=1: torch.zeros(3, 2)), ArgumentError, "must give 40 samples along axis 0"),
        (((P.log_prob, lambda n: P.sample((7,))), Q), ArgumentError, r"sample\(40\) must give 40 samples"),
        (((P.log_prob, 3), Q), ArgumentTypeError, "the second of the pair `p` must be a function"),
        (((3, P.log_prob), Q), ArgumentTypeError, "`p` must be a distribution, an array of samples,.*got tuple"),
        (((P.log_prob, [0.0]), Q), ArgumentTypeError, "got list"),
        (((lambda x: x, P.sample((40,))), Q), ArgumentError, r"must have one shape \[n\]"),
        (((lambda x: x.sum(1) * math.nan, P.sample((40,))), Q), DataError, "`log_p` is nan at sample 0"),
        (((P.log_prob, torch.zeros(40, 3)), Q), ArgumentError, "must have one dimension"),
        ((lambda: torch.zeros(3), Q), ArgumentError, "must have one dimension"),
        ((lambda: {"x": 1.0}, Q), ArgumentTypeError, "returns dict"),
        (((P.log_prob, None), (Q.log_prob, None)), ArgumentError, "needs samples of `p`"),
    ],
)
def test_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        divergence(*arguments, num_samples=40)


def test_every_kind_of_two_programs():
    def one(num_samples=1):
        return torch.randn(num_samples)

    def two(num_samples=1):
        return torch.randn(num_samples) + 0.5

    small = {"sinkhorn": {"epsilon": 1.0}, "renyi": {"alpha": 0.5}}
    quick = {"hidden": (4,), "num_steps": 3}
    for kind in KINDS:
        if kind in ("ksd2", "jeffreys"):
            continue
        options = small.get(kind, quick if kind in core.GENERATORS and kind != "kl" else {})
        found = divergence(one, two, kind=kind, num_samples=60, seed=0, **options)
        assert math.isfinite(float(found.value))


def test_numpy_programs():
    rng = np.random.default_rng(0)
    found = divergence(lambda: rng.normal(size=1), lambda: rng.normal(2.0, 1.0, size=1), kind="w1", num_samples=100)
    assert found.value == pytest.approx(2.0, abs=0.6)
    assert divergence(lambda: jnp.zeros(2), lambda: jnp.ones(2), kind="energy", num_samples=10).value > 0
