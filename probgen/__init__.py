"""probgen: latent-variable and deep generative models as Pyro (model, guide) pairs.

Names are loaded on first use (PEP 562), so that ``import probgen`` costs milliseconds and imports
neither torch nor JAX.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "Evidence": "probgen.evidence",
    "RunSpec": "probgen.comparison",
    "SVI": "probgen.svi",
    "SVIResult": "probgen.svi",
    "compare": "probgen.comparison",
    "divergence": "probgen.divergences",
    "evaluate": "probgen.evidence",
    "gradient_report": "probgen.comparison",
    "load": "probgen.runs",
    "log_weights": "probgen.programs",
}
_MODULES = {
    "checkpoints",
    "comparison",
    "core",
    "data",
    "diagnostics",
    "divergences",
    "errors",
    "evidence",
    "guides",
    "likelihoods",
    "models",
    "nets",
    "objectives",
    "plots",
    "programs",
    "registry",
    "runs",
    "svi",
    "testing",
}

__all__ = ["__version__", *sorted(_LAZY), *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"probgen.{name}")
    else:
        raise AttributeError(f"module 'probgen' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
