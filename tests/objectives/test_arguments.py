"""What an objective refuses at construction, and on the first run of a pair that it would get wrong."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from probgen.errors import ArgumentError, UnsupportedObjective
from probgen.objectives import ELBO, IWAE, MIWAE, MaximumLikelihood, Renyi


@pytest.mark.parametrize("build", [ELBO, IWAE, lambda **options: Renyi(alpha=0.5, **options)])
@pytest.mark.parametrize("count", [0, -1, True, 2.5, "3", None])
def test_numbers_of_particles_that_are_none(build, count):
    with pytest.raises(ArgumentError, match=r"`num_particles` must be a whole number of at least 1, got"):
        build(num_particles=count)


@pytest.mark.parametrize("pair", [5, (2,), (2, 3, 4), [2, 3]])
def test_miwae_needs_a_pair_of_numbers(pair):
    with pytest.raises(ArgumentError, match=r"`num_particles` of MIWAE must be a pair \(M, K\), got"):
        MIWAE(num_particles=pair)


@pytest.mark.parametrize("pair", [(0, 3), (3, 0), (2, True), (2.0, 3)])
def test_miwae_needs_whole_numbers(pair):
    with pytest.raises(ArgumentError, match="`num_particles` must be a whole number of at least 1"):
        MIWAE(num_particles=pair)


@pytest.mark.parametrize(
    ("build", "name", "nearest"),
    [
        (ELBO, "pathwize", "pathwise"),
        (ELBO, "slt", "stl"),
        (IWAE, "dregs", "dreg"),
        (IWAE, "Auto", "auto"),
        (MIWAE, "path-wise", "pathwise"),
        (lambda **options: Renyi(alpha=0.5, **options), "drag", "dreg"),
    ],
)
def test_an_unknown_gradient_names_the_nearest(build, name, nearest):
    with pytest.raises(
        ArgumentError, match=rf"unknown `gradient='{name}'` for \w+; did you mean '{nearest}'\? There are: "
    ):
        build(gradient=name)


def test_an_unknown_kl_names_the_nearest():
    with pytest.raises(ArgumentError, match="unknown `kl='analytical'`; did you mean 'analytic'"):
        ELBO(kl="analytical")


@pytest.mark.parametrize("beta", [-0.1, float("nan"), float("inf"), True, "1"])
def test_beta_must_be_a_number_of_at_least_zero(beta):
    with pytest.raises(ArgumentError, match=r"`beta`(: a spec begins| must be a finite number of at least 0)"):
        ELBO(beta=beta)


def test_alpha_of_one_names_the_elbo():
    for alpha in (1, 1.0):
        with pytest.raises(ArgumentError, match=r"`alpha=1` is the limit .* use `ELBO\(\)`"):
            Renyi(alpha=alpha)


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), True, "0.5", None])
def test_alpha_must_be_a_number(alpha):
    with pytest.raises(ArgumentError, match="`alpha` must be a finite number, got"):
        Renyi(alpha=alpha)


@pytest.mark.parametrize("build", [IWAE, MIWAE, lambda **options: Renyi(alpha=0.5, **options)])
def test_stl_is_refused_for_weighted_bounds_and_dreg_named(build):
    with pytest.raises(UnsupportedObjective, match='use `gradient="dreg"`'):
        build(gradient="stl")


def test_dreg_is_refused_for_the_elbo_and_stl_named():
    with pytest.raises(UnsupportedObjective, match='use `gradient="stl"`'):
        ELBO(gradient="dreg")


def test_stl_with_an_analytic_divergence_is_refused():
    with pytest.raises(UnsupportedObjective, match='use `kl="monte-carlo"` with "stl"'):
        ELBO(gradient="stl", kl="analytic")


REPARAMETERIZED = pytest.mark.parametrize(
    "objective",
    [
        ELBO(gradient="stl"),
        ELBO(gradient="pathwise"),
        IWAE(gradient="dreg"),
        IWAE(gradient="pathwise"),
        Renyi(alpha=0.5, gradient="dreg"),
        MIWAE(gradient="dreg"),
    ],
    ids=repr,
)


@REPARAMETERIZED
def test_a_site_without_rsample_is_named(objective, mixture):
    problem = mixture.build(3)
    with pytest.raises(UnsupportedObjective, match=r"guide's site 'z' \(Categorical\) has none; use gradient=\"auto\""):
        objective(problem.model, problem.guide)(problem.data)


@REPARAMETERIZED
def test_a_site_without_rsample_is_named_beside_one_that_has_it(objective, mixed):
    problem = mixed.build(3)
    with pytest.raises(UnsupportedObjective, match=r"guide's site 'b' \(Bernoulli\) has none; use gradient=\"auto\""):
        objective(problem.model, problem.guide)(problem.data)


def test_maximum_likelihood_names_the_latent_site(mixture):
    problem = mixture.build(3)
    with pytest.raises(UnsupportedObjective, match="but 'z' is latent; use `ELBO` or `IWAE`"):
        MaximumLikelihood()(problem.model, problem.guide)(problem.data)


def test_objectives_show_their_arguments():
    assert repr(ELBO(beta=2.0)) == "ELBO(num_particles=1, kl='monte-carlo', beta=2.0, gradient='auto')"
    assert repr(IWAE(gradient="dreg")) == "IWAE(num_particles=5, gradient='dreg')"
    assert repr(MIWAE(num_particles=(4, 8))) == "MIWAE(num_particles=(4, 8), gradient='auto')"
    assert repr(Renyi(alpha=-1)) == "Renyi(alpha=-1, num_particles=5, gradient='auto')"
    assert repr(MaximumLikelihood()) == "MaximumLikelihood()"


# --- analytic divergences -------------------------------------------------------------------------------------------


def chain(first, second, scale=1.0, locs=(0.0, 0.5), observe=False):
    def program(x):
        with pyro.plate("data", len(x)):
            upper = pyro.sample(first, dist.Normal(locs[0], scale))
            lower = pyro.sample(second, dist.Normal(locs[1] * upper, 0.8 * scale))
            if observe:
                pyro.sample("x", dist.Normal(lower, 1.0), obs=x)

    return program


top_down_model = chain("z_2", "z_1", observe=True)


def test_an_analytic_divergence_refuses_a_bottom_up_guide():
    with pytest.raises(
        UnsupportedObjective,
        match=r"the model's order, 'z_2' -> 'z_1', but the guide's is 'z_1' -> 'z_2'; use `kl=\"monte",
    ):
        ELBO(kl="analytic")(top_down_model, chain("z_1", "z_2"))(torch.ones(3))


@pytest.mark.parametrize("beta", [1.0, 0.4])
def test_an_analytic_divergence_of_a_top_down_guide_has_the_mean_of_samples(beta, assert_mean):
    model, guide = top_down_model, chain("z_2", "z_1", scale=1.3, locs=(0.4, -0.2))
    x = torch.ones(20_000)
    analytic, sampled = (ELBO(kl=kl, beta=beta)(model, guide).estimate(x) for kl in ("analytic", "monte-carlo"))
    assert_mean(analytic.value - sampled.value)
    assert_mean(analytic.bound - sampled.bound)
    assert analytic.value.std() < sampled.value.std()


def test_an_analytic_divergence_removes_the_noise_of_its_sites():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5, 2.0))

    x = torch.tensor([0.3, -1.0])
    exact = dist.Normal(0.0, 1.0).log_prob(x) - (0.5 * (4.0 + 0.25 - 1.0) - torch.tensor(2.0).log())
    torch.testing.assert_close(ELBO(kl="analytic").bound(model, guide, x), exact, rtol=1e-12, atol=1e-12)


def test_an_unknown_closed_form_names_the_site():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.StudentT(3.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(UnsupportedObjective, match=r"no closed form of KL\(Normal \|\| StudentT\) for site 'z'"):
        ELBO(kl="analytic")(model, guide)(torch.ones(3))


def test_an_analytic_divergence_refuses_scales_that_differ():
    def guide(x):
        with pyro.poutine.scale(scale=0.5):
            chain("z_2", "z_1")(x)

    with pytest.raises(UnsupportedObjective, match="another mask or scale"):
        ELBO(kl="analytic")(top_down_model, guide)(torch.ones(3))


def test_an_analytic_divergence_of_an_autoguide_keeps_its_jacobian(assert_mean):
    def model(x):
        rate = pyro.sample("rate", dist.Gamma(2.0, 2.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(rate, 1.0), obs=x)

    guide, x = pyro.infer.autoguide.AutoNormal(model), torch.ones(3)
    bounds = []
    for kl in ("analytic", "monte-carlo"):
        pyro.set_rng_seed(0)
        bounds.append(ELBO(kl=kl, num_particles=4).bound(model, guide, x))
    torch.testing.assert_close(*bounds, rtol=1e-12, atol=1e-12)
