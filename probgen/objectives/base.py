"""What every objective shares: it runs a pair, bounds log p(x), and gives a loss with the right gradient."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pyro.infer
import torch
from torch import Tensor

from probgen.arguments import positive_int
from probgen.core.estimators import (
    Coefficients,
    Derivatives,
    doubly_reparameterized,
    leave_one_out,
    score_function,
    vimco,
)
from probgen.errors import ArgumentError, UnsupportedObjective, nearest
from probgen.objectives.gradients import require_reparameterized, weighted
from probgen.programs import PairTerms
from probgen.programs.param_scope import Program
from probgen.programs.sampling import DETACHED, PLAIN, Sampling

if TYPE_CHECKING:
    from probgen.objectives.pair import PairLoss

FROZEN = ("stl", "dreg", "reparameterized")  # gradients for which the guide runs again with frozen parameters
SCORED = ("score", "rloo", "vimco")  # for which every site is drawn without a path


@dataclass(frozen=True)
class Estimate:
    """One estimate of an objective on one minibatch, in nats.

    Attributes:
        bound: the plain bound on log p(x), ``[batch]``, without gradient.
        value: the objective that is maximised, ``[batch]``, without gradient; differs from ``bound`` if regularised.
        surrogate: ``[batch]``; its gradient estimates that of the expectation of ``value``.
        scale: what multiplies each datum: the subsampling factor N/B times a scale shared by all sites.
        terms: of the run.
    """

    bound: Tensor
    value: Tensor
    surrogate: Tensor
    scale: Tensor | float
    terms: PairTerms

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
        super().__init__(num_particles=positive_int("num_particles", num_particles))
        self.max_plate_nesting = max_plate_nesting
        self.vectorize_particles = vectorize_particles
        self.gradient = gradient
        self._check_gradient(gradient)
        if gradient in ("rloo", "vimco"):
            self._require_particles(gradient, 2)
        self._pair: PairLoss | None = None
        self._steps = 0  # of `pyro.infer.SVI`, which has no other memory of them

    def _check_gradient(self, gradient: object) -> None:
        name = type(self).__name__
        if isinstance(gradient, str) and gradient in self.refused:
            raise UnsupportedObjective(f'{name} with `gradient="{gradient}"`: {self.refused[gradient]}')
        if gradient not in self.gradients:
            raise ArgumentError(f"unknown `gradient={gradient!r}` for {name}; {nearest(str(gradient), self.gradients)}")

    def _require_particles(self, gradient: str, fewest: int) -> None:
        if self.num_particles < fewest:
            raise ArgumentError(
                f'`gradient="{gradient}"` takes its baseline from the other particles: `num_particles` must be at '
                f'least {fewest}, got {self.num_particles}; or use `gradient="score"`'
            )

    def combine(self, integrand: Tensor) -> Tensor:
        """The bound of K particles, axis 0; the rest unreduced."""
        raise NotImplementedError

    def derivatives(self, integrand: Tensor) -> Derivatives:
        """The bound with its derivatives by each particle's integrand, axis 0, as constants."""
        raise NotImplementedError

    def coefficients(self, integrand: Tensor) -> Coefficients:
        """What multiplies each particle's gradients, for a constant integrand ``[K, batch]``."""
        derivatives = self.derivatives(integrand)
        if self.gradient in FROZEN:
            return doubly_reparameterized(derivatives)
        return score_function(derivatives, self._baseline(integrand))

    def _baseline(self, integrand: Tensor) -> Tensor | float:
        if self.gradient == "score":
            return 0.0
        return (vimco if self.gradient == "vimco" else leave_one_out)(self.combine, integrand)

    def integrand(self, terms: PairTerms) -> Tensor:
        """What is combined over particles, ``[K, batch]``: by default the log-weights."""
        terms.require_importance_weights()
        return terms.log_weights

    def plain(self, terms: PairTerms, integrand: Tensor) -> Tensor:
        """The integrand of the plain bound on log p(x): without what regularises or scales some sites."""
        return integrand if terms.unscaled is None else self.integrand(terms.unscaled)

    @property
    def freezes_guide(self) -> bool:
        """Whether the guide is run again with frozen parameters."""
        return self.gradient in FROZEN

    @property
    def sampling(self) -> Sampling:
        """How the guide's sites are sampled."""
        return Sampling(default=DETACHED) if self.gradient in SCORED else PLAIN

    def evaluate(self, pair: "PairLoss", args: tuple[Any, ...], kwargs: dict[str, Any], **options: Any) -> Estimate:
        """Runs a pair and estimates the objective; ``options`` are those of :meth:`PairLoss.terms_from`."""
        return self.estimate(pair.terms_from(args, kwargs, **options))

    def estimate(self, terms: PairTerms) -> Estimate:
        """The bound, and a surrogate with its gradient, from the terms of one run.

        Raises:
            UnsupportedObjective: this gradient or bound would be wrong for these terms.
        """
        integrand = self.integrand(terms)
        if self.gradient not in ("auto", *SCORED):
            require_reparameterized(terms, self.gradient, self._instead())
        if self.gradient in ("auto", "pathwise") and all(site.reparameterized for site in terms.latents):
            value = surrogate = self.combine(integrand)
        else:
            value = self.combine(integrand.detach())
            surrogate = weighted(terms, integrand, self.coefficients(integrand.detach()))
        plain = self.plain(terms, integrand)
        bound = value if plain is integrand else self.combine(plain)
        return Estimate(bound.detach(), value, surrogate, terms.scale, terms)

    def _instead(self) -> str:
        scored = [f'"{name}"' for name in self.gradients if name in SCORED]
        also = f", or {' or '.join(scored)}" if scored else ""
        return f'gradient="auto", which uses the score function there{also}'

    def __call__(  # type: ignore[override]  # Pyro takes modules alone
        self, model: Program, guide: Program | None = None
    ) -> "PairLoss":
        """The loss of this pair as an ``nn.Module``, with parameters kept apart from every other pair's."""
        from probgen.objectives.pair import PairLoss

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
            self._pair = self(model, guide)
        return self._pair

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_particles={self.num_particles}, gradient={self.gradient!r})"
