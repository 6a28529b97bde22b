"""Learning-rate schedules: functions of the integer step, which is saved state."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from probgen.arguments import positive_int
from probgen.errors import ArgumentError

Schedule = Callable[[int, int | None], float]


def warmup_cosine(warmup_steps: int = 0, *, final: float = 0.0) -> Schedule:
    r"""Linear warm-up to 1, then half a cosine down to ``final`` at the last step.

    .. math:: f(t) = \min\Big(1, \frac{t + 1}{W + 1}\Big) \text{ for } t < W, \quad
              f(t) = r + \frac{1 - r}{2} \Big(1 + \cos \pi \frac{t - W}{T - W}\Big)

    Args:
        warmup_steps: W, steps until the full learning rate.
        final: r, the share of the learning rate that is left at the end.

    Returns:
        A function of the step t (from 0) and the total number of steps T, to be passed as ``schedule=``. A second run
        of the same SVI goes on counting: t starts, and T ends, where the steps of both runs together do.

    Raises:
        ArgumentError: a negative number of steps, or ``final`` outside [0, 1].

    Source:
        Loshchilov, Hutter (2017), SGDR, arXiv 1608.03983.

    Example:
        >>> schedule = warmup_cosine(warmup_steps=1)
        >>> [round(schedule(step, 5), 3) for step in range(5)]
        [0.5, 1.0, 0.854, 0.5, 0.146]
    """
    positive_int("warmup_steps", warmup_steps, at_least=0)
    if not 0.0 <= final <= 1.0:
        raise ArgumentError(f"`final` must be in [0, 1], got {final}")

    return _WarmupCosine(warmup_steps, float(final))


@dataclass(frozen=True)
class _WarmupCosine:
    """What :func:`warmup_cosine` returns: a value, so that a resumed run can tell whether it is the same."""

    warmup_steps: int
    final: float

    def __call__(self, step: int, total_steps: int | None) -> float:
        if total_steps is None:
            raise ArgumentError(
                "a cosine schedule needs the number of steps: train with `SVI.run`, and by `num_steps` if the data do "
                "not know their length"
            )
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        progress = min(1.0, (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps))
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * progress))

    def __repr__(self) -> str:
        return f"warmup_cosine({self.warmup_steps}, final={self.final})"


def multiplier(schedule: Schedule, step: int, total_steps: int | None) -> float:
    """What the schedule returns for a step.

    Raises:
        ArgumentError: it is not a finite number of at least 0.
    """
    value = schedule(step, total_steps)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ArgumentError(f"`schedule` must return a finite number of at least 0, got {value!r} at step {step}")
    return float(value)
