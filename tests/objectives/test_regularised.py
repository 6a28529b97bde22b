"""Free bits and schedules of beta: what is trained, and the plain bound beside it."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from probgen import SVI, registry
from probgen.errors import ArgumentError, UnsupportedObjective
from probgen.objectives import ELBO, Cyclical, Linear

LOCS = torch.tensor([[0.0, 0.1, 2.0], [1.0, 0.0, -0.5]], dtype=torch.float64)
SCALES = torch.tensor([[1.0, 0.9, 0.3], [0.5, 1.0, 1.1]], dtype=torch.float64)


class Guide(PyroModule):
    """q(z | x_i) = N(loc_i, scale_i), a datum a row."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(LOCS.clone())
        self.log_scale = nn.Parameter(SCALES.log())

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc, self.log_scale.exp()).to_event(1))


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


X = torch.tensor([0.3, -1.0], dtype=torch.float64)


def divergences(loc, scale):
    """KL(N(loc, scale) || N(0, 1)) for every dimension."""
    return 0.5 * (loc**2 + scale**2 - 1.0) - scale.log()


@pytest.mark.parametrize("free_bits", [0.0, 0.05, 0.5, 10.0])
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_each_dimension_counts_at_least_its_free_bits(free_bits, beta):
    """Against the formula, in value and gradient; the likelihood's part is that of the same noise without bits."""
    guide = Guide()
    objective = ELBO(kl="analytic", beta=beta, free_bits=free_bits)
    pyro.set_rng_seed(0)
    estimate = objective(model, guide).estimate(X)
    pyro.set_rng_seed(0)
    likelihood = ELBO(kl="analytic", beta=0.0)(model, guide).estimate(X).value
    exact = divergences(guide.loc, guide.log_scale.exp())
    floored = torch.where(exact > free_bits, exact, free_bits).sum(-1)
    torch.testing.assert_close(estimate.value, likelihood - beta * floored, rtol=0, atol=1e-12)
    torch.testing.assert_close(estimate.bound, (likelihood - exact.sum(-1)).detach(), rtol=0, atol=1e-12)

    def gradient(value):
        return torch.autograd.grad(value, [guide.loc, guide.log_scale], materialize_grads=True, allow_unused=True)

    pyro.set_rng_seed(0)
    plain = gradient(-ELBO(kl="analytic", beta=0.0)(model, guide)(X))
    pyro.set_rng_seed(0)
    got = gradient(-objective(model, guide)(X))
    active = (exact > free_bits).double()
    expected = gradient((beta * active.detach() * exact).sum())
    for a, b, c in zip(got, plain, expected, strict=True):
        torch.testing.assert_close(a, b - c, rtol=0, atol=1e-12)


def test_free_bits_of_scalar_and_several_sites():
    """Dimensions of events count one by one, whatever site they are of; plates inside a datum too."""

    def pair(side):
        def program(x):
            with pyro.plate("data", len(x), dim=-2):
                a = pyro.sample("a", dist.Normal(0.0 if side else 0.2, 1.0).expand([len(x), 1]))
                with pyro.plate("parts", 2, dim=-1):
                    b = pyro.sample("b", dist.Normal(0.0 if side else 1.0, torch.ones(len(x), 2, 3)).to_event(1))
                if side:
                    loc = a + b.sum((-1, -2))[..., None]  # [..., data, 1]
                    pyro.sample("x", dist.Normal(loc, 1.0), obs=x[:, None])

        return program

    objective = ELBO(kl="analytic", free_bits=0.1)
    terms = objective(pair(True), pair(False)).terms(X)
    value = objective.estimate(terms).value
    # a: KL = 0.02 < 0.1; b: 2 x 3 dimensions of 0.5 each
    torch.testing.assert_close(value, terms.log_likelihood.mean(0) - (0.1 + 6 * 0.5), rtol=0, atol=1e-12)


