"""The checkpoints of a run: when to save, which to keep, which is the latest."""

import contextlib
import errno
import itertools
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from probgen.checkpoints import storage, strict_json
from probgen.checkpoints.disk import make_folder_synced, read_regular, rename_synced, replace_synced
from probgen.checkpoints.storage import Saved
from probgen.errors import ArgumentError, ArgumentTypeError, CheckpointError

SHARE = 0.02  # of the time between two saves; with the first, the last, and what they stir up, less than 5 % in all
LATEST = "latest.json"
_NAME = re.compile(r"step-(\d{12})(?:\.(\d{1,9}))?", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Checkpoints:
    """Where a run keeps its checkpoints, how often it saves, and how many it keeps.

    A checkpoint is written to a temporary folder, synced, renamed, and the folder above synced; then ``latest.json``
    likewise. A process that is killed at any moment leaves the checkpoint before or the new one, never a part of it.

    Args:
        run_dir: the run's folder; the checkpoints are in ``checkpoints/`` below it.
        every: seconds between two saves; more where one takes longer than 2 % of that, so that all of them cost less
            than 5 % of the time.
        keep: how many checkpoints stay. The best parameters are in each of them.

    Raises:
        ArgumentError: a number out of range.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as run_dir:
        ...     checkpoints = Checkpoints(run_dir)
        ...     checkpoints.save(7, {"w": torch.ones(2)}, {"seed": 0})
        ...     checkpoints.latest().tensors["w"]
        tensor([1., 1.])
    """

    def __init__(self, run_dir: str | os.PathLike[str], *, every: float = 30.0, keep: int = 2) -> None:
        if not isinstance(run_dir, str | os.PathLike) or not (name := os.fsdecode(run_dir)) or "\0" in name:
            raise ArgumentTypeError(f"`run_dir` must be a path or `probgen.checkpoints.Checkpoints`, got {run_dir!r}")
        if isinstance(every, bool) or not isinstance(every, int | float) or not 0 <= every < float("inf"):
            raise ArgumentError(f"`every` must be a number of seconds of at least 0, got {every!r}")
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise ArgumentError(f"`keep` must be a whole number of at least 1, got {keep!r}")
        self.run_dir = Path(name)
        self.path = self.run_dir / "checkpoints"
        self.every, self.keep = every, keep
        self._cost, self._saved = 0.0, -float("inf")

    @property
    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.perf_counter() - self._saved >= max(self.every, self._cost / SHARE)

    def save(
        self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, began: float | None = None
    ) -> None:
        """Saves a checkpoint and removes those that are not to be kept.

        Args:
            step: names it; checkpoints of later steps, which a run that went back has left, are removed.
            tensors: by name.
            state: JSON values.
            began: ``time.perf_counter()`` when the work for it began, where that was before this call.

        Raises:
            CheckpointError: it cannot be saved; the checkpoints before are as they were.
        """
        began = time.perf_counter() if began is None else began
        aside = self.path / ".saving"
        try:
            make_folder_synced(self.path)
            _remove(aside)  # of a process that was killed
            aside.mkdir()
            digest = storage.write(aside, tensors, state)
            name = self._free_name(step)
            rename_synced(aside, self.path / name)
            self._point_at(name, digest)
        except BaseException as error:
            _discard(aside)
            if not isinstance(error, OSError):
                raise
            raise CheckpointError(self._why_not(step, error)) from error
        self._prune(step, name)
        self._saved = time.perf_counter()
        self._cost = self._saved - began

    def _point_at(self, name: str, digest: str) -> None:
        replace_synced(self.path / LATEST, strict_json.encode({"checkpoint": name, "sha256": digest}))

    def _why_not(self, step: int, error: OSError) -> str:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        before = "the one before is as it was" if self._last_name() else "there is none before it"
        return (
            f"the checkpoint of step {step} cannot be saved in '{self.path}': {error.strerror or error}; {before}. "
            f"{'Free some space' if full else 'See to the disk'}, then go on with `resume=True`"
        )

    def _last_name(self) -> str | None:
        try:
            return next((name for _, name in reversed(self._folders())), None)
        except OSError:
            return None

    def latest(self) -> Saved | None:
        """The last checkpoint, or None where there is none yet.

        Raises:
            CheckpointError: it is damaged; others are named where there are some.
        """
        self._refuse_link()
        name = None
        try:
            name, digest = self._pointer()
            return None if name is None else storage.read(self.path / name, digest)
        except CheckpointError as error:
            raise CheckpointError(f"{error}{self.others_than(name)}") from error

    def others_than(self, name: str | None) -> str:
        """The end of a message about a checkpoint that is of no use: the steps of the others."""
        others = ", ".join(sorted({str(step) for step, folder in self._known() if folder != name}, key=int))
        return f"; other checkpoints are those of the steps {others}: `resume=STEP` (`--step`)" if others else ""

    def _pointer(self) -> tuple[str | None, str | None]:
        """The latest checkpoint's name, and the sum of its manifest, as far as they are known."""
        path = self.path / LATEST
        if not os.path.lexists(path):  # a process was killed before it had written the first one
            return next((name for _, name in reversed(self._known())), None), None
        pointer = strict_json.decode(read_regular(path, storage.LIMITS[storage.MANIFEST]), path)
        name, digest = pointer.get("checkpoint"), pointer.get("sha256")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise CheckpointError(f"'{path}' is damaged: it names no checkpoint")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise CheckpointError(f"'{path}' is damaged: it has no sha256")
        return name, digest

    def pointer(self) -> bytes | None:
        """What ``latest.json`` holds, which changes with every save; None where it is not there or cannot be read."""
        try:
            return read_regular(self.path / LATEST, storage.LIMITS[storage.MANIFEST])
        except CheckpointError:
            return None

    def at(self, step: int) -> Saved:
        """The checkpoint of a step.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        self._refuse_link()
        names = [name for other, name in self._known() if other == step]
        if not names:
            known = ", ".join(map(str, self.steps())) or "none"
            raise CheckpointError(f"'{self.path}' has no checkpoint of step {step}; there are: {known}")
        return storage.read(self.path / names[-1])

    def go_back(self, saved: Saved) -> None:
        """Makes an earlier checkpoint the latest; later ones stay until the next is saved.

        Raises:
            CheckpointError: the disk.
        """
        try:
            self._point_at(saved.path.name, storage.sum_of(saved.path))
        except OSError as error:
            raise CheckpointError(f"'{self.path}' cannot be written to: {error.strerror or error}") from error

    def steps(self) -> list[int]:
        """The steps whose checkpoints are there, in their order."""
        return sorted({step for step, _ in self._known()})

    def _refuse_link(self) -> None:
        if self.path.is_symlink():
            raise CheckpointError(f"'{self.path}' is a link; a run keeps its checkpoints in a folder of its own")

    def _known(self) -> list[tuple[int, str]]:
        try:
            return self._folders()
        except OSError as error:
            raise CheckpointError(f"'{self.path}' cannot be read: {error.strerror or error}") from error

    def _folders(self) -> list[tuple[int, str]]:
        """(step, name) of each, in the order in which they were saved."""
        try:
            found = [_NAME.fullmatch(name) for name in os.listdir(self.path)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [(step, name) for step, _, name in sorted((int(m[1]), int(m[2] or 0), m[0]) for m in found if m)]

    def _free_name(self, step: int) -> str:
        """The name of a step's checkpoint, another one each time: the folder of the last time may be the latest."""
        taken = {name for _, name in self._folders()}
        name = f"step-{step:012d}"
        again = (f"{name}.{i}" for i in itertools.count(1))
        return name if name not in taken else next(other for other in again if other not in taken)

    def _prune(self, step: int, name: str) -> None:
        """Removes checkpoints but the last ones; what cannot be removed stays."""
        try:
            others = [(other, folder) for other, folder in self._folders() if folder != name]
        except OSError:
            return
        earlier = [folder for other, folder in others if other < step]
        kept = earlier[len(earlier) - min(self.keep - 1, len(earlier)) :]
        for _, folder in others:
            if folder not in kept:
                _discard(self.path / folder)


def _discard(folder: Path) -> None:
    """Removes a folder as far as it can be removed."""
    with contextlib.suppress(OSError):  # `ignore_errors` does not ignore that of a close
        shutil.rmtree(folder, ignore_errors=True)


def _remove(path: Path) -> None:
    """Removes what is there: a folder with its content, or a link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
