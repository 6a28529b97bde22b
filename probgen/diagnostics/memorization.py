"""Whether generated data are copies of training data."""

from dataclasses import dataclass

import numpy as np

from probgen.arguments import positive_int
from probgen.core.divergences import classifier_two_sample_test
from probgen.core.divergences.estimate import Estimate
from probgen.core.ops import Array
from probgen.diagnostics.features import Features
from probgen.diagnostics.manifolds import nearest_squares, points_of, share

__all__ = ["MemorizationTest", "memorization_test"]

_CLOSE = 0.05  # of the held-out data are nearer to the training data than what counts as close


@dataclass(frozen=True)
class MemorizationTest:
    """A test of the hypothesis that generated data are as near to the training data as held-out data are.

    Attributes:
        nearer: ``P(a generated datum is nearer to the training data than a held-out one)``, ties counted half; ½ for
            equal distributions, more for copies, less for data off the manifold.
        p_value: at most a with probability at most a under the hypothesis, against ``nearer`` above ½.
        copies: the share of generated data nearer to the training data than 95 % of the held-out data are; 0.05 is
            chance. It shows copies of a part that ``nearer`` hides.
        num_permutations: how many random ones the value was compared with.
    """

    nearer: float
    p_value: float
    copies: Estimate
    num_permutations: int


def memorization_test(
    train: Array,
    held_out: Array,
    generated: Array,
    *,
    features: Features | None = None,
    num_permutations: int = 1000,
    seed: int | None = None,
) -> MemorizationTest:
    """Nearest-neighbour test of memorisation, by the distances to the nearest training datum.

    Given the training data, the distances of held-out and generated data are exchangeable if both are drawn from one
    distribution, so that the permutation p-value is valid for every n. A model that copies is nearer. A model that
    copies some data and is far off with others may hide it: look at ``copies``, and test class by class.

    Args:
        train: what the model was trained on, shape [n, ...].
        held_out: from the same source, not trained on, shape [m, ...].
        generated: shape [l, ...].
        features: from a block of data to [b, f]; None for the data themselves.
        num_permutations: random permutations; the p-value is at least ``1 / (1 + num_permutations)``.
        seed: of the permutations; None draws a fresh one.

    Raises:
        ArgumentTypeError: not arrays of floats of one library.
        ArgumentError: different dimensions, or fewer than 2 of any.
        DataError: an entry that is not finite.

    References:
        Meehan, Chaudhuri, Dasgupta, "A Three Sample Hypothesis Test for Evaluating Generative Models", 2020,
        arXiv 2004.05675.

    Example:
        >>> import numpy as np
        >>> train, held_out, fresh = np.random.default_rng(0).normal(size=(3, 200, 2))
        >>> print(memorization_test(train, held_out, train + 0.01, seed=0).p_value < 0.01)
        True
        >>> print(memorization_test(train, held_out, fresh, seed=0).p_value < 0.01)
        False
    """
    count = positive_int("num_permutations", num_permutations)
    theirs, ours = (nearest_squares(*points_of(a, train, features)) for a in (held_out, generated))
    result = classifier_two_sample_test(-ours, -theirs, num_permutations=count, seed=seed)
    copies = share(ours < np.quantile(theirs, _CLOSE))
    return MemorizationTest(result.statistic, result.p_value, copies, count)
