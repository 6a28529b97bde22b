"""What a run leaves in its folder while it runs: checkpoints and metrics."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows, where a second process is not noticed
    fcntl = None  # type: ignore[assignment]

from probgen.arguments import is_whole
from probgen.checkpoints import Checkpoints, Saved, strict_json
from probgen.checkpoints.disk import make_folder_synced, open_unfollowed, read_regular, replace_synced, sync_file
from probgen.errors import ArgumentError, ArgumentTypeError, CheckpointError

METRICS = "metrics.jsonl"
METRICS_LIMIT = 2**28  # bytes
LOCK = ".lock"


class Keeper:
    """The folder of a run.

    Args:
        run_dir: the folder, or :class:`probgen.checkpoints.Checkpoints` in one.
        resume: whether to go on with the run that is there; a number goes on from the checkpoint of that step.

    Attributes:
        saved: the checkpoint to go on from, or None.

    Raises:
        ArgumentError: the folder holds a run and ``resume`` is False, or there is none to go on with.
        CheckpointError: the checkpoint is damaged.
    """

    def __init__(self, run_dir: str | os.PathLike[str] | Checkpoints, resume: bool | int) -> None:
        self.checkpoints = run_dir if isinstance(run_dir, Checkpoints) else Checkpoints(run_dir)
        self.run_dir = self.checkpoints.run_dir
        self.saved: Saved | None = None
        self._goes_back = resume is not False and resume is not True
        self._lock: int | None = None
        self._rows = 0
        try:
            self._look(resume)
        except OSError as error:
            raise CheckpointError(f"`run_dir`: '{self.run_dir}' cannot be read: {error.strerror or error}") from error

    def _look(self, resume: bool | int) -> None:
        if self.run_dir.exists() and not self.run_dir.is_dir():
            raise ArgumentError(f"`run_dir`: '{self.run_dir}' is a file; name a folder")
        self._found = self.checkpoints.pointer()
        if resume is False:
            self._refuse_another_run()
            return
        self.saved = self.checkpoints.latest() if resume is True else self.checkpoints.at(resume)

    def _refuse_another_run(self) -> None:
        for name in (self.checkpoints.path, self.run_dir / METRICS):
            if os.path.lexists(name):
                raise ArgumentError(
                    f"`run_dir`: '{self.run_dir}' holds a run already; `resume=True` (`--resume`) goes on with "
                    "it, or name another folder"
                )

    def open(self, rows: int) -> None:
        """Takes possession of the folder; of the metrics the first ``rows`` lines stay, which the checkpoint knows.

        Raises:
            ArgumentError: another process is at work there.
            CheckpointError: the folder cannot be written to, or the metrics are damaged.
        """
        try:
            make_folder_synced(self.run_dir)
            self._lock = open_unfollowed(self.run_dir / LOCK, os.O_RDWR | os.O_CREAT)
            _lock(self._lock, self.run_dir)
            if self.checkpoints.pointer() != self._found:
                raise ArgumentError(
                    f"`run_dir`: another process has trained in '{self.run_dir}' just now; call again to go on from "
                    "where it is"
                )
            kept, self._rows = _first_lines(self.run_dir / METRICS, rows)
            if self.saved is not None and self._goes_back:
                self.checkpoints.go_back(self.saved)
            replace_synced(self.run_dir / METRICS, kept)
        except OSError as error:
            raise CheckpointError(
                f"`run_dir`: '{self.run_dir}' cannot be written to: {error.strerror or error}"
            ) from error

    def close(self) -> None:
        """Lets other processes have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def log(self, line: Mapping[str, Any]) -> int:
        """Appends a line to the metrics; a number that is not finite becomes null. Returns how many lines there are.

        Raises:
            CheckpointError: the disk.
        """
        finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in line.items()}
        text = json.dumps(finite, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            with open(open_unfollowed(self.run_dir / METRICS, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as file:
                file.write(text.encode())
        except OSError as error:
            raise CheckpointError(
                f"'{self.run_dir / METRICS}' cannot be written to: {error.strerror or error}; go on from the last "
                "checkpoint with `resume=True`"
            ) from error
        self._rows += 1
        return self._rows

    def save(self, step: int, take: Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Any]]]) -> None:
        """Saves a checkpoint.

        Args:
            step: its step.
            take: returns its tensors and its state.

        Raises:
            CheckpointError: it cannot be saved.
        """
        began = time.perf_counter()
        try:
            sync_file(self.run_dir / METRICS)  # whose lines it counts
        except OSError as error:
            raise CheckpointError(f"'{self.run_dir / METRICS}' cannot be written to: {error.strerror}") from error
        self.checkpoints.save(step, *take(), began=began)


def keeper_of(run_dir: Any, resume: Any) -> Keeper | None:
    """The keeper that ``run_dir`` and ``resume`` ask for.

    Raises:
        ArgumentTypeError: one of them is of the wrong kind.
        ProbgenError: as :class:`Keeper`.
    """
    if not isinstance(resume, bool) and not (is_whole(resume) and resume >= 0):
        raise ArgumentTypeError(f"`resume` must be True, False or the step of a checkpoint, got {resume!r}")
    if run_dir is None:
        if resume is not False:
            raise ArgumentError("`resume` needs the `run_dir` of the run to go on with")
        return None
    return Keeper(run_dir, resume)


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keeps other processes out of a folder, which is made where it is missing.

    The lock is the process's: a :class:`Keeper` in the body takes it too, and lets it go when it closes.

    Raises:
        ArgumentError: another process is at work there.
        CheckpointError: the folder cannot be written to.
    """
    try:
        make_folder_synced(run_dir)
        descriptor = None if fcntl is None else open_unfollowed(run_dir / LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise CheckpointError(f"`run_dir`: '{run_dir}' cannot be written to: {error.strerror or error}") from error
    try:
        if descriptor is not None:
            _lock(descriptor, run_dir)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(descriptor: int, run_dir: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a record lock: child processes do not inherit it
    except (BlockingIOError, PermissionError) as error:
        raise ArgumentError(f"`run_dir`: another process is training in '{run_dir}'") from error
    except OSError:
        pass  # a file system without locks


def _first_lines(path: Path, count: int) -> tuple[bytes, int]:
    """The first lines of the metrics, as many as there are of them; a line that is no JSON object is damage."""
    if count == 0 or not os.path.lexists(path):
        return b"", 0
    content, end = read_regular(path, METRICS_LIMIT), 0
    for row in range(count):
        after = content.find(b"\n", end) + 1
        if after == 0 and end == len(content):  # somebody has shortened it; those that come are appended
            return content.removesuffix(b"\n") + b"\n" if row else b"", row
        try:
            strict_json.decode(content[end : after or None], path)
        except CheckpointError as error:
            raise CheckpointError(f"{error} (line {row + 1}); remove the file to go on without it") from error
        end = after or len(content)
    return content[:end].removesuffix(b"\n") + b"\n", count  # a last line whose end is missing gets one
