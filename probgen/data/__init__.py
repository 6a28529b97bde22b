"""Data without models: known data sets, files, binarization, and what a training loop sees of them.

``load`` reads a data set by name or path, ``sources`` lists the names, and ``as_dataset`` gives tensors, NumPy
arrays, tuples and dictionaries the same three verbs that a :class:`Dataset` has. Nothing is downloaded or unpickled.
"""

from probgen.data.catalog import sources
from probgen.data.checks import validate
from probgen.data.dataset import Dataset
from probgen.data.loading import load
from probgen.data.memory import Batch, Indices, InMemory, as_dataset, is_in_memory

__all__ = ["Batch", "Dataset", "InMemory", "Indices", "as_dataset", "is_in_memory", "load", "sources", "validate"]
