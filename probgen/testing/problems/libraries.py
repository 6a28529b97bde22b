"""What the programs of a problem are written in: the few names in which Pyro and NumPyro agree."""

from types import SimpleNamespace
from typing import Any

from probgen.errors import ArgumentError, nearest

BACKENDS = ("torch", "numpyro")


def library(backend: str) -> Any:
    """The names a program uses: sample, plate, scale, mask, three families, and some functions of arrays.

    Raises:
        ArgumentError: an unknown backend.
    """
    if backend not in BACKENDS:
        raise ArgumentError(f"unknown `backend={backend!r}`; {nearest(str(backend), BACKENDS)}")
    return _torch() if backend == "torch" else _numpyro()


def _torch() -> Any:
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro import poutine

    return SimpleNamespace(
        sample=pyro.sample,
        plate=pyro.plate,
        scale=poutine.scale,
        mask=poutine.mask,
        Normal=dist.Normal,
        Bernoulli=dist.Bernoulli,
        Categorical=dist.Categorical,
        exp=torch.exp,
        tanh=torch.tanh,
        stack=torch.stack,
        first=lambda x: x.movedim(-1, 0),
        take=lambda table, index: table[index[..., None]].squeeze(-table.dim()),  # a tensor [] as index would be read
        number=lambda value: torch.tensor(value, dtype=torch.float64),
        array=lambda tensor: tensor,
    )


def _numpyro() -> Any:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro import handlers

    return SimpleNamespace(
        sample=numpyro.sample,
        plate=numpyro.plate,
        scale=handlers.scale,
        mask=handlers.mask,
        Normal=dist.Normal,
        Bernoulli=dist.Bernoulli,
        Categorical=dist.Categorical,
        exp=jnp.exp,
        tanh=jnp.tanh,
        stack=jnp.stack,
        first=lambda x: jnp.moveaxis(x, -1, 0),
        take=lambda table, index: table[index],
        number=jnp.asarray,
        array=lambda tensor: jnp.asarray(tensor.numpy()),
    )
