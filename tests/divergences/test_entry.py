"""The entry point: what it chooses, that all methods agree, the table, laziness, and what it refuses."""

import math
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Cauchy,
    Exponential,
    Gamma,
    Independent,
    Laplace,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Poisson,
    StudentT,
    Uniform,
    kl_divergence,
)

from probgen import divergence
from probgen.divergences import KINDS, METHODS, methods_table
from probgen.divergences.estimators import ESTIMATORS
from probgen.errors import ArgumentError, ArgumentTypeError, DataError


def wide(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


NORMALS = Normal(*wide(0.0, 1.0)), Normal(*wide(1.0, 1.5))
LAPLACES = Laplace(*wide(0.0, 1.0)), Laplace(*wide(1.0, 1.0))
UNIFORMS = Uniform(*wide(0.0, 1.0)), Uniform(*wide(0.0, 2.0))


def options(kind):
    return {"renyi": {"alpha": 0.5}, "sinkhorn": {"epsilon": 1.0}}.get(kind, {})


# ---- the table


def test_table_and_estimators_are_the_same_set():
    assert [entry.name for entry in METHODS] == list(ESTIMATORS)
    assert {kind for entry in METHODS for kind in entry.kinds} == set(KINDS)
    assert len(methods_table().splitlines()) == 2 + len(METHODS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_from_two_distributions(kind):
    if kind == "ksd2" or kind.startswith("w"):
        found = divergence(*NORMALS, kind=kind, num_samples=500, seed=0)
    else:
        p, q = (Independent(Normal(torch.full((2,), shift), 1.0), 1) for shift in (0.0, 0.5))
        found = divergence(p, q, kind=kind, num_samples=500, seed=0, **options(kind))
    low, high = found.interval
    assert math.isnan(low) or low <= found.value <= high
    assert found.value > 0


@pytest.mark.parametrize("entry", METHODS, ids=lambda entry: entry.name)
def test_every_method_by_name(entry):
    if entry.name == "exact":
        pytest.importorskip("ot", reason="needs POT")
    near = NORMALS[0], Normal(*wide(0.5, 1.2))
    for kind in entry.kinds:
        if entry.name == "closed-form" and kind in ("js", "tv", "le-cam"):
            continue  # of finite supports alone
        tails = {"heavy_tails": "allow"} if "heavy_tails" in entry.options else {}
        quick = {"num_steps": 20, "hidden": (8,)} if entry.name == "critic" else {}
        given = {**options(kind), **tails, **quick}
        found = divergence(*near, kind=kind, method=entry.name, num_samples=400, seed=0, **given)
        assert math.isfinite(found.value)


# ---- agreement


@pytest.mark.parametrize("pair", [NORMALS, LAPLACES], ids=["normal", "laplace"])
@pytest.mark.parametrize("kind", ["kl", "reverse-kl", "jeffreys", "js", "hellinger", "tv", "le-cam", "renyi"])
def test_monte_carlo_agrees_with_the_exact(pair, kind):
    exact = divergence(*pair, kind=kind, **options(kind))
    assert exact.n == 0
    sampled = divergence(*pair, kind=kind, method="monte-carlo", num_samples=20_000, seed=0, **options(kind))
    assert abs(sampled.value - exact.value) < 4 * sampled.standard_error


@pytest.mark.parametrize("kind", ["kl", "reverse-kl", "jeffreys", "renyi", "chi2", "hellinger", "w2"])
def test_quadrature_agrees_with_the_closed_form(kind):
    p, q = NORMALS[0], Normal(*wide(0.5, 1.2))
    exact, integrated = (
        divergence(p, q, kind=kind, method=method, **options(kind)) for method in ("closed-form", "quadrature")
    )
    assert float(integrated.value) == pytest.approx(float(exact.value), abs=1e-6)


@pytest.mark.parametrize(
    ("pair", "kind", "truth"),
    [
        (LAPLACES, "kl", math.exp(-1)),
        (LAPLACES, "tv", 1 - math.exp(-0.5)),
        (LAPLACES, "hellinger", 1 - 1.5 * math.exp(-0.5)),
        (LAPLACES, "w1", 1.0),
        (LAPLACES, "w2", 1.0),
        (UNIFORMS, "kl", math.log(2)),
        (UNIFORMS, "reverse-kl", math.inf),
        (UNIFORMS, "tv", 0.5),
        (UNIFORMS, "hellinger", 1 - math.sqrt(0.5)),
        (UNIFORMS, "chi2", 1.0),
        (UNIFORMS, "w1", 0.5),
        (UNIFORMS, "w2", math.sqrt(1 / 3)),
        ((Exponential(*wide(1.0)), Exponential(*wide(2.0))), "hellinger", 1 - math.sqrt(8) / 3),
        ((Exponential(*wide(1.0)), Exponential(*wide(2.0))), "w1", 0.5),
        ((Normal(*wide(0.0, 1.0)), Normal(*wide(40.0, 1.0))), "js", math.log(2)),
        ((Normal(*wide(1e4, 1e-3)), Normal(*wide(1e4 + 2e-3, 1e-3))), "tv", math.erf(1 / math.sqrt(2))),
    ],
)
def test_known_values(pair, kind, truth):
    found = divergence(*pair, kind=kind, method="quadrature")
    assert float(found.value) == pytest.approx(truth, abs=1e-7)
    if math.isinf(truth):
        assert "infinite" in found.note


def test_infinite_by_formula_is_said():
    found = divergence(*UNIFORMS[::-1])
    assert found.value == math.inf
    assert "infinite" in found.note


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (Categorical(torch.tensor([0.2, 0.8])), Categorical(torch.tensor([0.5, 0.5]))),
        (Bernoulli(torch.tensor([0.3, 0.9])), Bernoulli(torch.tensor([0.6, 0.6]))),
        (OneHotCategorical(torch.tensor([0.2, 0.8])), OneHotCategorical(torch.tensor([0.5, 0.5]))),
        (Binomial(3, torch.tensor(0.3)), Binomial(3, torch.tensor(0.5))),
    ],
)
def test_finite_supports_are_summed(p, q):
    torch.testing.assert_close(divergence(p, q).value, kl_divergence(p, q))
    assert (divergence(p, q, kind="js").value < math.log(2)).all()


