"""How sites are sampled for the estimators that need it: what is refused, and what is exact."""

import functools
import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

import probgen
from probgen.errors import ArgumentError, ProgramError, UnsupportedObjective
from probgen.objectives import CUBO, ELBO, EUBO, IWAE, PIWAE, RWS, TVO
from probgen.programs.sampling import MOST_STATES

X = torch.tensor([0.9, -0.2, 1.4], dtype=torch.float64)


class Bits(PyroModule):
    """Two layers of bits: z_1 given z_2, each of three entries, and x given z_1."""

    def __init__(self) -> None:
        super().__init__()
        self.prior = nn.Parameter(torch.tensor([0.3, -0.2, 0.5]))
        self.down = nn.Parameter(torch.tensor([0.7, -1.1, 0.4]))
        self.weights = nn.Parameter(torch.tensor([-1.0, 0.5, 2.0]))

    def forward(self, x=None):
        with pyro.plate("data", 3):
            z_2 = pyro.sample("z_2", dist.Bernoulli(logits=self.prior).to_event(1))
            z_1 = pyro.sample("z_1", dist.Bernoulli(logits=self.down * (2 * z_2 - 1)).to_event(1))
            return pyro.sample("x", dist.Normal((z_1 * self.weights).sum(-1), 1.0), obs=x)


class BitsGuide(PyroModule):
    """z_1 given x, then z_2, given z_1 where ``chained``."""

    def __init__(self, *, chained: bool) -> None:
        super().__init__()
        self.chained = chained
        self.first = nn.Parameter(torch.tensor([0.4, 0.1, -0.6]))
        self.second = nn.Parameter(torch.tensor([-0.3, 0.6, 0.2]))

    def forward(self, x=None):
        with pyro.plate("data", 3):
            z_1 = pyro.sample("z_1", dist.Bernoulli(logits=self.first).to_event(1))
            up = (2 * z_1 - 1) if self.chained else 1.0
            pyro.sample("z_2", dist.Bernoulli(logits=self.second * up).to_event(1))


def exact_elbo(model: Bits, guide: BitsGuide) -> torch.Tensor:
    """The ELBO of all data, by the 64 states of both layers written out."""
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)))
    z_1, z_2 = states[:, :3], states[:, 3:]
    up = (2 * z_1 - 1) if guide.chained else 1.0
    log_q = dist.Bernoulli(logits=guide.first).log_prob(z_1).sum(-1)
    log_q = log_q + dist.Bernoulli(logits=guide.second * up).log_prob(z_2).sum(-1)
    log_p = dist.Bernoulli(logits=model.prior).log_prob(z_2).sum(-1)
    log_p = log_p + dist.Bernoulli(logits=model.down * (2 * z_2 - 1)).log_prob(z_1).sum(-1)
    likelihood = dist.Normal((z_1 * model.weights).sum(-1)[:, None], 1.0).log_prob(X)  # [64, 3]
    return (log_q.exp()[:, None] * (likelihood + (log_p - log_q)[:, None])).sum()


@pytest.mark.parametrize("chained", [False, True])
def test_enumeration_is_exact_in_value_and_gradient(chained):
    model, guide = Bits(), BitsGuide(chained=chained)
    parameters = [*model.parameters(), *guide.parameters()]
    want = exact_elbo(model, guide)
    got = -ELBO(gradient="enumerate")(model, guide)(X)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    for a, b in zip(torch.autograd.grad(got, parameters), torch.autograd.grad(want, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_one_site_enumerated_and_one_drawn(assert_mean):
    model, guide = Bits(), BitsGuide(chained=True)
    parameters = [*model.parameters(), *guide.parameters()]
    exact = torch.autograd.grad(exact_elbo(model, guide), parameters)
    for gradient in ({"z_1": "enumerate", "z_2": "rloo"}, {"z_1": "rloo", "z_2": "enumerate"}):
        loss = ELBO(num_particles=250, gradient=gradient)(model, guide)
        runs = [torch.autograd.grad(-loss(X), parameters) for _ in range(40)]
        for replicates, value in zip(zip(*runs, strict=True), exact, strict=True):
            assert_mean(torch.stack(replicates), value, bound=7.0)  # 39 degrees of freedom: once in 10^7


def test_an_antithetic_site_may_not_depend_on_another():
    ELBO(num_particles=4, gradient="disarm")(Bits(), BitsGuide(chained=False))(X).backward()
    with pytest.raises(UnsupportedObjective, match="'z_2': its logits depend on another site"):
        ELBO(num_particles=2, gradient="disarm")(Bits(), BitsGuide(chained=True))(X)
    ELBO(num_particles=4, gradient={"z_1": "disarm", "z_2": "rloo"})(Bits(), BitsGuide(chained=True))(X).backward()


@pytest.mark.parametrize("particles", [1, 3])
def test_antithetic_pairs_need_an_even_number_of_particles(particles):
    with pytest.raises(ArgumentError, match="must be even"):
        ELBO(num_particles=particles, gradient="disarm")


@pytest.mark.parametrize(("objective", "gradient"), [(ELBO, "rloo"), (IWAE, "rloo"), (IWAE, "vimco")])
def test_baselines_need_other_particles(objective, gradient):
    with pytest.raises(ArgumentError, match=r"`num_particles` must be at least 2, got 1; or use `gradient=\"score\"`"):
        objective(num_particles=1, gradient=gradient)


def test_a_site_that_is_not_there_is_named():
    with pytest.raises(ProgramError, match=r"site 'z1' that the guide lacks.*'z_1'"):
        ELBO(num_particles=2, gradient={"z1": "rloo"})(Bits(), BitsGuide(chained=True))(X)
    with pytest.raises(UnsupportedObjective, match="gives site 'z_1' 'stl'"):
        ELBO(gradient={"z_1": "stl"})


def test_too_many_states_are_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(20)).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(20)).to_event(1))

    with pytest.raises(UnsupportedObjective, match=f"joint states of 'z', more than {MOST_STATES}"):
        ELBO(gradient="enumerate")(model, guide)(X)


