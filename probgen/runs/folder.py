"""The folder of a run: what may be written there, and what is put back if training is refused or killed.

A new run moves the one that it replaces aside and keeps it there until it has a checkpoint of its own. The settings are
copied last, so that they say whether everything else was moved; ``config.toml`` itself is never missing.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from probgen.checkpoints import Checkpoints
from probgen.checkpoints.disk import rename_synced, replace_synced
from probgen.errors import ArgumentError, CheckpointError
from probgen.runs.saved import CONFIG, SavedRun, read_run
from probgen.svi.keeping import LOCK, METRICS, locked

OWN = ("checkpoints", METRICS, "figures", "tensorboard", "evidence.csv", "evidence.json")  # of a run, with its settings
ASIDE, REMOVED = ".replaced", ".removed"
OF_NOBODY = (LOCK, f".{CONFIG}.tmp", REMOVED)  # what a process may leave that was killed before it had a run


def require_free(path: Path, *, overwrite: bool) -> None:
    """Raises unless a new run may be written to a folder.

    Raises:
        ArgumentError: it is a file, or holds files; with ``overwrite``, files of a run may be replaced, and those of
            something else stay.
    """
    if path.exists() and not path.is_dir():
        raise ArgumentError(f"`--run-dir`: '{path}' is a file; name a folder")
    if not path.is_dir() or all(entry.name in OF_NOBODY for entry in path.iterdir()):
        return
    is_run = (path / CONFIG).is_file()
    if not overwrite:
        cure = "pass `--resume` to go on with it, `--overwrite` to replace it" if is_run else "pass `--overwrite`"
        what = "a run" if is_run else "files"
        raise ArgumentError(f"`--run-dir`: '{path}' holds {what} already; {cure}, or name another folder")
    taken = [name for name in OWN if os.path.lexists(path / name)]
    if not is_run and taken:
        raise ArgumentError(
            f"`--run-dir`: '{path}' holds '{taken[0]}' but no {CONFIG}, so that it is no run to overwrite; name another"
        )


def recover(path: Path) -> bool:
    """Ends what a process has left that was killed while it replaced a run; returns whether that run is back.

    Raises:
        ArgumentError: another process is at work there.
        CheckpointError: the folder cannot be written to.
    """
    if not (path / ASIDE).is_dir():
        return False
    with locked(path), _writing(path):
        return _settle(path)


@contextmanager
def new_run(path: Path, config: str, *, overwrite: bool = False) -> Iterator[None]:
    """Writes the settings of a new run and trains in the body; if that keeps nothing, the folder is as it was.

    Raises:
        ArgumentError: the folder is not free, or another process is at work there.
        CheckpointError: the folder cannot be written to.
    """
    made = [entry for entry in (path / LOCK, path, *path.parents) if not entry.exists()]
    with locked(path):
        with _writing(path):
            _settle(path)
            require_free(path, overwrite=overwrite)
            replaces = (path / CONFIG).is_file()
        try:
            with _writing(path):
                if replaces:
                    _put_aside(path)
                replace_synced(path / CONFIG, config.encode())
            yield
        except BaseException:
            _locked_again(path, _settle if replaces else lambda path: _undo(path, made))
            raise
        _locked_again(path, _settle)


@contextmanager
def continued_run(run: SavedRun, config: str) -> Iterator[None]:
    """Writes the settings of a run that goes on and trains in the body; if that keeps nothing, they are as before.

    Raises:
        ArgumentError: another process is at work there, or has been since the run was read.
        CheckpointError: the folder cannot be written to.
    """
    path, checkpoints = run.path, Checkpoints(run.path)
    with locked(path):
        if read_run(path) != run:
            raise ArgumentError(f"another process has changed the run in '{path}' just now; try again")
        with _writing(path):
            before, pointer = (path / CONFIG).read_bytes(), checkpoints.pointer()
            _change_config(path, before, config.encode())
        try:
            yield
        except BaseException:
            if checkpoints.pointer() == pointer:
                _locked_again(path, lambda path: _change_config(path, config.encode(), before))
            raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"`--run-dir`: '{path}' cannot be written to: {error.strerror or error}") from error


def _locked_again(path: Path, work: Callable[[Path], object]) -> None:
    """Works under the lock, which training has let go; a process that has it by now has settled everything."""
    if path.is_dir():
        with suppress(OSError, ArgumentError, CheckpointError), locked(path):
            work(path)


def _change_config(path: Path, old: bytes, new: bytes) -> None:
    if (path / CONFIG).read_bytes() == old != new:
        replace_synced(path / CONFIG, new)


def _put_aside(path: Path) -> None:
    aside = path / ASIDE
    aside.mkdir()
    for name in OWN:
        if os.path.lexists(path / name):
            rename_synced(path / name, aside / name)
    replace_synced(aside / CONFIG, (path / CONFIG).read_bytes())


def _settle(path: Path) -> bool:
    """Removes what was moved aside if the new run has kept something, else puts it back; returns whether it is back."""
    aside, removed = path / ASIDE, path / REMOVED
    shutil.rmtree(removed, ignore_errors=True)
    if not aside.is_dir():
        return False
    if (aside / CONFIG).is_file() and _keeps_something(path):
        aside.rename(removed)  # at once: what is half removed would look as if it were to be put back
        shutil.rmtree(removed, ignore_errors=True)
        return False
    _put_back(path)
    return True


def _put_back(path: Path) -> None:
    """Every step of it may be the last one, and the next process goes on from there."""
    aside = path / ASIDE
    if (aside / CONFIG).is_file():  # everything was moved, and what stands there is the new run's
        _remove_own(path)
        rename_synced(aside / CONFIG, path / CONFIG)
    for name in OWN:
        if os.path.lexists(aside / name):
            rename_synced(aside / name, path / name)
    shutil.rmtree(aside, ignore_errors=True)


def _undo(path: Path, made: list[Path]) -> None:
    """Removes what a new run has left that kept nothing, and what was made for it: the lock, and folders."""
    if _keeps_something(path):
        return
    _remove_own(path)
    (path / CONFIG).unlink(missing_ok=True)
    for entry in made:
        try:
            entry.rmdir() if entry.is_dir() else entry.unlink(missing_ok=True)
        except OSError:  # somebody else has put something there
            return


def _keeps_something(path: Path) -> bool:
    return bool(Checkpoints(path).steps())


def _remove_own(path: Path) -> None:
    for name in OWN:
        if (path / name).is_dir() and not (path / name).is_symlink():
            shutil.rmtree(path / name)
        else:
            (path / name).unlink(missing_ok=True)
