"""How many steps each run takes in a budget of time."""

import statistics
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import pyro

from probgen.comparison.spec import RunSpec
from probgen.svi import SVI, EpochReport

WARM_UP = 3  # steps that are not timed: they allocate
ROUNDS = 5
SHARE = 0.01  # of the budget that a round takes, about
FEWEST, MOST = 3, 500  # steps of a round


def steps_within(
    runs: Mapping[str, RunSpec], data: Any, num_seconds: float, seed: int, batch_size: int, accelerator: str
) -> dict[str, int]:
    """The steps that each run takes in ``num_seconds``, by timing pairs that are thrown away.

    The runs take turns in rounds of a few steps, so that a slow moment of the machine hits them all; what counts is the
    median round.

    Args:
        runs: specs by label.
        data: training data.
        num_seconds: of training, without evaluation.
        seed: of weights and noise.
        batch_size: data per step.
        accelerator: as for :class:`probgen.SVI`.
    """
    clocks = {label: _Clock(spec.build(seed, accelerator), data, batch_size, seed) for label, spec in runs.items()}
    lengths = {}
    for label, clock in clocks.items():
        clock.seconds_per_step(WARM_UP)
        lengths[label] = _within(SHARE * num_seconds, clock.seconds_per_step(FEWEST), FEWEST, MOST)
    times: dict[str, list[float]] = {label: [] for label in runs}
    for _ in range(ROUNDS):
        for label, clock in clocks.items():
            times[label].append(clock.seconds_per_step(lengths[label]))
    return {label: _within(num_seconds, statistics.median(found), 1) for label, found in times.items()}


def _within(seconds: float, per_step: float, least: int, most: int | None = None) -> int:
    steps = max(least, int(seconds / per_step))
    return steps if most is None else min(steps, most)


class _Clock:
    """Times steps of one pair, in a scope of Pyro's store that it keeps."""

    def __init__(self, svi: SVI, data: Any, batch_size: int, seed: int) -> None:
        self._svi, self._data, self._batch_size, self._seed = svi, data, batch_size, seed
        self._store: Any = None

    def seconds_per_step(self, count: int) -> float:
        """The mean of some further steps, fetching batches included."""
        reports: list[EpochReport] = []
        with ExitStack() as contexts:
            self._store = contexts.enter_context(pyro.get_param_store().scope(self._store))
            self._svi.run(
                self._data,
                batch_size=self._batch_size,
                num_steps=count,
                seed=self._seed,
                callbacks=[reports.append],
                progress=False,
            )
        return reports[-1].seconds / count
