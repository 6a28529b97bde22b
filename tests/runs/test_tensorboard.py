"""Event files hold what the reports say, and MissingExtra what to install."""

import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from probgen.errors import MissingExtra
from probgen.svi import EpochReport
from probgen.svi.tensorboard import TensorBoard


def report(step: int, loss: float, eval_bound: float | None = None) -> EpochReport:
    return EpochReport(step=step, epoch=step, loss=loss, bound=-loss, eval_bound=eval_bound, seconds=0.5 * step)


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_scalars(tmp_path: Path) -> None:
    with TensorBoard(tmp_path) as board:
        board(report(1, 2.0))
        board(report(2, 1.5, eval_bound=-1.75))
        assert read(tmp_path)["loss"] == [(1, 2.0), (2, 1.5)]  # also before it is closed
    assert read(tmp_path) == {
        "loss": [(1, 2.0), (2, 1.5)],
        "bound": [(1, -2.0), (2, -1.5)],
        "eval_bound": [(2, -1.75)],
        "seconds": [(1, 0.5), (2, 1.0)],
    }


def test_a_resumed_run_replaces_later_steps(tmp_path: Path) -> None:
    with TensorBoard(tmp_path) as board:
        for step in (1, 2, 3):
            board(report(step, float(step)))
    with TensorBoard(tmp_path) as board:  # goes on from a checkpoint of step 1
        board(report(2, 20.0))
    assert read(tmp_path)["loss"] == [(1, 1.0), (2, 20.0)]


def test_a_board_without_reports_leaves_no_file(tmp_path: Path) -> None:
    with TensorBoard(tmp_path / "board"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing: Any = None
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", missing)
    with pytest.raises(MissingExtra, match=r'pip install "probgen\[tensorboard\]"'):
        TensorBoard(tmp_path)
