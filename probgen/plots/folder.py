"""The files of a comparison: settings, metrics, results, figure."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probgen.errors import ArgumentError

FILES = ("config.json", "metrics.jsonl", "comparison.csv", "comparison.png")


class RunFolder:
    """The files of one comparison.

    Args:
        path: the folder; made where it is missing.
        overwrite: whether it may hold files.

    Raises:
        ArgumentError: it is no folder, or holds files.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise ArgumentError(f"`run_dir`: '{path}' is a file; name a folder")
        if path.is_dir() and any(path.iterdir()) and not overwrite:
            raise ArgumentError(
                f"`run_dir`: '{path}' holds files already; name another folder, or pass `overwrite=True` "
                "(`--overwrite`) to replace an earlier comparison"
            )

    def open(self, settings: Mapping[str, Any]) -> None:
        """Removes what an earlier comparison wrote, and nothing else, and writes ``config.json``."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        self.write("config.json", json.dumps(settings, indent=2, ensure_ascii=False).encode())

    def log(self, line: Mapping[str, Any]) -> None:
        """Appends a line to ``metrics.jsonl``; a number that is not finite becomes null."""
        finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in line.items()}
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite, ensure_ascii=False, allow_nan=False) + "\n")

    def write(self, name: str, content: bytes) -> None:
        """Writes one of the other files, whole."""
        write_atomically(self.path / name, content)


def write_atomically(path: Path, content: bytes) -> None:
    """A reader sees the old file or the new one, never a part of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # open() keeps the user's file mode, mkstemp does not
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
