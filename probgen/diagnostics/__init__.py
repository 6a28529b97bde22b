"""Metrics of sets of samples: how good, how diverse and how new they are, on features of one's choice.

Every function takes real and generated data as arrays ``[n, ...]`` of any library, and ``features``, a function from a
block of them to features ``[b, f]``; without it each datum is flattened. The numbers depend on the features and on the
numbers of samples: compare only what has both alike.
"""

from probgen.diagnostics.features import digits_classifier, digits_features
from probgen.diagnostics.manifolds import DensityCoverage, PrecisionRecall, density_coverage, precision_recall
from probgen.diagnostics.memorization import MemorizationTest, memorization_test
from probgen.diagnostics.modes import ModeCoverage, mode_coverage
from probgen.diagnostics.moments import frechet, kid

__all__ = [
    "DensityCoverage",
    "MemorizationTest",
    "ModeCoverage",
    "PrecisionRecall",
    "density_coverage",
    "digits_classifier",
    "digits_features",
    "frechet",
    "kid",
    "memorization_test",
    "mode_coverage",
    "precision_recall",
]
