"""A save that fails, or a machine that stops, at any call: the checkpoint before, or the new one, is there."""

import contextlib
import errno
import itertools
import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from probgen.checkpoints import Checkpoints
from probgen.errors import CheckpointError, ProbgenError

CALLS = ("open", "write", "fsync", "close", "replace", "mkdir", "listdir", "unlink", "rmdir")


class Stopped(BaseException):
    """The process is gone: whatever it would still do is not done."""


class Faults:
    """Lets the calls of the operating system pass until one of them, counted from 0, fails."""

    def __init__(self, monkeypatch, at, error):
        self.count, self.at, self.error, self.failed = 0, at, error, ""
        for name in CALLS:
            monkeypatch.setattr(os, name, self._guarded(name, getattr(os, name)))

    def _guarded(self, name, function):
        def guarded(*args, **kwargs):
            stopped = self.failed and isinstance(self.error, Stopped)
            if self.count == self.at or stopped:
                self.failed = self.failed or name
                self.count += 1
                if name == "close":  # the descriptor is gone all the same
                    with contextlib.suppress(OSError):
                        function(*args, **kwargs)
                raise self.error
            self.count += 1
            return None if name == "fsync" else function(*args, **kwargs)

        return guarded


def save(run_dir, numbers, step, **options):
    Checkpoints(run_dir, **options).save(step, *numbers(step))


def calls_of_a_save(run_dir, numbers):
    with pytest.MonkeyPatch.context() as monkeypatch:
        faults = Faults(monkeypatch, None, None)
        save(run_dir, numbers, 3)
        return faults.count


def assert_clean(run_dir, keep=2):
    """Nothing but whole checkpoints, and no more than are to be kept."""
    names = sorted(os.listdir(run_dir / "checkpoints"))
    assert names[0] == "latest.json"
    assert len(names) <= keep + 1
    assert all(name.startswith("step-") for name in names[1:])


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EIO, "Input/output error"), OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()],
    ids=["EIO", "ENOSPC", "interrupt"],
)
def test_a_failure_at_any_call(tmp_path, numbers, assert_is, error):
    for step in (0, 1, 2):  # the first two steps fill what is kept, so that the save also removes
        save(tmp_path / "before", numbers, step)
    shutil.copytree(tmp_path / "before", tmp_path / "count")
    total, failed = calls_of_a_save(tmp_path / "count", numbers), set()
    for at in range(total):
        run_dir = tmp_path / str(at)
        shutil.copytree(tmp_path / "before", run_dir)
        raised = None
        with pytest.MonkeyPatch.context() as monkeypatch:
            faults = Faults(monkeypatch, at, error)
            try:
                save(run_dir, numbers, 3)
            except (CheckpointError, KeyboardInterrupt) as caught:
                raised = caught
        failed.add(faults.failed)
        found = assert_is(Checkpoints(run_dir), {2, 3})
        if raised is None:
            assert found == 3
        elif isinstance(error, OSError):
            assert raised.__cause__ is error
            assert "the checkpoint of step 3 cannot be saved" in str(raised)
            cure = "Free some space" if error.errno == errno.ENOSPC else "See to the disk"
            assert f"the one before is as it was. {cure}, then go on with `resume=True`" in str(raised)
        save(run_dir, numbers, 4)
        assert_is(Checkpoints(run_dir), {4})
        assert_clean(run_dir)
        shutil.rmtree(run_dir)
    assert failed == set(CALLS)
    assert total > 30


def test_a_process_that_stops_at_any_call(tmp_path, numbers, assert_is):
    """The first save too: then there may be none, and the run begins anew."""
    for before in ([], [0, 1, 2]):
        template = tmp_path / f"after {before}"
        template.mkdir()
        for step in before:
            save(template / "run", numbers, step)
        for at in itertools.count():
            run_dir = shutil.copytree(template, tmp_path / f"{before} {at}") / "run"
            with pytest.MonkeyPatch.context() as monkeypatch:
                faults = Faults(monkeypatch, at, Stopped())
                with contextlib.suppress(Stopped):
                    save(run_dir, numbers, 3)
            if before or Checkpoints(run_dir).latest() is not None:
                assert_is(Checkpoints(run_dir), {2, 3})
            save(run_dir, numbers, 4)
            assert_is(Checkpoints(run_dir), {4})
            assert_clean(run_dir)
            if not faults.failed:
                break


def test_short_writes(run_dir, numbers, assert_is, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:7]))
    save(run_dir, numbers, 1)
    monkeypatch.undo()
    assert_is(Checkpoints(run_dir), {1})


def test_a_write_of_nothing_is_an_error(run_dir, numbers, monkeypatch):
    monkeypatch.setattr(os, "write", lambda descriptor, content: 0)
    with pytest.raises(CheckpointError, match="nothing more can be written"):
        save(run_dir, numbers, 1)


# --- power that fails: what has not been synced may be lost --------------------------------------------------


