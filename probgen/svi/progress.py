"""Progress in NumPyro's words: the first bound, and the average of the last block."""

import sys
from collections.abc import Sequence
from typing import Any

from tqdm.auto import tqdm

BLOCKS = 20
BLOCK_OF_UNKNOWN = 100  # steps, where nobody knows how many there will be


class Progress:
    """A bar on a terminal; elsewhere one line every 5 %.

    Args:
        total: steps, or None where nobody knows.
        label: what stands in front; None shows nothing at all.
        first: the step at which the run begins.
    """

    def __init__(self, total: int | None, label: str | None, first: int) -> None:
        self._label = label
        self._total = total
        self._first = first
        self._block = BLOCK_OF_UNKNOWN if total is None else -(-total // BLOCKS)
        self._count = 0
        self._bar: Any = None
        if label is not None and sys.stderr.isatty():
            self._bar = tqdm(total=total, desc=label, unit="step", dynamic_ncols=True, leave=True)

    def update(self, bounds: Sequence[float], seconds: Sequence[float]) -> None:
        """Shows the state once another step is known; both hold one number per step so far."""
        count = len(bounds)
        if self._label is None or count == self._count:
            return
        if self._bar is not None:
            self._bar.update(count - self._count)
        self._count = count
        if count % self._block == 0 or count == self._total:
            self._show(bounds, seconds, (count - 1) // self._block * self._block)

    def _show(self, bounds: Sequence[float], seconds: Sequence[float], start: int) -> None:
        """Shows the averages from ``start`` on."""
        count = len(bounds)
        text = (
            f"init bound: {bounds[0]:.4f}, avg. bound [{self._first + start + 1}-{self._first + count}]: "
            f"{_mean(bounds[start:]):.4f}, {1e3 * _mean(seconds[start:count]):.2f} ms/step"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=True)
        else:
            total = f"/{self._total}" if self._total is not None else ""
            print(f"{self._label} {count}{total} {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
