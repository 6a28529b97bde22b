r"""What a classifier between two samples tells: their density ratio, Jensen-Shannon divergence and a test.

A classifier is given by its logits ``log P(p | x) / P(q | x)`` at samples that it was not trained on.
"""

import math
from typing import Any

import numpy as np

from probgen.core.divergences.arrays import numeric, whole
from probgen.core.divergences.critics import checked_outputs, f_dual_from_log_ratio
from probgen.core.divergences.estimate import Estimate
from probgen.core.divergences.kernels import TestResult
from probgen.core.ops import Array
from probgen.errors import ArgumentError, nearest

__all__ = ["classifier_two_sample_test", "js_from_classifier", "log_density_ratio"]

_STATISTICS = ("auc", "accuracy")


def log_density_ratio(logits: Array, count_p: int, count_q: int) -> Array:
    """``log p / q`` from a classifier that was trained on so many samples of each: ``logit - log(count_p / count_q)``.

    Args:
        logits: of the class of p, any shape, of any library.
        count_p: training samples of p, or their total weight in the loss as a whole number.
        count_q: training samples of q.

    Returns:
        The log-ratio in nats, same shape, differentiable; exact where the classifier is the Bayes classifier.

    Raises:
        ArgumentError: a count below 1.

    References:
        Sugiyama, Suzuki, Kanamori, "Density Ratio Estimation in Machine Learning", 2012, chapter 4.

    Example:
        >>> import numpy as np
        >>> print(np.exp(log_density_ratio(np.log([2.0, 4.0]), 200, 100)).round(6))
        [1. 2.]
    """
    return logits - math.log(whole("count_p", count_p) / whole("count_q", count_q))


def js_from_classifier(log_ratio_p: Array, log_ratio_q: Array) -> Estimate:
    """Lower bound ``log 2 - cross-entropy`` of the Jensen-Shannon divergence (with its halves: at most log 2), in nats.

    ``log 2 + ½ E_p[log sigmoid(s)] + ½ E_q[log sigmoid(-s)]``, both classes counting alike, tight for the Bayes
    classifier: the f-dual bound of ``"js"``.

    Args:
        log_ratio_p: s, the logits for equal classes (:func:`log_density_ratio`), at samples of p, shape [n].
        log_ratio_q: the same at samples of q, shape [m].

    Returns:
        The estimate, of bias ``"lower"``, differentiable.

    Raises:
        ProbgenError: as :func:`probgen.core.divergences.f_dual_from_log_ratio`.

    References:
        Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio, "Generative Adversarial Nets",
        2014, arXiv 1406.2661.

    Example:
        >>> import numpy as np
        >>> print(js_from_classifier(np.zeros(3), np.zeros(3)).value)  # a classifier that cannot tell
        0.0
    """
    return f_dual_from_log_ratio(log_ratio_p, log_ratio_q, "js", heavy_tails="allow")  # tails are exponential at most


def classifier_two_sample_test(
    scores_p: Array,
    scores_q: Array,
    *,
    statistic: str = "auc",
    num_permutations: int = 1000,
    seed: int | None = None,
) -> TestResult:
    """Test of the hypothesis p = q by how well a classifier tells held-out samples apart.

    Under the hypothesis the scores are exchangeable, so that the permutation p-value
    ``(1 + #{permuted >= observed}) / (1 + num_permutations)`` is valid for every n and m and any classifier. The area
    under the ROC curve, ``P(score_p > score_q)`` with ties counted half, needs no threshold and has few ties; the
    balanced accuracy at the threshold 0 is coarse on few samples, so that its p-values are too large rather than too
    small.

    Args:
        scores_p: of held-out samples of p, shape [n], larger where p is likelier, such as logits.
        scores_q: of held-out samples of q, shape [m].
        statistic: ``"auc"`` or ``"accuracy"``; ½ is chance for both.
        num_permutations: random permutations; the p-value is at least ``1 / (1 + num_permutations)``.
        seed: of the permutations; None draws a fresh one.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: other shapes, fewer than two of either, or an unknown statistic.
        DataError: a score that is not finite.

    References:
        Lopez-Paz, Oquab, "Revisiting Classifier Two-Sample Tests", 2017, arXiv 1610.06545.

    Example:
        >>> import numpy as np
        >>> scores = np.random.default_rng(0).normal(size=100)
        >>> result = classifier_two_sample_test(scores + 2.0, scores, seed=0)
        >>> print(result.p_value < 0.01)
        True
    """
    checked_outputs(scores_p, scores_q, ("scores_p", "scores_q"))
    if statistic not in _STATISTICS:
        raise ArgumentError(f"`statistic`: {statistic!r} is unknown; {nearest(str(statistic), _STATISTICS)}")
    count, rng = whole("num_permutations", num_permutations), np.random.default_rng(seed)
    n, m = scores_p.shape[0], scores_q.shape[0]
    pooled = np.concatenate([numeric(scores_p), numeric(scores_q)]).astype(np.float64)
    points = _points(pooled, statistic)  # whole or half numbers: sums are exact
    observed = points[:n].sum()
    permuted = np.array([points[rng.permutation(n + m)[:n]].sum() for _ in range(count)])
    p_value = (1 + int((permuted >= observed).sum())) / (1 + count)
    return TestResult(_scaled(float(observed), float(points.sum()), n, m, statistic), p_value, count)


def _points(pooled: Any, statistic: str) -> Any:
    """What each sample adds to its class: both statistics grow with the sum over the first."""
    if statistic == "accuracy":
        return (pooled > 0).astype(np.float64) + 0.5 * (pooled == 0)
    _, inverse, counts = np.unique(pooled, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - 0.5 * (counts - 1))[inverse]  # ranks from 1, the mean one for ties


def _scaled(observed: float, total: float, n: int, m: int, statistic: str) -> float:
    if statistic == "accuracy":
        return 0.5 * (observed / n + (m - (total - observed)) / m)
    return (observed - n * (n + 1) / 2) / (n * m)
