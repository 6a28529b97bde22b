"""The folder of a run: one process at a time, and whole whenever a process ends or is killed."""

import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import probgen
from probgen.errors import ArgumentError, CheckpointError
from probgen.runs import folder
from probgen.runs.folder import continued_run, new_run, recover
from probgen.runs.saved import Record, config_text, read_run
from probgen.runs.settings import TrainSettings

OLD, NEW = (config_text(TrainSettings(seed=seed), Record()) for seed in (1, 2))
STEP = "checkpoints/step-000000000007/state.json"

pytest.importorskip("fcntl")


class Killed(BaseException):
    """Ends a process at once: nothing more is done, not even what must be done in any case."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    files = {"config.toml": OLD, STEP: "old", "metrics.jsonl": "{}\n", "figures/training.png": "old", "notes": "mine"}
    write(path, files | {"evidence.csv": "old", "evidence.json": "old", "tensorboard/events": "old", ".lock": ""})
    return path


def write(path: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)


def content(path: Path) -> dict[str, str]:
    return {str(file.relative_to(path)): file.read_text() for file in path.rglob("*") if file.is_file()}


def begin(path: Path) -> None:
    """What training has done when it has not saved its first checkpoint yet."""
    write(path, {"metrics.jsonl": "", "checkpoints/.saving/state.json": "half", "tensorboard/new": "new"})


def locked_elsewhere(path: Path) -> bool:
    """Whether another process is refused the lock."""
    program = "import fcntl, sys\nfcntl.lockf(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    ended = subprocess.run([sys.executable, "-c", program, str(path / ".lock")], capture_output=True, check=False)
    return ended.returncode != 0


@contextmanager
def another_process(path: Path) -> Iterator[None]:
    """One that trains in the folder."""
    program = (
        "import fcntl, sys\nfile = open(sys.argv[1], 'a')\nfcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield
        process.communicate("")


def killed_at(count: int, work: Callable[[], None]) -> bool:
    """Does work in a process that is killed when it is about to change the disk for the ``count``-th time."""
    calls, remove = itertools.count(), shutil.rmtree

    def deadly(function: Callable[..., None]) -> Callable[..., None]:
        def call(*args: object, **kwargs: object) -> None:
            if next(calls) == count:
                if function is remove:  # half of it is done
                    (Path(str(args[0])) / "config.toml").unlink(missing_ok=True)
                raise Killed
            function(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename_synced", "replace_synced"):
            patch.setattr(folder, name, deadly(getattr(folder, name)))
        for name in ("mkdir", "unlink", "rename"):
            patch.setattr(Path, name, deadly(getattr(Path, name)))
        patch.setattr(shutil, "rmtree", deadly(remove))
        again = folder._locked_again
        alive = lambda *args: None if isinstance(sys.exception(), Killed) else again(*args)  # noqa: E731
        patch.setattr(folder, "_locked_again", alive)
        try:
            work()
        except Killed:
            return True
    return False


def test_a_new_run_has_the_folder_for_itself_and_leaves_the_lock_in_its_place(run: Path) -> None:
    lock = (run / ".lock").stat().st_ino
    with new_run(run, NEW, overwrite=True):
        assert locked_elsewhere(run)
        assert (run / ".lock").stat().st_ino == lock
        write(run, {STEP: "new"})
    assert not locked_elsewhere(run)
    assert content(run) == {"config.toml": NEW, STEP: "new", "notes": "mine", ".lock": ""}


@pytest.mark.parametrize("continues", [False, True])
def test_nothing_is_changed_while_another_process_trains(continues: bool, run: Path) -> None:
    before, saved = content(run), read_run(run)
    with another_process(run):
        wanted = continued_run(saved, NEW) if continues else new_run(run, NEW, overwrite=True)
        with pytest.raises(ArgumentError, match="another process is training"), wanted:
            pytest.fail("two processes train in one folder")
        assert content(run) == before
        (run / ".replaced").mkdir()
        with pytest.raises(ArgumentError, match="another process is training"):
            recover(run)


def test_what_another_process_has_done_meanwhile_counts(run: Path, tmp_path: Path) -> None:
    saved = read_run(run)
    with pytest.raises(ArgumentError, match="holds a run already"), new_run(run, NEW):
        pytest.fail("a run was replaced that nobody asked to replace")
    write(run, {"config.toml": NEW})
    with pytest.raises(ArgumentError, match="has changed the run"), continued_run(saved, OLD):
        pytest.fail("went on with another run")
    assert content(run)["config.toml"] == NEW


def test_a_kill_at_any_moment_before_the_first_checkpoint_leaves_the_old_run(run: Path) -> None:
    before = content(run)

    def replace() -> None:
        with new_run(run, NEW, overwrite=True):
            begin(run)
            raise Killed

    for count in range(100):
        assert killed_at(count, replace)
        assert (run / "config.toml").is_file()
        last = (run / "config.toml").read_text() == NEW
        for second in itertools.count():  # the process that puts it back is killed too
            if not killed_at(second, lambda: recover(run) and None):
                break
        assert not recover(run)
        assert content(run) == before
        if last:
            return
    pytest.fail("never got as far as training")


def test_a_kill_after_the_first_checkpoint_leaves_the_new_run(run: Path, tmp_path: Path) -> None:
    wanted = {"config.toml": NEW, STEP: "new", "metrics.jsonl": "", "notes": "mine", ".lock": ""}

    def replace() -> None:
        with new_run(run, NEW, overwrite=True):
            write(run, {"metrics.jsonl": "", STEP: "new"})
            raise Killed

    assert killed_at(1000, replace)
    for second in itertools.count():
        if not killed_at(second, lambda: recover(run) and None):
            break
    assert second > 1
    assert not recover(run)
    assert {name: text for name, text in content(run).items() if not name.startswith(".removed")} == wanted
    with new_run(run, NEW, overwrite=True):
        write(run, {STEP: "newer"})
    assert content(run) == {"config.toml": NEW, STEP: "newer", "notes": "mine", ".lock": ""}


def test_the_next_new_run_puts_the_old_one_back_if_it_is_refused_too(run: Path) -> None:
    before = content(run)

    def replace() -> None:
        with new_run(run, NEW, overwrite=True):
            begin(run)
            raise Killed

    assert killed_at(1000, replace)
    with suppress(CheckpointError), new_run(run, NEW, overwrite=True):
        begin(run)
        raise CheckpointError("no space")
    assert content(run) == before


@pytest.mark.parametrize("exists", [False, True])
def test_a_new_run_that_keeps_nothing_leaves_nothing(exists: bool, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    if exists:
        path.mkdir(parents=True)
    with suppress(CheckpointError), new_run(path, NEW):
        begin(path)
        raise CheckpointError("no space")
    assert [*tmp_path.rglob("*")] == ([path.parent, path] if exists else [])


def test_what_a_kill_leaves_of_a_first_run_is_free(tmp_path: Path) -> None:
    write(tmp_path, {".lock": "", ".config.toml.tmp": "half"})
    with new_run(tmp_path, NEW):
        write(tmp_path, {STEP: "new"})
    assert content(tmp_path) == {".lock": "", "config.toml": NEW, STEP: "new"}


@pytest.mark.parametrize("keeps", [False, True])
def test_settings_of_a_run_that_goes_on(keeps: bool, run: Path) -> None:
    with suppress(CheckpointError), continued_run(read_run(run), NEW):
        assert locked_elsewhere(run)
        assert content(run)["config.toml"] == NEW
        if keeps:
            write(run, {"checkpoints/latest.json": "new"})
        raise CheckpointError("no space")
    assert content(run)["config.toml"] == (NEW if keeps else OLD)


def test_names_of_files_stand_in_one_place() -> None:
    package = Path(probgen.__file__).parent
    for name in ("metrics.jsonl", "latest.json"):
        files = [file for part in ("runs", "cli", "svi", "checkpoints") for file in (package / part).glob("*.py")]
        found = [file for file in files if re.search(rf'"{re.escape(name)}"', file.read_text())]
        assert len(found) == 1, found
