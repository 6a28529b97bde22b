"""An objective tied to a pair of programs."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from probgen.errors import ProgramError
from probgen.objectives.base import Estimate, Loss, Objective
from probgen.objectives.elbo_gradients import check_antithetic
from probgen.programs import PairTerms, RunOptions, trace_pair
from probgen.programs.guard import guarded
from probgen.programs.nonfinite import not_finite, require_defined
from probgen.programs.param_scope import Program, owner_of
from probgen.programs.run import guess_max_plate_nesting, parameters_by_side, trial_terms
from probgen.programs.sampling import ANTITHETIC, ENUMERATED, PROBED, Sampling, enumeration
from probgen.validation import tracing

PROBES = 16  # particles of fair coins: what depends on one of them stays unseen once in 2^15


class PairLoss(nn.Module):
    """An objective tied to a pair: ``pair(*args)`` is a loss, minus the bound summed over the batch.

    Attributes:
        objective: the objective.
        model: the model; its parameters are this module's where it is an ``nn.Module``.
        guide: the guide, likewise, or None.
    """

    def __init__(self, objective: Objective, model: Program, guide: Program | None) -> None:
        super().__init__()
        self.objective = objective
        self.model = model
        self.guide = guide
        for side, program in (("model", model), ("guide", guide)):
            owner = owner_of(program)
            if owner is not program and isinstance(owner, nn.Module):  # of a bound method, say
                self.add_module(f"{side}_owner", owner)
        self._nesting = objective.max_plate_nesting
        self._checked_frozen = False
        self._sampling: Sampling | None = None
        self._probed = False
        self._sampled_shapes: tuple[torch.Size, ...] | None = None
        self._sides: tuple[list[Tensor], list[Tensor]] | None = None
        self._others: dict[int, PairLoss] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The differentiable loss on one minibatch.

        Raises:
            ProbgenError: the pair does not fit together or the batch; generators, buffers and Pyro's store are left
                as they were.
            DataError, DivergedError: the loss is not finite; names the first bad parameter, number or site.
        """
        return self.loss_from(args, kwargs)

    def player_loss(self, *args: Any, **kwargs: Any) -> Loss:
        """As calling the module, on values that have been checked before."""
        estimate = self.estimate_from(args, kwargs, validate=False)
        return Loss(estimate.loss, {"loss": -estimate.value.detach().mean(), "bound": estimate.bound.mean()})

    def bound(self, *args: Any, **kwargs: Any) -> Tensor:
        """The plain bound per datum, ``[batch]``, in nats, without gradient."""
        with torch.no_grad(), guarded(self.model, self.guide, args, kwargs):
            estimate = self.objective.evaluate(self, args, kwargs)
            require_defined(estimate.bound, self.model, self.guide, args, kwargs, estimate.terms)
        return estimate.bound

    def loss_from(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, private: bool = True) -> Tensor:
        """As calling the module, with the arguments of :meth:`terms_from`."""
        if tracing():
            return self.objective.evaluate(self, args, kwargs, private=private).loss
        with guarded(self.model, self.guide, args, kwargs):
            estimate = self.objective.evaluate(self, args, kwargs, private=private)
            loss = estimate.loss
            require_finite_loss(self, loss, args, kwargs, estimate.terms)
        return loss

    def estimate(self, *args: Any, **kwargs: Any) -> Estimate:
        """Runs the pair and estimates the objective; see :class:`Estimate`."""
        return self.estimate_from(args, kwargs)

    def estimate_from(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, private: bool = True, validate: bool = True
    ) -> Estimate:
        """As :meth:`estimate`, with the arguments of :meth:`terms_from`."""
        return self.objective.evaluate(self, args, kwargs, private=private, validate=validate)

    def terms(self, *args: Any, **kwargs: Any) -> PairTerms:
        """Runs the pair as the objective needs it."""
        return self.terms_from(args, kwargs)

    def terms_from(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, private: bool = True, validate: bool = True
    ) -> PairTerms:
        """Runs the pair as the objective needs it.

        Args:
            args: passed to both programs.
            kwargs: likewise, whatever their names are.
            private: keep parameters apart from every other pair's; False is Pyro's own store.
            validate: check observed values against their supports.
        """
        options = self.options_for(args, kwargs, private=private, validate=validate)
        terms = trace_pair(self.model, self.guide, args, kwargs, options)
        self._checked_frozen |= options.check_frozen
        return terms

    def options_for(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, private: bool = True, validate: bool = True
    ) -> RunOptions:
        """How the objective has this pair run."""
        traced = tracing()
        frozen = self.objective.freezes_guide and torch.is_grad_enabled()
        sampling = self._sampling_of(args, kwargs)
        count = self.objective.num_particles * sampling.num_states
        return RunOptions(
            num_particles=count,
            vectorize_particles=self.objective.vectorize_particles,
            max_plate_nesting=self._max_plate_nesting(count, args, kwargs, validate=not traced),
            freeze_guide=frozen,
            private=private,
            validate=validate and not traced,
            check_frozen=frozen and not self._checked_frozen and not traced,
            sampling=sampling,
        )

    def _sampling_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sampling:
        """How the guide's sites are sampled; what the objective says of single sites is checked by a trial run."""
        asked = self.objective.sampling
        if not asked.sites and asked.default not in (ENUMERATED, ANTITHETIC):
            return asked
        shapes = tuple(v.shape for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
        if self._sampling is None or self._sampled_shapes != shapes:
            self._sampled_shapes = shapes
            terms = trial_terms(self.model, self.guide, args, kwargs)
            asked.check_names(site.name for site in terms.latents)
            sampling = enumeration(asked, terms.latents)
            if ANTITHETIC in (sampling.default, *sampling.sites.values()) and not (self._probed or tracing()):
                self._probed = True
                nesting = self._max_plate_nesting(PROBES, args, kwargs, validate=False)
                probe = RunOptions(
                    num_particles=PROBES,
                    max_plate_nesting=nesting,
                    sampling=sampling.with_mode(ANTITHETIC, PROBED),
                    validate=False,
                )
                check_antithetic(trial_terms(self.model, self.guide, args, kwargs, probe))
            self._sampling = sampling
        return self._sampling

    def other(self, objective: Objective) -> "PairLoss":
        """The same pair under another objective."""
        if id(objective) not in self._others:
            self._others[id(objective)] = PairLoss(objective, self.model, self.guide)
        return self._others[id(objective)]

    def sides(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, anew: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """(the trained tensors of the model, those of the guide), found by a trial run the first time, or ``anew``.

        Raises:
            UnsupportedObjective: model and guide share a tensor.
        """
        if self._sides is None or anew:
            self._sides = parameters_by_side(self.model, self.guide, args, kwargs)
        return self._sides

    def sides_of(self, parameters: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """``parameters`` by the side they belong to, once :meth:`sides` has found them.

        Raises:
            ProgramError: the pair has not been run yet.
        """
        if self._sides is None:
            raise ProgramError("run the objective once on a batch before asking for its players")
        model, guide = ({id(value) for value in side} for side in self._sides)
        return (
            {name: value for name, value in parameters.items() if id(value) in model},
            {name: value for name, value in parameters.items() if id(value) in guide},
        )

    def _max_plate_nesting(self, count: int, args: tuple[Any, ...], kwargs: dict[str, Any], *, validate: bool) -> float:
        vectorized = self.objective.vectorize_particles and count > 1
        if vectorized and math.isinf(self._nesting):
            self._nesting = guess_max_plate_nesting(self.model, self.guide, args, kwargs, validate=validate)
        return self._nesting


def require_finite_loss(
    pair: PairLoss, loss: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], terms: PairTerms
) -> None:
    """Refuses a loss that is NaN or infinite.

    Raises:
        DataError, DivergedError: naming the first bad parameter, number or site.
    """
    if not math.isfinite(value := loss.item()):
        raise not_finite(f"the loss is {value}", pair.model, pair.guide, args, kwargs, terms)
