"""Objectives: a bound on log p(x) times a gradient estimator, for any (model, guide) pair.

Each is a ``pyro.infer.ELBO``: it drops into ``pyro.infer.SVI``, and ``objective(model, guide)`` is an
``nn.Module`` whose output is a differentiable loss for ``torch.optim``.
"""

from probgen.objectives.base import Estimate, Loss, Objective, Player
from probgen.objectives.ciwae import CIWAE
from probgen.objectives.elbo import ELBO
from probgen.objectives.iwae import IWAE
from probgen.objectives.maximum_likelihood import MaximumLikelihood
from probgen.objectives.miwae import MIWAE
from probgen.objectives.pair import PairLoss
from probgen.objectives.piwae import PIWAE
from probgen.objectives.renyi import Renyi
from probgen.objectives.rws import RWS
from probgen.objectives.schedules import Cyclical, Linear
from probgen.objectives.tvo import TVO
from probgen.objectives.two_sided import TwoSided
from probgen.objectives.upper_bounds import CUBO, EUBO

__all__ = [
    "CIWAE",
    "CUBO",
    "ELBO",
    "EUBO",
    "IWAE",
    "MIWAE",
    "PIWAE",
    "RWS",
    "TVO",
    "Cyclical",
    "Estimate",
    "Linear",
    "Loss",
    "MaximumLikelihood",
    "Objective",
    "PairLoss",
    "Player",
    "Renyi",
    "TwoSided",
]