def test_pairs_that_torch_knows():
    pairs = [
        (Gamma(*wide(2.0, 1.0)), Gamma(*wide(3.0, 2.0))),
        (Poisson(*wide(2.0)), Poisson(*wide(3.0))),
        (Exponential(*wide(2.0)), Gamma(*wide(3.0, 2.0))),
        (dist.Normal(*wide(0.0, 1.0)), dist.Laplace(*wide(0.0, 1.0))),
        (dist.Normal(torch.zeros(3), 1.0).to_event(1), dist.Normal(torch.ones(3), 1.0).to_event(1)),
    ]
    for p, q in pairs[:3] + pairs[4:]:
        torch.testing.assert_close(divergence(p, q).value.double(), kl_divergence(p, q).double())
    assert divergence(*pairs[3]).n == 0


def test_gaussians_of_three_classes():
    cov = torch.tensor([[1.0, 0.3], [0.3, 0.5]])
    full = MultivariateNormal(torch.zeros(2), cov)
    diagonal = Independent(Normal(torch.ones(2), 1.0), 1)
    low = LowRankMultivariateNormal(torch.zeros(2), torch.ones(2, 1), torch.ones(2))
    for p, q in ((full, diagonal), (diagonal, low), (low, full)):
        exact = divergence(p, q, kind="kl", method="closed-form")
        sampled = divergence(p, q, kind="kl", method="monte-carlo", num_samples=20_000, seed=1)
        assert abs(exact.value - sampled.value) < 4 * sampled.standard_error


def test_batches_keep_their_shape():
    p, q = Normal(torch.zeros(3, 2), 1.0), Normal(torch.ones(2), 1.0)
    torch.testing.assert_close(divergence(p, q).value, torch.full((3, 2), 0.5))


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, jnp.asarray], ids=["numpy", "torch", "jax"])
def test_samples_of_every_library(make):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 2)).astype("float32"), rng.normal(0.5, 1, size=(300, 2)).astype("float32")
    for kind in ("kl", "mmd2", "energy", "sliced-w2", "max-sliced-w1", "sinkhorn", "frechet"):
        expected = divergence(x, y, kind=kind, seed=0, **options(kind))
        found = divergence(make(x), make(y), kind=kind, seed=0, **options(kind))
        assert type(make(x)) in type(found.value).__mro__ or isinstance(found.value, np.generic | np.ndarray)
        assert float(found.value) == pytest.approx(float(expected.value), rel=1e-3, abs=1e-4)


def test_frechet_of_samples():
    rng = np.random.default_rng(0)
    truth = 3 * (0.25 + 0.25)  # of shift ½ and scale 1.5, thrice
    found = [
        divergence(rng.normal(size=(400, 3)), rng.normal(0.5, 1.5, size=(400, 3)), kind="frechet") for _ in range(200)
    ]
    bias = np.mean([e.value for e in found]) - truth
    assert 0 < bias < 0.1  # upwards
    mean = truth + bias
    assert 0.90 <= np.mean([e.interval[0] <= mean <= e.interval[1] for e in found]) <= 0.995  # 200 repetitions


