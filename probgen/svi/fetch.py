"""Numbers on their way from the device: read at once on the CPU, one step late elsewhere."""

from typing import Any

import torch
from torch import Tensor


class Fetched:
    """The loss and the report of one step.

    Args:
        total: the loss, a scalar.
        report: scalars by name.
        step: the number of the step, from 1.
        args: the batch, to look for a cause if the loss is not finite.
        kwargs: likewise.

    Attributes:
        here: whether the numbers are on the CPU already, so that reading them stops nothing.
    """

    def __init__(
        self, total: Tensor, report: dict[str, Tensor], step: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.step, self.args, self.kwargs = step, args, kwargs
        self.here = total.device.type == "cpu"
        self._names = list(report)
        numbers = torch.stack([total, *(value.to(total.dtype) for value in report.values())])
        if self.here:
            self._numbers = numbers
            return
        self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        self._numbers.copy_(numbers, non_blocking=True)
        self._arrived = torch.cuda.Event()
        self._arrived.record()

    def _read(self) -> list[float]:
        if not self.here:
            self._arrived.synchronize()
        return self._numbers.tolist()

    @property
    def total(self) -> float:
        """The loss, summed over the batch."""
        return self._read()[0]

    @property
    def report(self) -> dict[str, float]:
        """The report, per datum."""
        return dict(zip(self._names, self._read()[1:], strict=True))
