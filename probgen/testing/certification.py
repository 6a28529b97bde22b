"""Certification: an objective's gradients against exact ones, with a stated chance of error."""

import math
from typing import Any

import torch
from torch import Tensor

from probgen.errors import ArgumentError, ArgumentTypeError
from probgen.testing.certificate import (
    BLOCKS,
    EXACT,
    PLAYERS,
    PRECISE,
    SCORE,
    Certificate,
    critical_t,
    player_certificates,
    seen_t,
)
from probgen.testing.problems import Problem
from probgen.testing.reference import Reference, exact_gradient, limit_gradient
from probgen.testing.references import reference_for, uses_score
from probgen.testing.replicates import CHUNK, Replicator, replicator

PILOT = 4 * CHUNK
MARGIN = 1.15  # replicates beyond what the pilot run asks for, whose own error is a few percent
VANISHING = 1e-6  # of the largest entry: what quadrature leaves of a gradient that is 0
QUADRATURE = 2e-5  # error of a reference that is not a finite sum, relative to its norm; held by a test


def certify(
    objective: Any,
    problem: Problem,
    *,
    reference: Reference | None = None,
    limit: float | None = None,
    seed: int = 0,
    max_replicates: int = 50_000_000,
) -> Certificate:
    r"""Compares the mean of an objective's gradient with the exact gradient of what it minimises in expectation.

    For every parameter, t is the distance in standard errors; a bias is found where ``|t|`` exceeds what a whole table
    of certificates exceeds by chance once in a million times. The smallest bias that would have been found with
    probability 0.999 must be at most 2 % of the norm of the exact gradient, theta and phi apart; 5 % for score
    functions.

    Args:
        objective: of :mod:`probgen.objectives`, or of :mod:`probgen.numpyro` on a problem with ``backend="numpyro"``.
        problem: one of :mod:`probgen.testing.problems`.
        reference: what the objective minimises; by default found from the name of its class and its arguments.
        limit: the largest bias that may go unseen, as a share of the norm; by default 2 % or 5 %.
        seed: of the replicates; global generators are left as they were.
        max_replicates: where a certification ends as inconclusive.

    Returns:
        The certificate; ``certificate.passed`` says whether the gradient is right, ``print(certificate)`` why.

    Raises:
        UnsupportedObjective: the objective refuses the problem, which is no failure.
        ArgumentError: no reference is known for the objective.

    Example:
        >>> from probgen.objectives import ELBO
        >>> from probgen.testing.problems import Logistic
        >>> certify(ELBO(), Logistic("plate")).verdict
        'certified'
    """
    if not isinstance(problem, Problem):
        raise ArgumentTypeError(
            "`problem` must be one of `probgen.testing.problems`, built with a structure, such as "
            f'`Logistic("plate")`, got {problem!r}; for a pair of your own use `check_objective` or `gradient_report`'
        )
    reference = reference or reference_for(objective)
    limit = limit or (SCORE if uses_score(objective, problem) else PRECISE)
    source = replicator(objective, problem)
    names = [f"{name}[{i}]" for name, shape in source.shapes.items() for i in range(math.prod(shape))]
    exact = _flat(exact_gradient(problem, reference), source)
    _require_gradients(names, exact)
    slack = _slack(problem, names, exact)
    means, errors, replicates, blocks = _sample(source, names, exact, slack, limit, seed, max_replicates)
    distances = _limit_distances(problem, reference) if reference.limits else {}
    return Certificate(
        objective=repr(objective),
        problem=problem.label,
        kind=reference.kind,
        players=player_certificates(
            names, exact.tolist(), means.tolist(), errors.tolist(), max(blocks - 1, 1), slack, distances
        ),
        replicates=replicates,
        blocks=blocks,
        critical=critical_t(max(blocks - 1, 1)),
        limit=limit,
        seed=seed,
    )


def _require_gradients(names: list[str], exact: Tensor) -> None:
    """Refuses a player whose exact gradient is 0: no bias is a share of that."""
    for prefix in ("model.", "guide."):
        own = [value for name, value in zip(names, exact.tolist(), strict=True) if name.startswith(prefix)]
        if own and max(map(abs, own)) < VANISHING * float(exact.abs().max()):
            raise ArgumentError(
                f"the exact gradient of the {prefix[:-1]}'s parameters is 0 here, so that no share of it can be "
                "certified (self-normalised gradients vanish with one particle); use more particles"
            )


def _flat(gradients: dict[str, Tensor], source: Replicator) -> Tensor:
    return torch.cat([gradients[name].reshape(-1) for name in source.shapes])


