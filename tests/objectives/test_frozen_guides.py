"""STL and DReG run the guide again with frozen parameters: their means are compared with the plain pathwise gradient.

Both estimators take the same samples, so that their difference has mean zero; its standard error comes from replicates.
"""

import warnings

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import pytest
import torch
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoDiagonalNormal, AutoIAFNormal, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn

from probgen.errors import UnsupportedObjective
from probgen.objectives import ELBO, IWAE, MIWAE, Renyi

ESTIMATORS = {
    "stl": (ELBO(num_particles=3, gradient="stl"), ELBO(num_particles=3, gradient="pathwise")),
    "dreg": (IWAE(num_particles=3, gradient="dreg"), IWAE(num_particles=3, gradient="pathwise")),
}
pairs_of_estimators = pytest.mark.parametrize(("tested", "plain"), list(ESTIMATORS.values()), ids=list(ESTIMATORS))


def gradients(objective, model, guide, args, seed, parameters):
    pyro.set_rng_seed(seed)
    loss = objective(model, guide)(*args)
    return torch.autograd.grad(loss, parameters(), allow_unused=True, materialize_grads=True)


def differences(tested, plain, model, guide, args, seed, parameters):
    first, second = (gradients(o, model, guide, args, seed, parameters) for o in (tested, plain))
    assert any((a != b).any() for a, b in zip(first, second, strict=True))
    return [a - b for a, b in zip(first, second, strict=True)]


# --- one replicate per datum ------------------------------------------------------------------------------------


class Chain(PyroModule):
    """z_2 | z_1 in the guide; every datum has its own parameters."""

    def __init__(self, size):
        super().__init__()
        for name, value in {"a": 0.2, "b": 0.7, "c": -0.3, "s": 0.1, "t": 0.2}.items():
            setattr(self, name, nn.Parameter(torch.full((size,), value)))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            first = pyro.sample("z_1", dist.Normal(self.a, self.s.exp()))
            pyro.sample("z_2", dist.Normal(self.b * first + self.c, self.t.exp() * (1 + first**2).sqrt()))


def chain_model(x):
    with pyro.plate("data", len(x)):
        second = pyro.sample("z_2", dist.Normal(0.0, 1.0))
        first = pyro.sample("z_1", dist.Normal(0.5 * second, 1.0))
        pyro.sample("x", dist.Bernoulli(logits=2.0 * first - second), obs=x)


@pytest.mark.parametrize(
    ("tested", "plain"),
    [
        *ESTIMATORS.values(),
        (
            IWAE(num_particles=3, gradient="dreg", vectorize_particles=False),
            IWAE(num_particles=3, vectorize_particles=False),
        ),
        (MIWAE(num_particles=(2, 3), gradient="dreg"), MIWAE(num_particles=(2, 3))),
        (Renyi(alpha=0.5, num_particles=3, gradient="dreg"), Renyi(alpha=0.5, num_particles=3)),
        (Renyi(alpha=-1, num_particles=3, gradient="dreg"), Renyi(alpha=-1, num_particles=3)),
    ],
    ids=["stl", "dreg", "one-by-one", "miwae", "renyi+0.5", "renyi-1"],
)
def test_a_hierarchical_guide_keeps_the_path_through_its_conditionals(tested, plain, assert_mean):
    guide = Chain(20_000)
    for difference in differences(
        tested, plain, chain_model, guide, (torch.ones(20_000),), 0, lambda: list(guide.parameters())
    ):
        assert_mean(difference)


def one_latent(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.3, 1.0))
        pyro.sample("x", dist.Bernoulli(logits=2.0 * z - 0.5), obs=x)


def guide_of_param_statements(x):
    loc = pyro.param("loc", torch.full((len(x),), -0.4))
    scale = pyro.param("scale", torch.full((len(x),), 1.4), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, scale))


def stored_parameters():
    return list(dict(pyro.get_param_store().named_parameters()).values())


