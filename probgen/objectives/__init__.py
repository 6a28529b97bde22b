"""Objectives: a bound on log p(x) times a gradient estimator, for any (model, guide) pair.

Each is a ``pyro.infer.ELBO``: it drops into ``pyro.infer.SVI``, and ``objective(model, guide)`` is an
``nn.Module`` whose output is a differentiable loss for ``torch.optim``.
"""

from probgen.objectives.base import Estimate, Loss, Objective, PairLoss, Player
from probgen.objectives.elbo import ELBO
from probgen.objectives.iwae import IWAE
from probgen.objectives.maximum_likelihood import MaximumLikelihood
from probgen.objectives.miwae import MIWAE
from probgen.objectives.renyi import Renyi
from probgen.objectives.schedules import Cyclical, Linear

__all__ = [
    "ELBO",
    "IWAE",
    "MIWAE",
    "Cyclical",
    "Estimate",
    "Linear",
    "Loss",
    "MaximumLikelihood",
    "Objective",
    "PairLoss",
    "Player",
    "Renyi",
]
