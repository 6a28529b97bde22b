"""Small pairs whose expected bounds are known by quadrature or enumeration.

In the pairs of this file every datum has parameters of its own, all equal: the gradient of the summed loss is then one
independent replicate of the gradient per datum, and a test of its mean needs a single run.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from probgen.objectives import ELBO, IWAE, MIWAE, Renyi

STANDARD_ERRORS = 5.0  # of a normal variable: a false alarm once in 1.7 million numbers


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def assert_mean() -> Callable[..., None]:
    """Compares the mean over axis 0 of independent replicates with the exact value."""

    def check(replicates: Tensor, exact: Tensor | float = 0.0, bound: float = STANDARD_ERRORS) -> None:
        replicates = replicates.detach()
        mean, error = replicates.mean(0), replicates.std(0) / math.sqrt(len(replicates))
        difference = (mean - torch.as_tensor(exact)).abs()
        excess = (difference - 1e-10) / error.clamp(min=1e-300)
        assert (excess <= bound).all(), f"mean {mean}, exact {exact}, {excess.max():.1f} standard errors apart"

    return check


@pytest.fixture
def replicated_gradients() -> Callable[..., dict[str, Tensor]]:
    """Gradients of the bound (not the loss) for every parameter, one replicate per datum."""

    def gradients(pair: nn.Module, *args: Tensor) -> dict[str, Tensor]:
        named = dict(pair.named_parameters())
        values = torch.autograd.grad(-pair(*args), list(named.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(named, values, strict=True))

    return gradients


# --- bounds, written down once more ------------------------------------------------------------------------------


def _mean(log_weights: Tensor) -> Tensor:
    return log_weights.mean(0)


def _log_mean(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def _power_mean(alpha: float) -> Callable[[Tensor], Tensor]:
    return lambda log_weights: _log_mean((1 - alpha) * log_weights) / (1 - alpha)


def _case(objective: Callable[..., object], bound: Callable[[Tensor], Tensor], particles: int, beta: float = 1.0):
    return SimpleNamespace(objective=objective, bound=bound, particles=particles, beta=beta)


def _renyi(alpha: float, gradient: str, particles: int = 2):
    return _case(lambda: Renyi(alpha=alpha, num_particles=particles, gradient=gradient), _power_mean(alpha), particles)


def _elbo(particles: int = 1, **options):
    return _case(lambda: ELBO(num_particles=particles, **options), _mean, 1, options.get("beta", 1.0))


def _iwae(particles: int, gradient: str, **options):
    return _case(lambda: IWAE(num_particles=particles, gradient=gradient, **options), _log_mean, particles)


def _miwae(groups: int, particles: int, gradient: str):
    return _case(lambda: MIWAE(num_particles=(groups, particles), gradient=gradient), _log_mean, particles)


# What is expected of each: the bound of `particles` samples (for an ELBO one is enough, by linearity).
CONTINUOUS = {
    "elbo-auto": _elbo(),
    "elbo-auto-3": _elbo(3),
    "elbo-pathwise": _elbo(2, gradient="pathwise"),
    "elbo-stl": _elbo(2, gradient="stl"),
    "elbo-one-by-one": _elbo(2, gradient="stl", vectorize_particles=False),
    "elbo-analytic": _elbo(2, kl="analytic"),
    "elbo-beta": _elbo(2, beta=0.3),
    "elbo-beta-analytic": _elbo(2, beta=4.0, kl="analytic"),
    "elbo-beta-stl": _elbo(2, beta=0.3, gradient="stl"),
    "iwae-auto-1": _iwae(1, "auto"),
    "iwae-auto": _iwae(2, "auto"),
    "iwae-pathwise": _iwae(2, "pathwise"),
    "iwae-dreg-1": _iwae(1, "dreg"),
    "iwae-dreg": _iwae(2, "dreg"),
    "iwae-one-by-one": _iwae(2, "dreg", vectorize_particles=False),
    "miwae-auto": _miwae(3, 2, "auto"),
    "miwae-dreg": _miwae(3, 2, "dreg"),
    "miwae-dreg-1": _miwae(2, 1, "dreg"),
    **{f"renyi{a:+}-{g}": _renyi(a, g) for a in (0.5, 0, 2, -1) for g in ("auto", "pathwise", "dreg")},
}
DISCRETE = {
    **{f"elbo-{k}": _elbo(k) for k in (1, 2, 3)},
    **{f"iwae-{k}": _iwae(k, "auto") for k in (1, 2, 3)},
    **{f"renyi{a:+}-{k}": _renyi(a, "auto", k) for a in (0.5, 0, 2, -1) for k in (2, 3)},
    "elbo-beta": _elbo(2, beta=0.3),
    "elbo-one-by-one": _elbo(2, vectorize_particles=False),
    "iwae-one-by-one": _iwae(2, "auto", vectorize_particles=False),
    "elbo-analytic": _elbo(2, kl="analytic"),
    "elbo-beta-analytic": _elbo(1, beta=4.0, kl="analytic"),
    "miwae": _miwae(2, 2, "auto"),
    "miwae-1": _miwae(2, 1, "auto"),
}
FEW = {
    name: DISCRETE[name]
    for name in ("elbo-1", "elbo-2", "iwae-2", "renyi+0.5-2", "elbo-beta", "elbo-analytic", "miwae")
}


@pytest.fixture
def power_mean() -> Callable[[float], Callable[[Tensor], Tensor]]:
    return _power_mean


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    tables = {"continuous_case": CONTINUOUS, "discrete_case": DISCRETE, "mixed_case": FEW}
    for argument, table in tables.items():
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, list(table.values()), ids=list(table))


# --- the exact expectation of a K-sample bound --------------------------------------------------------------------


def _tuples(states: int, particles: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(states), repeat=particles)))  # [states^K, K]


@pytest.fixture
def expected_bound() -> Callable[..., Tensor]:
    """``E f(l_1 ... l_K)`` for K independent draws from a list of states; differentiable.

    Args: the bound f; K; log-probabilities of the states, whose gradient is the score; log-weights of the states.
    """

    def expectation(bound: Callable[[Tensor], Tensor], particles: int, log_prob: Tensor, weight: Tensor) -> Tensor:
        draws = _tuples(len(log_prob), particles)
        return (log_prob[draws].sum(1).exp() * bound(weight[draws].T)).sum()

    return expectation


def gauss_hermite(nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes and log-probabilities that integrate against a standard normal."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.tensor(points), torch.tensor(np.log(weights / weights.sum()))


def _normal(value: Tensor, loc: Tensor | float = 0.0, scale: Tensor | float = 1.0) -> Tensor:
    return dist.Normal(loc, torch.as_tensor(scale)).log_prob(value)


def _bernoulli(value: Tensor | float, logits: Tensor) -> Tensor:
    return -nn.functional.softplus(logits) + torch.as_tensor(value) * logits


class Replicated(PyroModule):
    """Parameters of the same value for each of ``size`` data."""

    def __init__(self, size: int, **values: float | list[float]) -> None:
        super().__init__()
        for name, value in values.items():
            tensor = torch.tensor(value)
            setattr(self, name, nn.Parameter(tensor.expand(size, *tensor.shape).clone()))


def _pair(model: type, guide: type, terms: Callable, data: float, model_values: dict, guide_values: dict):
    """A pair of ``size`` replicates, and ``terms``: (leaf values by name) -> log-probabilities, log-weights by beta."""

    def build(size: int) -> SimpleNamespace:
        return SimpleNamespace(
            model=model(size, **model_values), guide=guide(size, **guide_values), data=torch.full((size,), data)
        )

    def exact() -> tuple[dict[str, Tensor], Callable]:
        leaves = {f"model.{name}": torch.tensor(value, requires_grad=True) for name, value in model_values.items()}
        leaves |= {f"guide.{name}": torch.tensor(value, requires_grad=True) for name, value in guide_values.items()}
        v = SimpleNamespace(**{name.split(".")[1]: leaf for name, leaf in leaves.items()})
        log_prob, likelihood, kl = terms(v, torch.tensor(data))
        return leaves, lambda beta: (log_prob, likelihood - beta * kl)

    return SimpleNamespace(build=build, exact=exact)


# --- one continuous latent, not conjugate ---------------------------------------------------------------------------


class LogisticModel(Replicated):
    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.prior_loc, 1.0))
            pyro.sample("x", dist.Bernoulli(logits=self.slope * z + self.offset), obs=x)


class NormalGuide(Replicated):
    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc, self.log_scale.exp()))


LOGISTIC = {"prior_loc": 0.3, "slope": 2.0, "offset": -0.5}
GUIDE = {"loc": -0.4, "log_scale": 0.3}  # wider than the posterior, so that every moment of the weights is finite


def _logistic_terms(v: SimpleNamespace, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    noise, log_prob = gauss_hermite(90)
    z = v.loc + v.log_scale.exp() * noise
    kl = _normal(z, v.loc, v.log_scale.exp()) - _normal(z, v.prior_loc)
    return log_prob, _bernoulli(x, v.slope * z + v.offset), kl


@pytest.fixture
def logistic() -> SimpleNamespace:
    return _pair(LogisticModel, NormalGuide, _logistic_terms, 1.0, LOGISTIC, GUIDE)


# --- one discrete latent ----------------------------------------------------------------------------------------------


class MixtureModel(Replicated):
    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=self.prior))
            pyro.sample("x", dist.Normal(self.means.expand(*z.shape, -1).gather(-1, z[..., None])[..., 0], 1.0), obs=x)


class CategoricalGuide(Replicated):
    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=self.logits))


def _mixture_terms(v: SimpleNamespace, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    log_q = v.logits.log_softmax(-1)
    return log_q, _normal(x, v.means), log_q - v.prior.log_softmax(-1)


@pytest.fixture
def mixture() -> SimpleNamespace:
    model, guide = {"prior": [0.0, 0.5, -0.5], "means": [-1.0, 0.5, 2.0]}, {"logits": [0.7, 0.0, -0.3]}
    return _pair(MixtureModel, CategoricalGuide, _mixture_terms, 0.8, model, guide)


# --- a discrete and a continuous latent, in both orders -----------------------------------------------------------


class DiscreteFirstModel(Replicated):
    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(logits=self.prior))
            z = pyro.sample("z", dist.Normal(self.shift * b, 1.0))
            pyro.sample("x", dist.Bernoulli(logits=self.slope * z), obs=x)


class DiscreteFirstGuide(Replicated):
    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(logits=self.logits))
            pyro.sample("z", dist.Normal(self.loc + self.change * b, self.log_scale.exp()))


def _discrete_first_terms(v: SimpleNamespace, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    noise, log_prob = gauss_hermite(24)
    b = torch.tensor([[0.0], [1.0]])  # [2, nodes] states
    log_b = _bernoulli(b, v.logits)
    loc = v.loc + v.change * b
    z = loc + v.log_scale.exp() * noise
    kl = log_b + _normal(z, loc, v.log_scale.exp()) - _bernoulli(b, v.prior) - _normal(z, v.shift * b)
    return (log_b + log_prob).flatten(), _bernoulli(x, v.slope * z).flatten(), kl.flatten()


class ContinuousFirstModel(Replicated):
    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.prior_loc, 1.0))
            b = pyro.sample("b", dist.Bernoulli(logits=self.gate * z))
            pyro.sample("x", dist.Bernoulli(logits=self.slope * z + b), obs=x)


class ContinuousFirstGuide(Replicated):
    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.loc, self.log_scale.exp()))
            pyro.sample("b", dist.Bernoulli(logits=self.logits + self.change * z))


def _continuous_first_terms(v: SimpleNamespace, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    noise, log_prob = gauss_hermite(24)
    b = torch.tensor([[0.0], [1.0]])
    z = v.loc + v.log_scale.exp() * noise
    log_b = _bernoulli(b, v.logits + v.change * z)  # [2, nodes]
    kl = log_b + _normal(z, v.loc, v.log_scale.exp()) - _bernoulli(b, v.gate * z) - _normal(z, v.prior_loc)
    return (log_b + log_prob).flatten(), _bernoulli(x, v.slope * z + b).flatten(), kl.flatten()


@pytest.fixture(params=["discrete-first", "continuous-first"])
def mixed(request: pytest.FixtureRequest) -> SimpleNamespace:
    guide = {"logits": 0.4, "loc": 0.2, "change": -0.6, "log_scale": 0.2}
    if request.param == "discrete-first":
        model = {"prior": -0.3, "shift": 1.0, "slope": 1.5}
        return _pair(DiscreteFirstModel, DiscreteFirstGuide, _discrete_first_terms, 1.0, model, guide)
    model = {"prior_loc": 0.3, "gate": 1.0, "slope": 1.5}
    return _pair(ContinuousFirstModel, ContinuousFirstGuide, _continuous_first_terms, 1.0, model, guide)


# --- linear-Gaussian, with the posterior in closed form ----------------------------------------------------------


@pytest.fixture
def linear_gaussian() -> SimpleNamespace:
    """z ~ N(0, I_2), x ~ N(W z, s^2 I_3); the guide is the exact posterior, moved by its parameter ``shift``."""
    loadings, scale = torch.tensor([[1.0, 0.2], [-0.4, 0.9], [0.3, 0.5]]), 0.6
    precision = torch.eye(2) + loadings.T @ loadings / scale**2

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings.T, scale).to_event(1), obs=x)

    class Guide(PyroModule):
        def __init__(self, shift: float = 0.0) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.full((2,), shift))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                loc = torch.linalg.solve(precision, (x @ loadings / scale**2).T).T + self.shift
                pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=precision))

    covariance = loadings @ loadings.T + scale**2 * torch.eye(3)
    x = torch.tensor([[0.5, -1.0, 0.3], [2.0, 0.1, -0.4], [-0.7, 0.8, 1.1], [0.0, 0.0, 0.0]])
    evidence = dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x)
    return SimpleNamespace(model=model, guide=Guide, x=x, evidence=evidence)
