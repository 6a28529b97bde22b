"""Stochastic variational inference: the loop that trains any (model, guide, objective)."""

from probgen.svi.loop import SVI
from probgen.svi.schedules import warmup_cosine
from probgen.svi.state import EpochReport, SVIResult, SVIState
from probgen.svi.weights import load_weights

__all__ = ["SVI", "EpochReport", "SVIResult", "SVIState", "load_weights", "warmup_cosine"]
