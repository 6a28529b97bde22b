"""Guides: Pyro programs for q(z | x), one file each. Classes are imported on first use (PEP 562)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probgen.guides.amortized_flow import AmortizedFlow as AmortizedFlow
    from probgen.guides.amortized_hierarchical import AmortizedHierarchical as AmortizedHierarchical
    from probgen.guides.amortized_multivariate_normal import AmortizedMultivariateNormal as AmortizedMultivariateNormal
    from probgen.guides.amortized_normal import AmortizedNormal as AmortizedNormal

_LAZY = {
    "AmortizedFlow": "amortized_flow",
    "AmortizedHierarchical": "amortized_hierarchical",
    "AmortizedMultivariateNormal": "amortized_multivariate_normal",
    "AmortizedNormal": "amortized_normal",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'probgen.guides' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"probgen.guides.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