def test_free_bits_keep_latents_alive():
    """Where the data say nothing of z a plain ELBO takes KL to 0, and free bits leave it where it was."""

    def deaf(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    sgd = functools.partial(torch.optim.SGD, lr=0.01)  # without momentum, which would go on
    left = {}
    for free_bits in (0.0, 0.2):
        guide = Guide()
        SVI(deaf, guide, sgd, ELBO(kl="analytic", free_bits=free_bits)).run(X, num_steps=600, seed=0, progress=False)
        left[free_bits] = divergences(guide.loc, guide.log_scale.exp()).detach()
    assert left[0.0].max() < 1e-3
    start = divergences(LOCS, SCALES)
    torch.testing.assert_close(left[0.2][start < 0.2], start[start < 0.2])  # never moved
    assert (left[0.2][start > 0.2] > 0.18).all()  # the last step before 0.2 is a small one


def test_refusals_of_free_bits():
    with pytest.raises(UnsupportedObjective, match='use `kl="analytic"`'):
        ELBO(free_bits=0.1)
    for value in (-0.1, float("nan"), float("inf"), True, "1"):
        with pytest.raises(ArgumentError, match="`free_bits` must be a finite number of nats"):
            ELBO(kl="analytic", free_bits=value)

    def full(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(torch.zeros(3), torch.eye(3)))

    auto = pyro.infer.autoguide.AutoNormal(model)
    with pytest.raises(UnsupportedObjective, match="as an auxiliary site or a function of other sites"):
        ELBO(kl="analytic", free_bits=0.1)(model, auto)(X)
    with pytest.raises(UnsupportedObjective, match="site 'z', but MultivariateNormal does not factorise"):
        ELBO(kl="analytic", free_bits=0.1)(model, full)(X)


# --- schedules --------------------------------------------------------------------------------------------------------


def test_schedules_in_closed_form():
    assert [Linear(4, 0.2, 1.0)(t) for t in (0, 2, 4, 100)] == pytest.approx([0.2, 0.6, 1.0, 1.0])
    assert [Linear(2, 1.0, 0.0)(t) for t in (0, 1, 2)] == [1.0, 0.5, 0.0]
    assert [Cyclical(10, 1.0)(t) for t in (0, 5, 9, 10, 15)] == pytest.approx([0.0, 0.5, 0.9, 0.0, 0.5])


@pytest.mark.parametrize("capture", [False, True])
def test_the_loop_trains_each_step_at_its_beta(capture):
    """As runs of one step each at constant betas, on the same generator."""
    schedule = Linear(4, 0.25, 1.0)
    sgd = functools.partial(torch.optim.SGD, lr=0.01)
    guide = Guide()
    svi = SVI(model, guide, sgd, ELBO(kl="analytic", beta=schedule), capture=capture)
    by_hand = Guide()
    pyro.set_rng_seed(3)
    scheduled = [svi.step(X) for _ in range(6)]
    pyro.set_rng_seed(3)
    constant = [SVI(model, by_hand, sgd, ELBO(kl="analytic", beta=schedule(t))).step(X) for t in range(6)]
    assert scheduled == pytest.approx(constant, rel=1e-13)
    torch.testing.assert_close(guide.loc, by_hand.loc, rtol=1e-13, atol=0)


def test_a_second_run_and_a_resumed_one_go_on_with_the_schedule(tmp_path):
    sgd = functools.partial(torch.optim.SGD, lr=0.01)

    def make():
        return SVI(model, Guide(), sgd, ELBO(kl="analytic", beta="linear:steps=8"))

    whole = make().run(X, num_steps=6, seed=0, progress=False)
    make().run(X, num_steps=4, seed=0, progress=False, run_dir=tmp_path)
    resumed = make().run(X, num_steps=6, seed=0, progress=False, run_dir=tmp_path, resume=True)
    assert torch.equal(whole.losses, resumed.losses)
    twice = make()
    first = twice.run(X, num_steps=4, seed=0, progress=False).losses
    assert torch.equal(first, whole.losses[:4])
    assert twice.objective._beta == 3 / 8
    twice.step(X)
    assert twice.objective._beta == 4 / 8


def test_pyro_s_own_loop_counts_steps():
    objective = ELBO(beta=Linear(2))
    svi = pyro.infer.SVI(model, Guide(), pyro.optim.SGD({"lr": 1e-3}), objective)
    betas = []
    for _ in range(4):
        svi.step(X)
        betas.append(float(objective._beta))
    assert betas == [0.0, 0.5, 1.0, 1.0]


def test_pyro_s_loop_starts_its_own_count():
    """After training with ours, the first step of Pyro's loop is step 0 again."""
    objective = ELBO(beta=Linear(10))
    SVI(model, Guide(), functools.partial(torch.optim.SGD, lr=1e-3), objective).run(X, num_steps=6, progress=False)
    pyro.infer.SVI(model, Guide(), pyro.optim.SGD({"lr": 1e-3}), objective).step(X)
    assert objective._beta == 0.0


def test_a_schedule_keeps_the_digits_of_its_numbers():
    pyro.set_rng_seed(2)
    scheduled = ELBO(beta=Linear(5, 0.1, 0.1))(model, Guide()).estimate(X).value
    pyro.set_rng_seed(2)
    torch.testing.assert_close(scheduled, ELBO(beta=0.1)(model, Guide()).estimate(X).value, rtol=1e-15, atol=0)


def test_the_plain_bound_stands_beside(assert_mean):
    pyro.set_rng_seed(1)
    scheduled = ELBO(beta=lambda step: 0.0)(model, Guide()).estimate(X)
    pyro.set_rng_seed(1)
    plain = ELBO()(model, Guide()).estimate(X)
    assert torch.equal(scheduled.bound, plain.bound)
    assert not torch.equal(scheduled.value, plain.value)


def test_specs_and_names():
    assert registry.parse("objective", "elbo:beta='cyclical:period=10,ramp=0.4'").beta == Cyclical(10, 0.4)
    assert "beta=Linear(steps=5, start=0.0, end=1.0)" in repr(ELBO(beta="linear:steps=5"))
    assert " at 0x" not in repr(ELBO(beta=lambda step: 1.0))


def test_refusals_of_schedules():
    with pytest.raises(ArgumentError, match="unknown schedule 'linaer'; did you mean 'linear'"):
        ELBO(beta="linaer:steps=3")
    with pytest.raises(ArgumentError, match="takes no argument `step`; did you mean 'steps'"):
        ELBO(beta="linear:step=3")
    with pytest.raises(ArgumentError, match="`steps` must be"):
        Linear(0)
    with pytest.raises(ArgumentError, match=r"must return a finite number of at least 0, got -1\.0 at step 3"):
        ELBO(beta=Linear(3, end=-1.0))
    with pytest.raises(ArgumentError, match="`beta`: `end` must be a finite number, got 'a'"):
        ELBO(beta="linear:steps=10,end=a")
    with pytest.raises(ArgumentError, match="`ramp` must be above 0"):
        Cyclical(4, 0.0)
    with pytest.raises(
        ArgumentError, match=r"`beta` must be a finite number .* or a function of the step, got \[1.0\]"
    ):
        ELBO(beta=[1.0])
    for value in (-1.0, float("nan"), None, "1"):
        with pytest.raises(ArgumentError, match=r"`beta` must return a finite number of at least 0.* at step 0"):
            ELBO(beta=lambda step, value=value: value)
    svi = SVI(model, Guide(), functools.partial(torch.optim.SGD, lr=0.1), ELBO(beta=lambda step: 1.0 - step))
    svi.step(X)
    svi.step(X)
    before = svi.guide.loc.detach().clone()
    with pytest.raises(ArgumentError, match=r"got -1.0 at step 2"):
        svi.step(X)
    assert torch.equal(svi.guide.loc, before)
