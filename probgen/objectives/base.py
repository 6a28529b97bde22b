"""What every objective shares: it runs a pair, bounds log p(x), and gives a loss with the right gradient."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.infer
import torch
from torch import Tensor, nn

from probgen.errors import ArgumentError, UnsupportedObjective, nearest
from probgen.objectives.gradients import require_reparameterized, score_function
from probgen.programs import PairTerms, RunOptions, trace_pair
from probgen.programs.guard import guarded
from probgen.programs.nonfinite import not_finite, require_defined
from probgen.programs.param_scope import Program, owner_of
from probgen.programs.run import check_num_particles, guess_max_plate_nesting
from probgen.validation import tracing


@dataclass(frozen=True)
class Estimate:
    """One estimate of an objective on one minibatch, in nats.

    Attributes:
        bound: the plain bound on log p(x), ``[batch]``, without gradient.
        value: the objective that is maximised, ``[batch]``, without gradient; differs from ``bound`` if regularised.
        surrogate: ``[batch]``; its gradient estimates that of the expectation of ``value``.
        scale: what multiplies each datum: the subsampling factor N/B times a scale shared by all sites.
    """

    bound: Tensor
    value: Tensor
    surrogate: Tensor
    scale: Tensor | float

    @property
    def loss(self) -> Tensor:
        """Minus the scaled sum of ``value`` over the batch, with the gradient of the surrogate."""
        if self.value is self.surrogate:
            return -(self.surrogate * self.scale).sum()
        gradient = self.surrogate - self.surrogate.detach()  # 0 in value; NaN where the surrogate is infinite
        gradient = torch.where(torch.isfinite(self.surrogate.detach()), gradient, 0.0)
        return -((self.value + gradient) * self.scale).sum()


@dataclass(frozen=True)
class Loss:
    """What a player minimises, and what it tells about it.

    Attributes:
        total: a scalar with a gradient.
        report: detached scalars by name, per datum, among them ``loss``; ``bound`` where there is one, in nats.
    """

    total: Tensor
    report: dict[str, Tensor]


@dataclass(frozen=True)
class Player:
    """One side of an objective: it alone takes the gradient of ``loss`` and steps ``parameters``.

    Attributes:
        name: by which optimizers and metrics refer to it.
        loss: arguments of the programs -> :class:`Loss`.
        parameters: unconstrained leaf tensors by name.
        steps: optimizer steps each time it is its turn.
    """

    name: str
    loss: Callable[..., Loss]
    parameters: dict[str, Tensor]
    steps: int = 1


class Objective(pyro.infer.ELBO):
    """Base of all objectives; a subclass says how particles combine to a bound, and which gradients are right.

    Args:
        num_particles: samples of the guide per datum.
        gradient: the gradient estimator, one of the class's ``gradients``.
        vectorize_particles: run all particles at once, in a plate left of all others. The default, other than
            Pyro's: it is several times as fast, and declared plates are what makes it right.
        max_plate_nesting: how deep the programs' plates nest; guessed by a trial run where infinite.
    """

    gradients: ClassVar[tuple[str, ...]] = ("auto", "pathwise")
    refused: ClassVar[dict[str, str]] = {}  # known estimators that are wrong here -> why, and what is right

    def __init__(
        self,
        *,
        num_particles: int = 1,
        gradient: str = "auto",
        vectorize_particles: bool = True,
        max_plate_nesting: float = math.inf,
    ) -> None:
        super().__init__(num_particles=check_num_particles(num_particles))
        self.max_plate_nesting = max_plate_nesting
        self.vectorize_particles = vectorize_particles
        self.gradient = gradient
        if gradient in self.refused:
            raise UnsupportedObjective(f'{type(self).__name__} with `gradient="{gradient}"`: {self.refused[gradient]}')
        if gradient not in self.gradients:
            raise ArgumentError(
                f"unknown `gradient={gradient!r}` for {type(self).__name__}; {nearest(str(gradient), self.gradients)}"
            )
        self._pair: PairLoss | None = None
        self._steps = 0  # of `pyro.infer.SVI`, which has no other memory of them

    def combine(self, integrand: Tensor) -> Tensor:
        """The bound of K particles, axis 0; the rest unreduced."""
        raise NotImplementedError

    def integrand(self, terms: PairTerms) -> Tensor:
        """What is combined over particles, ``[K, batch]``: by default the log-weights."""
        terms.require_importance_weights()
        return terms.log_weights

    def plain(self, terms: PairTerms, integrand: Tensor) -> Tensor:
        """The integrand of the plain bound on log p(x): without what regularises or scales some sites."""
        return integrand if terms.unscaled is None else self.integrand(terms.unscaled)

    def path_weights(self, integrand: Tensor) -> Tensor | None:
        """What multiplies the gradient through each sample, ``[K, batch]``, beyond the particle's own weight."""
        return None

    def group(self, integrand: Tensor) -> Tensor:
        """``[K, batch]`` with more batch dimensions in front, over which bounds are averaged."""
        return integrand

    def reduce(self, grouped: Tensor) -> Tensor:
        """Averages what :meth:`group` has added."""
        return grouped

    @property
    def freezes_guide(self) -> bool:
        """Whether the guide is run again with frozen parameters."""
        return self.gradient in ("stl", "dreg")

    def estimate(self, terms: PairTerms) -> Estimate:
        """The bound, and a surrogate with its gradient, from the terms of one run.

        Raises:
            UnsupportedObjective: this gradient or bound would be wrong for these terms.
        """
        integrand = self.integrand(terms)
        grouped = self.group(integrand)
        surrogate = self.reduce(self._surrogate(terms, grouped))
        is_value = surrogate if self._pathwise(terms) else None
        value = is_value if is_value is not None else self.reduce(self.combine(grouped)).detach()
        plain = self.plain(terms, integrand)
        bound = value if plain is integrand else self.reduce(self.combine(self.group(plain)))
        return Estimate(bound=bound.detach(), value=value, surrogate=surrogate, scale=terms.scale)

    def _pathwise(self, terms: PairTerms) -> bool:
        return self.gradient != "auto" or all(site.reparameterized for site in terms.latents)

    def _surrogate(self, terms: PairTerms, grouped: Tensor) -> Tensor:
        if self.gradient != "auto":
            require_reparameterized(terms, self.gradient, 'gradient="auto", which uses the score function there')
        if self.freezes_guide and (weights := self.path_weights(grouped.detach())) is not None:
            flat = self.ungroup(weights)
            for site in terms.latents:
                site.scale_gradient(flat)
        if self._pathwise(terms):
            return self.combine(grouped)
        scores = [site.score for site in terms.latents if not site.reparameterized and site.score is not None]
        return score_function(self.combine, grouped, self.group(torch.stack(scores).sum(0)))

    def ungroup(self, grouped: Tensor) -> Tensor:
        """The inverse of :meth:`group`."""
        return grouped

    def __call__(  # type: ignore[override]  # Pyro takes modules alone
        self, model: Program, guide: Program | None = None
    ) -> "PairLoss":
        """The loss of this pair as an ``nn.Module``, with parameters kept apart from every other pair's."""
        return PairLoss(self, model, guide)

    def bound(self, model: Program, guide: Program | None, *args: Any, **kwargs: Any) -> Tensor:
        """The plain bound per datum, ``[batch]``, in nats, without gradient."""
        return self._bound_to(model, guide).bound(*args, **kwargs)

    def differentiable_loss(self, model: Program, guide: Program | None, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, summed over the batch; under Pyro's own parameter store."""
        return self._bound_to(model, guide).loss_from(args, kwargs, private=False)

    def loss(self, model: Program, guide: Program | None, *args: Any, **kwargs: Any) -> float:
        """The loss as a number, without gradient; what ``pyro.infer.SVI.evaluate_loss`` calls."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Program, guide: Program | None, *args: Any, **kwargs: Any) -> float:
        """The loss as a number, its gradient added to the parameters; what ``pyro.infer.SVI.step`` calls."""
        self.at_step(self._steps)
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        self._steps += 1
        return loss.item()

    def at_step(self, step: int) -> None:
        """Sets what follows a schedule to its value at a step, from 0; called before each step.

        :class:`probgen.SVI` calls it with its own count, ``pyro.infer.SVI`` with that of the objective: with a schedule
        each of Pyro's loops needs an objective of its own.
        """

    def players(self, pair: "PairLoss", parameters: dict[str, Tensor]) -> Sequence[Player]:
        """Who trains what, in order; here one player, who trains all ``parameters`` of the pair."""
        return (Player("pair", pair.player_loss, parameters),)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError("traces are read in probgen.programs alone")  # abstract in pyro.infer.ELBO

    def _bound_to(self, model: Program, guide: Program | None) -> "PairLoss":
        if self._pair is None or self._pair.model != model or self._pair.guide != guide:
            self._pair = PairLoss(self, model, guide)
        return self._pair

    def __repr__(self) -> str:
        count = getattr(self, "particle_groups", self.num_particles)
        return f"{type(self).__name__}(num_particles={count}, gradient={self.gradient!r})"


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
            terms = self.terms_from(args, kwargs)
            bound = self.objective.estimate(terms).bound
            require_defined(bound, self.model, self.guide, args, kwargs, terms)
        return bound

    def loss_from(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, private: bool = True) -> Tensor:
        """As calling the module, with the arguments of :meth:`terms_from`."""
        if tracing():
            return self.objective.estimate(self.terms_from(args, kwargs, private=private)).loss
        with guarded(self.model, self.guide, args, kwargs):
            terms = self.terms_from(args, kwargs, private=private)
            loss = self.objective.estimate(terms).loss
            require_finite_loss(self, loss, args, kwargs, terms)
        return loss

    def estimate(self, *args: Any, **kwargs: Any) -> Estimate:
        """Runs the pair and estimates the objective; see :class:`Estimate`."""
        return self.estimate_from(args, kwargs)

    def estimate_from(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, private: bool = True, validate: bool = True
    ) -> Estimate:
        """As :meth:`estimate`, with the arguments of :meth:`terms_from`."""
        return self.objective.estimate(self.terms_from(args, kwargs, private=private, validate=validate))

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
        traced = tracing()
        frozen = self.objective.freezes_guide and torch.is_grad_enabled()
        options = RunOptions(
            num_particles=self.objective.num_particles,
            vectorize_particles=self.objective.vectorize_particles,
            max_plate_nesting=self._max_plate_nesting(args, kwargs, validate=not traced),
            freeze_guide=frozen,
            private=private,
            validate=validate and not traced,
            check_frozen=frozen and not self._checked_frozen and not traced,
        )
        terms = trace_pair(self.model, self.guide, args, kwargs, options)
        self._checked_frozen |= options.check_frozen
        return terms

    def _max_plate_nesting(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, validate: bool) -> float:
        vectorized = self.objective.vectorize_particles and self.objective.num_particles > 1
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
