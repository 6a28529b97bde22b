"""One call of ``SVI.run``: epochs, held-out bounds, patience, callbacks, progress."""

from __future__ import annotations

import math
import time
from collections import deque
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from probgen.data.batches import Batches, Stream, as_call
from probgen.errors import DivergedError
from probgen.programs.modules import mode, write
from probgen.svi.divergence import require_finite, require_finite_late
from probgen.svi.fetch import Fetched
from probgen.svi.interruption import Interruption
from probgen.svi.keeping import Keeper
from probgen.svi.order import Order
from probgen.svi.plan import Plan
from probgen.svi.progress import Progress
from probgen.svi.snapshot import Position, is_over, restorer, take
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
        keeper: the run's folder, or None.

    Attributes:
        position: where the run stands.
        losses: per datum, one a step.
        bounds: likewise.
        seconds: likewise.
    """

    def __init__(
        self,
        svi: SVI,
        plan: Plan,
        batches: Batches | Stream,
        held_out: Batches | Stream | None,
        keeper: Keeper | None,
        settings: dict[str, Any],
    ) -> None:
        self.svi, self.plan, self.batches, self.held_out, self.settings = svi, plan, batches, held_out, settings
        saved = None if keeper is None else keeper.saved
        self.position = Position(first_step=svi.state.step) if saved is None else Position.read(saved)
        self.num_steps = plan.steps(length_of(batches))  # None where nobody knows
        first = self.position.first_step
        self.total_steps = None if self.num_steps is None else first + self.num_steps  # with earlier runs'
        self.order = Order(batches, svi.device, svi.group)
        self.best = _Best(svi)
        self.losses: list[float] = []
        self.bounds: list[float] = []
        self.seconds: list[float] = []
        self._waiting: deque[Fetched] = deque()
        self._keeper = keeper
        self._interruption = Interruption()
        self._progress = Progress(self.num_steps, plan.label, first)

    def go(self) -> list[float]:
        """Trains, and returns the loss per datum of each step."""
        state = self.svi.state
        try:
            if not self._begin():
                self._train()
        except DivergedError as error:
            if self._keeper is None:
                raise
            steps = self._keeper.checkpoints.steps()
            kept = f"keeps the checkpoint of step {steps[-1]}" if steps else "has no checkpoint"
            raise DivergedError(f"{error}. '{self._keeper.run_dir}' {kept}") from error
        finally:
            self._progress.close()
            if self._keeper is not None:
                self._keeper.close()
        if self.plan.patience is not None:
            self.best.restore()
        if self.seconds:
            state.ms_per_step = 1e3 * sorted(self.seconds)[len(self.seconds) // 2]
        return self.losses

    def _begin(self) -> bool:
        """Starts, or goes on where the checkpoint stands; returns whether the run was over there."""
        state, keeper = self.svi.state, self._keeper
        if keeper is not None and keeper.saved is not None:
            restore = restorer(keeper.saved, self)
            self._open(self.position.rows)
            restore()
        else:
            state.stopped, state.best_bound, state.best_step = "finished", None, None
            self.order.seed()
            if keeper is not None:
                self._open(0)
                self._save()
        self._started = time.perf_counter() - self.position.elapsed
        return keeper is not None and keeper.saved is not None and (self._done() or is_over(keeper.saved, self))

    def _open(self, rows: int) -> None:
        self.svi.group.any()  # nobody looks into the folder any more
        if self.svi.group.rank == 0:
            self._keeper.open(rows)  # type: ignore[union-attr]  # called where there is one

    def _train(self) -> None:
        state = self.svi.state
        with self._interruption if self._keeper is not None else nullcontext():
            state.stopped = "finished"
            while not self._done():
                start = len(self.losses) - self.order.cursor
                self._epoch()
                self._progress.update(self.bounds, self.seconds)
                reason = self._after_epoch(start)
                if reason is not None:
                    state.stopped = reason
                    break
                self._between_steps()
            require_finite(self.svi.parameters, self.svi.state.step)
            if self._keeper is not None:
                self._save()
                self._leave_if_asked(*self.svi.group.any(*self._interruption.signals))

    def _done(self) -> bool:
        """Whether nothing is left to do; a run that is gone on with may have done more than it is asked for now."""
        steps, epochs = self.plan.num_steps, self.plan.num_epochs
        return self.position.steps >= steps if steps is not None else self.position.epochs >= (epochs or 0)

    def _epoch(self) -> None:
        """Takes steps until the data or ``num_steps`` are through."""
        complete = True
        with mode(self.svi.modules, training=True):
            for batch in self.order.epoch(self.svi.state.epoch):
                self._step(batch)
                if self.position.steps == self.plan.num_steps:
                    complete = self.order.cursor == length_of(self.batches)
                    break
                self._between_steps()
        self._collect(keep=0)
        if complete:
            self.order.end()
            self.position.epochs += 1
            self.svi.state.epoch += 1

    def _step(self, batch: Any) -> None:
        begin = time.perf_counter()
        args, kwargs = as_call(batch)
        fetched = self.svi.turns(args, kwargs, self.total_steps, late=True)
        self._waiting.append(fetched)
        self._collect(keep=0 if fetched.here else 1)
        self.position.steps += 1
        self.seconds.append(time.perf_counter() - begin)
        self._progress.update(self.bounds, self.seconds)

    def _between_steps(self) -> None:
        """Saves if it is time to, or if the process has been asked to end."""
        if self._keeper is None:
            return
        group = self.svi.group
        wishes = group.any(group.rank == 0 and self._keeper.checkpoints.due, *self._interruption.signals)
        if any(wishes):  # of whichever process: one alone must neither save nor leave
            self._save()
        self._leave_if_asked(*wishes[1:])

    def _leave_if_asked(self, interrupted: bool, terminated: bool) -> None:
        """Ends as the signal that has come, to whichever process, would end this one."""
        if not interrupted and not terminated:
            return
        self._progress.close()
        where = self._keeper.run_dir  # type: ignore[union-attr]  # only where there is one
        message = f"saved at step {self.svi.state.step}; `resume=True` (`probgen resume {where}`) goes on from there"
        first = self.svi.group.rank == 0
        self._interruption.leave(f"probgen: {message}" if first else None, terminated=terminated)

    def _save(self) -> None:
        self._collect(keep=0)
        require_finite(self.svi.parameters, self.svi.state.step)
        self.position.cursor, self.position.worse = self.order.cursor, self.best.worse
        if self.losses:
            self.position.elapsed = time.perf_counter() - self._started
        if self.svi.group.rank == 0:
            self._keeper.save(self.svi.state.step, lambda: take(self))  # type: ignore[union-attr]  # where there is one
        else:
            take(self)  # gathers what the first process saves

    def _collect(self, keep: int) -> None:
        """Reads the numbers of all steps but the last ``keep``."""
        while len(self._waiting) > keep:
            fetched = self._waiting.popleft()
            if not fetched.here:  # else it has been seen before the step was applied
                require_finite_late(fetched, self.svi.state.step)
            report = fetched.report
            self.losses.append(report["loss"])
            self.bounds.append(report.get("bound", -report["loss"]))

    def _after_epoch(self, start: int) -> str | None:
        """Held-out bound, callbacks, patience; why the run should end, or None."""
        state, plan = self.svi.state, self.plan
        eval_bound = None if self.held_out is None else self.svi.held_out_bound(self.held_out)
        if eval_bound is not None:
            self.best.offer(eval_bound, keep=plan.patience is not None or self._keeper is not None)
        report = EpochReport(
            step=state.step,
            epoch=state.epoch,
            loss=_mean(self.losses[start:]),
            bound=_mean(self.bounds[start:]),
            eval_bound=eval_bound,
            seconds=time.perf_counter() - self._started,
        )
        group = self.svi.group
        if self._keeper is not None and group.rank == 0:
            self.position.rows = self._keeper.log(asdict(report))
        asked = group.rank == 0 and True in [callback(report) for callback in plan.callbacks]
        if any(group.any(asked)):
            return "callback"
        return "patience" if plan.patience is not None and self.best.worse >= plan.patience else None


class _Best:
    """The best held-out bound of a run, and what reached it.

    Attributes:
        worse: epochs since then.
        copies: what reached it, by name; empty where nobody asks for it.
    """

    def __init__(self, svi: SVI) -> None:
        self.worse = 0
        self.copies: dict[str, Tensor] = {}
        self._svi = svi

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
                self.copies = {name: tensor.detach().clone() for name, tensor in self._svi.moved().items()}

    def restore(self) -> None:
        """Goes back to the copies."""
        moved = self._svi.moved()
        write([moved[name] for name in self.copies], list(self.copies.values()))


def length_of(batches: Batches | Stream) -> int | None:
    """Batches an epoch; None for a stream that does not know."""
    try:
        return len(batches)
    except TypeError:
        return None


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
