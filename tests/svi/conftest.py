"""Tiny pairs, data and optimizers for the training loop; in float64, so that equalities are tight."""

import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from probgen import SVI
from probgen.objectives import ELBO

DATA_DIM = 3


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def x() -> Tensor:
    """20 data near a line: ``[20, 3]``."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(20, 1, generator=generator)
    return z * torch.tensor([1.0, -0.5, 0.8]) + 0.3 + 0.4 * torch.randn(20, DATA_DIM, generator=generator)


class LinearModel(PyroModule):
    """z ~ N(0, 1), x ~ N(weight z + bias, scale)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(DATA_DIM))
        self.bias = nn.Parameter(torch.zeros(DATA_DIM))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            pyro.sample("x", dist.Normal(z * self.weight + self.bias, self.log_scale.exp()).to_event(1), obs=x)


class LinearGuide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(DATA_DIM, 1)
        self.log_width = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), self.log_width.exp()).to_event(1))


@pytest.fixture
def linear() -> Callable[..., tuple[LinearModel, LinearGuide]]:
    """Makes a linear pair whose weights depend on the seed alone."""

    def make(seed: int = 0) -> tuple[LinearModel, LinearGuide]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return LinearModel(), LinearGuide()

    return make


class NetModel(PyroModule):
    """A decoder with dropout; ``discrete`` has a binary latent, which takes the score-function gradient."""

    def __init__(self, dropout: float, discrete: bool) -> None:
        super().__init__()
        self.discrete = discrete
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Dropout(dropout), nn.Linear(4, DATA_DIM))

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            prior = dist.Bernoulli(0.5) if self.discrete else dist.Normal(0.0, 1.0)
            z = pyro.sample("z", prior.expand([2]).to_event(1))
            loc = self.net(z) if y is None else self.net(z) + y[..., None]
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


class NetGuide(PyroModule):
    """An encoder, with batch normalisation if asked for."""

    def __init__(self, batch_norm: bool, discrete: bool) -> None:
        super().__init__()
        self.discrete = discrete
        norm = nn.BatchNorm1d(4) if batch_norm else nn.Identity()
        self.net = nn.Sequential(nn.Linear(DATA_DIM, 4), norm, nn.Tanh())
        self.loc = nn.Linear(4, 2)
        self.log_scale = nn.Linear(4, 2)

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        h = self.net(x)
        with pyro.plate("data", len(x)):
            q = (
                dist.Bernoulli(logits=self.loc(h))
                if self.discrete
                else dist.Normal(self.loc(h), self.log_scale(h).exp())
            )
            pyro.sample("z", q.to_event(1))


@pytest.fixture
def nets() -> Callable[..., tuple[NetModel, NetGuide]]:
    """Makes a neural pair whose weights depend on the seed alone."""

    def make(seed: int = 0, *, dropout: float = 0.0, batch_norm: bool = False, discrete: bool = False):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return NetModel(dropout, discrete), NetGuide(batch_norm, discrete)

    return make


@pytest.fixture
def likelihood_model() -> Callable[[], nn.Module]:
    """Makes a model without latents, x ~ N(loc, scale), as a plain ``nn.Module``."""

    class Gaussian(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(DATA_DIM))
            self.log_scale = nn.Parameter(torch.zeros(DATA_DIM))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(self.loc, self.log_scale.exp()).to_event(1), obs=x)

    return Gaussian


@pytest.fixture
def adam() -> Callable[..., torch.optim.Optimizer]:
    return functools.partial(torch.optim.Adam, lr=0.05)


@pytest.fixture
def make_svi(linear: Any, adam: Any) -> Callable[..., SVI]:
    """An SVI of a linear pair with the ELBO; every argument can be given."""

    def make(model: Any = None, guide: Any = None, optim: Any = None, loss: Any = None, **options: Any) -> SVI:
        if model is None:
            model, guide = linear()
        return SVI(model, guide, optim or adam, loss or ELBO(), **options)

    return make


@pytest.fixture
def tensors_of() -> Callable[[SVI], dict[str, Tensor]]:
    """Copies of all parameters and buffers of an SVI."""

    def copies(svi: SVI) -> dict[str, Tensor]:
        owned = {f"{i}.{k}": v for i, m in enumerate(svi.modules) for k, v in m.state_dict().items()}
        return {name: value.detach().clone() for name, value in (svi.parameters | owned).items()}

    return copies


@pytest.fixture
def assert_same() -> Callable[..., None]:
    """Compares dictionaries of tensors, bit for bit."""

    def check(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
        assert first.keys() == second.keys()
        different = [name for name in first if not torch.equal(first[name], second[name])]
        assert not different, f"{different} differ"

    return check


@pytest.fixture
def flags() -> Callable[[], SimpleNamespace]:
    """Validation flags of Pyro and torch, as they are."""

    def read() -> SimpleNamespace:
        return SimpleNamespace(
            distributions=dist.is_validation_enabled(),
            infer=pyro.infer.is_validation_enabled(),
            poutine=pyro.poutine.is_validation_enabled(),
            torch=torch.distributions.Distribution._validate_args,
        )

    return read
