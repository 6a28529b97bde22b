"""Schedules of a hyper-parameter: functions of the integer step, which is saved state."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from probgen.arguments import positive_int
from probgen.config import build, parse_spec
from probgen.errors import ArgumentError, nearest

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class Linear:
    r"""From ``start`` to ``end`` in a straight line, and there it stays.

    .. math:: f(t) = s + (e - s) \min(1, t / T)

    Args:
        steps: T, steps until ``end``.
        start: s, the value at step 0.
        end: e, the value from step T on.

    Raises:
        ArgumentError: fewer than one step.

    Source:
        Bowman et al. (2016), Generating sentences from a continuous space, arXiv 1511.06349, for the weight of the KL.

    Example:
        >>> [Linear(steps=4)(step) for step in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
    """

    steps: int
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        positive_int("steps", self.steps)
        _check_ends(self.start, self.end)

    def __call__(self, step: int) -> float:
        """The value at a step, from 0."""
        return self.start + (self.end - self.start) * min(1.0, step / self.steps)


@dataclass(frozen=True)
class Cyclical:
    r"""Again and again from ``start`` to ``end``: a straight line over the first part of each period, then constant.

    .. math:: f(t) = s + (e - s) \min\big(1, (t \bmod T) / (r T)\big)

    Args:
        period: T, steps of a cycle.
        ramp: r, the share of a cycle that rises, in (0, 1].
        start: s, the value at the start of a cycle.
        end: e, the value at the end of the rise.

    Raises:
        ArgumentError: a number out of range.

    Source:
        Fu et al. (2019), Cyclical annealing schedule, arXiv 1903.10145.

    Example:
        >>> [Cyclical(period=4)(step) for step in range(6)]
        [0.0, 0.5, 1.0, 1.0, 0.0, 0.5]
    """

    period: int
    ramp: float = 0.5
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        positive_int("period", self.period)
        if not _is_number(self.ramp) or not 0.0 < self.ramp <= 1.0:
            raise ArgumentError(f"`ramp` must be above 0 and at most 1, got {self.ramp!r}")
        _check_ends(self.start, self.end)

    def __call__(self, step: int) -> float:
        """The value at a step, from 0."""
        return self.start + (self.end - self.start) * min(1.0, step % self.period / (self.ramp * self.period))


SCHEDULES = {"linear": Linear, "cyclical": Cyclical}


def _check_ends(start: Any, end: Any) -> None:
    for name, value in (("start", start), ("end", end)):
        if not _is_number(value):
            raise ArgumentError(f"`{name}` must be a finite number, got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def make_schedule(name: str, value: Any) -> float | Schedule:
    """A number, or a schedule: a function of the step, or a spec such as ``"linear:steps=1000"``.

    Raises:
        ArgumentError: neither; a number below 0 or not finite, an unknown name, a schedule that returns such a number.
    """
    if isinstance(value, str):
        value = _parsed(name, value)
    if callable(value):
        for step in (0, getattr(value, "steps", 0)):  # a straight line is right in between if it is at both ends
            value_at(name, value, step)
        return value
    if not _is_number(value) or value < 0:
        raise ArgumentError(f"`{name}` must be a finite number of at least 0 or a function of the step, got {value!r}")
    return value


def _parsed(name: str, spec: str) -> Schedule:
    try:
        kind, arguments = parse_spec(spec)
        if kind not in SCHEDULES:
            raise ArgumentError(f"unknown schedule '{kind}'; {nearest(kind, SCHEDULES)}")
        return build(SCHEDULES[kind], arguments, name=kind)
    except ArgumentError as error:
        raise ArgumentError(f"`{name}`: {error}") from error


def value_at(name: str, schedule: Schedule, step: int) -> float:
    """What a schedule returns for a step.

    Raises:
        ArgumentError: it is not a finite number of at least 0.
    """
    value = schedule(step)
    if not _is_number(value) or value < 0:
        raise ArgumentError(f"`{name}` must return a finite number of at least 0, got {value!r} at step {step}")
    return float(value)
