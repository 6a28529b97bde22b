"""Numbers on their way from the device: read at once on the CPU, one step late elsewhere."""

import math
from typing import Any

import torch
from torch import Tensor

from probgen.svi.players import Gradient


class Fetched:
    """The loss, the norm of its gradient and the report of one step.

    Args:
        total: the loss, a scalar.
        gradient: that of the loss, of which the norms alone are kept.
        report: scalars by name.
        step: the number of the step, from 1.
        args: the batch, to look for a cause if the loss is not finite.
        kwargs: likewise.

    Attributes:
        gradients: the names of the parameters that have one, and its norm, on the device.
        here: whether the numbers are on the CPU already, so that reading them stops nothing.
    """

    def __init__(
        self,
        total: Tensor,
        gradient: Gradient,
        report: dict[str, Tensor],
        step: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.step, self.args, self.kwargs = step, args, kwargs
        self.here = total.device.type == "cpu"
        self.gradients = gradient.names, gradient.norms
        self._names = list(report)
        self._list: list[float] | None = None
        numbers = torch.stack([total, *(value.to(total) for value in (gradient.norm, *report.values()))])
        if self.here:
            self._numbers = numbers
            return
        self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        self._numbers.copy_(numbers, non_blocking=True)
        self._arrived = torch.cuda.Event()
        self._arrived.record()

    def _read(self) -> list[float]:
        if self._list is None:
            if not self.here:
                self._arrived.synchronize()
            self._list = self._numbers.tolist()
        return self._list

    @property
    def total(self) -> float:
        """The loss, summed over the batch."""
        return self._read()[0]

    @property
    def report(self) -> dict[str, float]:
        """The report, per datum."""
        return dict(zip(self._names, self._read()[2:], strict=True))

    @property
    def norm(self) -> float:
        """The norm of the gradient."""
        return self._read()[1]

    @property
    def finite(self) -> bool:
        """Whether both the loss and the norm of its gradient are."""
        return math.isfinite(self.total) and math.isfinite(self.norm)
