"""Estimates of log p(x), per datum, by importance weighting: ``evaluate`` gives an ``Evidence``."""

from probgen.evidence.evaluation import evaluate
from probgen.evidence.result import Evidence
from probgen.evidence.summary import Row, summarize

__all__ = ["Evidence", "Row", "evaluate", "summarize"]