class Node:
    """A file or a folder, as it is and as it was last synced: bytes, or nodes by name."""

    def __init__(self, empty):
        self.live = self.synced = empty

    def seen(self, names, content="synced"):
        """What is found again, of folders by their ``names`` ("live" or "synced"), of files by their content."""
        if isinstance(self.live, bytes):
            return getattr(self, content)
        return {name: node.seen(names, content) for name, node in getattr(self, names).items()}


class Disk:
    """Follows the calls, and keeps what a machine may find again after each of them."""

    def __init__(self, root, monkeypatch):
        self.root, self.tree, self.open = root, Node({}), {}
        self.found = []
        for name in (*CALLS, "rename"):
            monkeypatch.setattr(os, name, self._followed(name, getattr(os, name)))

    def _followed(self, name, function):
        def followed(first, *args, **kwargs):
            path = Path(self.open[kwargs["dir_fd"]][0], first) if kwargs.get("dir_fd") is not None else first
            node = self.open[first][1] if first in self.open else None
            result = function(first, *args, **kwargs)
            note = getattr(self, f"_{name}", None)
            if note is not None and (node is not None or self.root in Path(path).parents or Path(path) == self.root):
                note(result, first if node is not None else Path(path), node, *args)
                self.found += [self.tree.seen("synced"), self.tree.seen("live")]
            return result

        return followed

    def _above(self, path):
        node = self.tree
        for name in path.relative_to(self.root).parts[:-1]:
            node = node.live[name]
        return node

    def _open(self, descriptor, path, node, *_):
        if path == self.root:
            self.open[descriptor] = (path, self.tree)
            return
        above = self._above(path)
        if path.name not in above.live:
            above.live = above.live | {path.name: Node(b"")}
        self.open[descriptor] = (path, above.live[path.name])

    def _close(self, result, descriptor, node):
        self.open.pop(descriptor)

    def _write(self, count, descriptor, node, content):
        node.live += bytes(content[:count])

    def _fsync(self, result, descriptor, node):
        node.synced = node.live

    def _mkdir(self, result, path, node, *_):
        above = self._above(path)
        above.live = above.live | {path.name: Node({})}

    def _rename(self, result, source, node, target):
        above, below = self._above(source), self._above(target)
        moved = above.live[source.name]
        above.live = {name: other for name, other in above.live.items() if name != source.name}
        below.live = below.live | {target.name: moved}

    _replace = _rename

    def _unlink(self, result, path, node, *_):
        above = self._above(path)
        above.live = {name: other for name, other in above.live.items() if name != path.name}

    _rmdir = _unlink


def unfold(tree, folder):
    folder.mkdir(parents=True)
    for name, node in tree.items():
        if isinstance(node, dict):
            unfold(node, folder / name)
        else:
            (folder / name).write_bytes(node)


def follow(root, numbers, steps):
    """The trees that a machine may find again after each call of some saves, save by save."""
    root.mkdir()
    with pytest.MonkeyPatch.context() as monkeypatch:
        disk = Disk(root, monkeypatch)
        for step in steps:
            disk.found.clear()
            Checkpoints(root / "runs" / "a").save(step, *numbers(step))
            yield step, list(disk.found)


def test_power_that_fails_at_any_call(tmp_path, numbers, assert_is):
    """Lost: what was not synced. Both where names reach the disk late, and where they overtake the files' content."""
    seen = {}
    for step, trees in list(follow(tmp_path / "disk", numbers, (1, 2, 3, 4))):
        for tree in trees:
            if (key := repr(tree)) not in seen:
                folder = tmp_path / str(len(seen))
                unfold(tree, folder)
                checkpoints = Checkpoints(folder / "runs" / "a")
                seen[key] = None if checkpoints.latest() is None else assert_is(checkpoints, {step - 1, step})
            assert seen[key] in ({None, 1} if step == 1 else {step - 1, step})
        assert [seen[repr(tree)] for tree in trees[-2:]] == [step, step]  # once a save is over, it is there
    assert len(seen) > 50


# --- full disks ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk(small_disk, numbers, assert_is):
    run_dir = small_disk / "run"
    save(run_dir, numbers, 1)
    with pytest.raises(CheckpointError, match=r"step 2 cannot be saved.*No space left.*Free some space"):
        Checkpoints(run_dir).save(2, {"w": torch.zeros(100_000)}, {})
    assert_is(Checkpoints(run_dir), {1})
    assert_clean(run_dir)
    save(run_dir, numbers, 3)
    assert_is(Checkpoints(run_dir), {3})


def test_a_run_on_a_full_disk_goes_on_once_there_is_room(small_disk, make_svi, plan):
    whole = make_svi()
    expected = whole.run(**plan)
    filler = small_disk / "filler"

    def fill(report):
        if not filler.exists():
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))

    with pytest.raises(CheckpointError, match=r"(?s)No space left.*resume=True"):
        make_svi().run(**plan, run_dir=Checkpoints(small_disk / "run", every=0.0), callbacks=[fill])
    filler.unlink()
    resumed = make_svi()
    result = resumed.run(**plan, run_dir=small_disk / "run", resume=True)
    assert torch.equal(result.losses, expected.losses)
    assert all(torch.equal(value, resumed.held()[name]) for name, value in whole.held().items())