@pytest.mark.parametrize("gradient", ["enumerate", "disarm", "relaxed", "straight-through"])
def test_a_continuous_site_has_no_states(gradient, logistic):
    pair = logistic.build(3)
    with pytest.raises(UnsupportedObjective, match=r"'z' is Normal|'z' has no|site 'z'"):
        ELBO(num_particles=2, gradient=gradient)(pair.model, pair.guide)(pair.data)


def test_relaxed_sites_train_relaxed_and_report_discrete():
    model, guide = Bits(), BitsGuide(chained=True)
    objective = ELBO(num_particles=4000, gradient="relaxed", temperature=0.7)
    relaxed = -objective(model, guide)(X)
    discrete = objective.bound(model, guide, X).sum()
    exact = exact_elbo(model, guide)
    assert (discrete - exact).abs() < 0.2 < (relaxed - exact).abs()  # 3 data, 4000 particles: 0.2 is six s.e.


def test_straight_through_values_are_discrete():
    model, guide = Bits(), BitsGuide(chained=True)
    terms = ELBO(gradient="straight-through")(model, guide).terms(X)
    for site in terms.latents:
        assert set(site.value.unique().tolist()) <= {0.0, 1.0}
        assert site.value.requires_grad


@pytest.mark.parametrize(
    "objective",
    [PIWAE(num_particles=(2, 2)), CUBO(), EUBO(), RWS(), RWS(guide_update="wake-sleep"), TVO(side="right")],
    ids=repr,
)
def test_two_sides_may_not_share_a_parameter(objective):
    shared = nn.Parameter(torch.tensor([0.4, 0.1, -0.6]))
    model, guide = Bits(), BitsGuide(chained=True)
    model.prior = guide.first = shared
    with pytest.raises(UnsupportedObjective, match=r"share a parameter of shape \(3,\)"):
        objective(model, guide)(X)


def test_each_side_has_an_optimizer_of_its_own():
    model, guide = Bits(), BitsGuide(chained=True)
    before = guide.first.detach().clone(), model.prior.detach().clone()
    frozen, adam = functools.partial(torch.optim.SGD, lr=0.0), functools.partial(torch.optim.Adam, lr=1e-2)
    probgen.SVI(model, guide, {"model": adam, "guide": frozen}, RWS()).run(X, num_steps=2, progress=False)
    assert torch.equal(guide.first, before[0])
    assert not torch.equal(model.prior, before[1])


def test_the_sum_of_both_sides_has_each_ones_gradient():
    """As ``pyro.infer.SVI`` uses it: the same noise gives the same numbers as one player at a time."""
    model, guide = Bits(), BitsGuide(chained=True)
    objective = RWS(num_particles=3)
    pair = objective(model, guide)
    pyro.set_rng_seed(0)
    pair(X).backward()
    pyro.set_rng_seed(0)
    for side, program in ((objective.model_side, model), (objective.guide_side, guide)):
        own = list(program.parameters())
        want = torch.autograd.grad(pair.other(side)(X), own)
        for parameter, gradient in zip(own, want, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-14)


def test_sleep_needs_to_see_its_data_among_the_arguments():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x**2)

    def guide(x):
        scale = pyro.param("scale", torch.tensor(1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, scale))

    with pytest.raises(UnsupportedObjective, match="site 'x' observes no argument"):
        RWS(guide_update="sleep")(model, guide)(X)


def test_a_transposed_argument_is_another_one():
    def model(x):
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None] * torch.ones(3), 1.0).to_event(1), obs=x.T)

    def guide(x):
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(3)), 1.0))

    with pytest.raises(UnsupportedObjective, match="site 'x' observes no argument"):
        RWS(guide_update="sleep")(model, guide)(torch.randn(3, 3))


def test_sleep_learns_the_posterior_of_what_the_model_dreams():
    """z ~ N(0, 1), x ~ N(z, 1): the posterior is N(x / 2, 1 / 2), whatever data are passed."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(0.5))
            self.log_scale = nn.Parameter(torch.tensor(0.5).log() / 2)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.slope * x, self.log_scale.exp()))

    guide = Guide()
    pyro.set_rng_seed(0)
    count = 200_000
    loss = RWS(guide_update="sleep")(model, guide)(torch.full((count,), 7.0))
    gradients = torch.autograd.grad(loss, list(guide.parameters()))
    # At the truth each datum's gradient has mean 0; of slope: x (z - x/2) / (1/2), variance 2 E[x^2] = 4; of log
    # scale: 2.
    for gradient, variance in zip(gradients, (4.0, 2.0), strict=True):
        assert abs(gradient.item()) < 5 * (variance * count) ** 0.5


@pytest.mark.parametrize("per", ["dimension", "site"])
def test_free_bits_count_per_dimension_or_per_site(per):
    loc = torch.tensor([0.1, 1.5])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(0.0 * z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    kl = loc**2 / 2
    counted = kl.clamp(min=0.4).sum() if per == "dimension" else kl.sum().clamp(min=0.4)
    want = dist.Normal(0.0, 1.0).log_prob(X).sum() - 3 * counted
    objective = ELBO(kl="analytic", free_bits=0.4, free_bits_per=per)
    torch.testing.assert_close(-objective(model, guide)(X), want, rtol=1e-12, atol=0)
