"""Small pairs for tests of how programs are run and read."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Model(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 2)
        self.log_scale = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), self.log_scale.exp()).to_event(1))


@pytest.fixture
def amortized() -> SimpleNamespace:
    """Classes of a linear-Gaussian model and an amortized guide, and data."""
    x = torch.tensor([[0.5, -1.0, 0.3], [2.0, 0.1, -0.4], [-0.7, 0.8, 1.1], [0.0, 0.0, 0.0]])
    return SimpleNamespace(Model=Model, Guide=Guide, x=x)


@pytest.fixture
def site() -> Callable[..., SimpleNamespace]:
    """Finds a site of a run's terms by name."""
    return lambda terms, name: next(site for site in terms.sites if site.name == name)
