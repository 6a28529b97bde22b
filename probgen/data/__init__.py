"""Data without models: known data sets, files, binarization, and what a training loop sees of them.

``load`` reads a data set by name or path, ``sources`` lists the names, and ``as_dataset`` gives tensors, NumPy
arrays, tuples and dictionaries the same three verbs that a :class:`Dataset` has. Nothing is downloaded or unpickled.
Names are loaded on first use (PEP 562), so that the names of the data sets are read without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probgen.data.catalog import sources as sources
    from probgen.data.checks import validate as validate
    from probgen.data.dataset import Dataset as Dataset
    from probgen.data.loading import load as load
    from probgen.data.memory import Batch as Batch
    from probgen.data.memory import Indices as Indices
    from probgen.data.memory import InMemory as InMemory
    from probgen.data.memory import as_dataset as as_dataset
    from probgen.data.memory import is_in_memory as is_in_memory

_LAZY = {
    "Batch": "memory",
    "Dataset": "dataset",
    "InMemory": "memory",
    "Indices": "memory",
    "as_dataset": "memory",
    "is_in_memory": "memory",
    "load": "loading",
    "sources": "catalog",
    "validate": "checks",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'probgen.data' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"probgen.data.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
