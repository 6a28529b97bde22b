"""What a certification has found: numbers for every parameter, and a verdict."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

FALSE_ALARM = 1e-6  # of the whole table
NUMBERS = 150_000  # in the whole table, at most: each is tested at FALSE_ALARM / NUMBERS
POWER = 0.999
EXACT = 1e-9  # absolute, of estimates without noise
PRECISE, SCORE = 0.02, 0.05  # the smallest bias that must be seen, as a share of the exact gradient's norm
BLOCKS = 1000

PLAYERS = {"theta": "model.", "phi": "guide."}


def critical_t(degrees: int) -> float:
    """The two-sided bound on Student's t of one number, for the false-alarm rate of the whole table."""
    return float(stats.t.isf(FALSE_ALARM / NUMBERS / 2, degrees))


def seen_t(degrees: int) -> float:
    """How many standard errors a bias needs to be seen with probability ``POWER``."""
    return critical_t(degrees) + float(stats.t.isf(1 - POWER, degrees))


@dataclass(frozen=True)
class PlayerCertificate:
    """One side's gradient beside the exact one, number by number.

    Attributes:
        player: ``"theta"`` (the model's parameters) or ``"phi"`` (the guide's).
        names: of the numbers, such as ``"guide.loc[0]"``.
        exact: gradient of the expected loss.
        estimate: the mean over replicates.
        standard_error: of the estimates.
        t: ``(estimate - exact) / standard_error``; 0 where both agree without noise, infinite where they do not.
        smallest_bias: what would have been seen with power 0.999, for each number.
        limit_distance: distance of the exact gradient at 1, 2, ... particles from the limit's, relative to its norm;
            empty unless the estimator is consistent only.
    """

    player: str
    names: tuple[str, ...]
    exact: tuple[float, ...]
    estimate: tuple[float, ...]
    standard_error: tuple[float, ...]
    t: tuple[float, ...]
    smallest_bias: tuple[float, ...]
    limit_distance: tuple[float, ...] = ()

    @property
    def norm(self) -> float:
        """Of the exact gradient."""
        return math.hypot(*self.exact)

    @property
    def largest_t(self) -> float:
        """The largest absolute t."""
        return max(map(abs, self.t))

    @property
    def relative_bias(self) -> float:
        """The norm of the smallest biases over the norm of the exact gradient."""
        return math.hypot(*self.smallest_bias) / self.norm if self.norm else math.inf

    @property
    def relative_error(self) -> float:
        """The norm of the standard errors over the norm of the exact gradient."""
        return math.hypot(*self.standard_error) / self.norm if self.norm else math.inf


@dataclass(frozen=True)
class Certificate:
    """The outcome of :func:`probgen.testing.certify`.

    Attributes:
        objective: as it prints itself.
        problem: backend, problem and structure.
        kind: ``"unbiased"``, ``"consistent"`` (against its own expectation) or ``"surrogate"`` (of a relaxed model).
        players: theta and phi.
        replicates: how many independent gradients were drawn; 1 where there is no noise.
        blocks: of how many block means t was computed.
        critical: bound on t.
        limit: largest allowed ``relative_bias``.
        seed: of the replicates.
    """

    objective: str
    problem: str
    kind: str
    players: tuple[PlayerCertificate, ...]
    replicates: int
    blocks: int
    critical: float
    limit: float
    seed: int

    @property
    def biased(self) -> bool:
        """Whether a bias was found."""
        return any(not player.largest_t <= self.critical for player in self.players)

    @property
    def conclusive(self) -> bool:
        """Whether a bias larger than the limit would have been seen."""
        return all(player.relative_bias <= self.limit for player in self.players)

    @property
    def passed(self) -> bool:
        """Whether the gradient is certified: no bias found, and none that matters could have hidden."""
        return not self.biased and self.conclusive

    @property
    def verdict(self) -> str:
        """``"certified"``, ``"biased"`` or ``"inconclusive"``."""
        return "biased" if self.biased else "certified" if self.conclusive else "inconclusive"

    def worst(self) -> str:
        """The number with the largest t, in words."""
        t, name, exact, estimate, error = max(
            (abs(t), name, exact, estimate, error)
            for player in self.players
            for t, name, exact, estimate, error in zip(
                player.t, player.names, player.exact, player.estimate, player.standard_error, strict=True
            )
        )
        return f"{name}: {estimate:.6g} instead of {exact:.6g}, {t:.1f} standard errors of {error:.2g} apart"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"verdict": self.verdict}

    def __str__(self) -> str:
        lines = [f"{self.objective} on {self.problem}: {self.verdict} ({self.replicates} replicates)"]
        lines += [
            f"  {player.player}: largest |t| {player.largest_t:.2f} of {self.critical:.2f} allowed, a bias of "
            f"{player.relative_bias:.2%} of the norm {player.norm:.4g} would have been seen"
            for player in self.players
        ]
        return "\n".join([*lines, f"  {self.worst()}"])


def player_certificates(
    names: list[str],
    exact: list[float],
    means: list[float],
    errors: list[float],
    degrees: int,
    slack: dict[str, float],
    distances: dict[str, tuple[float, ...]],
) -> tuple[PlayerCertificate, ...]:
    """The numbers of both players, from those of all parameters in one order.

    Args:
        names: of the numbers; ``model.…`` belong to theta, ``guide.…`` to phi.
        exact: gradient of the expected loss.
        means: of the replicates.
        errors: standard errors of the means; 0 without noise.
        degrees: of freedom.
        slack: by player, absolute error of the exact gradient itself.
        distances: by player, see :attr:`PlayerCertificate.limit_distance`.
    """
    made = []
    for player, prefix in PLAYERS.items():
        chosen = [i for i, name in enumerate(names) if name.startswith(prefix)]
        if not chosen:
            continue
        rows = [(exact[i], means[i], errors[i], slack[player]) for i in chosen]
        made.append(
            PlayerCertificate(
                player,
                tuple(names[i] for i in chosen),
                tuple(exact[i] for i in chosen),
                tuple(means[i] for i in chosen),
                tuple(errors[i] for i in chosen),
                tuple(_t(*row) for row in rows),
                tuple(seen_t(degrees) * errors[i] + slack[player] for i in chosen),
                distances.get(player, ()),
            )
        )
    return tuple(made)


def _t(exact: float, mean: float, error: float, slack: float) -> float:
    """Student's t; what the exact gradient's own error explains does not count, and zero noise excuses nothing."""
    difference = mean - exact
    excess = math.copysign(max(abs(difference) - slack, 0.0), difference)
    if excess == 0.0:
        return 0.0
    return excess / error if error > 0 else math.copysign(math.inf, excess)
