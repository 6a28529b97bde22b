"""Finding files, and reading bytes that may be damaged or lie about their size."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from probgen.errors import DataFileError

_CHUNK = 1 << 20
_ALWAYS_PLAUSIBLE = 1 << 30  # bytes; above it, a file that unpacks to 100 times its size is taken for an attack
_PLAUSIBLE_RATIO = 100


def data_path(file: str, *, holds: str) -> Path:
    """The path of a file or folder in the data folder, which the environment variable ``PROBGEN_DATA`` names.

    Args:
        file: name of a file or folder in the data folder.
        holds: what has to lie there, in words, for the message.

    Raises:
        DataFileError: the variable is not set, or the file is missing.
    """
    cure = f"put {holds} there, or give the path of your own copy as `name`"
    folder = os.environ.get("PROBGEN_DATA")
    if not folder:
        raise DataFileError(
            f"`{file}` is needed, and is looked for in the folder that the environment variable PROBGEN_DATA names, "
            f"which is not set: set it to a folder of your choice, {cure}"
        )
    path = Path(folder).expanduser() / file
    if not os.path.exists(path):
        raise DataFileError(f"`{path}` is missing: the environment variable PROBGEN_DATA names its folder; {cure}")
    return path


@contextmanager
def parsing(path: Path, kind: str) -> Iterator[None]:
    """Turns whatever goes wrong while ``path`` is parsed into a :class:`DataFileError` that names it."""
    try:
        yield
    except (DataFileError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise DataFileError(f"`{path}` does not exist: give the path of {kind}") from error
    # Parsers of damaged bytes raise nearly everything (zlib, struct, tokenize, zipfile, ...): one boundary for all.
    except Exception as error:
        raise DataFileError(
            f"`{path}` cannot be read as {kind} ({type(error).__name__}: {error}): it is damaged or of another "
            "format; copy or make it again"
        ) from error


def read_exactly(stream: IO[bytes], size: int, path: Path) -> bytearray:
    """Reads the last ``size`` bytes of a stream, never allocating more than it really holds.

    Args:
        stream: an open, perhaps decompressing, stream.
        size: the number of bytes that the header announced.
        path: the file, for messages and for its size on the disk.

    Raises:
        DataFileError: fewer or more bytes than announced, or so many that the file is a decompression bomb.
    """
    if size > max(_ALWAYS_PLAUSIBLE, _PLAUSIBLE_RATIO * path.stat().st_size):
        raise DataFileError(
            f"`{path}` announces {size:,} bytes of data but has {path.stat().st_size:,} on the disk: it is damaged, or "
            "it unpacks to more than it can honestly hold; store it uncompressed"
        )
    buffer = bytearray()
    while len(buffer) < size and (chunk := stream.read(min(_CHUNK, size - len(buffer)))):
        buffer += chunk
    if len(buffer) < size:
        raise DataFileError(
            f"`{path}` ends after {len(buffer):,} of the {size:,} bytes that its header announces: it is truncated; "
            "copy or make it again"
        )
    if stream.read(1):
        raise DataFileError(f"`{path}` holds more than the {size:,} bytes that its header announces: it is damaged")
    return buffer
