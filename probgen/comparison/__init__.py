"""Objectives side by side: the same weights, data, steps and evaluation, and one table of what came out.

Their gradients too, by noise, bias and cost.
"""

from probgen.comparison.comparing import compare
from probgen.comparison.gradient_result import GradientReport, GradientRow
from probgen.comparison.gradients import gradient_report
from probgen.comparison.result import Comparison, Run
from probgen.comparison.spec import RunSpec, grid

__all__ = ["Comparison", "GradientReport", "GradientRow", "Run", "RunSpec", "compare", "gradient_report", "grid"]