@pairs_of_estimators
def test_a_guide_of_param_statements(tested, plain, assert_mean):
    args = (torch.ones(20_000),)
    result = differences(tested, plain, one_latent, guide_of_param_statements, args, 0, stored_parameters)
    assert len(result) == 2
    for difference in result:
        assert_mean(difference)


@pairs_of_estimators
def test_a_guide_with_pyro_params(tested, plain, assert_mean):
    class Guide(PyroModule):
        def __init__(self, size):
            super().__init__()
            self.loc = PyroParam(torch.full((size,), -0.4))
            self.scale = PyroParam(torch.full((size,), 1.4), constraints.positive)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.loc, self.scale))

    guide = Guide(20_000)
    for difference in differences(
        tested, plain, one_latent, guide, (torch.ones(20_000),), 0, lambda: list(guide.parameters())
    ):
        assert_mean(difference)


@pairs_of_estimators
def test_a_module_registered_by_a_function(tested, plain, assert_mean):
    net = Chain(20_000)

    def guide(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net.a, net.s.exp()))

    for difference in differences(
        tested, plain, one_latent, guide, (torch.ones(20_000),), 0, lambda: list(net.parameters())
    ):
        assert_mean(difference)


@pairs_of_estimators
def test_an_auto_normal_guide_with_a_parameter_per_datum(tested, plain, assert_mean):
    guide, args = AutoNormal(one_latent, init_scale=1.2), (torch.ones(20_000),)
    ELBO()(one_latent, guide)(*args)
    for difference in differences(tested, plain, one_latent, guide, args, 0, lambda: list(guide.parameters())):
        assert_mean(difference)


# --- one replicate per run ----------------------------------------------------------------------------------------

RUNS = 20  # with 19 degrees of freedom |t| > 8 once in 6 million numbers


def check_runs(tested, plain, model, guide, args, assert_mean):
    parameters = [p for p in guide.parameters() if p.requires_grad]
    runs = [differences(tested, plain, model, guide, args, seed, lambda: parameters) for seed in range(RUNS)]
    for replicated in zip(*runs, strict=True):
        assert_mean(torch.stack(replicated), bound=8.0)


def global_latents(x):
    z = pyro.sample("z", dist.Normal(0.3, 1.0).expand([2]).to_event(1))
    rate = pyro.sample("rate", dist.Gamma(2.0, 2.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z[..., 0] * rate + z[..., 1], 1.0), obs=x)


GROUPS = 300  # K samples in each of many groups, so that the mean of a run is near normal


@pytest.mark.parametrize("auto", [AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal, AutoIAFNormal])
def test_autoguides_of_joint_latents_under_dreg(auto, assert_mean):
    args, guide = (torch.tensor([0.5, 1.5]),), auto(global_latents)
    ELBO()(global_latents, guide)(*args)
    tested, plain = (MIWAE(num_particles=(GROUPS, 3), gradient=g) for g in ("dreg", "pathwise"))
    check_runs(tested, plain, global_latents, guide, args, assert_mean)


@pytest.mark.parametrize("auto", [AutoNormal, AutoDiagonalNormal])
def test_autoguides_of_joint_latents_under_stl(auto, assert_mean):
    args, guide = (torch.tensor([0.5, 1.5]),), auto(global_latents)
    ELBO()(global_latents, guide)(*args)
    tested, plain = (ELBO(num_particles=GROUPS, gradient=g) for g in ("stl", "pathwise"))
    check_runs(tested, plain, global_latents, guide, args, assert_mean)


def banana(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("x", dist.Normal(z[..., 0] + 0.5 * z[..., 1] ** 2, 0.7), obs=x)


class FlowGuide(PyroModule):
    def __init__(self, *parts):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([0.1, -0.2]))
        self.log_scale = nn.Parameter(torch.tensor([0.1, 0.0]))
        self.parts = nn.ModuleList(parts)
        for parameter in self.parts.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, list(self.parts)))


