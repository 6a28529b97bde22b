"""Runs in folders: settings, pairs that are built from them, and what is done with a trained pair.

Names are loaded on first use (PEP 562), so that settings are read without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probgen.runs.imputation import Imputation as Imputation
    from probgen.runs.imputation import impute as impute
    from probgen.runs.loading import load as load
    from probgen.runs.settings import TrainSettings as TrainSettings

_LAZY = {
    "Imputation": "imputation",
    "TrainSettings": "settings",
    "impute": "imputation",
    "load": "loading",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'probgen.runs' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"probgen.runs.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
