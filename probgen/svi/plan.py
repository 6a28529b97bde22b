"""How long a run is to be, and who looks on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from probgen.arguments import positive_int
from probgen.errors import ArgumentError, ArgumentTypeError
from probgen.svi.state import EpochReport

Callback = Callable[[EpochReport], bool | None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The length of a run; everything about it that can be wrong by itself is refused here.

    Attributes:
        num_epochs: passes over the data, or None where ``num_steps`` counts.
        num_steps: steps, or None where ``num_epochs`` counts.
        patience: epochs without a better held-out bound after which the run ends, or None.
        callbacks: called after each epoch.
        label: what progress shows in front; None shows nothing.

    Raises:
        ArgumentError: a number out of range, or both or neither of ``num_epochs`` and ``num_steps``.
        ArgumentTypeError: a callback that cannot be called.
    """

    num_epochs: int | None
    num_steps: int | None
    patience: int | None
    callbacks: Sequence[Callback]
    label: str | None

    def __post_init__(self) -> None:
        if (self.num_epochs is None) == (self.num_steps is None):
            raise ArgumentError("pass one of `num_epochs` and `num_steps`")
        for name in ("num_epochs", "num_steps", "patience"):
            value = getattr(self, name)
            if value is not None:
                positive_int(name, value)
        if not isinstance(self.callbacks, Sequence) or not all(map(callable, self.callbacks)):
            raise ArgumentTypeError(f"`callbacks` must be a sequence of functions of a report, got {self.callbacks!r}")

    def steps(self, per_epoch: int | None) -> int | None:
        """Steps of the whole run; None where nobody knows."""
        if self.num_steps is not None:
            return self.num_steps
        return None if per_epoch is None else per_epoch * (self.num_epochs or 0)