def test_samples_against_a_distribution():
    p, q = (Independent(Normal(torch.full((2,), shift), 1.0), 1) for shift in (0.0, 1.0))
    x = p.sample((400,))
    assert divergence(x, q, kind="mmd2", seed=0).n == 400
    good, bad = divergence(x, p, kind="ksd2"), divergence(x, q, kind="ksd2")
    assert good.interval[0] < 0.05 < bad.interval[0]
    assert abs(divergence(x, q, seed=0).value - 1.0) < 0.4


def test_seeds_repeat_and_leave_the_generators_alone():
    before = torch.get_rng_state()
    first, second = (divergence(*NORMALS, method="monte-carlo", seed=3).value for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients_reach_the_parameters():
    shift = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    p = Normal(shift, *wide(1.0))
    for method in ("closed-form", "monte-carlo"):
        (gradient,) = torch.autograd.grad(divergence(p, NORMALS[0], method=method, seed=0).value, shift)
        assert gradient.item() == pytest.approx(1.0, abs=0.05)


def test_nothing_heavy_is_imported():
    program = "import sys, probgen; print(*sorted({'scipy.spatial', 'ot', 'jax', 'torch'} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
    program = "import sys, probgen.core.divergences; print(*sorted({'scipy', 'ot', 'jax'} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


# ---- refusals


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (NORMALS, {"kind": "helinger"}, ArgumentError, "`kind`: 'helinger' is unknown; did you mean 'hellinger'"),
        (NORMALS, {"method": "closed-from"}, ArgumentError, "did you mean 'closed-form'"),
        (NORMALS, {"kind": "js", "method": "neighbors"}, ArgumentError, "`method`: 'neighbors' is unknown"),
        (NORMALS, {"kind": "renyi"}, ArgumentError, "needs `alpha`"),
        (NORMALS, {"kind": "renyi", "alpha": 1.0}, ArgumentError, "other than 1"),
        (NORMALS, {"alpha": 0.5}, ArgumentError, "`alpha` is no argument of 'kl'"),
        (NORMALS, {"kind": "mmd2", "bandwith": 1.0}, ArgumentError, "did you mean 'bandwidth'"),
        (NORMALS, {"kind": "energy", "bandwidth": 1.0}, ArgumentError, "`bandwidth` is no argument for kind 'energy'"),
        (NORMALS, {"kind": "sinkhorn"}, ArgumentError, "needs `epsilon`"),
        (NORMALS, {"num_samples": 1}, ArgumentError, "`num_samples` must be a whole number of at least 2"),
        (NORMALS, {"seed": -1}, ArgumentError, "`seed`"),
        (
            (np.zeros((9, 2)), np.zeros((9, 3))),
            {},
            ArgumentError,
            r"one dimension, got data of shape \(2,\) and \(3,\)",
        ),
        ((np.zeros((9, 2)), NORMALS[0]), {}, ArgumentError, "one dimension"),
        (([0.0], NORMALS[0]), {}, ArgumentTypeError, "`p` must be a distribution, an array of samples,.* got list"),
        ((NORMALS[0], abs), {}, ArgumentTypeError, "`q` is a program, which is called without arguments"),
        ((np.zeros(9), np.ones(9)), {"kind": "jeffreys"}, ArgumentError, "'closed-form' needs two distributions"),
        ((np.zeros(9), np.ones(9)), {"kind": "tv"}, ArgumentError, "`x` has 9 samples, .* needs at least 20"),
        ((np.zeros((9, 2)), np.ones((9, 2))), {"kind": "w2", "method": "quantiles"}, ArgumentError, "one dimension"),
        ((torch.zeros(9), torch.ones(9)), {"kind": "ksd2"}, ArgumentError, "needs the density of `q`"),
        ((Cauchy(*wide(0.0, 1.0)), NORMALS[0]), {}, DataError, "does not converge|infinite"),
    ],
)
def test_refusals(arguments, options, error, message):
    with pytest.raises(error, match=message):
        divergence(*arguments, **options)


def test_heavy_tails_by_monte_carlo():
    p, q = StudentT(*wide(1.5)), NORMALS[0]
    with pytest.raises(DataError, match="tails too heavy"):
        divergence(p, q, method="monte-carlo", seed=0)
    assert divergence(p, q, method="monte-carlo", seed=0, heavy_tails="allow").note
