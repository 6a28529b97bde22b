"""One call of ``SVI.run``: epochs, held-out bounds, patience, callbacks, progress."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from probgen.errors import DivergedError
from probgen.svi import parameters as params
from probgen.svi.batches import Batches, Stream, as_call
from probgen.svi.fetch import Fetched
from probgen.svi.plan import Plan
from probgen.svi.progress import Progress
from probgen.svi.state import EpochReport

if TYPE_CHECKING:
    from probgen.svi.loop import SVI


class Training:
    """What changes during a run, beside the parameters.

    Args:
        svi: whose turns are taken.
        plan: how long.
        batches: training data.
        held_out: held-out data, or None.
    """

    def __init__(self, svi: SVI, plan: Plan, batches: Batches | Stream, held_out: Batches | Stream | None) -> None:
        self.svi, self.plan, self.batches, self.held_out = svi, plan, batches, held_out
        self.num_steps = plan.steps(length_of(batches))  # None where nobody knows
        self.total_steps = None if self.num_steps is None else svi.state.step + self.num_steps  # with earlier runs'
        self.losses: list[float] = []  # per datum, one a step
        self._bounds: list[float] = []  # likewise
        self._seconds: list[float] = []  # likewise
        self._steps = 0
        self._epochs = 0
        self._waiting: deque[Fetched] = deque()
        self._best = _Best(svi)
        self._progress = Progress(self.num_steps, plan.label, svi.state.step)

    def go(self) -> list[float]:
        """Trains, and returns the loss per datum of each step."""
        state, self._started = self.svi.state, time.perf_counter()
        state.stopped, state.best_bound, state.best_step = "finished", None, None
        generator = torch.Generator(self.svi.device).manual_seed(int(torch.randint(2**62, ()).item()))
        try:
            while not self._done():
                start = len(self.losses)
                self._epoch(generator)
                self._progress.update(self._bounds, self._seconds)
                if (reason := self._after_epoch(start)) is not None:
                    state.stopped = reason
                    break
        finally:
            self._progress.close()
        self.svi.require_finite_parameters()
        if self.plan.patience is not None:
            self._best.restore()
        state.ms_per_step = 1e3 * sorted(self._seconds)[len(self._seconds) // 2]
        return self.losses

    def _done(self) -> bool:
        return self._steps == self.plan.num_steps or self._epochs == self.plan.num_epochs

    def _epoch(self, generator: torch.Generator) -> None:
        """Takes steps until the data or ``num_steps`` are through."""
        start, complete = self._steps, True
        with params.mode(self.svi.modules, training=True):
            for batch in self.batches.epoch(generator):
                self._step(batch)
                if self._steps == self.plan.num_steps:
                    complete = self._steps - start == length_of(self.batches)
                    break
        self._collect(keep=0)
        if complete:
            self._epochs += 1
            self.svi.state.epoch += 1

    def _step(self, batch: Any) -> None:
        begin = time.perf_counter()
        args, kwargs = as_call(batch)
        fetched = self.svi.turns(args, kwargs, self.total_steps, late=True)
        self._waiting.append(fetched)
        self._collect(keep=0 if fetched.here else 1)
        self._steps += 1
        self._seconds.append(time.perf_counter() - begin)
        self._progress.update(self._bounds, self._seconds)

    def _collect(self, keep: int) -> None:
        """Reads the numbers of all steps but the last ``keep``."""
        while len(self._waiting) > keep:
            fetched = self._waiting.popleft()
            if not fetched.here:  # else it has been seen before the step was applied
                self.svi.require_finite_late(fetched)
            report = fetched.report
            self.losses.append(report["loss"])
            self._bounds.append(report.get("bound", -report["loss"]))

    def _after_epoch(self, start: int) -> str | None:
        """Held-out bound, callbacks, patience; why the run should end, or None."""
        state, plan = self.svi.state, self.plan
        eval_bound = None if self.held_out is None else self.svi.held_out_bound(self.held_out)
        if eval_bound is not None:
            self._best.offer(eval_bound, keep=plan.patience is not None)
        report = EpochReport(
            step=state.step,
            epoch=state.epoch,
            loss=_mean(self.losses[start:]),
            bound=_mean(self._bounds[start:]),
            eval_bound=eval_bound,
            seconds=time.perf_counter() - self._started,
        )
        if True in [callback(report) for callback in plan.callbacks]:
            return "callback"
        return "patience" if plan.patience is not None and self._best.worse >= plan.patience else None


class _Best:
    """The best held-out bound of a run, and what reached it.

    Attributes:
        worse: epochs since then.
    """

    def __init__(self, svi: SVI) -> None:
        self.worse = 0
        self._svi = svi
        self._copies: list[Tensor] = []

    def offer(self, bound: float, *, keep: bool) -> None:
        """Takes note of another bound; ``keep`` copies the parameters if it is the best so far.

        Raises:
            DivergedError: the bound is NaN.
        """
        state = self._svi.state
        if math.isnan(bound):
            raise DivergedError(f"the bound on `eval_data` is nan after step {state.step}; try a smaller learning rate")
        self.worse += 1
        if state.best_bound is None or bound > state.best_bound:
            state.best_bound, state.best_step, self.worse = bound, state.step, 0
            if keep:
                self._copies = [tensor.detach().clone() for tensor in self._svi.moved()]

    def restore(self) -> None:
        """Goes back to the copies."""
        params.write(self._svi.moved(), self._copies)


def length_of(batches: Batches | Stream) -> int | None:
    """Batches an epoch; None for a stream that does not know."""
    try:
        return len(batches)
    except TypeError:
        return None


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