def test_a_limit_for_files(run_dir, numbers, assert_is):
    save(run_dir, numbers, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"step 2 cannot be saved.*the one before is as it was"):
            Checkpoints(run_dir).save(2, {"w": torch.zeros(10_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_is(Checkpoints(run_dir), {1})
    assert_clean(run_dir)


def test_a_folder_that_cannot_be_written_to(tmp_path, numbers):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"step 1 cannot be saved.*there is none before it"):
        save(Path(tmp_path / "file" / "run"), numbers, 1)


# --- what else may lie there ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "file", "link", "pipe"])
def test_what_a_killed_process_has_left_is_removed(run_dir, numbers, assert_is, tmp_path, kind):
    save(run_dir, numbers, 1)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    for aside in (run_dir / "checkpoints" / ".saving", run_dir / "checkpoints" / ".latest.json.tmp"):
        if kind == "folder" and aside.name == ".saving":
            (aside / "deep").mkdir(parents=True)
        elif kind == "link":
            aside.symlink_to(outside)
        elif kind == "pipe":
            os.mkfifo(aside)
        else:
            aside.write_bytes(b"{")
    save(run_dir, numbers, 2)
    assert_is(Checkpoints(run_dir), {2})
    assert_clean(run_dir)
    assert [path.name for path in outside.iterdir()] == ["kept"]


def test_names_that_are_no_checkpoints_stay(run_dir, numbers):
    save(run_dir, numbers, 1)
    others = [run_dir / "checkpoints" / name for name in ("step-1", "step-00000000000x", "notes.txt")]
    for path in others:
        path.touch()
    for step in (2, 3, 4):
        save(run_dir, numbers, step, keep=1)
    assert Checkpoints(run_dir).steps() == [4]
    assert all(path.exists() for path in others)


def test_keep(run_dir, numbers):
    checkpoints = Checkpoints(run_dir, keep=3)
    for step in range(6):
        checkpoints.save(step, *numbers(step))
    assert checkpoints.steps() == [3, 4, 5]
    checkpoints.save(4, *numbers(4))  # of a run that went back: later ones are not its own
    assert checkpoints.steps() == [3, 4]
    assert checkpoints.latest().state == {"step": 4}
    assert checkpoints.at(3).state == {"step": 3}


def test_the_same_step_again(run_dir, numbers, assert_is):
    for _ in range(3):
        save(run_dir, numbers, 1)
        assert_is(Checkpoints(run_dir), {1})
        assert_clean(run_dir, keep=1)


def test_saving_keeps_its_share_of_the_time(run_dir, numbers, monkeypatch):
    checkpoints, now = Checkpoints(run_dir, every=0.0), [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    fsync = os.fsync

    def slow(descriptor):
        now[0] += 0.1
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    assert checkpoints.due
    checkpoints.save(1, *numbers(1), began=-0.5)  # what was done for it before counts too
    cost = now[0] + 0.5
    assert cost > 1.0
    assert not checkpoints.due
    now[0] += 49 * cost  # 2 % of the time are one part in fifty
    assert not checkpoints.due
    now[0] += 2 * cost
    assert checkpoints.due


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"run_dir": 3}, "`run_dir` must be a path"),
        ({"run_dir": ""}, "`run_dir` must be a path"),
        ({"run_dir": "a\0b"}, "`run_dir` must be a path"),
        ({"run_dir": "a", "every": -1}, "`every` must be a number of seconds"),
        ({"run_dir": "a", "every": float("nan")}, "`every` must be a number of seconds"),
        ({"run_dir": "a", "every": True}, "`every` must be a number of seconds"),
        ({"run_dir": "a", "keep": 0}, "`keep` must be a whole number of at least 1"),
        ({"run_dir": "a", "keep": 1.5}, "`keep` must be a whole number of at least 1"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ProbgenError, match=message):
        Checkpoints(**arguments)


def test_what_cannot_be_saved_is_said(run_dir, numbers):
    save(run_dir, numbers, 1)
    with pytest.raises(CheckpointError, match="cannot be written as JSON"):
        Checkpoints(run_dir).save(2, {}, {"rate": float("nan")})
    with pytest.raises(CheckpointError, match="bytes of JSON; at most"):
        Checkpoints(run_dir).save(2, {}, {"text": "a" * 2**22})
    with pytest.raises(CheckpointError, match=r"tensors of torch.complex128 cannot be saved as safetensors"):
        Checkpoints(run_dir).save(2, {"w": torch.zeros(2, dtype=torch.complex128)}, {})
    assert Checkpoints(run_dir).steps() == [1]
    assert_clean(run_dir)
