r"""The exact gradient of what an objective minimises in expectation, written down once more and by hand.

Nothing here uses the objectives, their bounds or their estimators. An expectation over K particles is the sum over all
K-tuples of a problem's states, differentiated by autograd in float64; a self-normalised gradient is the expectation of
its own formula at K. What a wrong formula would do to both sides alike is held by the limits of many particles, which
are gradients of other integrals.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from probgen.testing.problems.base import Problem, States, namespace

Bound = Callable[[Tensor], Tensor]

# --- bounds of K log-weights, axis 0 -----------------------------------------------------------------------------


def mean_bound(log_weights: Tensor) -> Tensor:
    """ELBO: the mean."""
    return log_weights.mean(0)


def log_mean_bound(log_weights: Tensor) -> Tensor:
    """IWAE: the logarithm of the mean weight."""
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def renyi_bound(alpha: float) -> Bound:
    """Rényi: the logarithm of the mean of powers of weights."""
    return lambda log_weights: log_mean_bound((1 - alpha) * log_weights) / (1 - alpha)


def mixed_bound(beta: float) -> Bound:
    """CIWAE: between ELBO and IWAE."""
    return lambda log_weights: beta * mean_bound(log_weights) + (1 - beta) * log_mean_bound(log_weights)


# --- coefficients of self-normalised gradients, axis 0 -----------------------------------------------------------


def wake_coefficients(log_weights: Tensor) -> Tensor:
    """RWS and EUBO: the weights, which sum to 1."""
    return torch.softmax(log_weights, 0)


def chi_coefficients(n: float) -> Bound:
    """CUBO: the share of each particle in the sum of n-th powers of weights, times (n - 1) / n."""
    return lambda log_weights: (n - 1) / n * torch.softmax(n * log_weights, 0)


def thermodynamic_coefficients(temperatures: Sequence[float], side: str, program: str) -> Bound:
    """TVO: of ``grad log p`` (``program="model"``) or ``grad log q`` in the gradient of the Riemann sum."""

    def coefficients(log_weights: Tensor) -> Tensor:
        total = torch.zeros_like(log_weights)
        for low, high in itertools.pairwise(temperatures):
            b = low if side == "left" else high
            w = torch.softmax(b * log_weights, 0)
            centred = w * (log_weights - (w * log_weights).sum(0))
            total = total + (high - low) * (w + b * centred if program == "model" else (1 - b) * centred - w)
        return total

    return coefficients


# --- one datum ---------------------------------------------------------------------------------------------------


class Datum:
    """A problem's densities at one datum, as functions of parameters.

    Args:
        problem: whose densities.
        leaves: parameters by full name.
        x: the datum.
    """

    def __init__(self, problem: Problem, leaves: dict[str, Tensor], x: Tensor) -> None:
        self.problem = problem
        self.p: SimpleNamespace = namespace(leaves)
        self.x = x

    def states(self, particles: int) -> States:
        """The guide's states for K-tuples."""
        return self.problem.states(self.p, self.x, particles)

    def log_joint(self, values: Any) -> Tensor:
        """``log p(x, z)``."""
        return self.problem.log_prior(self.p, values) + self.problem.log_likelihood(self.p, values, self.x)

    def log_guide(self, values: Any) -> Tensor:
        """``log q(z | x)``."""
        return self.problem.log_guide(self.p, values, self.x)

    def log_weights(self, states: States, beta: float = 1.0) -> Tensor:
        """``log p(x | z) + beta (log p(z) - log q(z | x))``."""
        prior = self.problem.log_prior(self.p, states.values)
        kept = self.problem.log_likelihood(self.p, states.values, self.x)
        return kept + beta * (prior - self.log_guide(states.values))


def tuples(values: Tensor, particles: int) -> Tensor:
    """``[S]`` as ``[K, S, ..., S]``: entry k of every K-tuple of states."""
    views = [values.reshape([-1 if axis == k else 1 for axis in range(particles)]) for k in range(particles)]
    return torch.stack(torch.broadcast_tensors(*views))


# --- what is minimised: scalars whose gradients are the exact ones -----------------------------------------------

Loss = Callable[[Datum], Tensor]


def minus_expected(bound: Bound, particles: int, beta: float = 1.0) -> Loss:
    """Minus the expected bound of K particles."""

    def loss(datum: Datum) -> Tensor:
        states = datum.states(particles)
        probability = tuples(states.log_prob, particles).sum(0).exp()
        return -(probability * bound(tuples(datum.log_weights(states, beta), particles))).sum()

    return loss


def self_normalised(coefficients: Bound, particles: int, program: str, sign: float = -1.0) -> Loss:
    """``sign E sum_k c_k(l) grad log q(z_k)`` at fixed z, or of ``log p(x, z_k)`` for the model."""

    def loss(datum: Datum) -> Tensor:
        with torch.no_grad():
            states = datum.states(particles)
            weights = tuples(datum.log_weights(states), particles)
            shares = tuples(states.log_prob, particles).sum(0).exp() * coefficients(weights)  # [K, S, ..., S]
            by_state = sum(_kept(shares[k], k) for k in range(particles))  # [S]
        return sign * (by_state * (datum.log_joint if program == "model" else datum.log_guide)(states.values)).sum()

    return loss


def _kept(array: Tensor, axis: int) -> Tensor:
    """Sums all axes but one."""
    return array.movedim(axis, 0).flatten(1).sum(1) if array.dim() > 1 else array


