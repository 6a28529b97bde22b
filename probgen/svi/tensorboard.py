"""The metrics of a run for TensorBoard; an extra."""

import os
from types import TracebackType
from typing import Any

from probgen.errors import MissingExtra
from probgen.svi.state import EpochReport

SCALARS = ("loss", "bound", "eval_bound")


class TensorBoard:
    """A callback of :meth:`probgen.SVI.run` that writes each epoch's numbers for TensorBoard.

    The scalars are ``loss``, ``bound`` and ``eval_bound``, in nats per datum, over optimizer steps, and ``seconds``.
    What an earlier process wrote of later steps, a run that was resumed replaces.

    Args:
        folder: where the event files go, such as ``runs/a/tensorboard``; made at the first epoch.

    Raises:
        MissingExtra: TensorBoard is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, TensorBoard(folder) as board:
        ...     board(EpochReport(step=10, epoch=1, loss=2.0, bound=-2.0, eval_bound=None, seconds=0.5))
        ...     len(os.listdir(folder))
        1
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise MissingExtra('TensorBoard is not installed: pip install "probgen[tensorboard]"') from error
        self._folder, self._make = os.fspath(folder), SummaryWriter
        self._writer: Any = None

    def __call__(self, report: EpochReport) -> None:
        """Writes the numbers of an epoch, at once."""
        if self._writer is None:
            self._writer = self._make(self._folder, purge_step=report.step)
        for name in SCALARS:
            if (value := getattr(report, name)) is not None:
                self._writer.add_scalar(name, value, report.step)
        self._writer.add_scalar("seconds", report.seconds, report.step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file; a further report opens another."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