FLOWS = {
    "affine-coupling": lambda: [T.affine_coupling(2, hidden_dims=[4]), T.affine_coupling(2, hidden_dims=[4])],
    "spline-coupling": lambda: [T.spline_coupling(2, hidden_dims=[4], count_bins=4)],
    "affine-autoregressive": lambda: [T.affine_autoregressive(2, hidden_dims=[4])],
    "spline": lambda: [T.Spline(2, count_bins=4)],
}


@pytest.mark.parametrize("flow", list(FLOWS))
def test_flow_guides_under_dreg(flow, assert_mean):
    check_runs(*ESTIMATORS["dreg"], banana, FlowGuide(*FLOWS[flow]()), (torch.ones(200),), assert_mean)


def test_a_flow_guide_under_stl(assert_mean):
    guide = FlowGuide(*FLOWS["affine-coupling"]())
    check_runs(*ESTIMATORS["stl"], banana, guide, (torch.ones(200),), assert_mean)


@pairs_of_estimators
def test_a_zuko_spline_coupling_guide(tested, plain, assert_mean):
    zuko = pytest.importorskip("zuko")

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.flow = zuko.flows.NSF(2, transforms=2, bins=4, passes=2, hidden_features=(4,))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", ZukoToPyro(self.flow()))

    check_runs(tested, plain, banana, Guide(), (torch.ones(100),), assert_mean)


# --- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [ELBO(gradient="stl"), IWAE(gradient="dreg"), Renyi(alpha=0.5, gradient="dreg")])
def test_a_flow_without_inverse_is_refused(objective):
    with pytest.raises(UnsupportedObjective, match=r"no inverse.*`gradient=\"pathwise\"`"):
        objective(banana, FlowGuide(T.planar(2)))(torch.ones(3))
    assert torch.isfinite(IWAE(gradient="pathwise")(banana, FlowGuide(T.planar(2)))(torch.ones(3)))


class Dropped(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 64), nn.Dropout(0.5), nn.Linear(64, 1))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x[:, None])[:, 0], 1.0))


@pytest.mark.parametrize("objective", [ELBO(gradient="stl"), IWAE(gradient="dreg")])
def test_dropout_in_the_guide_is_refused_until_it_is_switched_off(objective):
    guide = Dropped()
    with pytest.raises(UnsupportedObjective, match=r"another log-density at site 'z' \(dropout"):
        objective(one_latent, guide)(torch.ones(5))
    guide.eval()
    assert torch.isfinite(objective(one_latent, guide)(torch.ones(5)))


@pytest.mark.parametrize("objective", [ELBO(gradient="stl"), IWAE(gradient="dreg")])
def test_a_trained_tensor_that_pyro_does_not_know_is_refused(objective):
    loc = torch.zeros(5, requires_grad=True)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0))

    with pytest.raises(
        UnsupportedObjective, match="site 'z' uses a tensor with `requires_grad` that is not registered"
    ):
        objective(one_latent, guide)(torch.ones(5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.isfinite(ELBO(gradient="pathwise")(one_latent, guide)(torch.ones(5)))


@pytest.mark.parametrize("objective", [ELBO(gradient="stl"), IWAE(gradient="dreg")])
def test_freezing_leaves_parameters_trainable_also_after_an_error(objective):
    guide = Dropped()
    with pytest.raises(UnsupportedObjective):
        objective(one_latent, guide)(torch.ones(5))
    assert all(parameter.requires_grad for parameter in guide.parameters())


def test_the_second_run_of_a_guide_moves_no_running_statistics():
    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.norm(x[:, None])[:, 0], 1.0))

    x = torch.tensor([0.0, 1.0, 1.0])
    first, second = Guide(), Guide()
    IWAE(num_particles=2, gradient="dreg")(one_latent, first)(x)
    second(x)
    assert first.norm.num_batches_tracked == second.norm.num_batches_tracked == 1
    torch.testing.assert_close(first.norm.running_mean, second.norm.running_mean, rtol=0, atol=0)
