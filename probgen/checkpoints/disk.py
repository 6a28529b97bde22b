"""Files that are on the disk whole or not at all, and files that are read as what they are."""

import contextlib
import errno
import os
import stat
from pathlib import Path

from probgen.errors import CheckpointError

# Not every system has these. A pipe is not waited for, a link is not followed.
_UNFOLLOWED = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # of file systems that cannot sync a folder


def write_synced(path: Path, content: bytes) -> None:
    """Writes a new file and waits until it is on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
    try:
        rest = memoryview(content)
        while rest:
            written = os.write(descriptor, rest)
            if written == 0:
                raise OSError(errno.EIO, "nothing more can be written")
            rest = rest[written:]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Waits until what was appended to a file is on the disk."""
    descriptor = os.open(path, os.O_RDWR | _UNFOLLOWED)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk: those of files that were made or renamed."""
    if os.name == "nt":  # where a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise
    finally:
        os.close(descriptor)


def make_folder_synced(folder: Path) -> None:
    """Makes a folder and those above it, where they are not there, so that their names are on the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def rename_synced(source: Path, target: Path) -> None:
    """Gives what is complete its name; a reader sees what was there before, or this."""
    os.replace(source, target)
    sync_folder(target.parent)


def replace_synced(path: Path, content: bytes) -> None:
    """Writes a file anew; a reader sees the old one or the new one, also after a crash."""
    aside = path.with_name(f".{path.name}.tmp")
    aside.unlink(missing_ok=True)  # of a process that was killed
    try:
        write_synced(aside, content)
        rename_synced(aside, path)
    except BaseException:
        _forget(aside)
        raise


def _forget(path: Path) -> None:
    with contextlib.suppress(OSError):  # what went wrong before is what counts
        path.unlink(missing_ok=True)


def open_unfollowed(path: Path, flags: int) -> int:
    """A descriptor of a regular file, which is made where ``flags`` say so: no link, pipe or device.

    Raises:
        CheckpointError: it is something else.
        OSError: it cannot be opened.
    """
    try:  # not blocking: opening a pipe would wait for the other end
        descriptor = os.open(path, flags | _UNFOLLOWED | _BINARY, 0o666)
    except OSError as error:
        if path.is_symlink():
            raise CheckpointError(f"'{path}' is a link; a run has none: remove it") from error
        if error.errno == errno.ENXIO or path.is_dir():
            raise CheckpointError(f"'{path}' is no regular file") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"'{path}' is no regular file")
    return descriptor


def read_regular(path: Path, limit: int) -> bytes:
    """The content of a regular file: no link, pipe or device.

    Raises:
        CheckpointError: it is missing, something else, cannot be read, or has more than ``limit`` bytes.
    """
    try:
        with open(open_unfollowed(path, os.O_RDONLY), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise CheckpointError(f"'{path}' has {size} bytes; at most {limit} are expected")
            return file.read(limit + 1)
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise CheckpointError(f"'{path}' does not fit into memory") from error
