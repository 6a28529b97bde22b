"""The folder of a run: what may be written there, and what is put back if training is refused."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from probgen.checkpoints.disk import replace_synced
from probgen.errors import ArgumentError, CheckpointError
from probgen.runs.saved import CONFIG

KEPT = ("checkpoints", "metrics.jsonl")  # what training leaves
DERIVED = ("figures", "tensorboard", "evidence.csv", "evidence.json", ".lock")
ASIDE = ".replaced"


def require_free(path: Path, *, overwrite: bool) -> None:
    """Raises unless a new run may be written to a folder.

    Raises:
        ArgumentError: it is a file, or holds files; with ``overwrite``, files of a run may be replaced, and those of
            something else stay.
    """
    if path.exists() and not path.is_dir():
        raise ArgumentError(f"`--run-dir`: '{path}' is a file; name a folder")
    if not path.is_dir() or not any(path.iterdir()):
        return
    is_run = (path / CONFIG).is_file()
    if not overwrite:
        cure = "pass `--resume` to go on with it, `--overwrite` to replace it" if is_run else "pass `--overwrite`"
        what = "a run" if is_run else "files"
        raise ArgumentError(f"`--run-dir`: '{path}' holds {what} already; {cure}, or name another folder")
    taken = [name for name in (*KEPT, *DERIVED) if (path / name).exists()]
    if not is_run and taken:
        raise ArgumentError(
            f"`--run-dir`: '{path}' holds '{taken[0]}' but no {CONFIG}, so that it is no run to overwrite; name another"
        )


@contextmanager
def new_run(path: Path, config: str) -> Iterator[None]:
    """Writes the settings of a new run and trains in the body; if that keeps nothing, the folder is as it was.

    Raises:
        CheckpointError: the folder cannot be written to.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    aside = path / ASIDE
    try:
        path.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
        for name in (CONFIG, *KEPT, *DERIVED):
            if (path / name).exists():
                aside.mkdir(exist_ok=True)
                (path / name).rename(aside / name)
        replace_synced(path / CONFIG, config.encode())
    except OSError as error:
        raise CheckpointError(f"`--run-dir`: '{path}' cannot be written to: {error.strerror or error}") from error
    try:
        yield
    except BaseException:
        if not any((path / name).exists() for name in KEPT):
            _undo(path, aside, made)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _undo(path: Path, aside: Path, made: list[Path]) -> None:
    (path / CONFIG).unlink(missing_ok=True)
    (path / ".lock").unlink(missing_ok=True)
    if aside.is_dir():
        for entry in list(aside.iterdir()):
            entry.rename(path / entry.name)
        aside.rmdir()
    for folder in made:
        try:
            folder.rmdir()
        except OSError:  # somebody else has put something there
            return


@contextmanager
def continued_run(path: Path, config: str) -> Iterator[None]:
    """Writes the settings of a run that goes on and trains in the body; if that keeps nothing, they are as before.

    Raises:
        CheckpointError: the folder cannot be written to.
    """
    before, pointer = (path / CONFIG).read_bytes(), path / "checkpoints" / "latest.json"
    latest = pointer.read_bytes() if pointer.is_file() else b""
    try:
        if config.encode() != before:
            replace_synced(path / CONFIG, config.encode())
        yield
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be written to: {error.strerror or error}") from error
    except BaseException:
        if (pointer.read_bytes() if pointer.is_file() else b"") == latest and (path / CONFIG).read_bytes() != before:
            replace_synced(path / CONFIG, before)
        raise
