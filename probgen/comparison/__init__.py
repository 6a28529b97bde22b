"""Objectives side by side: the same weights, data, steps and evaluation, and one table of what came out."""

from probgen.comparison.comparing import compare
from probgen.comparison.result import Comparison, Run
from probgen.comparison.spec import RunSpec, grid

__all__ = ["Comparison", "Run", "RunSpec", "compare", "grid"]
