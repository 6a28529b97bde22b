"""Divergences between distributions, from formulas, densities, samples or programs, each with its error.

:func:`divergence` chooses a method; the functions behind it are in :mod:`probgen.core.divergences`.
"""

from probgen.divergences.critic import classifier_test, density_ratio
from probgen.divergences.entry import divergence
from probgen.divergences.methods import KINDS, METHODS, Method, methods_table

__all__ = ["KINDS", "METHODS", "Method", "classifier_test", "density_ratio", "divergence", "methods_table"]