def minus_expected_free(limit: float, per: str, beta: float = 1.0) -> Loss:
    """Minus the expected log-likelihood, plus divergences of at least ``limit`` for each dimension or each site."""

    def loss(datum: Datum) -> Tensor:
        states, fine = datum.states(1), datum.problem.kl_states(datum.p, datum.x)
        kept = datum.problem.log_likelihood(datum.p, states.values, datum.x)
        divergences = datum.problem.kl_dimensions(datum.p, fine.values, datum.x)
        groups = divergences if per == "dimension" else _by_site(divergences, datum.problem)
        limited = sum(kl.clamp(min=limit) for kl in groups)
        return beta * (fine.log_prob.exp() * limited).sum() - (states.log_prob.exp() * kept).sum()

    return loss


def _by_site(divergences: list[Tensor], problem: Problem) -> list[Tensor]:
    """Divergences of dimensions as those of sites."""
    found, rest = [], list(divergences)
    for count in problem.dimensions or (1,) * len(problem.sites):
        found.append(sum(rest[1:count], rest[0]))
        rest = rest[count:]
    return found


def relaxed_elbo(gradient: str, temperature: float, beta: float = 1.0) -> Loss:
    """Minus the expected ELBO of the relaxed model, or of hard samples with the gradient of their means."""

    def loss(datum: Datum) -> Tensor:
        log_prob, kept, divergence = datum.problem.relaxed(datum.p, datum.x, gradient, temperature)
        return -(log_prob.exp() * (kept - beta * divergence)).sum()

    return loss


def sleep(datum: Datum) -> Tensor:
    """``-E_p(x, z) log q(z | x)``: the guide on the model's own data."""
    with torch.no_grad():
        states = datum.problem.generated(datum.p)
    return -(states.log_prob.exp() * datum.problem.log_guide(datum.p, states.values, states.observed)).sum()


# --- limits of many particles ------------------------------------------------------------------------------------


def _tilted(datum: Datum, power: float) -> tuple[Tensor, Tensor, States]:
    """``log E_q[w^power]``, the log-weights, and the states."""
    states = datum.states(1)
    weights = datum.log_weights(states)
    return torch.logsumexp(states.log_prob + power * weights, 0), weights, states


def minus_evidence(datum: Datum) -> Tensor:
    """``-log p(x)``."""
    return -_tilted(datum, 1.0)[0]


def chi_bound(n: float) -> Loss:
    """CUBO itself."""
    return lambda datum: _tilted(datum, n)[0] / n


def evidence_upper_bound(datum: Datum) -> Tensor:
    """EUBO: the posterior's mean of the log-weight."""
    total, weights, states = _tilted(datum, 1.0)
    return ((states.log_prob + weights - total).exp() * weights).sum()


def thermodynamic_sum(temperatures: Sequence[float], side: str) -> Loss:
    """The Riemann sum over temperatures; minus it for the left side, a lower bound."""

    def loss(datum: Datum) -> Tensor:
        result = torch.zeros((), dtype=torch.float64)
        for low, high in itertools.pairwise(temperatures):
            b = low if side == "left" else high
            total, weights, states = _tilted(datum, b)
            result = result + (high - low) * ((states.log_prob + b * weights - total).exp() * weights).sum()
        return -result if side == "left" else result

    return loss


# --- references --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """What an objective minimises, in expectation.

    Attributes:
        key: names it; references of one key are one.
        kind: ``"unbiased"``, ``"consistent"`` (its own expectation at K) or ``"surrogate"`` (of a relaxed model).
        theta: for the model's parameters.
        phi: for the guide's parameters.
        limits: (theta, phi) as K grows without bound, for consistent ones.
        at: the same reference for another number of particles, for consistent ones.
    """

    key: str
    kind: str
    theta: Loss
    phi: Loss
    limits: tuple[Loss, Loss] | None = None
    at: "Callable[[int], Reference] | None" = None


def exact_gradient(problem: Problem, reference: Reference) -> dict[str, Tensor]:
    """The exact gradient of the expected loss by the full name of each parameter, for the problem's structure."""
    sides = {"theta": reference.theta, "phi": reference.phi}
    return _summed(problem, reference.key, sides)


def limit_gradient(problem: Problem, reference: Reference) -> dict[str, Tensor]:
    """As :func:`exact_gradient`, for infinitely many particles."""
    if reference.limits is None:
        return exact_gradient(problem, reference)
    return _summed(
        problem,
        f"limit of {reference.key.rpartition(', ')[0]}",
        dict(zip(("theta", "phi"), reference.limits, strict=True)),
    )


_known: dict[tuple[str, str, int], dict[str, Tensor]] = {}


def _summed(problem: Problem, key: str, sides: dict[str, Loss]) -> dict[str, Tensor]:
    weights = problem.structure.weights(len(problem.data))
    parts = [(weight, _of_datum(problem, key, sides, index)) for index, weight in enumerate(weights) if weight]
    return {name: sum(weight * part[name] for weight, part in parts) for name in parts[0][1]}  # type: ignore[misc]


def _of_datum(problem: Problem, key: str, sides: dict[str, Loss], index: int) -> dict[str, Tensor]:
    known = (problem.name, key, index)
    if known not in _known:
        found: dict[str, Tensor] = {}
        for side, loss in sides.items():
            leaves = problem.parameters()
            chosen = {n: v for n, v in leaves.items() if n.startswith("model." if side == "theta" else "guide.")}
            value = loss(Datum(problem, leaves, problem.tensors()[index]))
            found |= dict(zip(chosen, _gradients(value, list(chosen.values())), strict=True))
        _known[known] = found
    return _known[known]


def _gradients(value: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
