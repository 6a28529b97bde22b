"""Objectives that train model and guide by two estimates of their own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from probgen.core import bounds
from probgen.errors import UnsupportedObjective
from probgen.objectives.base import Estimate, Objective, Player
from probgen.objectives.gradients import require_reparameterized, weighted
from probgen.objectives.pair import PairLoss
from probgen.programs import PairTerms
from probgen.programs.sampling import DETACHED, PLAIN, Sampling, is_point


@dataclass(frozen=True)
class TwoSidedEstimate(Estimate):
    """An estimate whose gradient is known already: that of each parameter of either side."""

    gradients: tuple[tuple[Tensor, Tensor], ...] = ()

    @property
    def loss(self) -> Tensor:
        """Minus the scaled sum of ``value``, with the gradients of both sides."""
        total = -(self.value * self.scale).sum()
        for parameter, gradient in self.gradients:
            product = (parameter * gradient).sum()
            total = total + (product - product.detach())
        return total


class TwoSided(Objective):
    """Trains the model by one objective and the guide by another, as players ``"guide"`` and ``"model"``.

    The loss of both at once, for ``pyro.infer.SVI``, has each parameter's gradient from its own side.

    Args:
        model_side: the objective of the model's parameters; its bound is the one reported.
        guide_side: the objective of the guide's parameters.
        loss_of: which side's loss is the one reported, ``"model"`` or ``"guide"``.
        num_particles: as the sides'.
        gradient: as the sides'.
        vectorize_particles: likewise.
        max_plate_nesting: likewise.
    """

    def __init__(
        self,
        model_side: Objective,
        guide_side: Objective,
        *,
        loss_of: str,
        num_particles: int,
        gradient: str,
        vectorize_particles: bool,
        max_plate_nesting: float,
    ) -> None:
        super().__init__(
            num_particles=num_particles,
            gradient=gradient,
            vectorize_particles=vectorize_particles,
            max_plate_nesting=max_plate_nesting,
        )
        self.model_side = model_side
        self.guide_side = guide_side
        self._loss_of = loss_of

    @property
    def freezes_guide(self) -> bool:
        """No: the sides do what they need."""
        return False

    @property
    def sampling(self) -> Sampling:
        """As the distributions say."""
        return PLAIN

    def evaluate(self, pair: PairLoss, args: tuple[Any, ...], kwargs: dict[str, Any], **options: Any) -> Estimate:
        """Estimates both sides, each with the gradient of its own parameters."""
        sides = [
            pair.other(side).objective.evaluate(pair.other(side), args, kwargs, **options)
            for side in (self.model_side, self.guide_side)
        ]
        reported = sides[0 if self._loss_of == "model" else 1]
        gradients: list[tuple[Tensor, Tensor]] = []
        if torch.is_grad_enabled():
            losses = [estimate.loss for estimate in sides]
            found = [_gradients(*each) for each in zip(losses, pair.sides(args, kwargs), strict=True)]
            if not all(found):  # perhaps the parameters are others by now, as after `pyro.clear_param_store()`
                found = [_gradients(*each) for each in zip(losses, pair.sides(args, kwargs, anew=True), strict=True)]
            gradients = [pair_of for side in found for pair_of in side]
        return TwoSidedEstimate(
            sides[0].bound,
            reported.value.detach(),
            reported.surrogate,
            reported.scale,
            sides[0].terms,
            tuple(gradients),
        )

    def players(self, pair: PairLoss, parameters: dict[str, Tensor]) -> Sequence[Player]:
        """The guide's player, then the model's, whose bound is what a loop reports; one without parameters sits out."""
        model, guide = pair.sides_of(parameters)
        both = (
            Player("guide", pair.other(self.guide_side).player_loss, guide),
            Player("model", pair.other(self.model_side).player_loss, model),
        )
        return tuple(player for player in both if player.parameters)

    def at_step(self, step: int) -> None:
        """Passes the step on to both sides."""
        self.model_side.at_step(step)
        self.guide_side.at_step(step)


def _gradients(loss: Tensor, parameters: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    if not parameters or not loss.requires_grad:
        return []
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return [(p, g) for p, g in zip(parameters, found, strict=True) if g is not None]


class GuideSide(Objective):
    """What trains a guide by self-normalised weights; ``bound`` is the importance-weighted one of these particles."""

    gradients: ClassVar[tuple[str, ...]] = ("self-normalized", "dreg")

    def __init__(
        self,
        *,
        num_particles: int,
        gradient: str,
        vectorize_particles: bool = True,
        max_plate_nesting: float = math.inf,
    ) -> None:
        super().__init__(
            num_particles=num_particles,
            gradient=gradient,
            vectorize_particles=vectorize_particles,
            max_plate_nesting=max_plate_nesting,
        )

    @property
    def sampling(self) -> Sampling:
        """Without a path where the score carries the gradient."""
        return PLAIN if self.freezes_guide else Sampling(default=DETACHED)

    def optimised(self, terms: PairTerms, log_weights: Tensor) -> Tensor:
        """What the guide maximises, ``[batch]``, for its value alone."""
        raise NotImplementedError

    def _refuse_points(self, terms: PairTerms) -> None:
        for site in terms.latents:
            if not self.freezes_guide and is_point(site.q) and site.value.requires_grad:
                raise UnsupportedObjective(
                    f"the guide's site '{site.name}' is a point that depends on a parameter by itself, as in "
                    "AutoStructured, so `log q` at a fixed sample does not have it; use `IWAE` or `ELBO`"
                )

    def estimate(self, terms: PairTerms) -> Estimate:
        """The value, the importance-weighted bound, and a surrogate with the guide's gradient."""
        log_weights = self.integrand(terms)
        self._refuse_points(terms)
        if self.freezes_guide:
            require_reparameterized(terms, self.gradient, f'gradient="{self.gradients[0]}"')
        constant = log_weights.detach()
        surrogate = weighted(terms, log_weights, self.coefficients(constant))
        plain = self.plain(terms, log_weights).detach()
        value = self.optimised(terms, constant).detach()
        return Estimate(bounds.iwae(plain), value, surrogate, terms.scale, terms)
