"""Log-weights against the evidence of linear-Gaussian models and against densities written by hand."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal

from probgen.models import PPCA
from probgen.programs import RunOptions, log_weights, run_pair, trace_pair


def normal(value, loc=0.0, scale=1.0):
    return dist.Normal(torch.as_tensor(loc), torch.as_tensor(scale)).log_prob(value)


def close(actual, expected, tolerance=1e-12):
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# --- the exact posterior --------------------------------------------------------------------------------------------


def test_with_the_exact_posterior_every_weight_is_the_evidence():
    loadings, scale, x = torch.tensor([[1.0, 0.2], [-0.4, 0.9], [0.3, 0.5]]), 0.6, torch.randn(5, 3)
    precision = torch.eye(2) + loadings.T @ loadings / scale**2

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings.T, scale).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = torch.linalg.solve(precision, (x @ loadings / scale**2).T).T
            pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=precision))

    covariance = loadings @ loadings.T + scale**2 * torch.eye(3)
    evidence = dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x)
    close(log_weights(model, guide, x, num_particles=7), evidence.expand(7, 5), 1e-10)


@pytest.mark.parametrize("vectorize", [True, False])
def test_with_the_exact_posterior_of_ppca_every_weight_is_the_evidence(vectorize):
    model, x = PPCA(data_dim=4, latent_dim=2).double(), torch.randn(3, 4)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", model.posterior(x))

    terms = trace_pair(model, guide, (x,), {}, RunOptions(num_particles=6, vectorize_particles=vectorize))
    close(terms.log_weights, model.log_evidence(x).expand(6, 3), 1e-10)


# --- shapes ---------------------------------------------------------------------------------------------------------


def test_weights_are_particles_by_batch(amortized):
    pair = amortized.Model(), amortized.Guide(), amortized.x
    assert log_weights(*pair).shape == (1, 4)
    assert log_weights(*pair, num_particles=5).shape == (5, 4)
    assert log_weights(*pair, num_particles=(2, 5)).shape == (2, 5, 4)
    assert log_weights(*pair, num_particles=(2, 1)).shape == (2, 1, 4)


def test_groups_are_reshaped_particles(amortized):
    pair = amortized.Model(), amortized.Guide(), amortized.x
    grouped = log_weights(*pair, num_particles=(2, 5), seed=1)
    close(grouped.flatten(0, 1), log_weights(*pair, num_particles=10, seed=1))


def local_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def global_model(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(loc, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize("count", [1, 4])
def test_an_auto_normal_guide_of_local_latents_has_weights_per_datum(count, site):
    x = torch.randn(3)
    guide = AutoNormal(local_model)
    terms = run_pair(local_model, guide, x, num_particles=count)
    z = site(terms, "z").value.reshape(count, 3)
    expected = normal(z) + normal(x, z) - normal(z, guide.locs.z, guide.scales.z)
    close(terms.log_weights, expected)


@pytest.mark.parametrize("auto", [AutoNormal, AutoDiagonalNormal])
@pytest.mark.parametrize("count", [1, 4])
def test_with_a_global_latent_the_weights_are_joint(auto, count):
    x = torch.randn(3)
    guide = auto(global_model)
    assert log_weights(global_model, guide, x, num_particles=count).shape == (count,)
    assert run_pair(global_model, guide, x, num_particles=count).batch_shape == ()


def test_joint_latents_of_a_guide_join_the_weights_of_local_ones():
    x = torch.randn(3)
    assert log_weights(local_model, AutoDiagonalNormal(local_model), x, num_particles=4).shape == (4,)


@pytest.mark.parametrize("auto", [AutoNormal, AutoDiagonalNormal])
def test_an_autoguide_meets_its_model_first_under_a_given_plate_nesting(auto, site):
    x, guide = torch.randn(3), auto(global_model)
    options = RunOptions(num_particles=4, max_plate_nesting=1)
    terms = trace_pair(global_model, guide, (x,), {}, options)
    assert {tuple(p.shape) for p in guide.parameters()} <= {(), (3,), (4,)}
    again = trace_pair(global_model, guide, (x,), {}, options)
    assert terms.log_weights.shape == again.log_weights.shape == (4,)


def test_a_model_without_latents_has_its_log_likelihood_as_weights():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    x = torch.randn(3)
    close(log_weights(model, None, x, num_particles=2), normal(x).expand(2, 3))


def test_without_plates_there_is_one_weight_per_particle():
    def model(x):
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = torch.tensor(0.7)
    close(log_weights(model, guide, x, num_particles=3), normal(x, 0.0, 2.0**0.5).expand(3))


# --- densities written by hand ----------------------------------------------------------------------------------------

N, B, P, K = 7, 3, 5, 4
INDICES = torch.tensor([4, 0, 6])


def nested(x, weight=1.0, mask=True, all_scale=1.0, local_scale=1.0):
    """A latent for each datum and one for each pixel; the plate over data is subsampled."""
    data = pyro.plate("data", N, subsample=INDICES, dim=-2)
    with poutine.scale(scale=all_scale), data, poutine.scale(scale=local_scale):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("pixels", P, dim=-1), poutine.mask(mask=mask):
            y = pyro.sample("y", dist.Normal(z, 2.0))
            with poutine.scale(scale=weight):
                pyro.sample("x", dist.Normal(y[..., None].expand(*y.shape, 3), 0.5).to_event(1), obs=x)


def nested_guide(x, weight=1.0, mask=True, all_scale=1.0, local_scale=1.0):
    data = pyro.plate("data", N, subsample=INDICES, dim=-2)
    with poutine.scale(scale=all_scale), data, poutine.scale(scale=local_scale):
        z = pyro.sample("z", dist.Normal(0.3, 0.8))
        with pyro.plate("pixels", P, dim=-1), poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(0.5 * z, 1.5))


def nested_by_hand(terms, site, x, weight=1.0, mask=True, local_scale=1.0):
    z = site(terms, "z").value.reshape(-1, B, 1)
    y = site(terms, "y").value.reshape(-1, B, P)
    mask = torch.as_tensor(mask)
    pixels = weight * normal(x, y[..., None], 0.5).sum(-1) + local_scale * (normal(y, z, 2.0) - normal(y, 0.5 * z, 1.5))
    return (local_scale * (normal(z) - normal(z, 0.3, 0.8)))[..., 0] + torch.where(mask, pixels, 0.0).sum(-1)


MASKS = [True, torch.tensor([True, False, True, True, False]), torch.rand(B, P) > 0.5]


@pytest.mark.parametrize("count", [1, K])
@pytest.mark.parametrize("mask", MASKS, ids=["all", "pixels", "data-by-pixels"])
@pytest.mark.parametrize(
    "weight", [1.0, 0.3, torch.linspace(0.1, 2.0, P, dtype=torch.float64)], ids=["one", "number", "tensor"]
)
def test_nested_plates_mask_likelihood_scale_and_subsampling_equal_a_density_by_hand(count, mask, weight, site):
    x = torch.randn(B, P, 3)
    options = {"weight": weight, "mask": mask}
    terms = run_pair(nested, nested_guide, x, num_particles=count, **options)
    assert terms.batch_shape == (B,)
    assert terms.scale == pytest.approx(N / B, rel=1e-12)
    close(terms.log_weights, nested_by_hand(terms, site, x, **options))
    assert terms.tempered is None


@pytest.mark.parametrize("count", [1, K])
@pytest.mark.parametrize(
    "scale",
    [0.3, torch.tensor(0.3, dtype=torch.float64), torch.rand(B, 1, dtype=torch.float64)],
    ids=["number", "scalar", "per-datum"],
)
def test_a_scale_shared_by_all_sites_multiplies_the_bound(count, scale, site):
    x = torch.randn(B, P, 3)
    terms = run_pair(nested, nested_guide, x, num_particles=count, all_scale=scale)
    close(torch.as_tensor(terms.scale), N / B * torch.as_tensor(scale).squeeze())
    close(terms.log_weights, nested_by_hand(terms, site, x))


@pytest.mark.parametrize("count", [1, K])
def test_a_scale_on_latents_alone_stays_in_the_terms(count, site):
    x = torch.randn(B, P, 3)
    terms = run_pair(nested, nested_guide, x, num_particles=count, local_scale=0.3, weight=1 / 0.3)
    close(terms.log_weights, nested_by_hand(terms, site, x, local_scale=0.3), 1e-11)
    assert terms.tempered == "z"
    assert terms.scale == pytest.approx(N / B, rel=1e-12)


def test_the_score_has_neither_mask_nor_scale(site):
    x = torch.randn(B, P, 3)
    mask = torch.rand(B, P) > 0.5
    terms = run_pair(nested, nested_guide, x, num_particles=K, mask=mask, all_scale=0.1, local_scale=0.3)
    z, y = site(terms, "z").value, site(terms, "y").value
    close(site(terms, "z").score, normal(z, 0.3, 0.8)[..., 0])
    close(site(terms, "y").score, normal(y, 0.5 * z, 1.5).sum(-1))


def test_a_mask_that_is_false_removes_a_site(site):
    x = torch.randn(B, P, 3)
    terms = run_pair(nested, nested_guide, x, num_particles=K, mask=False)
    z = site(terms, "z").value[..., 0]
    close(terms.log_weights, normal(z) - normal(z, 0.3, 0.8))


def test_a_subsampled_plate_inside_a_datum_scales_its_sites(site):
    indices = torch.tensor([1, 3])

    def model(x):
        with pyro.plate("data", 3, dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("pixels", P, subsample=indices, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 3, dim=-2):
            pyro.sample("z", dist.Normal(0.3, 0.8))

    x = torch.randn(3, 2)
    terms = run_pair(model, guide, x)
    z = site(terms, "z").value.reshape(1, 3, 1)
    expected = (normal(z) - normal(z, 0.3, 0.8))[..., 0] + P / 2 * normal(x, z).sum(-1)
    close(terms.log_weights, expected)
    assert (terms.scale, terms.subsampled_inside) == (1.0, "pixels")


def test_plates_that_all_enclose_everything_are_all_batch_dimensions(site):
    def model(x):
        with pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 3, dim=-1):
            pyro.sample("z", dist.Normal(0.5 * x, 0.5**0.5))

    x = torch.randn(2, 3)
    evidence = normal(x, 0.0, 2.0**0.5)
    close(log_weights(model, guide, x, num_particles=K), evidence.expand(K, 2, 3))
    named = log_weights(model, guide, x, num_particles=K, batch_plate="rows")
    close(named, evidence.sum(1).expand(K, 2))
    named = log_weights(model, guide, x, num_particles=K, batch_plate="columns")
    close(named, evidence.sum(0).expand(K, 3))


def test_a_sequential_plate_is_summed(site):
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        for i in pyro.plate("data", 3):
            pyro.sample(f"x_{i}", dist.Normal(z, 1.0), obs=x[i])

    def guide(x):
        pyro.sample("z", dist.Normal(0.3, 0.8))

    x = torch.randn(3)
    terms = run_pair(model, guide, x, num_particles=K)
    z = site(terms, "z").value
    close(terms.log_weights, normal(z) - normal(z, 0.3, 0.8) + normal(x, z[:, None]).sum(1))


def test_discrete_and_factor_sites_count(site):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.factor("extra", 0.1 * z)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(0.6))

    x = torch.randn(3)
    terms = run_pair(model, guide, x, num_particles=K)
    z = site(terms, "z").value
    ratio = z * torch.tensor(0.3 / 0.6).log() + (1 - z) * torch.tensor(0.7 / 0.4).log()
    close(terms.log_weights, ratio + normal(x, z) + 0.1 * z)


def test_a_deterministic_site_adds_nothing():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.deterministic("twice", 2 * z)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 0.5**0.5))

    x = torch.randn(3)
    close(log_weights(model, guide, x, num_particles=K), normal(x, 0.0, 2.0**0.5).expand(K, 3))


def test_an_auxiliary_site_of_the_guide_counts_in_its_density_alone(site):
    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 2.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(a, 1.0))

    x = torch.randn(3)
    terms = run_pair(local_model, guide, x, num_particles=K)
    a, z = site(terms, "a").value, site(terms, "z").value
    close(terms.log_weights, normal(z) + normal(x, z) - normal(z, a) - normal(a, 0.0, 2.0))
    assert site(terms, "a").log_p is None


def test_an_auxiliary_site_outside_the_plate_joins_the_weights():
    def guide(x):
        a = pyro.sample("a", dist.Normal(0.0, 2.0), infer={"is_auxiliary": True})
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(a, 1.0))

    assert log_weights(local_model, guide, torch.randn(3), num_particles=K).shape == (K,)


@pytest.mark.parametrize("vectorize", [True, False])
def test_all_particles_see_one_minibatch(vectorize):
    data = torch.arange(20.0)

    def model():
        with pyro.plate("data", 20, subsample_size=5) as indices:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0 * z + data[indices], 1.0), obs=torch.zeros(5))

    def guide():
        with pyro.plate("data", 20, subsample_size=5):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    options = RunOptions(num_particles=4, vectorize_particles=vectorize)
    weights = trace_pair(model, guide, (), {}, options).log_weights
    close(weights, weights[:1].expand(4, 5))
    assert len(weights[0].unique()) == 5
    assert not torch.equal(trace_pair(model, guide, (), {}, options).log_weights, weights)


@pytest.mark.parametrize("vectorize", [True, False])
def test_all_particles_see_one_minibatch_of_a_plate_that_only_the_model_has(vectorize):
    data = torch.arange(20.0)

    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 20, subsample_size=5) as indices:
            pyro.sample("x", dist.Normal(0 * z + data[indices], 1.0), obs=torch.zeros(5))

    def guide():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    options = RunOptions(num_particles=4, vectorize_particles=vectorize)
    weights = trace_pair(model, guide, (), {}, options).log_weights
    close(weights, weights[:1].expand(4))


@pytest.mark.parametrize("vectorize", [True, False])
def test_without_a_guide_all_particles_see_one_minibatch(vectorize):
    data = torch.arange(20.0)

    def model():
        with pyro.plate("data", 20, subsample_size=5) as indices:
            pyro.sample("x", dist.Normal(data[indices], 1.0), obs=torch.zeros(5))

    weights = trace_pair(model, None, (), {}, RunOptions(num_particles=4, vectorize_particles=vectorize)).log_weights
    close(weights, weights[:1].expand(4, 5))


def test_a_guide_whose_plate_spans_the_minibatch_fits_a_model_that_subsamples_it():
    def model(x):
        with pyro.plate("data", 20, subsample=x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 0.5**0.5))

    x = torch.randn(4)
    terms = run_pair(model, guide, x, num_particles=K)
    close(terms.log_weights, normal(x, 0.0, 2.0**0.5).expand(K, 4))
    assert terms.scale == 5.0


def test_a_model_may_be_conditioned_instead_of_given_data():
    def model():
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0))

    x = torch.randn(3)

    def guide():
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Normal(0.5 * x, 0.5**0.5))

    weights = log_weights(poutine.condition(model, data={"x": x}), guide, num_particles=K)
    close(weights, normal(x, 0.0, 2.0**0.5).expand(K, 3))
