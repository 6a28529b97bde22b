"""Models for NumPyro: the twins of those for Pyro, one file each. Classes are imported on first use (PEP 562)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probgen.models.numpyro.hierarchical_vae import HierarchicalVAE as HierarchicalVAE
    from probgen.models.numpyro.ppca import PPCA as PPCA
    from probgen.models.numpyro.vae import VAE as VAE

_LAZY = {"VAE": "vae", "HierarchicalVAE": "hierarchical_vae", "PPCA": "ppca"}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'probgen.models.numpyro' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"probgen.models.numpyro.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
