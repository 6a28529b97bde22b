"""Bounds, gradients, training and evidence for NumPyro's (model, guide) pairs: the twins of those for Pyro.

Objectives have the names and arguments of :mod:`probgen.objectives` and drop into ``numpyro.infer.SVI`` as its
``loss``. Names are loaded on first use.
"""

import importlib
from typing import Any

_LAZY = {
    "CIWAE": "probgen.numpyro.importance",
    "CUBO": "probgen.numpyro.two_sided",
    "ELBO": "probgen.numpyro.elbo",
    "EUBO": "probgen.numpyro.two_sided",
    "EpochReport": "probgen.numpyro.epochs",
    "Estimate": "probgen.numpyro.base",
    "IWAE": "probgen.numpyro.importance",
    "MIWAE": "probgen.numpyro.importance",
    "MaximumLikelihood": "probgen.numpyro.importance",
    "Objective": "probgen.numpyro.base",
    "PIWAE": "probgen.numpyro.importance",
    "RWS": "probgen.numpyro.two_sided",
    "Renyi": "probgen.numpyro.importance",
    "SVI": "probgen.numpyro.training",
    "SVIResult": "probgen.numpyro.training",
    "TVO": "probgen.numpyro.two_sided",
    "evaluate": "probgen.numpyro.evaluation",
    "log_weights": "probgen.numpyro.run",
    "params_from_torch": "probgen.numpyro.exchange",
    "params_to_torch": "probgen.numpyro.exchange",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'probgen.numpyro' has no attribute '{name}'")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
