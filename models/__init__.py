"""Models: Pyro programs for p(x, z), one file each. Classes are imported on first use (PEP 562)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probgen.models.conditional_vae import ConditionalVAE as ConditionalVAE
    from probgen.models.gaussian_mixture import GaussianMixture as GaussianMixture
    from probgen.models.hierarchical_vae import HierarchicalVAE as HierarchicalVAE
    from probgen.models.ppca import PPCA as PPCA
    from probgen.models.vae import VAE as VAE

_LAZY = {
    "VAE": "vae",
    "ConditionalVAE": "conditional_vae",
    "GaussianMixture": "gaussian_mixture",
    "HierarchicalVAE": "hierarchical_vae",
    "PPCA": "ppca",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'probgen.models' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"probgen.models.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
