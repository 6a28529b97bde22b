"""What a run returns and reports."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor


@dataclass
class SVIState:
    """Where a run stands.

    Attributes:
        step: optimizer steps so far.
        epoch: passes over the data that are complete.
        ms_per_step: median over the steps of the last run, in milliseconds.
        best_bound: best held-out bound so far, in nats per element of the batch plates (of all of `eval_data` where
            weights are joint); None without held-out data.
        best_step: the step that reached it.
        stopped: why the run ended: ``"finished"``, ``"patience"`` or ``"callback"``.
        averaged: the moving average of the parameters by name, where ``ema_decay`` asks for one.
    """

    step: int = 0
    epoch: int = 0
    ms_per_step: float = float("nan")
    best_bound: float | None = None
    best_step: int | None = None
    stopped: str = "finished"
    averaged: dict[str, Tensor] = field(default_factory=dict)


class SVIResult(NamedTuple):
    """What :meth:`probgen.SVI.run` returns, in NumPyro's order.

    Attributes:
        params: parameters by name, detached copies; constrained where ``pyro.param`` constrains them.
        state: where the run ended.
        losses: ``[num_steps]``, in nats per element of the batch plates; the total of the batch where weights are
            joint. On the CPU.
    """

    params: dict[str, Tensor]
    state: SVIState
    losses: Tensor

    def __repr__(self) -> str:
        state = replace(self.state, averaged={})
        return f"SVIResult(params: {len(self.params)} tensors, losses: {len(self.losses)} steps, {state})"


@dataclass(frozen=True)
class EpochReport:
    """What callbacks see after each pass over the data; numbers are means over the epoch's steps.

    They are in nats per element of the batch plates; the total of the batch where weights are joint.

    Attributes:
        step: optimizer steps so far.
        epoch: passes over the data that are complete.
        loss: what is minimised.
        bound: the plain bound on log p(x).
        eval_bound: the bound on held-out data, likewise; the total of all of them where weights are joint; None
            without them.
        seconds: since the run began.
    """

    step: int
    epoch: int
    loss: float
    bound: float
    eval_bound: float | None
    seconds: float
