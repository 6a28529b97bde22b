"""Divergences between distributions, from formulas, densities or samples, each with its error.

:func:`divergence` chooses a method; the functions behind it are in :mod:`probgen.core.divergences`.
"""

from probgen.divergences.entry import divergence
from probgen.divergences.methods import KINDS, METHODS, Method, methods_table

__all__ = ["KINDS", "METHODS", "Method", "divergence", "methods_table"]
