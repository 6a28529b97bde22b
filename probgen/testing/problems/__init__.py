"""Problems on which the exact gradient of every bound is known."""

from probgen.testing.problems.base import STRUCTURES, Problem, States, Structure, namespace
from probgen.testing.problems.continuous import LearnedPrior, LinearGaussian, Logistic, LogisticPlane, TwoLayers
from probgen.testing.problems.discrete import BeliefNet, HiddenMarkov, Parts, Switches
from probgen.testing.problems.libraries import BACKENDS
from probgen.testing.problems.mixed import ContinuousFirst, DiscreteFirst

PROBLEMS: tuple[type[Problem], ...] = (
    LinearGaussian,
    TwoLayers,
    Logistic,
    LogisticPlane,
    LearnedPrior,
    BeliefNet,
    Switches,
    Parts,
    HiddenMarkov,
    DiscreteFirst,
    ContinuousFirst,
)

__all__ = [
    "BACKENDS",
    "PROBLEMS",
    "STRUCTURES",
    "BeliefNet",
    "ContinuousFirst",
    "DiscreteFirst",
    "HiddenMarkov",
    "LearnedPrior",
    "LinearGaussian",
    "Logistic",
    "LogisticPlane",
    "Parts",
    "Problem",
    "States",
    "Structure",
    "Switches",
    "TwoLayers",
    "namespace",
]
