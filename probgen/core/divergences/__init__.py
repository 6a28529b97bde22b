"""Divergences as pure functions, each saying how wrong it may be: of closed forms, densities, samples and critics.

Closed forms return arrays, batched; what is estimated returns an :class:`Estimate`. All are in nats where a logarithm
is involved, and each says whether it is squared and which factors it has.

Terms (``kl_terms``, ``f_values``, ``conjugate``) can be compiled. What checks its arguments or returns an estimate
reads values, so that it runs eagerly, under ``jax.grad`` and autograd, and not under ``jax.jit``.
"""

from probgen.core.divergences.classifiers import classifier_two_sample_test, js_from_classifier, log_density_ratio
from probgen.core.divergences.critics import (
    donsker_varadhan,
    f_dual,
    f_dual_from_log_ratio,
    kantorovich_rubinstein,
    lipschitz_constant,
    nwj,
)
from probgen.core.divergences.densities import f_from_densities, kl_from_densities, kl_terms, renyi_from_densities
from probgen.core.divergences.discrete import DISCRETE_KINDS, bernoulli_divergence, discrete_divergence
from probgen.core.divergences.estimate import Estimate
from probgen.core.divergences.gaussian import GAUSSIAN_KINDS, frechet_distance, gaussian_divergence
from probgen.core.divergences.generators import GENERATORS, Generator, conjugate, f_values, generator
from probgen.core.divergences.kernels import TestResult, energy_distance, median_bandwidth, mmd2, two_sample_test
from probgen.core.divergences.mixture import f_from_both
from probgen.core.divergences.neighbors import (
    entropy_from_neighbors,
    kl_from_neighbors,
    mutual_information,
    renyi_from_neighbors,
)
from probgen.core.divergences.sinkhorn import Potentials, sinkhorn_divergence, sinkhorn_potentials
from probgen.core.divergences.stein import stein_discrepancy, stein_test
from probgen.core.divergences.transport import (
    max_sliced_wasserstein,
    sliced_wasserstein,
    wasserstein_1d,
    wasserstein_exact,
)

__all__ = [
    "DISCRETE_KINDS",
    "GAUSSIAN_KINDS",
    "GENERATORS",
    "Estimate",
    "Generator",
    "Potentials",
    "TestResult",
    "bernoulli_divergence",
    "classifier_two_sample_test",
    "conjugate",
    "discrete_divergence",
    "donsker_varadhan",
    "energy_distance",
    "entropy_from_neighbors",
    "f_dual",
    "f_dual_from_log_ratio",
    "f_from_both",
    "f_from_densities",
    "f_values",
    "frechet_distance",
    "gaussian_divergence",
    "generator",
    "js_from_classifier",
    "kantorovich_rubinstein",
    "kl_from_densities",
    "kl_from_neighbors",
    "kl_terms",
    "lipschitz_constant",
    "log_density_ratio",
    "max_sliced_wasserstein",
    "median_bandwidth",
    "mmd2",
    "mutual_information",
    "nwj",
    "renyi_from_densities",
    "renyi_from_neighbors",
    "sinkhorn_divergence",
    "sinkhorn_potentials",
    "sliced_wasserstein",
    "stein_discrepancy",
    "stein_test",
    "two_sample_test",
    "wasserstein_1d",
    "wasserstein_exact",
]
