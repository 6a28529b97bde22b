"""Checkpoints to be damaged, and a pair small enough to be trained in passing."""

import functools
from collections.abc import Callable
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from probgen import SVI
from probgen.checkpoints import Checkpoints
from probgen.objectives import ELBO


class Model(nn.Module):
    """z ~ N(0, 1), x ~ N(weight z, 1); one weight is never trained."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 0.5))
        self.shift = nn.Parameter(torch.zeros(()))
        self.fixed = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("mask", torch.tensor([True, True, False]))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            pyro.sample("x", dist.Normal(z * self.weight + self.shift, self.fixed).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1)
        nn.init.constant_(self.net.weight, 0.1)
        nn.init.zeros_(self.net.bias)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(12, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def make_svi() -> Callable[..., SVI]:
    """An SVI of a fresh pair, always with the same weights."""

    def make(**options) -> SVI:
        optim = functools.partial(torch.optim.Adam, lr=0.01)
        return SVI(Model(), Guide(), optim, ELBO(), accelerator="cpu", **{"ema_decay": 0.9} | options)

    return make


@pytest.fixture
def plan(x: Tensor) -> dict[str, object]:
    """Arguments of a run: two epochs of three steps, and held-out data."""
    return {"data": x, "batch_size": 4, "num_epochs": 2, "seed": 3, "eval_data": x[:4], "progress": False}


@pytest.fixture
def numbers() -> Callable[[int], tuple[dict[str, Tensor], dict[str, int]]]:
    """Tensors and a state by which a step is known."""

    def of(step: int) -> tuple[dict[str, Tensor], dict[str, int]]:
        return {"w": torch.full((50,), float(step)), "order": torch.arange(step + 1)}, {"step": step}

    return of


@pytest.fixture
def assert_is() -> Callable[[Checkpoints, set[int]], int]:
    """Loads the latest checkpoint, which must be that of one of some steps, whole; returns which."""

    def check(checkpoints: Checkpoints, steps: set[int]) -> int:
        saved = checkpoints.latest()
        assert saved is not None
        step = saved.state["step"]
        assert step in steps
        assert torch.equal(saved.tensors["w"], torch.full((50,), float(step)))
        assert torch.equal(saved.tensors["order"], torch.arange(step + 1))
        return step

    return check


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"
