"""Runs a (model, guide) pair once and reads its traces: the one place where that is done.

A run gives every site's log-density as ``[num_particles, batch]``; their sum is the log-weight
``log p(x, z) - log q(z | x)``. Bounds, gradients and evidence are pure functions of that.
"""

from probgen.programs.execution import RunOptions
from probgen.programs.run import log_weights, run_pair, trace_pair
from probgen.programs.terms import PairTerms, SiteTerm

__all__ = ["PairTerms", "RunOptions", "SiteTerm", "log_weights", "run_pair", "trace_pair"]
