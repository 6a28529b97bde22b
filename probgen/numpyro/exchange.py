"""Weights of a model or guide, from torch to NumPyro and back."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import Array

from probgen.errors import ArgumentError


def params_from_torch(module: torch.nn.Module, twin: Any) -> dict[str, Any]:
    """The weights of a torch model or guide as parameters of its twin.

    Args:
        module: of ``probgen.models`` or ``probgen.guides``.
        twin: the program of :mod:`probgen.models.numpyro` or :mod:`probgen.guides.numpyro`, built with the same
            arguments.

    Returns:
        Values of ``numpyro.param`` statements by name, in the dtype of torch where JAX has it: ``params`` of
        ``probgen.numpyro.log_weights`` and ``init_params`` of SVI. Those of two programs are joined by ``|``.

    Raises:
        ArgumentError: the two are not built alike.

    Example:
        >>> from probgen import models
        >>> from probgen.models import numpyro as twins
        >>> sorted(params_from_torch(models.PPCA(5, 2), twins.PPCA(5, 2)))
        ['loadings', 'log_scale', 'mean']
    """
    params = {}
    for name, values in _arrays(twin).items():
        leaves, structure = jax.tree.flatten(values)
        tensors = _tensors(module, name)
        _check_alike(name, leaves, tensors)
        arrays = [jnp.asarray(tensor.detach().cpu().numpy()) for tensor in tensors]
        params[_site(name, twin)] = jax.tree.unflatten(structure, arrays)
    return params


def params_to_torch(params: Mapping[str, Any], twin: Any, module: torch.nn.Module) -> None:
    """Puts the parameters of a NumPyro program into its torch twin, in place.

    Args:
        params: values of ``numpyro.param`` statements by name, as ``SVIResult.params`` has them.
        twin: the program of :mod:`probgen.models.numpyro` or :mod:`probgen.guides.numpyro` that they are of.
        module: the torch model or guide, built with the same arguments.

    Raises:
        ArgumentError: the two are not built alike, or a parameter is missing.

    Example:
        >>> from probgen import models
        >>> from probgen.models import numpyro as twins
        >>> module, twin = models.PPCA(5, 2), twins.PPCA(5, 2)
        >>> params_to_torch(twin.networks | {"mean": jnp.ones(5)}, twin, module)
        >>> float(module.mean.detach().sum())
        5.0
    """
    pairs = []
    for name in _arrays(twin):
        if (site := _site(name, twin)) not in params:
            raise ArgumentError(f"`params` has no '{site}', a parameter of {type(twin).__name__}")
        leaves, tensors = jax.tree.leaves(params[site]), _tensors(module, name)
        _check_alike(name, leaves, tensors)
        pairs += list(zip(tensors, leaves, strict=True))
    with torch.no_grad():
        for tensor, leaf in pairs:
            tensor.copy_(torch.as_tensor(np.array(leaf)))


def _arrays(twin: Any) -> dict[str, Any]:
    """The arrays of each network, without what is static."""
    if not hasattr(twin, "networks"):
        raise ArgumentError(
            f"`twin` must be a program of `probgen.models.numpyro` or `probgen.guides.numpyro`, got {twin!r}"
        )
    return {
        name: jax.tree.map(lambda leaf: leaf if isinstance(leaf, Array) else None, networks)
        for name, networks in twin.networks.items()
    }


def _site(name: str, twin: Any) -> str:
    return name if isinstance(twin.networks[name], Array) else f"{name}$params"


def _tensors(module: torch.nn.Module, name: str) -> list[torch.Tensor]:
    """Parameters of a network in their order, which is that of the twin's leaves: weight and bias of each layer."""
    named = module.named_parameters()
    return [value for key, value in named if key == name or key.startswith(f"{name}.")]


def _check_alike(name: str, leaves: list[Any], tensors: list[torch.Tensor]) -> None:
    ours, theirs = [tuple(np.shape(leaf)) for leaf in leaves], [tuple(tensor.shape) for tensor in tensors]
    if ours != theirs:
        raise ArgumentError(
            f"'{name}' has arrays of shapes {ours} in NumPyro and {theirs} in torch; build both with the same arguments"
        )
