"""A trained run, and programs in a file."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from probgen.cli.main import main

SMALL = (
    *("vae:latent_dim=2,hidden=(8,)", "--split", "valid", "--eval-split", "test", "--num-epochs", "2"),
    *("--batch-size", "100", "--no-capture"),
)

PROGRAMS = """
import pyro
import pyro.distributions as dist
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, event_shape, width=8):
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, event_shape[0]))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


def make():
    return Net((64,), width=3)


def model(x):
    loc = pyro.param("loc", torch.zeros(64))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Bernoulli(logits=loc + z[..., None]).to_event(1), obs=x)


def guide(x):
    slope = pyro.param("slope", torch.zeros(()))
    scale = pyro.param("scale", torch.ones(()), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x.mean(-1), scale))


NUMBER = 3
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    path = tmp_path / "programs.py"
    path.write_text(PROGRAMS)
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that no test changes."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    assert main(["train", *SMALL, "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "a"))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail in one line, which it returns."""

    def run(*args: object) -> str:
        capsys.readouterr()
        assert main([str(arg) for arg in args]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("probgen: error: ")
        assert captured.err.count("\n") == 1
        return captured.err

    return run
