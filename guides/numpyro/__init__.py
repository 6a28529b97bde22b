"""Guides for NumPyro: the twins of those for Pyro, one file each. Classes are imported on first use (PEP 562)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probgen.guides.numpyro.amortized_hierarchical import AmortizedHierarchical as AmortizedHierarchical
    from probgen.guides.numpyro.amortized_normal import AmortizedNormal as AmortizedNormal

_LAZY = {"AmortizedHierarchical": "amortized_hierarchical", "AmortizedNormal": "amortized_normal"}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'probgen.guides.numpyro' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"probgen.guides.numpyro.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
