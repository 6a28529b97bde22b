"""Mean and noise of a random vector from independent replicates, with errors of the jackknife over groups of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

GROUPS = 20


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error."""

    value: float
    error: float


class Moments:
    r"""Sums of replicates :math:`g_1 \ldots g_n`, from which squared norms are estimated without bias.

    .. math::
        V = \frac{1}{n-1} \sum_r \lVert g_r - \bar g \rVert^2, \quad
        \lVert E g - c \rVert^2 \approx \lVert \bar g - c \rVert^2 - V / n

    Replicates are counted from the first one, so that a gradient without noise has variance 0 exactly.
    """

    def __init__(self) -> None:
        self.count = 0
        self._first = torch.zeros(0)
        self._counts = torch.zeros(GROUPS, dtype=torch.float64)
        self._sums = torch.zeros(GROUPS, 0)
        self._squares = torch.zeros(GROUPS, dtype=torch.float64)

    def add(self, value: Tensor) -> None:
        """Another replicate, ``[P]`` of float64."""
        if self.count == 0:
            self._first = value.cpu().clone()
            self._sums = torch.zeros(GROUPS, len(value), dtype=torch.float64)
        difference = value.cpu() - self._first
        group = self.count % GROUPS
        self._counts[group] += 1
        self._sums[group] += difference
        self._squares[group] += difference @ difference
        self.count += 1

    @property
    def mean(self) -> Tensor:
        """The mean of the replicates, ``[P]``."""
        return self._first + self._sums.sum(0) / self.count

    def variance(self) -> Estimate:
        """The sum of the variances of all entries."""
        return self._jackknife(lambda count, mean, variance: variance)

    def signal(self) -> float:
        """The squared norm of the expectation; below 0 by chance where it is small."""
        mean = self.mean
        return float(mean @ mean) - self.variance().value / self.count

    def snr(self) -> Estimate:
        """The norm of the expectation, in units of the root of :meth:`variance`; infinite without noise."""

        def ratio(count: float, mean: Tensor, variance: float) -> float:
            signal = float(mean @ mean) - variance / count
            return math.sqrt(max(signal, 0.0) / variance) if variance > 0 else math.inf if signal > 0 else math.nan

        return self._jackknife(ratio)

    def distance(self, other: "Moments") -> float:
        """The squared distance between the two expectations; below 0 by chance where they agree."""
        noise = sum(moments.variance().value / moments.count for moments in (self, other) if moments.count > 1)
        difference = self.mean - other.mean
        return float(difference @ difference) - noise

    def distance_score(self, other: "Moments") -> float:
        """How many standard errors the two expectations are apart; about standard normal where they agree.

        The difference in each group is projected on that in all other groups, which are independent of it, and the
        mean of the projections is compared with their spread.
        """
        along = torch.tensor([self._projection(other, group) for group in range(GROUPS)], dtype=torch.float64)
        mean, error = float(along.mean()), float(along.std()) / math.sqrt(GROUPS)
        return mean / error if error > 0 else 0.0 if mean == 0 else math.inf

    def _projection(self, other: "Moments", group: int) -> float:
        ours, theirs = self._parted(group), other._parted(group)
        inside, outside = (a - b for a, b in zip(ours, theirs, strict=True))
        length = float(outside.norm())
        return float(inside @ outside) / length if length > 0 else 0.0

    def _parted(self, group: int) -> tuple[Tensor, Tensor]:
        """The mean within a group, and that of all others."""
        if self.count == 1:
            return self._first, self._first
        count, total = float(self._counts[group]), self._sums[group]
        rest = (self._sums.sum(0) - total) / (self.count - count)
        return self._first + total / count, self._first + rest

    def _jackknife(self, statistic: Callable[[float, Tensor, float], float | Tensor]) -> Estimate:
        """A function of (n, mean, variance) of all replicates, and its error from leaving out one group at a time."""
        total, sums, squares = float(self.count), self._sums.sum(0), float(self._squares.sum())
        if self.count == 1:
            return Estimate(float(statistic(math.inf, self._first, 0.0)), 0.0)
        whole = float(statistic(*self._moments(total, sums, squares)))
        left = [
            float(statistic(*self._moments(total - n, sums - part, squares - square)))
            for n, part, square in zip(self._counts.tolist(), self._sums, self._squares.tolist(), strict=True)
            if n > 0
        ]
        values = torch.tensor(left, dtype=torch.float64)
        spread = float(((values - values.mean()) ** 2).sum())
        return Estimate(whole, math.sqrt(spread * (len(left) - 1) / len(left)))

    def _moments(self, count: float, total: Tensor, squares: float) -> tuple[float, Tensor, float]:
        mean = total / count
        variance = max(squares - count * float(mean @ mean), 0.0) / (count - 1)
        return count, self._first + mean, variance


def exactly(value: Tensor) -> Moments:
    """The moments of a vector without noise."""
    moments = Moments()
    moments.add(value)
    return moments