def _slack(problem: Problem, names: list[str], exact: Tensor) -> dict[str, float]:
    """By player, how far the exact gradient itself may be off."""
    share = 0.0 if problem.discrete else QUADRATURE
    return {
        player: max(EXACT, share * float(exact[_chosen(names, prefix)].norm())) for player, prefix in PLAYERS.items()
    }


def _chosen(names: list[str], prefix: str) -> Tensor:
    return torch.tensor([name.startswith(prefix) for name in names])


# --- replicates --------------------------------------------------------------------------------------------------


def _sample(
    source: Replicator,
    names: list[str],
    exact: Tensor,
    slack: dict[str, float],
    limit: float,
    seed: int,
    max_replicates: int,
) -> tuple[Tensor, Tensor, int, int]:
    """(means, standard errors, replicates, blocks), with enough replicates to see a bias of ``limit``."""
    if not source.random:
        single = source.draw(1, seed)[0]
        return single, torch.zeros_like(single), 1, 1
    pilot = torch.cat([source.draw(CHUNK, seed + i) for i in range(PILOT // CHUNK)])
    deviations = pilot.std(0)
    chunks = max(1, math.ceil(_needed(deviations, names, exact, slack, limit) * MARGIN / CHUNK))
    blocks = _Blocks(source, chunks, seed + 100_000)  # apart from the pilot's
    while True:
        blocks.extend(min(chunks, max_replicates // CHUNK) - blocks.chunks)
        means, errors = blocks.means, blocks.errors
        wanted = _needed(errors * math.sqrt(blocks.replicates), names, exact, slack, limit)
        if wanted <= blocks.replicates or blocks.replicates + CHUNK > max_replicates:
            return means, errors, blocks.replicates, blocks.count
        chunks = math.ceil(wanted * MARGIN / CHUNK)


def _needed(deviations: Tensor, names: list[str], exact: Tensor, slack: dict[str, float], limit: float) -> float:
    """How many replicates make the smallest bias that is seen at most ``limit`` of each player's norm."""
    largest = 0.0
    for player, prefix in PLAYERS.items():
        chosen = _chosen(names, prefix)
        noise, norm = float(deviations[chosen].norm()), float(exact[chosen].norm())
        allowed = limit * norm - slack[player] * math.sqrt(int(chosen.sum()))
        if noise > 0:
            largest = max(largest, (seen_t(BLOCKS) * noise / allowed) ** 2 if allowed > 0 else math.inf)
    return min(largest, 1e15)


class _Blocks:
    """Means of equal blocks of replicates, at least ``BLOCKS`` of them from the first call on."""

    def __init__(self, source: Replicator, chunks: int, seed: int) -> None:
        self._source, self._seed = source, seed
        per_chunk = next(d for d in range(1, CHUNK + 1) if CHUNK % d == 0 and d * chunks >= BLOCKS)
        self._size = CHUNK // per_chunk
        self._means: list[Tensor] = []
        self.chunks = 0

    def extend(self, chunks: int) -> None:
        """Draws more."""
        for _ in range(chunks):
            drawn = self._source.draw(CHUNK, self._seed + self.chunks)
            self._means.append(drawn.reshape(-1, self._size, drawn.shape[1]).mean(1))
            self.chunks += 1

    @property
    def count(self) -> int:
        return sum(map(len, self._means))

    @property
    def replicates(self) -> int:
        return self.count * self._size

    @property
    def means(self) -> Tensor:
        return torch.cat(self._means).mean(0)

    @property
    def errors(self) -> Tensor:
        return torch.cat(self._means).std(0) / math.sqrt(self.count)


# --- consistency -------------------------------------------------------------------------------------------------


def _limit_distances(problem: Problem, reference: Reference) -> dict[str, tuple[float, ...]]:
    """By player, the distance of the exact gradient at K particles from the limit's, for K = 1, 2, ..."""
    limit = limit_gradient(problem, reference)
    found: dict[str, tuple[float, ...]] = {player: () for player in PLAYERS}
    for particles in range(1, problem.particles + 1):
        gradient = exact_gradient(problem, reference.at(particles))  # type: ignore[misc]
        for player, prefix in PLAYERS.items():
            ours, theirs = (
                torch.cat([v.reshape(-1) for n, v in g.items() if n.startswith(prefix)]) for g in (gradient, limit)
            )
            found[player] += (float((ours - theirs).norm() / theirs.norm()),)
    return found
