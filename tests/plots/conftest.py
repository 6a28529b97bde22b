"""Tiny pairs for the figures, in float64, so that equalities are tight."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from probgen.data import Dataset
from probgen.guides import AmortizedHierarchical, AmortizedNormal
from probgen.models import PPCA, VAE, ConditionalVAE, HierarchicalVAE


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def _bits(count: int, *shape: int) -> Tensor:
    return torch.randint(2, (count, *shape), generator=torch.Generator().manual_seed(count)).double()


def _vae(latent_dim: int) -> tuple[Any, ...]:
    return VAE((16,), latent_dim, (8,)), AmortizedNormal((16,), latent_dim, (8,)), _bits(30, 16)


def _large() -> tuple[Any, ...]:
    data = Dataset(_bits(40, 1, 28, 28), torch.arange(40) % 10)
    return VAE((1, 28, 28), 12, (8,)), AmortizedNormal((1, 28, 28), 12, (8,)), data


def _conditional() -> tuple[Any, ...]:
    data = _bits(30, 16), torch.arange(30) % 3
    model = ConditionalVAE((16,), 2, (8,), num_classes=3)
    return model, AmortizedNormal((16,), 2, (8,), num_classes=3), data


def _hierarchical(direction: str) -> tuple[Any, ...]:
    guide = AmortizedHierarchical((16,), (3, 2), (8,), direction=direction)
    return HierarchicalVAE((16,), (3, 2), (8,)), guide, _bits(30, 16)


def _ppca() -> tuple[Any, ...]:
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(1))
    return PPCA(5, 3), AmortizedNormal((5,), 3, (8,)), x


PAIRS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "vae-1": lambda: _vae(1),
    "vae-2": lambda: _vae(2),
    "vae-8": lambda: _vae(8),
    "vae-28x28": _large,
    "conditional": _conditional,
    "bottom-up": lambda: _hierarchical("bottom-up"),
    "top-down": lambda: _hierarchical("top-down"),
    "ppca": _ppca,
}


@pytest.fixture
def pair() -> Callable[[str], tuple[Any, ...]]:
    """A model, a guide and data, by name."""
    return lambda name: PAIRS[name]()


@pytest.fixture(params=["vae-1", "vae-2", "vae-28x28", "conditional", "bottom-up", "ppca"])
def any_pair(request: pytest.FixtureRequest) -> tuple[Any, ...]:
    """One of each form."""
    return PAIRS[request.param]()
